"""Rows that occur more than once: copies, near copies, leaks between splits, contradicting answers."""

from array import array
from collections.abc import Callable, Sequence
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray

from sweeper.data.conversation import calls_of, check_messages
from sweeper.data.files import SPLITS
from sweeper.data.findings import MOST_EXAMPLES, Batch, Example, Finding
from sweeper.data.near import Matches, NearDuplicates, clusters, digest, scratch
from sweeper.data.personal import masked_excerpt
from sweeper.data.queue import MOST_QUEUED
from sweeper.data.shingles import normal
from sweeper.data.splits import Codes

__all__ = ["Duplicates", "clusters", "question_and_answer"]

Rows = NDArray[np.bool_]
"""[rows] which ones."""

_MOST_SUSPECTS = MOST_QUEUED
_SHOWN = 75
"""Characters of either row of a pair."""


def question_and_answer(conversation: str) -> tuple[str, str]:
    """What is compared of a conversation in JSON: all before the assistant's last turn, and that turn.

    Instructions of the system are left out, because many conversations share them. What is no
    conversation is taken as it is.
    """
    messages = check_messages(conversation)
    if messages is None:
        return conversation, ""
    last = max(number for number, message in enumerate(messages) if message["role"] == "assistant")
    before = [message["content"] for message in messages[:last] if message["role"] != "system"]
    calls = [f"{name} {arguments}" for name, arguments in calls_of(messages[last])]
    return "\n".join(before), "\n".join(filter(None, [messages[last]["content"], *calls]))


class Duplicates:
    """Finds copies and near copies within and across splits, and equal inputs answered differently."""

    def __init__(self, kind: Literal["generate", "classify", "chat"], threshold: float = 0.8) -> None:
        """`kind` is the task's; `threshold` as in `clusters`. Raises ValueError as `clusters` does."""
        self._kind = kind
        self._near = NearDuplicates(threshold)
        self._splits, self._answers = array("b"), array("Q")
        self._texts = _Texts()

    def see(self, batch: Batch) -> None:
        """Take notice of a batch."""
        pairs = list(zip(batch.inputs, batch.targets, strict=True))
        if self._kind == "chat":
            pairs = [question_and_answer(text) for text, _ in pairs]
        self._near.add([question for question, _ in pairs])
        self._splits.extend(SPLITS.index(split) for split in batch.splits)
        self._answers.extend(digest(normal(answer)) for _, answer in pairs)
        for row, (question, answer) in zip(batch.ids, pairs, strict=True):
            self._texts.add(row, question, answer)

    def findings(self) -> Sequence[Finding]:
        """Leakage, overlap of validation and test, contradictions, copies, near copies: those that occur."""
        splits = np.array(self._splits, dtype=np.int64)
        report = _Report(
            self._texts,
            splits,
            np.where(self._near.blank, np.arange(len(splits), dtype=np.uint64), self._near.digests),
            np.array(self._answers, dtype=np.uint64),
            self._near.match(splits, len(SPLITS)),
        )
        found = [
            report.leakage(),
            report.overlap(),
            report.contradictions(self._kind),
            report.copies(),
            report.near_copies(),
        ]
        return [finding for finding in found if finding.count]


