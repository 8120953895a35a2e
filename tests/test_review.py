"""A person's decisions: what the queue offers, what is read back, and what becomes of the rows."""

import csv
import json
from dataclasses import replace

import pytest

from sweeper.config import LengthConfig
from sweeper.data.audit import audit
from sweeper.data.cells import Content, content, row_digest
from sweeper.data.cleaning import KEPT
from sweeper.data.manifest import defining, key
from sweeper.data.pool import gather
from sweeper.data.prepare import prepare
from sweeper.data.queue import COLUMNS, Suspect, guarded, suspects, unguarded, write_queue
from sweeper.data.review import LEFT, Decision, Review, read_review
from sweeper.data.sources import load
from sweeper.errors import DataError
from tests.rows import chat, configure, pairs, tokenizer, write_jsonl


def id_of(row) -> str:
    return row_digest(row["text"], row["answer"]).hex()


def write_decisions(path, *lines, delimiter=","):
    """A queue as a spreadsheet saves it: id, decision, fixed_input, fixed_target."""
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["id", "split", "decision", "fixed_input", "fixed_target"])
        for id_, decision, *fixed in lines:
            writer.writerow([f"row:{id_}", "train", decision, *fixed, *[""] * (2 - len(fixed))])
    return path


def reviewed(tmp_path, rows, *lines, kind="generate", **options):
    """A configuration over `rows` with these decisions."""
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    return configure(path, kind, review=write_decisions(tmp_path / "queue.csv", *lines), **options)


def pool(tmp_path, config):
    return gather(load(config.data), config, tmp_path / "pool.arrow")


def test_keep_drop_and_fix_are_applied_by_row(tmp_path):
    rows = pairs(6)
    ids = [id_of(row) for row in rows]
    config = reviewed(
        tmp_path,
        rows,
        (ids[0], "Keep"),
        (ids[1], " drop "),
        (ids[2], "fix", "", "a better answer"),
        (ids[3], "fix", "a better text", "and answer"),
        (ids[4], ""),
    )
    found = pool(tmp_path, config)
    assert found.rows["input"][:] == ["text number 0", "text number 2", "a better text", *TEXTS[4:]]
    assert found.rows["target"][:] == ["answer 0", "a better answer", "and answer", "answer 4", "answer 5"]
    assert found.rows["id"][:] == [ids[0], *ids[2:]], "a row keeps its id, whatever it is fixed to"
    assert found.dropped == {"dropped in review": 1}
    assert found.reviewed == {"keep": 1, "drop": 1, "fix": 2}


TEXTS = [row["text"] for row in pairs(6)]


def test_what_a_person_keeps_is_left_out_by_no_step(tmp_path):
    near = "one two three four five six seven eight nine ten"
    rows = [
        *pairs(9),
        {"text": "n/a", "answer": "b"},
        {"text": "a" * 200, "answer": "long"},
        {"text": near, "answer": "near"},
        {"text": f"{near} more ", "answer": "near"},
        {"text": "invisible", "answer": "\u200b"},
        {"text": "twice", "answer": "the same"},
        {"text": "twice", "answer": "the same"},
    ]
    steps = ("whitespace", "missing", "length", "exact_duplicates", "near_duplicates")
    options = {"cleaning": steps, "length": LengthConfig(None, 100, None, None), "sizes": (None, 2, 0)}
    cleaned = pool(tmp_path, reviewed(tmp_path, rows, **options)).left_out
    assert [steps[number] for number in cleaned if number != KEPT] == [
        "missing", "length", "near_duplicates", "whitespace", "exact_duplicates",
    ]  # fmt: skip
    decided = reviewed(tmp_path, rows, *((id_of(row), "keep") for row in rows[9:15]), **options)
    found = pool(tmp_path, decided)
    assert set(found.left_out) == {KEPT}
    assert found.rows["clean_input"][12] == f"{near} more", "it is changed all the same"
    whole = replace(decided, task=replace(decided.task, max_input_tokens=300))
    trained = prepare(whole, tokenizer(), "causal", tmp_path / "rows")
    prompts = "".join([*trained.train["prompt"], *trained.validation["prompt"]])
    assert all(f"Text: {text}\n" in prompts for text in ("n/a", "a" * 200, "invisible"))


