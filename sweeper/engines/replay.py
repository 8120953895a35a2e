"""The engine `replay`: plays learning curves instead of training.

Either recorded curves of real trials (`engine.curves`), or a synthetic surface with one best learning
rate. It obeys every rule of the Engine protocol (marks, decisions, checkpoints, resume), which makes it
the stand-in for real training in tests, and the instrument for comparing samplers and pruners.
"""

import json
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

from sweeper.config import Config, TaskConfig, TrialSettings
from sweeper.config.metrics import COSTS
from sweeper.errors import DataError
from sweeper.layout import Layout, clear_unfinished, write_atomically
from sweeper.loading import dotted
from sweeper.messages import (
    Channel,
    Decision,
    Done,
    Ending,
    Evaluation,
    HeldOutScores,
    Outcome,
    Progress,
    TrialSpec,
    Wait,
)

_STEPS_PER_MARK = 4
_TEST_ROWS = 96
"""Where the configuration doesn't say how many there are."""

Points = tuple[tuple[int, float], ...]
"""Examples seen and the value there, ascending."""


@dataclass(frozen=True)
class Curve:
    """One recorded trial.

    `settings` by dotted name, `reports` as (examples seen, objective), `seconds` for the whole trial
    on the device where it was recorded, training and evaluation together. `metrics` are further
    metrics by name, as `reports`.
    """

    settings: Mapping[str, Any]
    examples: int
    seconds: float
    error: float
    reports: Points
    metrics: Mapping[str, Points] = field(default_factory=dict)

    def at(self, share: float, metric: str | None = None) -> float:
        """The objective, or another metric, after `share` of the trial's length.

        Linear between the recorded points.
        """
        points = self.reports if metric is None else self.metrics[metric]
        position = share * self.examples
        x0, y0 = points[0]
        for x1, y1 in points:
            if position <= x1:
                return y1 if x1 == x0 else y0 + (y1 - y0) * max(0.0, position - x0) / (x1 - x0)
            x0, y0 = x1, y1
        return y0


def further(task: TaskConfig) -> tuple[str, ...]:
    """The metrics that trials are judged by beside the objective and the loss."""
    return tuple(name for name in task.goals.further if name not in ("loss", *COSTS))


def read_curves(path: Path, needed: Sequence[str] = ()) -> list[Curve]:
    """Read recorded curves, one JSON object a line with the fields of `Curve`.

    Raises DataError if one can't be read, or lacks one of the `needed` metrics.
    """
    if not path.is_file():
        raise DataError(f"engine.curves: there is no file {path}; record one or set engine.curves=null")
    curves = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            tree = json.loads(line)
            metrics = {name: _points(values) for name, values in tree.pop("metrics", {}).items()}
            curves.append(Curve(**tree | {"reports": _points(tree["reports"])}, metrics=metrics))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"engine.curves: line {number} of {path} is no recorded curve ({error}); it needs "
                "settings, examples, seconds, error and reports"
            ) from error
        if missing := [name for name in needed if name not in curves[-1].metrics]:
            raise DataError(
                f"engine.curves: line {number} of {path} has no `{missing[0]}` among its metrics, which the "
                "task is judged by; record it, or set engine.curves=null"
            )
    if not curves:
        raise DataError(f"engine.curves: {path} holds no curve; record one or set engine.curves=null")
    return curves


def _points(values: Any) -> Points:
    return tuple((int(x), float(y)) for x, y in values)


def nearest(curves: Sequence[Curve], settings: TrialSettings) -> Curve:
    """The recorded trial whose settings are closest: numbers by ratio, names by equality."""
    flat = dotted(asdict(settings))
    return min(curves, key=lambda curve: sum(_distance(v, flat.get(k)) for k, v in curve.settings.items()))


