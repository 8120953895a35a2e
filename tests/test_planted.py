"""The whole audit over faults planted in known numbers: what it finds of each, and what it suspects wrongly.

One audit of each of two data sets (`planting`), by the same call as `python -m sweeper audit`; what is cut
off follows from the same rows prepared for training. What a check suspects is compared row by row where the
audit names rows, else by their number.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from sweeper.data.audit import Audit, read_audit
from sweeper.data.checks.amount import ENOUGH
from sweeper.data.findings import Finding
from sweeper.data.prepare import prepare
from sweeper.gate import complete, inspect
from sweeper.layout import Layout
from sweeper.terminal.screen import make_screen
from tests.planting import KINDS, Planted, labelled, written
from tests.rows import configure, tokenizer, write_jsonl


@dataclass(frozen=True)
class Line:
    """A row of the table."""

    check: str
    part: str
    """Of what the check finds; "" for all."""
    planted: int
    found: int
    """Planted ones that were found."""
    false: int
    """Others that were suspected."""
    of: int
    """Rows without this fault."""
    recall: float
    """That is asked for."""
    alarms: float = 0.001
    """False alarms among faultless rows that are allowed."""

    @property
    def holds(self) -> bool:
        return self.found >= self.recall * self.planted and self.false <= self.alarms * self.of

    def __str__(self) -> str:
        shares = (
            f"{self.found / max(1, self.planted):7.1%} {self.false:6} {self.false / max(1, self.of):7.2%}"
        )
        asked = f"  >= {self.recall:.0%}, <= {self.alarms:.1%}"
        name = self.part if self.part.startswith(self.check) else f"{self.check} {self.part}"
        return f"{name:50.50} {self.planted:7} {self.found:6} {shares}{asked}"


def audited(made: Planted, kind: str, folder: Path) -> Audit:
    folder.mkdir()
    for split, rows in made.rows.items():
        write_jsonl(folder / f"{split}.jsonl", rows)
    names = tuple(f"{split}.jsonl" for split in made.rows)
    config = configure(folder, kind, parts=names, slice="g", audit=_all_is_shown())
    layout, screen = Layout(folder, "planted"), make_screen(Console(quiet=True))
    inspect(config, layout, screen, details=True)
    if kind == "generate":
        limits = {"max_input_tokens": 4000, "max_answer_tokens": 300}  # of one byte each
        config = replace(config, task=replace(config.task, **limits), data=replace(config.data, cleaning=()))
        fit = [row for row in made.rows["train"] if not isinstance(row["text"], dict)]
        write_jsonl(folder / "train.jsonl", fit)
        prepared = prepare(config, tokenizer(), "causal", folder / "rows")
        complete(config, layout, screen, prepared.manifest.splits)
    found = read_audit(layout.audit)
    assert found is not None
    return found


def _all_is_shown():
    return replace(configure(None).data.audit, fail_on="never")


@dataclass(frozen=True)
class Looked:
    made: Planted
    found: Audit

    def findings(self, check: str, said: str = "") -> list[Finding]:
        return [one for one in self.found.findings if one.check == check and said in one.message]

    def rows(
        self, check: str, faults: Sequence[str], recall: float = 1.0, alarms: float = 0.001, said: str = ""
    ) -> Line:
        """By the rows that are named; `said` is part of the finding's message."""
        planted = set().union(*(self.made.faults[fault] for fault in faults))
        found = {row for one in self.findings(check, said) for row, _ in one.suspects}
        return self._line(
            check,
            said,
            len(planted),
            len(found & planted),
            len(found - planted),
            recall,
            alarms,
        )

    def part(self, check: str, fault: str, recall: float = 1.0) -> Line:
        """Recall alone, of one sort of what a check finds."""
        planted = self.made.faults[fault]
        found = {row for one in self.findings(check) for row, _ in one.suspects}
        return self._line(check, fault, len(planted), len(found & planted), 0, recall, 0)

    def number(self, check: str, planted: int, said: str = "") -> Line:
        """By the number of rows alone."""
        found = sum(one.count for one in self.findings(check, said))
        return self._line(check, said, planted, min(found, planted), max(0, found - planted), 1.0, 0)

    def first(self, check: str, fault: str, precision: float) -> Line:
        """The share of planted ones among as many rows as were planted, the most suspicious ones."""
        planted = self.made.faults[fault]
        ranked = [row for row, _ in self.findings(check)[0].suspects][: len(planted)]
        hits = sum(row in planted for row in ranked)
        return self._line(check, f"precision at {len(planted)}", len(planted), hits, 0, precision, 0)

    def absent(self, check: str, fault: str) -> Line:
        """What is just not the fault."""
        planted = self.made.faults[fault]
        found = {row for one in self.findings(check) for row, _ in one.suspects} & planted
        return Line(check, f"{fault}, too little", 0, 0, len(found), len(planted), 1.0, 0.01)

    def _line(
        self, check: str, part: str, planted: int, found: int, false: int, recall: float, alarms: float
    ) -> Line:
        return Line(check, part, planted, found, false, self.made.count - planted, recall, alarms)