def test_a_row_that_lacks_something_can_be_fixed_or_dropped(tmp_path):
    rows = [
        *pairs(2),
        {"text": "", "answer": "b"},
        {"text": "c", "answer": None},
        {"text": ["d"], "answer": "e"},
    ]
    bad = [content(row, configure(None).data, configure(None).task) for row in rows[2:]]
    assert [one.wrong for one in bad] == ["", "", "input"]
    config = reviewed(
        tmp_path,
        rows,
        (bad[0].digest.hex(), "fix", "a"),
        (bad[1].digest.hex(), "drop"),
        (bad[2].digest.hex(), "fix", "d"),
    )
    found = pool(tmp_path, config)
    assert found.rows["input"][2:] == ["a", "d"]


def test_test_rows_stay_as_they_are(tmp_path):
    rows = pairs(6)
    for name, some in (("train", rows[:4]), ("test", rows[3:])):
        write_jsonl(tmp_path / f"{name}.jsonl", some)
    ids = [id_of(row) for row in rows]
    decisions = write_decisions(
        tmp_path / "queue.csv", (ids[3], "drop"), (ids[4], "fix", "x"), (ids[5], "drop"), (ids[0], "drop")
    )
    config = configure(tmp_path, parts=("train.jsonl", None, "test.jsonl"), review=decisions)
    found = pool(tmp_path, config)
    tests = [text for text, part in zip(found.rows["input"][:], found.parts, strict=True) if part == 2]
    assert tests == TEXTS[3:]
    assert found.reviewed == {LEFT: 3, "drop": 2}, "the copy in the training part is dropped"


def test_the_audit_sees_rows_as_they_were_decided_on(tmp_path):
    rows = [*pairs(5), {"text": ["a"], "answer": "b"}, {"text": ["c"], "answer": "d"}]
    config = configure(write_jsonl(tmp_path / "rows.jsonl", rows))
    before = audit(config, make=lambda _: [])
    assert len(before.queue) == 2
    lines = [(before.queue[0].id, "drop"), (before.queue[1].id, "keep")]
    after = audit(reviewed(tmp_path, rows, *lines), make=lambda _: [])
    assert (before.rows, after.rows) == ({"train": 7}, {"train": 6})
    assert (after.decided, after.findings[0].count) == (2, 1)
    assert after.queue == (), "what a person keeps is not asked again"
    assert after.key != before.key


def test_conversations_are_fixed_as_json(tmp_path):
    rows = [chat("hi", "hello"), chat("a", "b")]
    config = configure(None, "chat")
    ids = [content(row, config.data, config.task).digest.hex() for row in rows]
    better = json.dumps(chat("hi", "good day")["messages"])
    config = reviewed(tmp_path, rows, (ids[0], "fix", better), kind="chat")
    assert "good day" in pool(tmp_path, config).rows["input"][0]
    config = reviewed(tmp_path, rows, (ids[0], "fix", "good day"), kind="chat")
    with pytest.raises(DataError, match=r"data\.review: row 2: fixed_input is no conversation; right is"):
        pool(tmp_path, config)


def test_decisions_on_other_rows_are_refused(tmp_path):
    lines = [(f"{i:016x}", "drop") for i in range(7)]
    config = reviewed(tmp_path, pairs(3), (id_of(pairs(1)[0]), "keep"), *lines)
    said = r"decides on 7 rows that the data don't have: row 3 \(0{16}\), row 4 .* and 2 more\. It was"
    with pytest.raises(DataError, match=said):
        pool(tmp_path, config)
    with pytest.raises(DataError, match=said):
        audit(config, make=lambda _: [])


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            [("a", "keep"), ("b", "maybe")],
            "row 3: `maybe` is no decision; allowed: keep, drop, fix, or nothing",
        ),
        ([("a", "fix")], "row 2: `fix` needs the new text in fixed_input or fixed_target"),
        ([("a", "drop", "x")], "row 2: `drop`, but something is fixed; write `fix`"),
        ([("a", "", "", "x")], "row 2: something is fixed, but the decision is empty; write `fix`"),
        ([("a", "keep"), ("a", "drop")], "row 3: decides on the same row as row 2, in another way"),
        ([("a", "x"), ("b", "y")], "row 2: `x` is no decision; .*; row 3: `y` is no decision"),
    ],
)
def test_unclear_decisions_are_refused_with_their_row(tmp_path, lines, said):
    with pytest.raises(DataError, match=said):
        read_review(write_decisions(tmp_path / "queue.csv", *lines))


