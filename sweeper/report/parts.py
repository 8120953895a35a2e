"""Scores over parts of the validation rows, base model, default settings and best trial beside each other."""

from collections.abc import Sequence
from dataclasses import dataclass

from sweeper.events import TrialRecord
from sweeper.messages import SliceScores
from sweeper.report.facts import SweepFacts

_MOST_LINES = 60

_WORDS = {
    "slice": "By data.slice",
    "group": "By group",
    "length": "By length of the input",
    "label": "By label",
}


@dataclass(frozen=True)
class Line:
    """One value that rows have in common; the scores are (metric, standard error), None where unknown."""

    value: str
    rows: int
    base: tuple[float, float | None] | None
    default: tuple[float, float | None] | None
    best: tuple[float, float | None] | None


@dataclass(frozen=True)
class Part:
    """One way to tell rows apart."""

    by: str
    title: str
    metric: str
    """The objective; of labels F1, where the objective has no value for a single one."""
    lines: tuple[Line, ...]
    """Those with most rows first."""
    left_out: int
    """Values that there are besides, with fewer rows each."""


def parts(facts: SweepFacts) -> list[Part]:
    """Every way in which the rows were told apart, as far as trials have scores for it."""
    sides = [facts.base, facts.default, facts.best]
    found: dict[str, None] = {}
    for side in sides:
        found |= dict.fromkeys(one.by for one in side.slices) if side else {}
    return [part for by in found if (part := _part(facts, by, sides)) is not None]


def worst(part: Part, maximize: bool) -> Line | None:
    """Where the best trial does worst."""
    known = [line for line in part.lines if line.best is not None]
    sign = 1 if maximize else -1
    return min(known, key=lambda line: sign * line.best[0], default=None)  # type: ignore[index]


def _part(facts: SweepFacts, by: str, sides: Sequence[TrialRecord | None]) -> Part | None:
    scores = [{one.value: one for one in side.slices if one.by == by} if side else {} for side in sides]
    everything = [one for side in scores for one in side.values()]
    known = {name for one in everything for name in one.metrics}
    metric = next((name for name in (facts.metric, "f1", *sorted(known)) if name in known), None)
    if metric is None:
        return None
    rows = {one.value: one.rows for one in everything}
    values = sorted(rows, key=lambda value: (-rows[value], value))
    lines = [
        Line(value, rows[value], *(_score(side.get(value), metric) for side in scores)) for value in values
    ]
    return Part(
        by, _WORDS.get(by, f"By {by}"), metric, tuple(lines[:_MOST_LINES]), max(0, len(lines) - _MOST_LINES)
    )


def _score(one: SliceScores | None, metric: str) -> tuple[float, float | None] | None:
    if one is None or metric not in one.metrics:
        return None
    return one.metrics[metric], one.errors.get(metric)
