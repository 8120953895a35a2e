"""The verdict: are the best settings really better than the default ones, on rows that no trial has seen?

A second study, named after the sweep, holds the runs: the default settings and the finalists, each trained
anew with the same few seeds. A run is known by its settings and its seed. So whatever was cut short, or
became a finalist since, is simply what is missing, and runs of a former finalist are left alone.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal, cast

from pydantic import ValidationError

from sweeper.comparison import MIN_SEEDS, Compared, Runs, compare
from sweeper.compose import read_config
from sweeper.config import BudgetConfig, Config, Goals, PrunerConfig
from sweeper.data import manifest
from sweeper.events import TrialRecord
from sweeper.failpoints import reach
from sweeper.layout import Layout
from sweeper.messages import BASE, HeldOutScores, TrialState
from sweeper.sentence import sentence
from sweeper.storage import lock
from sweeper.stored import stored, study_url
from sweeper.study.objectives import best_of, value
from sweeper.study.pruners import make_pruner
from sweeper.study.study import Study

_DEFAULT = "the default settings"
_LEAST_ROWS = 2

SweepState = Literal["running", "stopped", "no verdict yet", "complete"]


@dataclass(frozen=True, kw_only=True)
class SideFacts:
    """One setting in a verdict: its runs on the test rows."""

    name: str
    """What a sentence calls it: "trial 5", "the default settings"."""
    scores: tuple[float, ...]
    """A test score per seed."""
    seconds: float
    """Of one run."""
    failed: int = 0
    validation: float | None = None
    """The score on validation rows in the sweep."""


@dataclass(frozen=True, kw_only=True)
class CandidateFacts(SideFacts):
    """A finalist against the default settings; positive gains are better, whatever the direction."""

    trial: int
    """The trial whose settings it has."""
    outcome: str
    """`gain`, `tie`, `worse` or `not enough seeds`."""
    gain: float
    """NaN where a side has no finished run."""
    low: float
    high: float
    """Interval of the gain, corrected for all comparisons; infinite without enough seeds."""
    p: float
    """Corrected for all comparisons."""
    optimism: float | None = None
    """Gain on validation rows less gain on test rows."""


@dataclass(frozen=True)
class VerdictFacts:
    """The verdict: the default settings and the finalists, retrained and scored on rows nobody saw."""

    sentence: str
    outcome: str
    """As `CandidateFacts.outcome`, of the verdict as a whole."""
    level: float
    """Of the intervals, all together: 0.95."""
    rows: int
    """Test rows."""
    default: SideFacts
    candidates: tuple[CandidateFacts, ...]
    seeds: tuple[int, ...] = ()
    base: float | None = None
    """The untouched base model's score on the test rows."""
    seconds: float = 0.0
    """Device time of every run that was begun, those of former finalists and the base model's included."""


def hindrance(sweep: Study, config: Config, layout: Layout) -> str:
    """Why this sweep can have no verdict, in words; empty where it can."""
    seeds = config.budget.seeds
    if seeds < MIN_SEEDS:
        return f"budget.seeds={seeds} can't tell luck from a gain; {MIN_SEEDS} or more can"
    rows = _test_rows(config, layout)
    if rows < _LEAST_ROWS:
        return f"it needs {_LEAST_ROWS} test rows and there are {rows}; data.sizes.test keeps some apart"
    chosen = finalists(sweep, config.budget.finalists)
    if not chosen:
        return f"no trial with other settings than {_DEFAULT} has finished"
    if chosen[0].error is None:
        metric = sweep.objective.metric
        return f"{metric} has no standard error over rows, so that luck can't be told from a gain"
    return ""


def finalists(sweep: Study, count: int) -> tuple[TrialRecord, ...]:
    """The best finished trials, at most `count`: one for each settings, and none for the default ones."""
    left = [
        record
        for record in sweep.records()
        if record.state is TrialState.FINISHED and record.settings != sweep.space.trial
    ]
    chosen: list[TrialRecord] = []
    while len(chosen) < count and (best := best_of(left, sweep.goals)) is not None:
        chosen.append(best)
        left = [record for record in left if record.settings != best.settings]
    return tuple(chosen)


