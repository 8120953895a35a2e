import json
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from sweeper.config import CleaningStep, LengthConfig
from sweeper.data.checks.quality import Empty
from sweeper.data.cleaning import KEPT, Cleaner, count
from sweeper.data.findings import Batch
from sweeper.data.manifest import StepCounts
from sweeper.data.prepare import open_test, prepare
from sweeper.data.texts import Form, Text
from tests.rows import chat, configure, pairs, tokenizer, write_jsonl

BROKEN = "GrÃ¶ÃŸe Ã¼ber alles"
REPAIRED = "Größe über alles"


def bounds(**given):
    return LengthConfig(**dict.fromkeys(("min_input", "max_input", "min_target", "max_target")) | given)


def cleaner(*steps, kind="generate", **options):
    return Cleaner(configure(None, kind, cleaning=steps, **options).data, Form(kind))


def changed(step, text):
    return cleaner(step).clean(Text(text, "answer")).text.input


@pytest.mark.parametrize(
    ("step", "text", "clean"),
    [
        ("encoding", BROKEN, REPAIRED),
        ("encoding", "a\x00b \x1b[31mred\x1b[0m", "ab red"),
        ("encoding", "5 &lt; 6, “quoted”, ﬁne", "5 &lt; 6, “quoted”, ﬁne"),
        ("whitespace", " a\u00a0b\u200b \r\nc\t \n\n\n\n  d  \n", " a b\nc\n\n  d"),
        ("whitespace", "  one line ", "one line"),
        ("whitespace", "x = {\n    'a':  1,\n}", "x = {\n    'a':  1,\n}"),
        ("whitespace", "👨\u200d👩\u200d👧", "👨\u200d👩\u200d👧"),
        ("formats", "cafe\u0301 \u201cso\u201d, it\u2019s well\u2011known", 'café "so", it\'s well-known'),
        (
            "formats",
            "1914\u20131918 \u2014 x\u00b2 \u00e0 la co\u00adop",
            "1914\u20131918 \u2014 x² à la coop",
        ),
        ("personal", "write to jane.roe@acme.org", "write to [e-mail]"),
    ],
)
def test_a_step_changes_what_it_is_there_for_and_nothing_else(step, text, clean):
    assert changed(step, text) == clean
    assert changed(step, clean) == clean


def calling(arguments, **more):
    call = {"type": "function", "id": "call_1", "function": {"name": "send", "arguments": arguments}}
    question = {"role": "user", "content": "Send it, please."}
    return [question, {"role": "assistant", "content": "", "tool_calls": [call], **more}]


MAIL = "jane.roe@acme.org"


@pytest.mark.parametrize(
    ("arguments", "clean"),
    [
        (
            {"to": [MAIL, {"cc": f"me, {MAIL}"}], MAIL: 3, "rows": 12345678, "now": True},
            {"to": ["[e-mail]", {"cc": "me, [e-mail]"}], MAIL: 3, "rows": 12345678, "now": True},
        ),
        (f'{{"to":"{MAIL}","n":1.50}}', '{"to": "[e-mail]", "n": 1.5}'),
        ('{"to":"nobody","n":1.50}', '{"to":"nobody","n":1.50}'),
        (f"to={MAIL}", "to=[e-mail]"),
    ],
    ids=["an object", "JSON as text", "nothing to mask", "no JSON"],
)
@pytest.mark.parametrize("with_tools", [False, True])
def test_personal_data_in_tool_calls_and_reasoning_are_masked(arguments, clean, with_tools):
    messages = calling(arguments, reasoning_content=f"She is {MAIL}.", name="clerk")
    messages.append({"role": "tool", "content": f"Sent to {MAIL}.", "tool_call_id": "call_1"})
    tools = [{"name": "send", "description": f"Ask {MAIL}."}]
    row = {"messages": messages, "tools": tools} if with_tools else messages
    done = cleaner("personal", kind="chat").clean(Text(json.dumps(row), ""))
    after = json.loads(done.text.input)
    said = after["messages"] if with_tools else after
    assert said[1:] == [
        {**calling(clean, reasoning_content="She is [e-mail].", name="clerk")[1]},
        {"role": "tool", "content": "Sent to [e-mail].", "tool_call_id": "call_1"},
    ]
    assert (done.changed, done.left_out) == (1, KEPT)
    assert not with_tools or after["tools"] == tools, "they are not about anybody"
    other = cleaner("whitespace", kind="chat").clean(Text(json.dumps(calling({"a": " b "})), ""))
    assert json.loads(other.text.input) == calling({"a": " b "}), "other steps leave calls alone"
    assert other.changed == 0


