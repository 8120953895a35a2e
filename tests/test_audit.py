"""The look at the rows: every row once, whatever stands in it; remembered as long as nothing changes."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from sweeper.data.audit import audit, read_audit
from sweeper.data.checks.lengths import Lengths
from sweeper.data.checks.registry import checks
from sweeper.data.findings import Batch, Finding
from sweeper.errors import DataError
from tests.rows import chat, configure, pairs, write_jsonl


@dataclass
class Seeing:
    """A check that keeps what it sees, and tells what it is asked to."""

    tells: Sequence[Finding] = ()
    batches: list[Batch] = field(default_factory=list)

    def see(self, batch: Batch) -> None:
        self.batches.append(batch)

    def findings(self) -> Sequence[Finding]:
        return self.tells

    def all(self, name: str) -> list[str]:
        return [value for batch in self.batches for value in getattr(batch, name)]


def finding(severity="note", count=1, **others) -> Finding:
    return Finding("a check", severity, "said", "do", count, 10, **others)


def looked_at(tmp_path, rows, kind="generate", tells=(), **options):
    """The audit of `rows`, and the check that saw them."""
    config = configure(write_jsonl(tmp_path / "rows.jsonl", rows), kind, **options)
    check = Seeing(tells)
    return audit(config, make=lambda _: [check]), check


def test_every_row_is_seen_once_in_batches_of_a_thousand(tmp_path):
    found, check = looked_at(tmp_path, pairs(2500))
    assert [(batch.first, len(batch.ids)) for batch in check.batches] == [
        (0, 1000),
        (1000, 1000),
        (2000, 500),
    ]
    assert check.all("inputs") == [row["text"] for row in pairs(2500)]
    assert len(set(check.all("ids"))) == 2500
    assert found.rows == {"train": 2500}
    assert found.source == "rows.jsonl"


def test_a_batch_of_long_rows_ends_early(tmp_path):
    rows = [{"text": f"{i}" * 1_500_000, "answer": "a"} for i in range(4)]
    _, check = looked_at(tmp_path, rows)
    assert [len(batch.ids) for batch in check.batches] == [3, 1]


def test_given_parts_are_named_and_groups_are_told(tmp_path):
    for name, count in (("train", 3), ("test", 2)):
        write_jsonl(tmp_path / f"{name}.jsonl", pairs(count))
    config = configure(tmp_path, parts=("train.jsonl", None, "test.jsonl"), slice="label")
    check = Seeing()
    found = audit(config, make=lambda _: [check])
    assert found.rows == {"train": 3, "test": 2}
    assert check.all("splits") == ["train"] * 3 + ["test"] * 2
    assert check.all("groups") == ["b", "a", "a", "b", "a"]
    other = replace(config, data=replace(config.data, audit=replace(config.data.audit, groups="g")))
    audit(other, make=lambda _: [check])
    assert check.all("groups")[-5:] == ["g0", "g1", "g2", "g0", "g1"]


def test_a_column_of_groups_that_is_not_there(tmp_path):
    config = configure(write_jsonl(tmp_path / "rows.jsonl", pairs(3)))
    config = replace(config, data=replace(config.data, audit=replace(config.data.audit, groups="gg")))
    with pytest.raises(DataError, match=r"data\.audit\.groups: .* has no column `gg` \(did you mean `g`"):
        audit(config)


def test_conversations_are_seen_as_what_was_said(tmp_path):
    _, check = looked_at(tmp_path, [chat("hi", "hello"), {"messages": "hm"}], "chat")
    assert check.all("inputs") == ["hi\n\nhello", "hm"]
    assert check.all("targets") == ["", ""]


def test_findings_are_sorted_and_the_rows_suspected_most_come_first(tmp_path):
    _, check = looked_at(tmp_path, pairs(4))
    a, b, c, d = check.all("ids")
    tells = [
        finding("note", 5),
        finding("warning", 1, suspects=((a, 0.5), (b, 0.9))),
        replace(finding("error", 2, suspects=((a, 0.9), (d, 2.0), ("strange", 1.0))), check="other"),
        finding("warning", 3, numbers={"good": 1.5, "bad": float("nan"), "endless": float("inf")}),
    ]
    found, _ = looked_at(tmp_path, pairs(4), tells=tells)
    assert [(one.severity, one.count) for one in found.findings] == [
        ("error", 2),
        ("warning", 3),
        ("warning", 1),
        ("note", 5),
    ]
    assert found.findings[1].numbers == {"good": 1.5}
    assert [(row.id, round(row.suspicion, 3), row.reason) for row in found.queue] == [
        (d, 1.0, "other"),
        (a, 0.95, "a check, other"),
        (b, 0.9, "a check"),
    ]
    assert (found.queue[1].text, found.queue[1].answer, found.queue[1].split) == (
        "text number 0",
        "answer 0",
        "train",
    )
    assert c not in {row.id for row in found.queue}
    assert found.numbers == {
        "errors": 1,
        "warnings": 2,
        "notes": 1,
        "rows_train": 4,
        "a check": 5,
        "other": 2,
    }
    assert [one.count for one in found.at_least("warning")] == [2, 3, 1]


def test_personal_data_is_masked_in_the_queue(tmp_path):
    rows = [{"text": "write to jane.doe@gmail.com now", "answer": "b"}]
    _, check = looked_at(tmp_path, rows)
    found, _ = looked_at(tmp_path, rows, tells=[finding(suspects=((check.all("ids")[0], 1.0),))])
    assert "jane" not in found.queue[0].text
    assert found.queue[0].text.startswith("write to [")


SECRETS = "mail joe.smith@gmail.com or ghp_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"


@pytest.mark.parametrize("kind", ["generate", "classify"])
def test_no_check_shows_personal_data(tmp_path, kind):
    """Every fault that is looked for, with secrets beside it."""
    faults = [
        f"<p>{SECRETS}</p>",
        f"{SECRETS} \x07",
        f"{SECRETS} Ã©tÃ©",
        f"{SECRETS} " + "word " * 3000,
        f"{SECRETS} das ist ein deutscher Satz, in dem es um nichts geht, was jemand wissen muss",
        f"{SECRETS} zxqv wqkj bvxz qqzx jjkw xxvq zzkw qpwx kkzq vvxj wwqz",
        SECRETS,
        f"{SECRETS}.",
        f"{SECRETS} ",
    ]
    rows = [
        {"text": text, "answer": answer}
        for text in faults
        for answer in ("Yes", "yes", SECRETS, "1.5", "1,5")
    ]
    rows += pairs(60)
    config = configure(write_jsonl(tmp_path / "rows.jsonl", rows), kind)
    found = audit(config)
    assert len({finding.check for finding in found.findings}) > 4
    told = json.dumps([[one.message, [e.text for e in one.examples]] for one in found.findings])
    told += json.dumps([row.text for row in found.queue])
    assert "joe.smith" not in told
    assert "ghp_" not in told
    assert "[e-mail]" in told


def test_what_was_found_at_the_beginning_counts_for_a_sweep_that_goes_on(tmp_path):
    cache = tmp_path / "audit.json"
    path = write_jsonl(tmp_path / "rows.jsonl", pairs(60))
    config = configure(path)
    first = audit(config, cache)
    other = replace(config, data=replace(config.data, audit=replace(config.data.audit, terms={"a": ("b",)})))
    write_jsonl(path, pairs(70))
    assert audit(other, cache, frozen=True) == first
    assert audit(other, cache).rows == {"train": 70}


def test_a_second_look_takes_what_was_found_as_long_as_nothing_changed(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", pairs(5))
    config, cache = configure(path), tmp_path / "audit.json"
    looks = []

    def make(_):
        looks.append(Seeing([finding()]))
        return [looks[-1]]

    first = audit(config, cache, make=make)
    assert read_audit(cache) == first
    assert json.loads(cache.read_text())["numbers"]["rows_train"] == 5
    never = replace(config.data.audit, fail_on="never")
    elsewhere = replace(config.data, path=path.rename(tmp_path / "moved.jsonl"), audit=never, cleaning=())
    assert audit(replace(config, data=elsewhere), cache, make=make) == first
    assert len(looks) == 1
    config = replace(config, data=elsewhere)
    with_terms = replace(elsewhere, audit=replace(never, terms={"women": ("she",)}))
    audit(replace(config, data=with_terms), cache, make=make)
    assert len(looks) == 2, "what is looked for has changed"
    audit(config, cache, make=make)
    write_jsonl(tmp_path / "moved.jsonl", pairs(6))
    assert audit(config, cache, make=make, frozen=True).rows == {"train": 5}
    assert len(looks) == 3, "the rows were prepared before; their file doesn't count any more"
    second = audit(config, cache, make=make)
    assert (second.rows, len(looks)) == ({"train": 6}, 4)
    assert second.digest != first.digest
    cache.write_text("{")
    assert audit(config, cache, make=make) == second


def test_a_local_folder_and_installed_packages_are_stamped(tmp_path):
    from sweeper.data.sources import stamp

    data = configure(None, source="docstrings", packages=("optuna",)).data
    assert stamp(data) == stamp(data)
    assert stamp(data) != stamp(replace(data, packages=("optuna", "rich")))
    (tmp_path / "hub").mkdir()
    file = write_jsonl(tmp_path / "hub" / "train.jsonl", pairs(3))
    data = configure(None, source="hub", name=str(tmp_path / "hub")).data
    before = stamp(data)
    assert before is not None
    os.utime(file, (1, 1))
    assert stamp(data) != before
    assert stamp(replace(data, name="nobody/nothing")) is None


def test_progress_is_told(tmp_path):
    heard = []
    config = configure(write_jsonl(tmp_path / "rows.jsonl", pairs(1500)))
    audit(config, progress=lambda *told: heard.append(told), make=lambda _: [Seeing()])
    assert heard == [
        ("Reading the rows", 1000, None),
        ("Reading the rows", 1500, None),
        ("Comparing the rows", 0, 1),
    ]


def test_columns_of_mixed_and_of_wrong_types(tmp_path):
    rows = [
        {"text": "a", "answer": "x"},
        {"text": 1, "answer": "y"},
        {"text": ["b"], "answer": None},
        {"text": "c", "answer": {"d": "\ud83d"}},
        {"text": True, "answer": float("nan")},
    ]
    found, check = looked_at(tmp_path, rows)
    told = {one.message: one for one in found.findings}
    assert [one.severity for one in found.findings] == ["error", "error", "warning"]
    lists = told["1 of 5 rows hold a list in column `text`"]
    assert (lists.count, lists.of, lists.examples[0].text) == (1, 5, '["b"]')
    assert "1 of 5 rows hold a dict in column `answer`" in told
    assert "column `text` holds values of several kinds: 2 text, 1 numbers, 1 truth values" in told
    assert check.all("inputs") == ["a", "1", '["b"]', "c", "True"]
    assert [row.id for row in found.queue] == sorted([check.all("ids")[2], check.all("ids")[3]])


def test_rows_that_are_no_conversation(tmp_path):
    found, _ = looked_at(tmp_path, [chat("hi", "hello"), chat("hi"), {"messages": None}], "chat")
    assert [(one.severity, one.count) for one in found.findings] == [("warning", 2)]
    assert "hold no conversation in `messages`" in found.findings[0].message
    assert found.findings[0].advice.startswith('They are left out. Right is [{"role": "user"')


def test_personal_data_in_tool_calls_are_found(tmp_path):
    call = {"function": {"name": "send", "arguments": '{"to": "jane.roe@acme.org"}'}}
    row = {"messages": [{"role": "user", "content": "Go."}, {"role": "assistant", "tool_calls": [call]}]}
    config = configure(write_jsonl(tmp_path / "rows.jsonl", [row] * 3), "chat")
    (found,) = [one for one in audit(config).findings if one.check == "personal"]
    assert found.message == "3 of 3 rows contain e-mail (3 occurrences)"
    assert "[e-mail]" in found.examples[0].text


def test_lengths_are_counted_in_bins_that_widen():
    lengths = Lengths()
    lengths.see(Batch(0, [], [], ["", "a" * 7, "a" * 9, "a" * 10, "a" * 2_000_000], [""] * 5, []))
    (histogram,) = lengths.histograms().values()
    bins = dict(zip(histogram.edges, histogram.counts, strict=True))
    assert {edge: count for edge, count in bins.items() if count} == {0: 1, 7: 2, 10: 1, 2_000_000: 1}
    assert list(bins) == sorted(bins)


EVERY_SCRIPT = "Ελληνικά кириллица עברית العربية हिन्दी 中文 日本語 한국어 ไทย ქართული አማርኛ 🙂 e\u0301"


@pytest.mark.parametrize(
    "rows",
    [
        [{"text": "a", "answer": "b"}],
        [{"text": EVERY_SCRIPT, "answer": word} for word in EVERY_SCRIPT.split()],
        [{"text": "x y " * 250_000, "answer": "b" * 10**6}],
        [{"text": "", "answer": None}, {"answer": "\x00\x1b[2J"}, {}],
        [
            {"text": 1, "answer": 2.5},
            {"text": [[]], "answer": {"a": None}},
            {"text": "\ud800", "answer": True},
        ],
    ],
    ids=["one row", "every script", "a million characters", "nothing in them", "mixed types"],
)
@pytest.mark.parametrize("kind", ["generate", "classify"])
def test_all_checks_bear_whatever_stands_in_rows(tmp_path, rows, kind):
    path = write_jsonl(tmp_path / "rows.jsonl", [*rows, {"text": "z", "answer": "w"}])
    config = configure(path, kind)
    found = audit(config, tmp_path / "audit.json")
    assert sum(found.rows.values()) == len(rows) + 1
    assert read_audit(tmp_path / "audit.json") == found


def test_a_label_column_with_thousands_of_values(tmp_path):
    rows = [{"text": f"text {i % 7}", "answer": f"label {i}"} for i in range(5000)]
    found = audit(configure(write_jsonl(tmp_path / "rows.jsonl", rows), "classify"))
    assert found.at_least("error"), "5,000 labels are no classes"


def test_all_checks_bear_conversations(tmp_path):
    rows = [chat("hi there", "hello to you"), chat("a"), {"messages": [1]}, {"messages": "[" * 5000}]
    found = audit(configure(write_jsonl(tmp_path / "rows.jsonl", rows), "chat"))
    assert found.rows == {"train": 4}


@pytest.mark.parametrize("kind", ["generate", "classify", "chat"])
def test_every_task_has_checks_of_its_own_and_fresh_ones_each_time(kind):
    one, other = checks(configure(None, kind)), checks(configure(None, kind))
    assert len(one) > 5
    assert [type(check) for check in one] == [type(check) for check in other]
    assert not any(a is b for a, b in zip(one, other, strict=True))


def test_a_source_that_is_empty_or_no_table(tmp_path):
    with pytest.raises(DataError, match=r"rows\.jsonl holds no rows; give a source that does"):
        looked_at(tmp_path, [])
    (tmp_path / "rows.jsonl").write_text("this is no table")
    with pytest.raises(DataError, match=r"rows\.jsonl, line 1 is no JSON"):
        audit(configure(tmp_path / "rows.jsonl"))
    (tmp_path / "rows.csv").write_bytes(b"\x89PNG\x00text")
    with pytest.raises(DataError, match="is not UTF-8"):
        audit(configure(tmp_path / "rows.csv"))
