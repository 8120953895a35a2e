"""What the audit says of copies, near copies, leaks and contradictions, planted in known numbers."""

import json
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest

from sweeper.data.checks.duplicates import Duplicates, question_and_answer
from sweeper.data.findings import Batch, Finding

Row = tuple[str, str, str]
"""Split, input and target."""


def audit(
    rows: Sequence[Row], kind: Literal["generate", "classify", "chat"] = "generate", size: int = 3
) -> dict[str, Finding]:
    """The findings by name; row ids are `r0`, `r1` ..."""
    check = Duplicates(kind)
    for first in range(0, len(rows), size):
        splits, inputs, targets = zip(*rows[first : first + size], strict=True)
        ids = [f"r{first + place}" for place in range(len(splits))]
        check.see(Batch(first, ids, splits, inputs, targets, [""] * len(ids)))
    return {finding.check: finding for finding in check.findings()}


def sentence(number: int, changed: int = 0) -> str:
    """Ten words of its own for each number, the last ones `changed`."""
    words = [f"w{number}x{place}" for place in range(10 - changed)]
    return " ".join([*words, *(f"c{number}x{changed}x{place}" for place in range(changed))])


def test_all_is_well() -> None:
    rows = [
        (split, sentence(n), f"answer {n}")
        for n, split in enumerate(["train", "validation", "test", "train"])
    ]
    assert audit(rows) == {}
    assert audit([]) == {}


def test_copies_within_a_split() -> None:
    found = audit(
        [("train", sentence(0), "yes"), ("train", sentence(1), "yes"), ("train", sentence(0).upper(), " Yes"),
         ("train", sentence(0), "yes"), ("validation", sentence(2), "no"), ("validation", sentence(2), "no")]
    )  # fmt: skip
    copies = found.pop("duplicates")
    assert found == {}
    assert (copies.count, copies.of, copies.severity) == (3, 6, "warning")
    assert copies.numbers == {"train": 2, "validation": 1, "test": 0}
    assert [row for row, _ in copies.suspects] == ["r2", "r3", "r5"]
    assert copies.examples[0].row == "r2"
    assert "(train r0)" in copies.examples[0].text