def test_files_that_are_no_queue(tmp_path):
    path = tmp_path / "queue.csv"
    with pytest.raises(DataError, match=r"data\.review: there is no file .*queue\.csv; an audit writes it"):
        read_review(path)
    with pytest.raises(DataError, match=r"data\.review: can't read .*; an audit writes it"):
        read_review(tmp_path)
    path.write_bytes(b"id,decision\n\xff,keep\n")
    with pytest.raises(DataError, match="is no text in UTF-8; save it as CSV UTF-8"):
        read_review(path)
    path.write_text("number,decision\n1,keep\n")
    with pytest.raises(DataError, match=r"has no column id; a queue has id, split, suspicion"):
        read_review(path)
    path.write_text("")
    with pytest.raises(DataError, match="has no column id and decision"):
        read_review(path)
    path.write_text('id,decision\n"a\x00",keep\n"b')
    assert read_review(path).decisions.keys() <= {"a\x00", "b"}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_what_spreadsheets_write_is_read(tmp_path, delimiter):
    path = write_decisions(
        tmp_path / "q.csv", ("a", "drop"), ("b", "fix", "one\ntwo", "x;y,z\tü"), delimiter=delimiter
    )
    assert read_review(path).decisions == {
        "a": Decision(2, "drop"),
        "b": Decision(3, "fix", "one\ntwo", "x;y,z\tü"),
    }
    assert read_review(None).decisions == {}


def test_decisions_define_the_rows_and_nothing_else_in_the_file_does(tmp_path):
    one = configure(None, review=write_decisions(tmp_path / "one.csv", ("a", "drop"), ("b", "keep")))
    moved = configure(
        None, review=write_decisions(tmp_path / "2.csv", ("b", "KEEP"), ("a", "drop"), ("c", ""))
    )
    other = configure(None, review=write_decisions(tmp_path / "3.csv", ("a", "drop"), ("b", "drop")))
    assert key(one) == key(moved)
    assert len({key(config) for config in (one, other, configure(None))}) == 3
    assert defining(one.data) == defining(moved.data)
    assert "audit" not in defining(one.data)


def test_without_a_file_nothing_is_decided():
    row = Content("a", "b")
    review = Review()
    assert review.apply(row, "train") is row
    review.check_met()
    assert (review.digest, review.counts.total()) == (None, 0)


def rows_of(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_the_queue_is_a_table_that_calculates_nothing(tmp_path):
    hostile = ["=cmd()", "+1", "-1", "@a", "\t=1", "'=1", "＝1", "a=1", "", 'x","y\n=z\x1b[2J']  # noqa: RUF001
    path = write_queue(
        tmp_path / "queue.csv", [Suspect(f"{i}", 0.5, "why", "train", t, t) for i, t in enumerate(hostile)]
    )
    rows = rows_of(path)
    assert tuple(rows[0]) == COLUMNS
    assert [row["text"][:1] for row in rows[:7]] == ["'"] * 7
    assert rows[7]["text"] == "a=1"
    assert rows[9]["text"] == 'x","y\n=z<1b>[2J'
    assert {row["decision"] for row in rows} == {""}
    assert rows[0]["id"] == "row:0"
    assert read_review(path).decisions == {}
    for text in hostile:
        assert unguarded(guarded(text)) == text


def test_a_queue_with_decisions_is_never_written_over(tmp_path):
    path = tmp_path / "queue.csv"
    assert write_queue(path, [Suspect("a", 0.5, "why")]) == path
    assert write_queue(path, [Suspect("b", 0.5, "why")]) == path
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"why","","",""', '"why","","","drop"'), encoding="utf-8")
    assert read_review(path).decisions == {"b": Decision(2, "drop")}
    assert write_queue(path, [Suspect("c", 0.5, "why")]) == tmp_path / "queue-2.csv"
    assert write_queue(path, [Suspect("d", 0.5, "why")]) == tmp_path / "queue-2.csv"
    assert read_review(path).decisions == {"b": Decision(2, "drop")}
    path.write_bytes(b"\xff")
    assert write_queue(path, []) == tmp_path / "queue-2.csv", "what can't be read may be somebody's work"


def test_queues_put_under_each_other_are_one(tmp_path):
    first = write_decisions(tmp_path / "1.csv", ("a", "drop"))
    second = write_decisions(tmp_path / "2.csv", ("b", "keep"), ("c", ""))
    first.write_bytes(first.read_bytes() + second.read_bytes())
    assert read_review(first).decisions == {"a": Decision(2, "drop"), "b": Decision(4, "keep")}


def test_an_empty_queue_has_no_suspects():
    assert suspects([], lambda _: False) == []