def test_a_call_with_nothing_personal_is_not_counted_as_changed():
    row = Text(json.dumps(calling('{"a":1}')), "")
    done = cleaner("personal", kind="chat").clean(row)
    assert (done.text, done.changed) == (row, 0)
    only = cleaner("personal", kind="chat").clean(Text(json.dumps(calling({"to": MAIL})), ""))
    assert only.changed == 1, "though no content was"


@pytest.mark.parametrize(
    ("answer", "clean"),
    [
        ("    return x", "    return x"),
        ("\n    a\n\n\n\n    b  \r\n", "\n    a\n\n\n\n    b"),
        ("one ", "one"),
    ],
)
def test_an_answer_keeps_what_it_begins_with_and_its_empty_lines(answer, clean):
    found = cleaner("whitespace").clean(Text("a text", answer))
    assert (found.text.target, found.changed) == (clean, int(answer != clean))
    said = json.dumps([{"role": "user", "content": " a"}, {"role": "assistant", "content": answer}])
    chatted = cleaner("whitespace", kind="chat").clean(Text(said, ""))
    assert [m["content"] for m in json.loads(chatted.text.input)] == ["a", clean]


def test_every_step_that_can_be_asked_for_is_known():
    every = cleaner(*get_args(CleaningStep), length=bounds(min_input=1))
    assert every.clean(Text("a text", "an answer")).left_out == KEPT


@pytest.mark.parametrize("text", ["N/A", " null ", "[deleted]", "(removed)", "NaN."])
def test_what_stands_for_nothing_is_missing(text):
    assert cleaner("missing").clean(Text(text, "answer")).left_out == 0
    assert cleaner("missing").clean(Text("text", text)).left_out == 0


@pytest.mark.parametrize(
    "text", ["N/A", " null ", "[deleted]", "None", "-", "?", "#n/a", "none of it", "nil"]
)
@pytest.mark.parametrize(
    ("kind", "field"), [("generate", "input"), ("generate", "target"), ("classify", "input")]
)
def test_what_the_audit_counts_as_a_placeholder_is_what_the_step_leaves_out(text, kind, field):
    row = replace(Text("a text", "an answer"), **{field: text})
    check = Empty(kind)
    check.see(Batch(0, ["0" * 16], ["train"], [row.input], [row.target], [""]))
    left_out = cleaner("missing", kind=kind).clean(row).left_out == 0
    assert left_out == bool(check.findings())


@pytest.mark.parametrize("text", ["none", "-", "no", "?", "42", "null and void"])
def test_short_answers_are_answers(text):
    assert cleaner("missing").clean(Text("text", text)).left_out == KEPT


@pytest.mark.parametrize(
    ("given", "left_out"),
    [
        ({"min_input": 4}, KEPT),
        ({"min_input": 5}, 0),
        ({"max_input": 4}, KEPT),
        ({"max_input": 3}, 0),
        ({"min_target": 2}, KEPT),
        ({"min_target": 3}, 0),
        ({"max_target": 2}, KEPT),
        ({"max_target": 1}, 0),
    ],
)
def test_length_bounds_are_characters_and_belong_to_what_is_allowed(given, left_out):
    assert cleaner("length", length=bounds(**given)).clean(Text("four", "ab")).left_out == left_out