def test_near_copies_within_a_split() -> None:
    found = audit(
        [("train", sentence(n // 2, n % 2), str(n)) for n in range(6)] + [("test", sentence(9), "")]
    )
    near = found.pop("near_duplicates")
    assert found == {}
    assert (near.count, near.of, near.severity) == (6, 7, "warning")
    assert near.numbers == {"train": 6, "validation": 0, "test": 0, "groups": 3}
    assert len(near.examples) == 3
    assert sentence(0, 1) in near.examples[0].text
    assert sentence(0) in near.examples[0].text


def test_leaks_are_errors_with_both_rows_shown() -> None:
    rows: list[Row] = [("train", sentence(n), f"a{n}") for n in range(20)]
    rows += [("validation", sentence(0), "a0"), ("test", sentence(1).title(), "other")]
    rows += [("test", sentence(n, 1), "a") for n in range(2, 8)]
    rows += [
        ("validation", sentence(50), "a"),
        ("test", sentence(60), "b"),
        ("test", sentence(10, 4), "60 %"),
    ]
    found = audit(rows)
    leak = found["leakage"]
    assert leak.severity == "error"
    assert (leak.count, leak.of) == (8, 11)
    assert leak.numbers == {"validation exact": 1, "validation near": 0, "test exact": 1, "test near": 6}
    assert "(validation exact 1, test exact 1, test near 6)" in leak.message
    assert len(leak.examples) == 5
    assert [example.row for example in leak.examples[:3]] == ["r20", "r21", "r22"]
    assert leak.examples[2].text == f"“{sentence(2, 1)}” ~ “{sentence(2)}” (train r2)"
    assert [row for row, _ in leak.suspects] == [f"r{n}" for n in range(8)]  # train can do without them
    assert set(found) == {"leakage", "contradictions"}


def test_validation_rows_in_test_are_a_warning() -> None:
    found = audit(
        [("validation", sentence(0), "a"), ("validation", sentence(1), "a"), ("test", sentence(0), "a"),
         ("test", sentence(1, 2), "a"), ("test", sentence(2), "a"), ("train", sentence(3), "a")]
    )  # fmt: skip
    overlap = found.pop("overlap")
    assert found == {}
    assert (overlap.count, overlap.of, overlap.severity) == (2, 3, "warning")
    assert overlap.numbers == {"exact": 1, "near": 1}
    assert "(validation r1)" in overlap.examples[1].text


def test_equal_inputs_with_different_labels() -> None:
    rows = [("train", sentence(0), "spam"), ("train", sentence(1), "ham"),
            ("train", f" {sentence(0)}", "ham"), ("train", sentence(0), "Spam "),
            ("train", sentence(0), "")]  # fmt: skip
    found = audit(rows, "classify")["contradictions"]
    assert (found.count, found.of, found.severity) == (3, 5, "warning")
    assert found.numbers == {"inputs": 1}
    assert "different labels" in found.message
    assert [example.row for example in found.examples] == ["r2"]
    assert found.examples[0].text.count("→ ham") == found.examples[0].text.count("→ spam") == 1


def test_blank_inputs_are_duplicates_of_nothing() -> None:
    assert audit([("train", "", "a"), ("train", " ", "b"), ("test", "", "a")]) == {}


def chat(question: str, answer: str, system: str = "") -> str:
    messages = [{"role": "system", "content": system}] if system else []
    return json.dumps(
        [*messages, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    )


def test_conversations_are_compared_by_what_was_said_before_the_last_answer() -> None:
    system = "You are a helpful assistant that always answers politely and at length. " * 5
    rows = [
        ("train", chat("What is the capital of France, please, dear friend?", "Paris", system), ""),
        ("train", chat("How tall is the Eiffel tower in metres today?", "330", system), ""),
        ("test", chat("What is the capital of France, please, my friend?", "Paris!"), ""),
        ("train", chat("How tall is the Eiffel tower in metres today?", "About 330"), ""),
        ("train", "no conversation", ""),
    ]
    found = audit(rows, "chat")
    assert set(found) == {"leakage", "contradictions"}
    assert found["leakage"].count == 1
    assert found["contradictions"].severity == "note"
    assert found["contradictions"].count == 2
    assert question_and_answer(rows[0][1])[1] == "Paris"
    assert question_and_answer("plain") == ("plain", "")


def test_examples_are_masked_and_may_contain_anything() -> None:
    text = "write to jo@web.de \0 <script>alert(1)</script> \ud800 " + "word " * 200
    found = audit([("train", text, "a"), ("train", text, "a")])["duplicates"]
    assert "jo@web.de" not in found.examples[0].text
    assert "[e-mail]" in found.examples[0].text


def test_many_copies_of_one_row_leak_once_each() -> None:
    rows = [("train", sentence(0), "a")] * 5000 + [("test", sentence(0), "a")] * 50
    found = audit(rows, size=1000)
    assert found["duplicates"].count == 4999 + 49
    assert found["leakage"].count == 50
    assert len(found["duplicates"].suspects) <= 1000


def test_of_many_copies_some_from_everywhere_are_put_into_the_queue() -> None:
    rows = [("train", sentence(n // 2, n % 2), "a") for n in range(1400)]
    suspects = [int(row[1:]) for row, _ in audit(rows, size=1000)["near_duplicates"].suspects]
    assert len(suspects) == 500
    assert (suspects[0], suspects[-1]) == (0, 1399)
    assert suspects == sorted(set(suspects))


def test_batches_make_no_difference() -> None:
    rng = np.random.default_rng(0)
    splits = rng.choice(["train", "validation", "test"], size=60)
    rows = [(str(split), sentence(int(n), int(c)), str(c)) for split, n, c in zip(
        splits, rng.integers(0, 20, 60), rng.integers(0, 3, 60), strict=True)]  # fmt: skip
    assert audit(rows, size=1) == audit(rows, size=60)


def test_findings_can_be_asked_for_twice() -> None:
    check = Duplicates("generate")
    check.see(Batch(0, ["a", "b"], ["train"] * 2, ["one two", "one two"], ["x", "x"], ["", ""]))
    assert check.findings() == check.findings()


def test_a_threshold_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a threshold of 0\.4 for near-duplicates; give one above 0\.5"):
        Duplicates("generate", 0.4)
