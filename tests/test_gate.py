"""The verb `audit` and the audit before a sweep, as a person meets them."""

import io
import json
import os
from dataclasses import replace

import pytest
from rich.console import Console

from sweeper.__main__ import main
from sweeper.data.audit import read_audit
from sweeper.data.manifest import SplitInfo
from sweeper.errors import AuditRefusal
from sweeper.gate import complete, inspect
from sweeper.layout import Layout
from sweeper.terminal.screen import make_screen
from tests import tiny
from tests.rows import configure, pairs, write_jsonl

FILE = ("data=file", "data.path=rows.jsonl", "data.input=text", "data.target=answer")
BAD = {"text": ["a"], "answer": "b"}
HOSTILE = {"text": "[red]a[/red]\x1b[2J <b>bold</b>", "answer": "b"}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def rows(*more):
    """Rows that nothing much is wrong with, and others."""
    words = ["red", "blue", "green", "grey", "black", "white", "pink"]
    good = [
        {
            "text": f"The {words[i % 7]} house number {i} was sold to {words[i % 5]} people in {1900 + i}.",
            "answer": f"House {i} was sold in {1900 + i}.",
        }
        for i in range(60)
    ]
    return [*good, *more]


def test_the_verb_tells_and_writes_what_it_found(tmp_path, capsys):
    write_jsonl(tmp_path / "rows.jsonl", rows())
    assert main(["audit", *FILE]) == 0
    out = capsys.readouterr().out
    assert "Audit of rows.jsonl: 60 train rows; 0 errors," in out
    assert "warning: 60 training rows; for task.kind=generate several thousand are usual" in out
    layout = Layout(tmp_path / "sweeps", "sweep")
    assert "With examples and histograms: sweeps/sweep/audit.html" in out
    assert "<title>Audit of sweep</title>" in layout.audit_page.read_text()
    assert json.loads(layout.audit.read_text())["rows"] == {"train": 60}


def test_a_page_that_a_kill_has_left_behind_its_audit_is_written_anew(tmp_path, capsys):
    write_jsonl(tmp_path / "rows.jsonl", rows())
    main(["audit", *FILE])
    page = Layout(tmp_path / "sweeps", "sweep").audit_page
    page.write_text("of other rows")
    os.utime(page, (0, 0))
    main(["audit", *FILE])
    assert "<title>Audit of sweep</title>" in page.read_text()


def test_an_experiment_names_the_folder(tmp_path, capsys):
    write_jsonl(tmp_path / "rows.jsonl", rows())
    assert main(["audit", "+experiment=classify", "data.audit.fail_on=never", *FILE]) == 0
    assert (tmp_path / "sweeps" / "classify" / "audit.json").exists()
    assert main(["list"]) == 0
    assert "No sweep in sweeps/ yet" in capsys.readouterr().out, "an audit alone is no sweep"


def test_a_second_look_finds_the_same_without_writing_anything(tmp_path, capsys):
    write_jsonl(tmp_path / "rows.jsonl", rows(BAD))
    main(["audit", *FILE])
    first = capsys.readouterr().out
    files = sorted((tmp_path / "sweeps" / "sweep").iterdir())
    before = [file.stat().st_mtime_ns for file in files]
    main(["audit", *FILE])
    again = capsys.readouterr().out
    assert [file.stat().st_mtime_ns for file in files] == before
    assert [line for line in first.splitlines() if "most worth a look" not in line] == again.splitlines()


def test_the_audit_of_a_sweep_that_has_begun_stays(tmp_path, capsys):
    write_jsonl(tmp_path / "rows.jsonl", rows())
    main(["audit", *FILE])
    layout = Layout(tmp_path / "sweeps", "sweep")
    layout.config.write_text("")  # as a sweep writes it when it begins
    before = layout.audit.read_bytes(), layout.audit_page.read_bytes()
    assert main(["audit", *FILE]) == 0
    write_jsonl(tmp_path / "rows.jsonl", rows(BAD))
    assert main(["audit", *FILE]) == 2
    told = capsys.readouterr().err
    assert "the sweep `sweep` has begun, and sweeps/sweep/audit.html tells of its rows" in told
    assert "Name their audit otherwise: sweep.name=sweep_2" in told
    assert (layout.audit.read_bytes(), layout.audit_page.read_bytes()) == before
    assert main(["audit", *FILE, "sweep.name=sweep_2"]) == 3