def open_runs(sweep: Study, config: Config, layout: Layout) -> tuple[Study, Config]:
    """The study of the verdict, in which every missing run waits, and the configuration to carry it out.

    Every run is made and none is pruned; the sweep's bounds of time don't count here. Runs that wait, and
    that nobody wants any more since there are other finalists, are withdrawn.
    """
    config = replace(
        config,
        sweep=replace(config.sweep, name=layout.verdict.name),
        pruner=PrunerConfig(name="none"),
    )
    url, folder = study_url(config, layout), layout.verdict.folder
    pruner = make_pruner(config.pruner, 0, 0)
    runs = Study.open(url, config, sweep.space, pruner, sweep.fingerprint, folder)
    wanted = _wanted(sweep, config.budget)
    keys = {(side.settings, repeat) for side, repeat in wanted}
    for run in runs.records():
        if run.state is TrialState.WAITING and (run.settings, run.repeat) not in keys:
            runs.withdraw(run.number)
            reach("verdict.withdrawn")
    there = _by_key(runs)
    for side, repeat in wanted:
        if (side.settings, repeat) not in there:
            runs.enqueue(side.params, side.number, repeat)
    total = sum(run.number != BASE for run in runs.records())
    budget = replace(config.budget, trials=total, minutes=None, device_hours=None, failures_in_row=total + 1)
    return runs, replace(config, budget=budget)


def known_runs(config: Config, layout: Layout) -> Study | None:
    """The study of the verdict if it was begun, and is wanted."""
    if config.verdict.name == "none" or config.budget.seeds < MIN_SEEDS:
        return None
    return Study.known(study_url(config, layout), layout.verdict.name, layout.verdict.folder)


def judge(sweep: Study, runs: Study, config: Config) -> VerdictFacts | None:
    """What came out; None until every run is over, for a look on the way would count as another try.

    `sweeper.loading.load` has seen to it that there is a level.
    """
    made, wanted = _made(sweep, runs, config.budget), _wanted(sweep, config.budget)
    if not wanted or len(made) < len(wanted):
        return None
    trials = {side.number: side for side, _ in wanted}
    by_side = {number: [run for n, run in made if n == number] for number in trials}
    sides = [_side(trial, by_side[number]) for number, trial in trials.items()]
    chosen = list(trials)[1:]
    comparison = compare(
        sides[0],
        sides[1:],
        metric=sweep.objective.metric,
        direction=sweep.objective.direction,
        level=cast(float, config.verdict.level),
    )
    base = runs.record(BASE).test
    return VerdictFacts(
        sentence="; ".join(
            [
                sentence(comparison).removesuffix("."),
                *_unscored(by_side, sweep.objective.metric),
                *_missed({number: by_side[number] for number in chosen}, sweep.goals),
            ]
        )
        + ".",
        outcome=comparison.outcome.value,
        level=comparison.level,
        rows=comparison.test_rows,
        default=SideFacts(
            name=sides[0].name,
            scores=tuple(sides[0].scores.tolist()),
            seconds=sides[0].seconds,
            failed=sides[0].failed,
            validation=sides[0].validation,
        ),
        candidates=tuple(
            _candidate(number, side, one)
            for number, side, one in zip(chosen, sides[1:], comparison.compared, strict=True)
        ),
        seeds=tuple(runs.seed(run.number) for number, run in made if number == 0),
        base=None if base is None else base.objective,
        seconds=sum(value(run, "seconds") or 0.0 for run in runs.records()),
    )


def read(layout: Layout) -> VerdictFacts | None:
    """The verdict of a stored sweep, from its databases alone; None if there is none, or not yet.

    Raises StudyError if there is no such sweep, or it can't be read.
    """
    tree, sweep = stored(layout)
    return reached(sweep, read_config(tree)[0], layout)


def reached(sweep: Study, config: Config, layout: Layout) -> VerdictFacts | None:
    """The verdict of `sweep`; None if there is none, or not yet."""
    runs = known_runs(config, layout)
    return judge(sweep, runs, config) if runs is not None else None


def state(
    sweep: Study, config: Config, layout: Layout, facts: VerdictFacts | None, running: bool | None = None
) -> SweepState:
    """Where a sweep stands, its verdict `facts` included; `running` None: asked of its lock."""
    if lock.is_held(layout) if running is None else running:
        return "running"
    if not sweep.is_over(config.budget.trials, config.sampler):
        return "stopped"
    is_due = facts is None and config.verdict.name != "none" and not hindrance(sweep, config, layout)
    return "no verdict yet" if is_due else "complete"