def synthetic(
    settings: TrialSettings, seed: int, examples: int, direction: str, further: Sequence[str] = ()
) -> Curve:
    """A made-up trial: best near a learning rate of 2e-3, a little better with rank and length.

    Each of the `further` metrics rises towards a best learning rate of its own, between 2e-4 and 2e-2, so
    that it is at odds with the objective. From a learning rate of 0.05 on the trial diverges: its
    objective is NaN.
    """
    noise = random.Random(seed)  # noqa: S311 - a learning curve, not a secret
    rise = [(i / 20, 1 - math.exp(-4 * i / 20)) for i in range(21)]

    def points(best_rate: float) -> Points:
        off = math.log10(settings.learning_rate / best_rate)
        ranks = 0.005 * math.log2(settings.lora.rank)
        top = 0.18 + 0.14 * math.exp(-(off**2)) + ranks + noise.gauss(0, 0.005)
        if settings.learning_rate >= 0.05:
            top = math.nan
        return tuple((round(share * examples), 0.15 + (top - 0.15) * height) for share, height in rise)

    reports = points(2e-3)
    if direction == "minimize":
        reports = tuple((x, 1 - y) for x, y in reports)
    metrics = {name: points(2e-4 * 10 ** (crc32(name.encode()) % 201 / 100)) for name in further}
    return Curve({}, examples, 0.5 * examples, 0.01, reports, metrics)


def held_out(objective: str, value: float, error: float, rows: int, seed: int) -> HeldOutScores:
    """Made-up scores on test rows around `value`: a row is as hard for every run, but for a rest of its own.

    `error` is the standard error of their mean.
    """
    common, own = random.Random(0), random.Random(seed)  # noqa: S311 - scores, not secrets
    spread = error * math.sqrt(rows)
    values = [value + spread * (0.8 * common.gauss() + 0.6 * own.gauss()) for _ in range(rows)]
    mean = math.fsum(values) / rows
    return HeldOutScores(
        mean,
        error,
        {objective: mean, "loss": 3.0 - mean},
        tuple(values),
        errors={objective: error},
        count=rows,
    )


class ReplayEngine:
    """Plays one trial after another; `sleep` is called with the seconds that pass meanwhile."""

    def __init__(self, config: Config, sleep: Callable[[float], None] = time.sleep) -> None:
        self.goals = config.task.goals
        self.test_rows = config.data.sizes.test or _TEST_ROWS
        self._further = further(config.task)
        path = config.engine.curves
        self._curves = read_curves(path, self._further) if path else None
        self._speedup = config.engine.speedup or 1.0
        self._sleep = sleep

    def run(self, channel: Channel) -> None:
        """Play trials until the channel says Done."""
        while not isinstance(order := channel.next_trial(), Done):
            if isinstance(order, Wait):
                self._sleep(order.seconds)
            else:
                channel.finish(_Play(self, channel, order).outcome())

    def curve(self, spec: TrialSpec) -> Curve:
        """The curve that stands for `spec`."""
        if self._curves is not None:
            return nearest(self._curves, spec.settings)
        direction = self.goals.objective.direction
        return synthetic(spec.settings, spec.seed, max(spec.examples, 1), direction, self._further)

    def pass_time(self, seconds: float) -> None:
        """Let recorded seconds pass, divided by the speed-up."""
        self._sleep(seconds / self._speedup)