def test_errors_refuse_a_sweep_before_rows_are_prepared(tmp_path, capsys):
    write_jsonl(tmp_path / "rows.jsonl", rows(BAD))
    tiny.save(tiny.llama(), tmp_path / "model")
    line = ["+experiment=summarize", *FILE, "model=custom", "model.name=model"]
    assert main(line) == 3
    told = capsys.readouterr()
    assert "the audit refuses these rows (data.audit.fail_on=error)" in told.err
    assert "error: 1 of 61 rows hold a list in column `text`" in told.err
    assert "Text or a number is needed" in told.err
    assert (
        "decide on them in sweeps/summarize/queue.csv and add data.review=sweeps/summarize/queue.csv"
        in told.err
    )
    assert "To go on all the same: data.audit.fail_on=never" in told.err
    assert "Preparing the rows" not in told.out
    assert not (tmp_path / "sweeps" / "study.db").exists()
    assert main([*line, "data.audit.fail_on=never"]) == 2
    assert "Preparing the rows" in capsys.readouterr().out, "the gate was open"


def test_a_review_that_is_given_is_not_asked_for_again(tmp_path, capsys):
    write_jsonl(tmp_path / "rows.jsonl", rows(BAD))
    assert main(["audit", *FILE]) == 3
    assert "queue.csv and add data.review=sweeps/sweep/queue.csv" in capsys.readouterr().err
    assert main(["audit", *FILE, "data.review=sweeps/sweep/queue.csv"]) == 3
    told = capsys.readouterr().err
    assert "Mend the rows, or decide on them in sweeps/sweep/queue.csv; the examples" in told


def test_the_page_follows_the_cleaning_that_comes_after_an_audit(tmp_path, capsys):
    write_jsonl(tmp_path / "rows.jsonl", rows(*rows()[:2]))
    page = Layout(tmp_path / "sweeps", "sweep").audit_page
    assert main(["audit", *FILE, "data.cleaning=[]"]) == 0
    assert "drops them: 'data.cleaning=[exact_duplicates]'" in capsys.readouterr().out
    assert "data.cleaning=[exact_duplicates]" in page.read_text()
    assert main(["audit", *FILE, "data.cleaning=[exact_duplicates,near_duplicates]"]) == 0
    told = capsys.readouterr().out
    assert "`exact_duplicates`, which is on, drops them" in told
    assert "data.cleaning=" not in told + page.read_text()


def test_a_decision_opens_the_gate(tmp_path, capsys):
    write_jsonl(tmp_path / "rows.jsonl", rows(BAD))
    assert main(["audit", *FILE]) == 3
    queue = tmp_path / "sweeps" / "sweep" / "queue.csv"
    lines = queue.read_text(encoding="utf-8").splitlines()
    assert '"1.00","types' in lines[1]
    queue.write_text("\n".join([lines[0], lines[1].removesuffix('"","",""') + '"drop","",""', *lines[2:]]))
    capsys.readouterr()
    assert main(["audit", *FILE, f"data.review={queue}"]) == 0
    assert "60 train rows; 0 errors" in capsys.readouterr().out
    assert '"drop"' in queue.read_text(), "the decisions are still there"


def test_leaks_are_dropped_from_training_by_a_decision(tmp_path, capsys):
    some = rows()
    write_jsonl(tmp_path / "train.jsonl", some)
    write_jsonl(tmp_path / "test.jsonl", some[:3])
    line = ["audit", *FILE[:1], "data.path=.", *FILE[2:], "data.parts={train: train.jsonl, test: test.jsonl}"]
    line += ["data.audit.near_duplicates=1"]
    assert main(line) == 3
    assert "leakage" in capsys.readouterr().out
    queue = tmp_path / "sweeps" / "sweep" / "queue.csv"
    decided = queue.read_text(encoding="utf-8").replace(',"","",""', ',"drop","",""')
    queue.write_text(decided, encoding="utf-8")
    assert main([*line, f"data.review={queue}"]) == 0
    assert "57 train, 3 test rows; 0 errors" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fail_on", "more", "code"),
    [("warning", (), 3), ("never", (BAD,), 0), ("error", (), 0), ("error", (BAD,), 3)],
)
def test_the_gate_closes_from_the_severity_that_was_named(tmp_path, fail_on, more, code):
    write_jsonl(tmp_path / "rows.jsonl", rows(*more))
    assert main(["audit", *FILE, f"data.audit.fail_on={fail_on}"]) == code