def texts(look: Looked) -> list[Line]:
    near = [f"near_duplicates {share} %" for share in (95, 90, 80)]
    return [
        look.rows("duplicates", ["duplicates"]),
        look.rows("near_duplicates", near, 0.95, 0.01),
        *(look.part("near_duplicates", fault, 0.95) for fault in near),
        *(look.absent("near_duplicates", f"near_duplicates {share} %") for share in (70, 60)),
        look.rows("leakage", ["leakage exact", "leakage near"], 0.95),
        *(look.part("leakage", fault, 0.95) for fault in ("leakage exact", "leakage near")),
        look.number("overlap", 15),
        look.rows("contradictions", ["contradictions"]),
        look.rows("encoding", ["encoding mojibake", "encoding lost"], 0.95),
        *(look.part("encoding", fault, 0.95) for fault in ("encoding mojibake", "encoding lost")),
        look.rows("control characters", ["control characters", "invisible characters"]),
        look.rows("html", ["html"], 0.95),
        look.rows("empty", ["empty"]),
        look.rows("types", ["types wrong"], said="rows hold a dict"),
        look.number("types", 10, "several kinds"),
        look.number("mixed formats", 6),
        look.rows("length outliers", ["length outliers"], 0.95),
        look.rows("languages", ["languages"], 0.9),
        look.rows("spelling", ["spelling"], 0.9),
        look.rows("answer is the input", ["answer is the input"]),
        look.rows("answer is a passage", ["answer is a passage"]),
        look.rows("answer shares nothing", ["answer shares nothing"], 0.95),
        *(look.rows("personal", [f"personal {kind}"], said=f"contain {kind} ") for kind in KINDS),
        look.number("cut off", len(look.made.faults["cut answers"]), "answers in train"),
        look.number("cut off", len(look.made.faults["cut inputs"]), "inputs in train"),
        look.number("representation", 12, "d 0."),
        look.number("answer lengths by group", _of_group(look.made, "c"), "Answers of c"),
        look.number(
            "amount", len(look.made.rows["train"]), f"{len(look.made.rows['train']):,} training rows"
        ),
        look.number("amount", len(look.made.rows["validation"]), "rows in validation"),
    ]


def labels(look: Looked) -> list[Line]:
    return [
        look.rows("suspected label errors", ["flipped labels"], 0.9, 0.015),
        look.first("suspected label errors", "flipped labels", 0.8),
        look.rows("spellings of labels", ["spellings of labels"]),
        look.number("rare labels", len(look.made.faults["rare labels"])),
        look.number("labels without training rows", 5),
        look.number("label balance", _labelled(look.made, "sports")),
        look.number("label rates by group", 120, "'sports' is the label of 100% of the rows of east"),
        look.rows("contradictions", ["contradictions"]),
    ]


def _of_group(made: Planted, group: str) -> int:
    return sum(row["g"] == group for rows in made.rows.values() for row in rows)


def _labelled(made: Planted, label: str) -> int:
    return sum(row["answer"] == label for row in made.rows["train"])


CASES: Mapping[str, tuple[Callable[[], Planted], Callable[[Looked], list[Line]]]] = {
    "generate": (written, texts),
    "classify": (labelled, labels),
}


def test_planted_faults_are_found_and_hardly_anything_else(tmp_path, capsys):
    lines, told = [], set()
    for kind, (make, lines_of) in CASES.items():
        made = make()
        assert len(made.rows["train"]) < ENOUGH[kind]
        look = Looked(made, audited(made, kind, tmp_path / kind))
        lines += lines_of(look)
        told |= {one.check for one in look.found.findings}
    with capsys.disabled():
        print(f"\n{'check':50} planted  found  recall  false    share  asked for", *lines, sep="\n")
    assert [str(line) for line in lines if not line.holds] == []
    assert told <= {line.check for line in lines}, "every check that tells something is in the table"
