"""Trials, verdicts and numbers in tables and sentences, for a person to read."""

import json
import math
import re
import shlex
from collections.abc import Iterable, Sequence
from statistics import mean
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from sweeper.config import Goals, ObjectiveConfig
from sweeper.data.findings import printable
from sweeper.events import Scalar, SweepInfo, TrialRecord
from sweeper.loading import dotted, to_tree
from sweeper.messages import BASE, TrialState
from sweeper.observations import repeats
from sweeper.study.objectives import front, tied, violations, why_no_best
from sweeper.study.objectives import value as value_of
from sweeper.verdict import CandidateFacts, VerdictFacts

_MOST_NAMED = 10
"""Trials that a sentence names one by one."""


def trial_table(sweep: SweepInfo, trials: Sequence[TrialRecord], best: TrialRecord | None) -> Table:
    """All trials, best objective first, with the base model.

    Marked are the winner, the defaults, the Pareto front and who violates a constraint.
    """
    table = Table(
        title=f"Sweep {harmless(sweep.name)}",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    table.add_column("trial", justify="right")
    for name in sweep.varied:
        table.add_column(_folded(name), justify="right")
    bounds = [one.bound for one in sweep.constraints if one.metric == sweep.objective.metric]
    heading = [sweep.objective.metric, "± error", *bounds]
    table.add_column("\n".join(heading), justify="right", no_wrap=True)
    further = judged(sweep.goals)
    for name, wanted in further.items():
        table.add_column(f"{_folded(name)}\n{wanted}".strip(), justify="right")
    table.add_column("state")
    table.add_column("s", justify="right")
    table.add_column("")
    worst = -math.inf if sweep.objective.direction == "maximize" else math.inf
    sign = -1 if sweep.objective.direction == "maximize" else 1
    on_front = [record.number for record in front(trials, sweep.goals)] if sweep.also else []
    again = repeats(trials)
    for record in sorted(trials, key=lambda r: sign * (worst if r.objective is None else r.objective)):
        base = record.number == BASE
        marks = {
            "best": best is not None and record.number == best.number,
            "front": record.number in on_front,
            "violates": bool(violations(record, sweep.goals)),
            "defaults": record.is_default,
        }
        if record.number in again:
            marks[f"as {again[record.number]}"] = True
        notes = ", ".join(mark for mark, holds in marks.items() if holds)
        table.add_row(
            "base" if base else str(record.number),
            *("" if base else harmless(value(record.params.get(name))) for name in sweep.varied),
            number(record.objective, record.error),
            *(value(value_of(record, name)) for name in further),
            "" if base else record.state.value,
            f"{record.seconds:.0f}" if record.seconds else "",
            notes,
            style="bold" if notes.startswith("best") else None,
        )
    return table


def verdict_table(facts: VerdictFacts, metric: str) -> Table:
    """The sides of a verdict: their scores on test rows, what validation rows promised, and the gain.

    Below a finalist's validation score: by how much it promised a larger gain than the test rows show.
    """
    table = Table(
        title="Verdict", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False
    )
    table.add_column("")
    table.add_column(f"{metric} on test\nrows, by seed")
    for name in ("mean", "validation,\noptimism", f"gain, {facts.level * 100:.4g} %\ninterval"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("s", justify="right")
    for side in (facts.default, *facts.candidates):
        scores = [f"{score:.3f}" for score in side.scores] + (
            [f"{side.failed} failed"] if side.failed else []
        )
        validation, gain = number(side.validation, None), ""
        if isinstance(side, CandidateFacts):
            gain = _signed(side.gain)
            if math.isfinite(side.low):
                gain += f"\n{side.low:.3f} to {side.high:.3f}"
            if side.optimism is not None:
                validation += f"\n{_signed(side.optimism)}"
        table.add_row(
            side.name.removeprefix("the "),
            " ".join(scores),
            f"{mean(side.scores):.3f}" if side.scores else "-",
            validation,
            gain,
            f"{side.seconds:.0f}",
        )
    if facts.base is not None:
        table.add_row("base model", "", f"{facts.base:.3f}", "", "", "")
    return table


def conclusions(sweep: SweepInfo, trials: Sequence[TrialRecord], best: TrialRecord | None) -> list[str]:
    """Sentences below the table: best against default and base, and what the error allows to say."""
    if best is None or best.objective is None:
        return [why_no_best(trials, sweep.goals)]
    by_number = {record.number: record for record in trials}
    name = sweep.objective.metric
    further = "".join(f", {one.metric} {value(value_of(best, one.metric))}" for one in sweep.also)
    lines = [f"Best: trial {best.number} with {name} {number(best.objective, best.error)}{further}."]
    if sweep.varied:
        lines.append(f"  Settings: {overrides(best, sweep.varied)}")
    if sweep.also:
        lines.append(_rule(sweep, front(trials, sweep.goals)))
    if sweep.constraints:
        lines.append(_who_violates(sweep, trials))
    for other, what in (
        (by_number.get(0), "default settings"),
        (by_number.get(BASE), "untouched base model"),
    ):
        if other is not None and other.objective is not None and other.number != best.number:
            if other.number == 0 and is_default(best, other):
                continue  # another seed is no other settings
            beyond = ", which violate a constraint" if violations(other, sweep.goals) else ""
            told = f"{what} ({number(other.objective, other.error)}){beyond}"
            lines.append(f"  {_compared(best.objective, other.objective, sweep.objective)} the {told}")
    if is_default(best, by_number.get(0)):
        again = "" if best.is_default else f", trained again ({_reached(by_number[0])} in trial 0)"
        lines.append(f"  The default settings themselves{again}: no finished trial is better.")
    if best.error and not sweep.also:  # with several objectives the rule speaks of it
        others = [str(one.number) for one in tied(trials, sweep.goals) if one.number != best.number]
        if others:
            lines.append(
                f"{_trials_named(others)} within one standard error of the best: their order may well be "
                "chance."
            )
    return lines


def _reached(trial: TrialRecord) -> str:
    return number(trial.objective, trial.error)


def is_default(trial: TrialRecord, default: TrialRecord | None) -> bool:
    """Whether a trial has the default settings: as the first one, `default`, or trained once more."""
    is_first = default is not None and default.is_default
    return trial.is_default or (is_first and default is not None and trial.settings == default.settings)


def _compared(one: float, other: float, objective: ObjectiveConfig) -> str:
    by = f"{abs(one - other):.3f}"
    if float(by) == 0:
        return "as good, to three digits, as"
    return f"{'better' if objective.better(one, other) else 'worse'} by {by} than"


def can_prune(sweep: SweepInfo) -> bool:
    """Whether any trial of the sweep could be pruned: a pruner, one objective, and a mark before the end."""
    pruner = (sweep.config.get("pruner") or {}).get("name", "none")
    return pruner != "none" and not sweep.also and not sweep.is_verdict and sweep.marks > 1


def _trials_named(numbers: Sequence[str]) -> str:
    if len(numbers) > _MOST_NAMED:
        left_out = len(numbers) - _MOST_NAMED + 2
        numbers = [*numbers[:-left_out], f"{left_out} others"]
    *first, last = numbers
    return f"Trials {', '.join(first)} and {last} lie" if first else f"Trial {last} lies"


def _rule(sweep: SweepInfo, on_front: Sequence[TrialRecord]) -> str:
    numbers = ", ".join(str(record.number) for record in on_front)
    first, *then = (one.metric for one in sweep.goals.objectives)
    return (
        f"  Pareto front: {numbers}. Among those within one standard error of its best {first}, "
        f"{', then '.join([f'{then[0]} decides', *then[1:]])}."
    )


def _who_violates(sweep: SweepInfo, trials: Sequence[TrialRecord]) -> str:
    finished = [r for r in trials if r.state is TrialState.FINISHED and r.number != BASE]
    meeting = sum(not violations(record, sweep.goals) for record in finished)
    bounds = " and ".join(map(str, sweep.constraints))
    return f"  It meets {bounds}, as {meeting} of {len(finished)} finished trials do; no other can be best."


def goals_in_words(sweep: SweepInfo) -> list[str]:
    """What there is to say before the first trial of several objectives and of constraints."""
    lines = []
    if sweep.also:
        lines.append("Objectives: " + ", ".join(f"{o.direction} {o.metric}" for o in sweep.goals.objectives))
        pruner = (sweep.config.get("pruner") or {}).get("name", "none")
        if pruner != "none":
            lines.append(f"With several objectives no trial is pruned: pruner={pruner} is not used")
    if sweep.constraints:
        lines.append("The best trial has to meet " + " and ".join(map(str, sweep.constraints)))
    return lines


def judged(goals: Goals) -> dict[str, str]:
    """What trials are judged by beside the objective and the seconds, by name, with its bounds."""
    return {
        name: " ".join(one.bound for one in goals.constraints if one.metric == name)
        for name in goals.further
        if name != "seconds"
    }


def _folded(name: str) -> str:
    """A name in two lines, for a narrow column."""
    return re.sub(r"([._])", r"\1\n", harmless(name), count=1)


def harmless(text: str) -> str:
    """`text` as rich shows it letter by letter: no markup in it, and what steers a terminal as its code."""
    return escape(printable(text))


def describe(trial: TrialRecord) -> str:
    """The settings that a trial was given, in one line."""
    if trial.repeat:
        side = f"trial {trial.retrains}" if trial.retrains else "the default settings"
        return f"{side} again, seed {trial.repeat}"
    if trial.retrains is not None:
        return f"the settings of trial {trial.retrains}"
    if trial.is_default:
        return "the default settings"
    settings = ", ".join(f"{name}={value(v)}" for name, v in trial.params.items())
    return f"{settings} ({trial.origin})" if trial.origin else settings


def overrides(trial: TrialRecord, names: Iterable[str]) -> str:
    """Some settings of a trial at full precision, as overrides fit for a shell."""
    settings = dotted(to_tree(trial.settings))
    return " ".join(shlex.quote(f"trial.{name}={_written(settings[name])}") for name in names)


def _written(setting: Any) -> str:
    """A value in Hydra's grammar, in which a bare comma would begin another value."""
    if isinstance(setting, str) and re.fullmatch(r"[\w.-]+", setting):
        return setting
    return json.dumps(setting)


def value(v: Scalar) -> str:
    """A setting, a metric or a cost as a person writes it."""
    if isinstance(v, float):
        return f"{v:,.0f}" if abs(v) >= 1000 else f"{v:.3g}"
    return "" if v is None else str(v)


def number(objective: float | None, error: float | None) -> str:
    """An objective with its standard error."""
    if objective is None:
        return "-"
    return f"{objective:.3f}" + (f" ± {error:.3f}" if error is not None and math.isfinite(error) else "")


def _signed(amount: float) -> str:
    return "-" if math.isnan(amount) else f"{amount:+.3f}"


def minutes(seconds: float) -> str:
    """A duration in words."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def trials_in_words(count: int) -> str:
    """So many trials."""
    return f"{count} trial{'' if count == 1 else 's'}"