class _Report:
    """All rows at once: what to say of them."""

    def __init__(
        self,
        texts: "_Texts",
        splits: Codes,
        questions: NDArray[np.uint64],
        answers: NDArray[np.uint64],
        matches: Matches,
    ) -> None:
        self._texts, self._splits, self._questions, self._answers = texts, splits, questions, answers
        self._twins, self._codes = matches.twins, matches.codes

    def leakage(self) -> Finding:
        """Rows of validation and test that are in train as well."""
        held_out = self._splits > 0
        exact = held_out & self._also_in(~held_out)
        near = held_out & ~exact & (self._twins[:, 0] >= 0)
        sources = ~held_out & (self._also_in(held_out) | (self._twins[:, 1:] >= 0).any(axis=1))
        numbers = {
            f"{name} {how}": int(np.count_nonzero(rows & (self._splits == code)))
            for code, name in enumerate(SPLITS)
            if code
            for how, rows in (("exact", exact), ("near", near))
        }
        count = int(np.count_nonzero(exact | near))
        parts = ", ".join(f"{name} {number}" for name, number in numbers.items() if number)
        return Finding(
            "leakage",
            "error",
            f"{count} rows of validation and test are in the training rows as well, or nearly so ({parts})",
            "Drop these rows from train, or have sweeper split the rows: near-duplicates then stay together.",
            count,
            int(np.count_nonzero(held_out)),
            self._pairs([(exact, self._copy_in(0)), (near, lambda row: int(self._twins[row, 0]))]),
            self._suspects(sources, 0.9),
            numbers,
        )

    def overlap(self) -> Finding:
        """Rows of test that are in validation as well."""
        validation, test = self._splits == 1, self._splits == 2
        exact = test & self._also_in(validation)
        near = test & ~exact & (self._twins[:, 1] >= 0)
        count = int(np.count_nonzero(exact | near))
        return Finding(
            "overlap",
            "warning",
            f"{count} rows of test are in validation as well, or nearly so",
            "Drop them from validation: what was chosen on them does better on test than on new rows.",
            count,
            int(np.count_nonzero(test)),
            self._pairs([(exact, self._copy_in(1)), (near, lambda row: int(self._twins[row, 1]))]),
            numbers={"exact": int(exact.sum()), "near": int(near.sum())},
        )

    def contradictions(self, kind: str) -> Finding:
        """Rows whose input occurs with another answer too."""
        answered = self._answers != digest("")
        first_of = self._first(self._questions, answered)
        differs = answered & (self._answers != self._answers[first_of])
        asked = set(self._questions[differs].tolist())
        rows = answered & np.isin(self._questions, np.array(sorted(asked), dtype=np.uint64))
        count, what = int(np.count_nonzero(rows)), "labels" if kind == "classify" else "answers"
        return Finding(
            "contradictions",
            "note" if kind == "chat" else "warning",
            f"{count} rows have one of {len(asked)} inputs that occur with different {what}",
            f"Decide which of the {what} is right and drop or fix the others, or keep them if all are right.",
            count,
            len(rows),
            self._pairs([(differs, lambda row: int(first_of[row]))], answers=True),
            self._suspects(rows, 0.8),
            {"inputs": len(asked)},
        )

    def copies(self) -> Finding:
        """Rows that repeat an earlier row of their split, answer included."""
        keys = (self._questions * np.uint64(31) + self._answers) * np.uint64(31) + self._splits.astype(
            np.uint64
        )
        first_of = self._first(keys, np.ones(len(keys), dtype=bool))
        rows = first_of != np.arange(len(keys))
        numbers = self._by_split(rows)
        return Finding(
            "duplicates",
            "warning",
            f"{int(rows.sum())} rows repeat an earlier row of their split but for case and spacing "
            f"({_listed(numbers)})",
            "A repeated row counts several times in training and in the score.",
            int(rows.sum()),
            len(rows),
            self._pairs([(rows, lambda row: int(first_of[row]))]),
            self._suspects(rows, 0.6),
            numbers,
            ("exact_duplicates",),
        )

    def near_copies(self) -> Finding:
        """Rows that have a near-duplicate in their own split."""
        twin = self._twins[np.arange(len(self._splits)), self._splits]
        rows = twin >= 0
        numbers = self._by_split(rows)
        groups = len(np.unique(self._codes[rows]))
        later = rows & (twin < np.arange(len(twin)))
        return Finding(
            "near_duplicates",
            "warning",
            f"{int(rows.sum())} rows in {groups} groups nearly repeat another row of their split "
            f"({_listed(numbers)})",
            "Keep one of each group unless the small differences matter.",
            int(rows.sum()),
            len(rows),
            self._pairs([(later, lambda row: int(twin[row]))]),
            self._suspects(rows, 0.5),
            {**numbers, "groups": groups},
            ("near_duplicates",),
        )

    def _also_in(self, others: Rows) -> Rows:
        return np.isin(self._questions, self._questions[others])

    def _copy_in(self, split: int) -> Callable[[int], int]:
        return lambda row: int(
            np.flatnonzero((self._questions == self._questions[row]) & (self._splits == split))[0]
        )

    def _first(self, keys: NDArray[np.uint64], among: Rows) -> Codes:
        """[rows] the first row with the same key, among some rows; other rows are their own first."""
        first_of = np.arange(len(keys))
        chosen = np.flatnonzero(among)
        _, first, inverse = np.unique(keys[chosen], return_index=True, return_inverse=True)
        first_of[chosen] = chosen[first[inverse]]
        return first_of

    def _by_split(self, rows: Rows) -> dict[str, int]:
        counts = np.bincount(self._splits[rows], minlength=len(SPLITS))
        return {name: int(count) for name, count in zip(SPLITS, counts, strict=True)}

    def _pairs(
        self, sorts: Sequence[tuple[Rows, Callable[[int], int]]], answers: bool = False
    ) -> tuple[Example, ...]:
        """Some rows with their counterpart, those of the first sort first."""
        chosen = [(int(row), other) for rows, other in sorts for row in np.flatnonzero(rows)[:MOST_EXAMPLES]]
        examples = []
        for row, other in chosen[:MOST_EXAMPLES]:
            mine, theirs = self._texts.shown(row, answers), self._texts.shown(other(row), answers)
            name, split = self._texts.name(other(row)), SPLITS[self._splits[other(row)]]
            examples.append(
                Example(
                    self._texts.name(row),
                    SPLITS[self._splits[row]],
                    f"“{mine}” ~ “{theirs}” ({split} {name})",
                )
            )
        return tuple(examples)

    def _suspects(self, rows: Rows, suspicion: float) -> tuple[tuple[str, float], ...]:
        found = np.flatnonzero(rows)
        if len(found) > _MOST_SUSPECTS:  # from everywhere: the first ones may all be of one kind
            found = found[np.linspace(0, len(found) - 1, _MOST_SUSPECTS).astype(np.int64)]
        return tuple((self._texts.name(int(row)), suspicion) for row in found)


class _Texts:
    """Names and beginnings of all rows, in a temporary file."""

    def __init__(self) -> None:
        self._file: IO[bytes] = scratch(self)
        self._ends = array("q", [0])

    def add(self, name: str, question: str, answer: str) -> None:
        record = "\0".join(
            [name, *(text[: 4 * _SHOWN + 1].replace("\0", " ") for text in (question, answer))]
        )
        self._ends.append(self._ends[-1] + self._file.write(record.encode("utf-8", "surrogatepass")))

    def name(self, row: int) -> str:
        return self._read(row)[0]

    def shown(self, row: int, answer: bool) -> str:
        _, question, said = self._read(row)
        shown = masked_excerpt(question, _SHOWN)
        return f"{shown} → {masked_excerpt(said, _SHOWN // 2)}" if answer else shown

    def _read(self, row: int) -> list[str]:
        self._file.seek(self._ends[row])
        record = self._file.read(self._ends[row + 1] - self._ends[row])
        return record.decode("utf-8", "surrogatepass").split("\0")


def _listed(numbers: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in numbers.items() if number)
