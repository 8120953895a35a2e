"""report.html: everything about a sweep on one page that asks nothing of a network.

Rows, labels and reasons may hold anything. Every value is escaped, what steers a terminal or turns text
around is shown as its code, and a policy in the page lets a browser run the page's own two scripts, known by
their digests, load nothing and send nothing.
"""

import base64
import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from sweeper.data.findings import excerpt, printable
from sweeper.data.manifest import cleaning, fates
from sweeper.events import TrialRecord
from sweeper.loading import to_tree
from sweeper.messages import BASE, TrialState
from sweeper.observations import repeats
from sweeper.report import figures
from sweeper.report.drawing import PALETTE, Chart
from sweeper.report.effort import HOW_SAVED, effort
from sweeper.report.facts import SweepFacts
from sweeper.report.importance import importances
from sweeper.report.parallel import parallel
from sweeper.report.parts import parts
from sweeper.stored import as_yaml
from sweeper.study.objectives import is_eligible, tied
from sweeper.terminal.tables import is_default, judged, minutes, number, overrides, value

_MOST_SAMPLES = 5
_MOST_CHARACTERS = 3000
"""Of a prompt or an output."""
_MOST_FAILURES = 50
_MOST_TRIALS = 300
"""On the leaderboard, the best first."""


def render(facts: SweepFacts) -> str:
    """The page of a sweep. What is not known of it yet is said to be missing; nothing here fails for that."""
    found = importances(facts.trials, facts.space, int(facts.setting("sweep.seed") or 0))
    shown_parts = [(part, figures.slices(facts, part)) for part in parts(facts)]
    charts = {
        "gains": figures.gains(facts.verdict, facts.metric) if facts.verdict else None,
        "curves": figures.learning_curves(facts),
        "loss": figures.training_loss(facts),
        "history": figures.history(facts),
        "importance": figures.importance(found),
        "parallel": parallel(facts),
    }
    pareto = figures.pareto(facts)
    drawn = [*charts.values(), *pareto, *(chart for _, chart in shown_parts)]
    best, board = facts.best, _board(facts)
    return (
        _environment()
        .from_string(_file("report.html.jinja"))
        .render(
            facts=facts,
            best=best,
            counts=", ".join(f"{count} {state}" for state, count in facts.counts.items()) or "none",
            close=_close(facts),
            board=board,
            judged=judged(facts.goals),
            repeats=repeats(facts.trials),
            is_default=best is not None and is_default(best, facts.default),
            left_out=len(facts.trials) - sum(row.kind != "base" for row in board),
            metrics=_metrics(facts),
            charts=charts,
            pareto=pareto,
            parts=shown_parts,
            importances=found,
            effort=effort(facts.base, facts.trials, facts.verdict),
            how_saved=HOW_SAVED,
            failed=facts.of(TrialState.FAILED)[:_MOST_FAILURES],
            minded=[record for record in facts.trials if record.warnings][:_MOST_FAILURES],
            again=[record for record in facts.trials if record.attempt > 1],
            samples=_samples(facts),
            best_yaml=as_yaml({"trial": to_tree(best.settings)}) if best else "",
            best_line=overrides(best, [entry.name for entry in facts.space]) if best else "",
            config=as_yaml(facts.config),
            cleaning=cleaning(facts.rows) if facts.rows else "",
            fates=fates(facts.rows) if facts.rows else (),
            **_own([chart for chart in drawn if chart is not None]),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_shown, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "count": lambda n: f"{n:,}",
        "duration": duration,
        "setting": value,
        "moment": moment,
        "signed": lambda v: "unknown" if not math.isfinite(v) else f"{v:+.4f}".replace("-", "\u2212"),
        "excerpt": excerpt,
    }
    environment.globals |= {"number": number}
    return environment


def duration(seconds: float) -> str:
    """Seconds as people say it: 45 s, 12 min, 3.4 h."""
    return f"{seconds / 3600:.1f} h" if seconds >= 2 * 3600 else minutes(seconds)


def moment(seconds: float) -> str:
    """A Unix time in words, UTC."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _own(charts: Sequence[Chart]) -> dict[str, Markup]:
    """What the page brings along unescaped: its styles, its scripts, what they draw, and its policy."""
    plotly = get_plotlyjs().replace("</script", "<\\/script")
    script = _file("report.js")
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src '{_digest(plotly)}' '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )
    drawn = {
        "palette": dict(PALETTE.values()),
        "charts": {chart.name: chart.figure for chart in charts},
    }
    own = {"policy": policy, "plotly": plotly, "script": script, "drawn": _harmless(drawn)}
    own["styles"] = _file("report.css")
    return {name: Markup(text) for name, text in own.items()}  # noqa: S704 - none of it is from rows


def _digest(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _harmless(tree: Mapping[str, Any]) -> str:
    """JSON in which nothing ends a script element."""
    text = json.dumps(tree, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _shown(thing: Any) -> Any:
    if isinstance(thing, str) and not isinstance(thing, Markup):
        return printable(thing)
    return thing


def _file(name: str) -> str:
    return (resources.files("sweeper.report") / "templates" / name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class _Row:
    """A line of the leaderboard."""

    record: TrialRecord
    kind: str
    """Class of the line: `best`, `default`, `base` or ""."""
    strip: tuple[float, float, float] | None
    """Where the objective stands, and its standard error to both sides, in per cent of the strip's width."""


@dataclass(frozen=True)
class _Compared:
    """A validation row and what was made of it."""

    row: str
    prompt: str
    outputs: tuple[tuple[str, str, str], ...]
    """Kind, name and text of the reference and of every output."""


def _board(facts: SweepFacts) -> list[_Row]:
    """The base model and the best trials, the best first; those without an objective last."""
    sign = -1 if facts.objective.direction == "maximize" else 1
    ranked = facts.ranked()[:_MOST_TRIALS]
    rest = [record for record in facts.trials if record.objective is None][: _MOST_TRIALS - len(ranked)]
    if facts.base is not None and facts.base.objective is not None:
        ranked = sorted([*ranked, facts.base], key=lambda r: sign * (r.objective or 0.0))
    ends = [(r.objective or 0.0) + side * (r.error or 0.0) for r in ranked for side in (-1, 1)]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    return [
        _Row(record, _kind(record, facts), _strip(record, low, (high - low) or 1.0))
        for record in [*ranked, *rest]
    ]


def _kind(record: TrialRecord, facts: SweepFacts) -> str:
    if record.number == BASE:
        return "base"
    if facts.best is not None and record.number == facts.best.number:
        return "best"
    return "default" if record.is_default else ""


def _strip(record: TrialRecord, low: float, width: float) -> tuple[float, float, float] | None:
    if record.objective is None:
        return None
    error = record.error or 0.0
    places = (record.objective - error, record.objective, record.objective + error)
    left, middle, right = (100 * (place - low) / width for place in places)
    return left, middle, right


def _close(facts: SweepFacts) -> str:
    """How many trials the best one can't be told from, by the rows' standard errors alone."""
    best = facts.best
    if best is None or not best.error or facts.goals.also:
        return ""
    able = [record for record in facts.finished if is_eligible(record, facts.goals)]
    others = [record for record in able if record.number != best.number]
    near = [record for record in tied(facts.finished, facts.goals) if record.number != best.number]
    if not others:
        return ""
    verb = "lies" if len(near) == 1 else "lie"
    meeting = " that meet the constraints" if facts.goals.constraints else ""
    return (
        f"{len(near)} of the {len(others)} other finished trials{meeting} {verb} within one standard error "
        "of the best."
    )


def _metrics(facts: SweepFacts) -> list[tuple[str, list[str]]]:
    """Every metric of base, default (not in a retraining) and best with its standard error."""
    sides = [facts.base, *([facts.default] if facts.retrains is None else []), facts.best]
    names = dict.fromkeys(name for side in sides if side for name in side.metrics)
    return [
        (
            name,
            [
                number(side.metrics[name], side.errors.get(name)) if side and name in side.metrics else ""
                for side in sides
            ],
        )
        for name in sorted(names, key=lambda name: (name != facts.metric, name))
    ]


def _samples(facts: SweepFacts) -> list[_Compared]:
    """Rows with the outputs of base, default and best beside each other."""
    sides = [("base", "base model", facts.base), ("default", "default settings", facts.default)]
    if facts.best is not None and not facts.best.is_default:
        sides.append(("best", f"best, trial {facts.best.number}", facts.best))
    answers = [
        (kind, name, {sample.row: sample for sample in record.samples})
        for kind, name, record in sides
        if record
    ]
    rows = {row: sample for _, _, samples in reversed(answers) for row, sample in samples.items()}
    compared = []
    for row, sample in list(rows.items())[:_MOST_SAMPLES]:
        outputs = [("reference", "reference", sample.reference)]
        for kind, name, samples in answers:
            outputs.append((kind, name, samples[row].output if row in samples else "not kept"))
        shown = tuple((kind, name, _cut(output)) for kind, name, output in outputs)
        compared.append(_Compared(row, _cut(sample.prompt), shown))
    return compared


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"