def test_of_equal_rows_the_first_stays_and_the_order_of_steps_counts():
    rows = [Text("a  b", "c"), Text("a  b ", "c"), Text("a  b", "d"), Text("a  b", "c")]
    for steps, left_out in (
        (("exact_duplicates", "whitespace"), [KEPT, KEPT, KEPT, 0]),
        (("whitespace", "exact_duplicates"), [KEPT, 1, KEPT, 1]),
    ):
        cleaning = cleaner(*steps)
        assert [cleaning.clean(row).left_out for row in rows] == left_out


def test_a_row_that_one_step_leaves_out_is_not_seen_by_the_next():
    cleaning = cleaner("length", "exact_duplicates", length=bounds(max_input=3))
    assert [cleaning.clean(Text(text, "a")).left_out for text in ("long", "long", "ok", "ok")] == [
        0,
        0,
        KEPT,
        1,
    ]


def test_a_step_that_leaves_nothing_leaves_the_row_out():
    found = cleaner("whitespace", "encoding").clean(Text("\x07", "answer"))
    assert (found.left_out, found.changed) == (1, 0)


def test_labels_are_never_changed():
    row = Text(f"{BROKEN}", "N/A  \u201ca\u201d")
    found = cleaner("encoding", "formats", "missing", kind="classify").clean(row)
    assert found.text == Text(REPAIRED, row.target)
    assert found.left_out == KEPT


def test_every_turn_of_a_chat_is_cleaned():
    row = Text(json.dumps(chat(f"{BROKEN} ", "hello  there", "null?", "ok")["messages"]), "")
    found = cleaner("encoding", "whitespace", kind="chat").clean(row)
    assert [m["content"] for m in json.loads(found.text.input)] == [REPAIRED, "hello  there", "null?", "ok"]
    assert found.changed == 0b11
    assert found.compared == f"{REPAIRED}\nhello  there\nnull?\nok"
    assert cleaner("missing", kind="chat").clean(row).left_out == 0
    assert cleaner("length", kind="chat", length=bounds(max_input=10)).clean(row).left_out == 0


def test_a_row_is_counted_once_where_it_ends():
    steps = ("encoding", "length", "whitespace")
    changes = np.array([0b101, 0b001, 0, 0b100])
    left_out = np.array([KEPT, 1, 0, KEPT], dtype=np.int8)
    nobody = np.zeros(4, dtype=bool)
    assert count(steps, changes, left_out, nobody) == {
        "encoding": StepCounts(2, 1, 0),
        "length": StepCounts(0, 1, 0),
        "whitespace": StepCounts(2, 0, 0),
    }
    assert count(steps, changes, left_out, ~nobody)["encoding"] == StepCounts(0, 0, 3)


WHOLE = {"max_input_tokens": 1000}


def sentences(first, last):
    """Rows so different from each other that no two are near-duplicates."""
    return [
        {"text": " ".join(f"w{20 * i + word}" for word in range(20)), "answer": f"answer number {i}"}
        for i in range(first, last)
    ]


PLANTED = [
    *({"text": f"{BROKEN} {i} {i}{i} x{i} y{i} z{i} v{i}", "answer": f"broken {i}"} for i in range(3)),
    *({"text": f"blanks{i} at b{i} the c{i} end d{i} ", "answer": f"blank {i}"} for i in range(4)),
    *({"text": f"it\u2019s{i} so{i} quoted{i} here{i}", "answer": f"quote {i}"} for i in range(2)),
    *({"text": f"what{i} is{i} this{i} for{i}", "answer": "N/A"} for i in range(5)),
    *({"text": f"long{i} " * 60, "answer": f"long {i}"} for i in range(6)),
    *({**row, "text": f"{row['text']} "} for row in sentences(0, 7)),
    *({**row, "text": row["text"].replace(" ", " extra ", 1)} for row in sentences(7, 15)),
    *({"text": f"mail{i} to{i} jane{i}.roe@acme.org ok{i}", "answer": f"mail {i}"} for i in range(9)),
]
STEPS = (
    "encoding", "whitespace", "formats", "missing", "length", "exact_duplicates", "near_duplicates",
    "personal",
)  # fmt: skip


def prepared(tmp_path, config):
    return prepare(config, tokenizer(), "causal", tmp_path / "rows")