def test_bad_configuration_and_bad_files_are_told_without_a_traceback(tmp_path, capsys):
    assert main(["audit", *FILE]) == 2
    assert "there is no file rows.jsonl" in capsys.readouterr().err
    (tmp_path / "rows.jsonl").write_text("")
    assert main(["audit", *FILE]) == 2
    assert "rows.jsonl holds no rows" in capsys.readouterr().err
    assert main(["audit", *FILE, "data.audit.fail_on=sometimes", "data.audit.near_duplicates=2"]) == 2
    told = capsys.readouterr().err
    assert "data.audit.fail_on: must be 'error', 'warning' or 'never'" in told
    assert "data.audit.near_duplicates: must be less than or equal to 1" in told
    assert main(["audit", "--now"]) == 2
    assert "--now: is no override (name=value)" in capsys.readouterr().err


SCRIPTS = [
    "Ελληνικά",
    "кириллица",
    "עברית",
    "العربية",
    "हिन्दी",
    "中文",
    "한국어",
    "ไทย",
    "ქართული",
    "አማርኛ",
    "🙂",
]
NO_CLASSES = "The label column has 5,000 different values in 5,000 rows: no classes"
BAD_INPUT = {
    "no table": (b"Dear all,\n", 2, "rows.jsonl, line 1 is no JSON"),
    "a picture": (b"\x89PNG\r\n\x1a\n\x00\x00", 2, "rows.jsonl is not UTF-8"),
    "empty": (b"", 2, "rows.jsonl holds no rows; give a source that does"),
    "one row": ([{"text": "a", "answer": "b"}], 3, "1 training rows"),
    "long": ([*rows(), {"text": "so it is " * 110_000, "answer": "a" * 10**6}], 0, "are unusually long"),
    "mixed": ([*rows(), *({"text": i, "answer": i > 3} for i in range(9))], 0, "values of several kinds"),
    "scripts": ([*rows(), *({"text": f"{s} {s}", "answer": s} for s in SCRIPTS)], 0, "71 train rows; 0 err"),
    "classes": ([{"text": f"text {i % 9}", "answer": f"label {i}"} for i in range(5000)], 3, NO_CLASSES),
}


@pytest.mark.parametrize("what", BAD_INPUT)
def test_bad_input_ends_in_a_finding_or_an_error(tmp_path, capsys, what):
    content, code, said = BAD_INPUT[what]
    if isinstance(content, bytes):
        (tmp_path / "rows.jsonl").write_bytes(content)
    else:
        write_jsonl(tmp_path / "rows.jsonl", content)
    experiment = "classify" if what == "classes" else "summarize"
    assert main(["audit", f"+experiment={experiment}", *FILE]) == code
    told = capsys.readouterr()
    assert said in told.out + told.err
    assert "Traceback" not in told.err


def looked_at(tmp_path, *more, frozen=False, terminal=False, details=True, **options):
    """What a person sees of an audit, and what it comes to."""
    path = tmp_path / "rows.jsonl"
    if not frozen:
        write_jsonl(path, rows(*more))
    config = configure(path)
    config = replace(config, data=replace(config.data, audit=replace(config.data.audit, **options)))
    seen = io.StringIO()
    console = Console(file=seen, force_terminal=terminal, width=100, highlight=False)
    found = inspect(config, Layout(tmp_path, "mine"), make_screen(console), frozen, details)
    return seen.getvalue(), found


def test_in_a_terminal_there_is_a_table_that_hostile_rows_do_not_steer(tmp_path):
    text, _ = looked_at(tmp_path, HOSTILE, terminal=True)
    assert "what was found, and what to do" in text
    assert "[red]a[/red]<1b>[2J" in text
    assert "\x1b[2J" not in text
    plain, _ = looked_at(tmp_path, HOSTILE)
    assert "[red]a[/red]<1b>[2J" in plain
    assert "\x1b" not in plain