class _Play:
    """One attempt at one trial."""

    def __init__(self, engine: ReplayEngine, channel: Channel, spec: TrialSpec) -> None:
        self._engine, self._channel, self._spec = engine, channel, spec
        self._curve = engine.curve(spec)
        for attempt in range(1, spec.attempt + 1):
            clear_unfinished(Layout.attempt(spec.folder, attempt))
        self._state_file = Layout.attempt(spec.folder, spec.attempt) / "state.json"
        self._examples, self._evaluations = _last_state(spec)
        self._from = self._examples

    def outcome(self) -> Outcome:
        spec = self._spec
        known = {evaluation.mark: evaluation for evaluation in self._evaluations}
        for mark in spec.marks:
            evaluation = known.get(mark)
            decision = self._train_to(mark) if evaluation is None else Decision.CONTINUE
            if decision is Decision.CONTINUE:
                if evaluation is None:
                    evaluation = self._evaluate(mark)
                    if not math.isfinite(evaluation.objective):
                        return self._ending(Ending.FAILED, f"the loss became NaN before example {mark}")
                    self._evaluations.append(evaluation)
                    self._save()
                # One of an earlier attempt is told again: its answer may have been lost with the process.
                decision = self._report(evaluation)
            if decision is Decision.STOP and self._evaluations:
                last = self._evaluations[-1].mark
                reason = (
                    f"its last mark is {last} of {spec.examples} examples" if last < spec.examples else ""
                )
                return self._ending(Ending.FINISHED, reason)
            if decision in (Decision.PRUNE, Decision.STOP):
                return self._ending(Ending.PRUNED, f"pruned at example {mark}")
            if decision is Decision.CANCEL:
                return self._ending(Ending.CANCELLED)
            if decision is Decision.SUSPEND and (not spec.examples or self._examples < spec.examples):
                self._save()
                return self._ending(Ending.SUSPENDED)
        return self._ending(Ending.FINISHED)

    def _train_to(self, mark: int) -> Decision:
        """Pass the time up to `mark`, telling the coordinator on the way."""
        start = self._examples
        for step in range(1, _STEPS_PER_MARK + 1):
            target = start + (mark - start) * step // _STEPS_PER_MARK
            if target == self._examples:
                continue
            per_example = self._curve.seconds / max(self._curve.examples, 1)
            self._engine.pass_time((target - self._examples) * per_example)
            self._examples = target
            metrics = {
                "train_loss": 3.0 - self._value(target),
                "learning_rate": self._spec.settings.learning_rate,
            }
            decision = self._channel.report(Progress(self._spec.trial, self._spec.attempt, target, metrics))
            if decision is not Decision.CONTINUE:
                return decision
        return Decision.CONTINUE

    def _evaluate(self, mark: int) -> Evaluation:
        value, share = self._value(mark), self._share(mark)
        metrics = {"loss": 3.0 - value} | {name: self._curve.at(share, name) for name in self._curve.metrics}
        metrics[self._engine.goals.objective.metric] = value
        return Evaluation(mark, value, self._curve.error, metrics)

    def _value(self, examples: int) -> float:
        return self._curve.at(self._share(examples))

    def _share(self, examples: int) -> float:
        return examples / self._spec.examples if self._spec.examples else 0.0

    def _report(self, evaluation: Evaluation) -> Decision:
        spec = self._spec
        return self._channel.report(Progress(spec.trial, spec.attempt, self._examples, evaluation=evaluation))

    def _save(self) -> None:
        tree = {"examples": self._examples, "evaluations": [asdict(e) for e in self._evaluations]}
        write_atomically(self._state_file, json.dumps(tree))

    def _ending(self, ending: Ending, reason: str = "") -> Outcome:
        """Trials fail here for one reason: they diverge."""
        goals = self._engine.goals
        best: Evaluation | None = None
        for evaluation in self._evaluations:
            if best is None or goals.better(evaluation.metrics, best.metrics):
                best = evaluation
        trained = self._examples - self._from
        test: HeldOutScores | None = None
        if self._spec.held_out and best is not None and ending is Ending.FINISHED:
            error, rows = self._curve.error, self._engine.test_rows
            test = held_out(goals.objective.metric, best.objective, error, rows, self._spec.seed)
        speed = self._curve.examples / self._curve.seconds * self._engine._speedup
        return Outcome(
            trial=self._spec.trial,
            attempt=self._spec.attempt,
            ending=ending,
            examples=trained,
            engine="replay",
            reason=reason,
            best=best,
            cost={
                "train_seconds": trained / speed,
                "evaluation_seconds": 0.0,
                "train_examples_per_second": speed,
            },
            test=test,
            diverged=ending is Ending.FAILED,
        )


def _last_state(spec: TrialSpec) -> tuple[int, list[Evaluation]]:
    """Examples seen and evaluations made by the newest attempt that left a readable state."""
    for attempt in range(spec.attempt, 0, -1):
        try:
            text = (Layout.attempt(spec.folder, attempt) / "state.json").read_text(encoding="utf-8")
            tree = json.loads(text)
            return tree["examples"], [Evaluation(**e) for e in tree["evaluations"]]
        except (OSError, ValueError, KeyError):
            continue
    return 0, []


def _distance(a: Any, b: Any) -> float:
    numbers = isinstance(a, (int, float)) and isinstance(b, (int, float))
    if numbers and a > 0 and b > 0:
        return abs(math.log(a / b))
    return float(a != b)