def outlook(sweep: Study, config: Config, layout: Layout) -> str:
    """What to say where there is no verdict; empty where none is asked for."""
    if config.verdict.name == "none":
        return ""
    if why := hindrance(sweep, config, layout):
        return f"No verdict: {why}."
    runs = known_runs(config, layout)
    if runs is None:
        return "No verdict yet: it comes at the end of the sweep."
    over, total = len(_made(sweep, runs, config.budget)), len(_wanted(sweep, config.budget))
    return f"No verdict yet: {over} of its {total} runs are over."


def _wanted(sweep: Study, budget: BudgetConfig) -> list[tuple[TrialRecord, int]]:
    """Every run, as the trial that it retrains and the number of its seed, from 1.

    Seed by seed, so that a verdict that was cut short has equally many of either side.
    """
    chosen = finalists(sweep, budget.finalists)
    sides = (sweep.record(0), *chosen) if chosen else ()
    return [(side, repeat) for repeat in range(1, budget.seeds + 1) for side in sides]


def _made(sweep: Study, runs: Study, budget: BudgetConfig) -> list[tuple[int, TrialRecord]]:
    """The wanted runs that are over, each with the number of the trial that it retrains."""
    there = _by_key(runs)
    found = [(side.number, there.get((side.settings, repeat))) for side, repeat in _wanted(sweep, budget)]
    return [(number, run) for number, run in found if run is not None and run.state.is_over]


def _by_key(runs: Study) -> dict[object, TrialRecord]:
    return {(run.settings, run.repeat): run for run in runs.records() if run.repeat}


def _test_rows(config: Config, layout: Layout) -> int:
    if config.engine.name == "replay":
        return _LEAST_ROWS if config.data.sizes.test is None else config.data.sizes.test
    try:
        splits = manifest.read(layout.rows).splits
    except (FileNotFoundError, ValidationError):
        return 0
    return splits["test"].rows if "test" in splits else 0


def _side(trial: TrialRecord, runs: Sequence[TrialRecord]) -> Runs:
    """The runs of one setting; those without a usable score count as failed."""
    name = _name(trial.number)
    scored = [(run, run.test) for run in runs if run.test is not None and _is_usable(run.test)]
    tests = [test for _, test in scored]
    seconds = fmean(run.seconds for run, _ in scored) if scored else 0.0
    failed, validation = len(runs) - len(scored), trial.objective
    if all(test.rows for test in tests):
        rows = [test.rows for test in tests]
        return Runs.by_row(name, rows, seconds=seconds, validation=validation, failed=failed)
    return Runs.overall(
        name,
        [test.objective for test in tests],
        error=math.sqrt(fmean(test.error**2 for test in tests)),
        test_rows=tests[0].count,
        seconds=seconds,
        validation=validation,
        failed=failed,
    )


def _unscored(by_side: Mapping[int, Sequence[TrialRecord]], metric: str) -> Iterator[str]:
    """What to say of runs that count as failed although they finished."""
    for number, runs in by_side.items():
        count = sum(run.test is not None and not _is_usable(run.test) for run in runs)
        if count:
            yield (
                f"{count} of the runs of {_name(number)} finished and count as failed all the same, as "
                f"{metric} has no standard error on their test rows"
            )


def _missed(by_side: Mapping[int, Sequence[TrialRecord]], goals: Goals) -> Iterator[str]:
    """Which constraints the finalists miss on the test rows, by the means of their runs."""
    for number, runs in by_side.items():
        tests = [run.test.metrics for run in runs if run.test is not None and _is_usable(run.test)]
        for one in goals.constraints if tests else ():
            mean = fmean(metrics.get(one.metric, math.nan) for metrics in tests)
            if one.missed_by(mean) > 0:
                found = "no value" if math.isnan(mean) else f"{mean:.3f}"
                yield f"on the test rows {_name(number)} misses {one} ({found})"


def _name(trial: int) -> str:
    return _DEFAULT if trial == 0 else f"trial {trial}"


def _is_usable(test: HeldOutScores) -> bool:
    return bool(test.rows) or math.isfinite(test.error)


def _candidate(trial: int, side: Runs, compared: Compared) -> CandidateFacts:
    return CandidateFacts(
        name=side.name,
        scores=tuple(side.scores.tolist()),
        seconds=side.seconds,
        failed=side.failed,
        validation=side.validation,
        trial=trial,
        outcome=compared.outcome.value,
        gain=compared.gain,
        low=compared.low,
        high=compared.high,
        p=compared.p,
        optimism=compared.optimism,
    )