def test_every_step_counts_exactly_what_was_planted(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [*sentences(0, 40), *PLANTED])
    config = configure(path, cleaning=STEPS, length=bounds(max_input=300), sizes=(None, 2, 0))
    found = prepared(tmp_path, config)
    assert found.manifest.cleaned == {
        "encoding": StepCounts(3, 0, 0),
        "whitespace": StepCounts(4 + 6 + 7, 0, 0),
        "formats": StepCounts(2, 0, 0),
        "missing": StepCounts(0, 5, 0),
        "length": StepCounts(0, 6, 0),
        "exact_duplicates": StepCounts(0, 7, 0),
        "near_duplicates": StepCounts(0, 8, 0),
        "personal": StepCounts(9, 0, 0),
    }
    assert list(found.manifest.cleaned) == list(STEPS)
    rows = [*found.train, *found.validation]
    assert len(rows) == 40 + len(PLANTED) - 5 - 6 - 7 - 8
    assert not [row for row in rows if BROKEN in row["prompt"] or "acme.org" in row["prompt"]]


def test_the_rows_of_a_given_test_part_are_flagged_and_stay_as_they_are(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", sentences(0, 40))
    write_jsonl(tmp_path / "test.jsonl", [*PLANTED, *PLANTED[:1]])
    config = configure(
        tmp_path, cleaning=STEPS, length=bounds(max_input=300), sizes=(None, 2, len(PLANTED) + 1),
        parts=("train.jsonl", None, "test.jsonl"), task=WHOLE,
    )  # fmt: skip
    prepared(tmp_path, config)
    test = open_test(tmp_path / "rows")
    assert sorted(test["prompt"]) == sorted(
        config.task.prompt.replace("{input}", row["text"]) for row in [*PLANTED, *PLANTED[:1]]
    )
    found = prepared(tmp_path, config).manifest
    assert {step: counts.flagged for step, counts in found.cleaned.items()} == {
        "encoding": 4,
        "whitespace": 17,
        "formats": 2,
        "missing": 5,
        "length": 6,
        "exact_duplicates": 1,
        "near_duplicates": 0,
        "personal": 9,
    }
    # Seven training rows are equal to test rows but for a blank, and eight are like one.
    assert found.cleaned["exact_duplicates"].dropped == 7
    assert found.cleaned["near_duplicates"].dropped == 8


def test_test_rows_drawn_from_training_rows_are_raw_and_those_that_are_like_them_leave(tmp_path):
    rows = [{**row, "text": f"{row['text']}  {BROKEN}"} for row in sentences(0, 30)]
    near = [{**row, "text": row["text"].replace(" ", " extra ", 1)} for row in rows]
    path = write_jsonl(tmp_path / "rows.jsonl", [*rows, *near])
    config = configure(path, cleaning=("encoding",), sizes=(None, 5, 10), task=WHOLE)
    found = prepared(tmp_path, config)
    test = open_test(tmp_path / "rows")
    assert all(BROKEN in prompt for prompt in test["prompt"])
    assert all(REPAIRED in row["prompt"] for row in [*found.train, *found.validation])
    assert found.manifest.cleaned == {"encoding": StepCounts(50, 0, 10)}
    answers = [set(split["answer"]) for split in (test, found.train, found.validation)]
    assert sum(map(len, answers)) == len(set.union(*answers)) == 30
    assert sum(found.manifest.dropped.values()) == 60 - len(test) - len(found.train) - len(found.validation)
    apart = prepared(tmp_path, replace(config, data=replace(config.data, keep_together=False)))
    assert len(apart.train) == 60 - 15


def test_rows_keep_their_id_through_all_steps(tmp_path):
    rows = [{**row, "text": f"{row['text']}  {BROKEN} "} for row in pairs(30)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    ids = []
    for steps in ((), ("encoding", "whitespace", "personal")):
        found = prepared(tmp_path, configure(path, cleaning=steps, keep_together=False))
        ids.append([*found.train["id"], *found.validation["id"], *open_test(tmp_path / "rows")["id"]])
    assert ids[0] == ids[1]