def test_a_sweep_says_a_line_for_each_warning_and_nothing_when_it_goes_on(tmp_path):
    told = looked_at(tmp_path, HOSTILE)[0]
    assert "  Collect more rows" in told
    brief = looked_at(tmp_path, HOSTILE, details=False)[0].splitlines()
    warnings = [line for line in told.splitlines() if line.startswith("warning: ")]
    assert warnings
    assert [line for line in brief if line.startswith("  ")] == [
        f"  {w.rpartition(' [')[0]}" for w in warnings
    ]
    again = looked_at(tmp_path, frozen=True, details=False)[0].splitlines()
    assert not [line for line in again if line.startswith("  ")]


def test_a_sweep_that_goes_on_needs_its_source_no_more(tmp_path):
    _, found = looked_at(tmp_path)
    assert found is not None
    assert (found.numbers["rows_train"], found.page) == (60, tmp_path / "mine" / "audit.html")
    (tmp_path / "rows.jsonl").unlink()
    assert looked_at(tmp_path, frozen=True)[1] == found
    (tmp_path / "mine" / "audit.json").unlink()
    assert looked_at(tmp_path, frozen=True)[1] is None, "nothing was looked at when it began"


def test_a_refusal_names_what_is_grave_alone(tmp_path):
    with pytest.raises(
        AuditRefusal, match=r"(?s)fail_on=error\)\n  error: 1 of 61 rows hold a list"
    ) as caught:
        looked_at(tmp_path, BAD)
    assert "warning" not in str(caught.value)
    assert read_audit(tmp_path / "mine" / "audit.json").numbers["errors"] == 1


def test_few_rows_are_no_reason_for_a_page_to_be_missing(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", pairs(1))
    main(["audit", *FILE])
    assert (tmp_path / "sweeps" / "sweep" / "audit.html").exists()


def test_what_was_cut_off_before_refuses_nothing_now(tmp_path):
    config = looked_at(tmp_path)[1] and configure(tmp_path / "rows.jsonl")
    screen = make_screen(Console(file=io.StringIO()))
    train = SplitInfo(60, "digest", 99, cut_inputs=30, cut_answers=0, answer_tokens=9, labels=())
    complete(config, Layout(tmp_path, "mine"), screen, {"train": train})
    before = looked_at(tmp_path)[1]
    assert "cut off" not in before.numbers
    assert "cut off" in looked_at(tmp_path, frozen=True)[1].numbers


def test_a_second_refusal_names_the_queue_that_has_no_decisions_yet(tmp_path, capsys):
    write_jsonl(tmp_path / "rows.jsonl", rows(BAD))
    main(["audit", *FILE])
    queue = tmp_path / "sweeps" / "sweep" / "queue.csv"
    lines = queue.read_text(encoding="utf-8").splitlines()
    queue.write_text("\n".join([lines[0], lines[1].removesuffix('"","",""') + '"keep","",""', *lines[2:]]))
    write_jsonl(tmp_path / "rows.jsonl", rows(BAD, BAD | {"text": ["c"]}))
    capsys.readouterr()
    assert main(["audit", *FILE]) == 3
    assert "decide on them in sweeps/sweep/queue-2.csv" in capsys.readouterr().err


def test_what_is_cut_off_is_told_once_tokens_are_counted(tmp_path):
    _, before = looked_at(tmp_path)
    config, layout, seen = configure(tmp_path / "rows.jsonl"), Layout(tmp_path, "mine"), io.StringIO()
    screen = make_screen(Console(file=seen))
    train = SplitInfo(60, "digest", 99, cut_inputs=3, cut_answers=2, answer_tokens=9, labels=(), tokens=4321)
    for _ in range(2):
        after = complete(config, layout, screen, {"train": train})
    assert seen.getvalue().count("3 of 60 inputs in train are cut off at the limit (5.0%)") == 1
    assert after.numbers == before.numbers | {
        "cut off": 3,
        "tokens_train": 4321,
        "warnings": before.numbers["warnings"] + 1,
        "notes": 1,
    }
    page = layout.audit_page.read_text()
    assert "3 of 60 inputs in train are cut off" in page
    assert "Tokens that the model reads of the rows taken from them:\n4,321 train." in page
    again = complete(config, layout, screen, {"train": replace(train, cut_inputs=0, cut_answers=0)})
    assert again.numbers == before.numbers | {"tokens_train": 4321}, (
        "what is not cut off any more is not told any more"
    )
    layout.audit.unlink()
    assert complete(config, layout, screen, {}) is None
