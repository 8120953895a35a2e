"""What the coordinator tells those who listen: the tracker, the terminal, the journal on disk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweeper.config import ConstraintConfig, Goals, ObjectiveConfig, TrialSettings
from sweeper.messages import Confusion, HeldOutScores, Sample, SliceScores, TrialState

Scalar = bool | int | float | str | None


@dataclass(frozen=True)
class Measurement:
    """Numbers of one trial at one moment.

    Of training: `train_loss`, `learning_rate`, `examples_per_second`, ...; at a mark also
    `objective`, `objective_error` and every evaluation metric as `validation_<name>`.
    """

    trial: int
    attempt: int
    time: float
    """Unix time in seconds, taken when the coordinator heard of it."""
    examples: int
    """Training examples seen by the trial; at a mark, the mark."""
    metrics: Mapping[str, float]
    mark: int | None = None


@dataclass(frozen=True)
class TrialRecord:
    """A trial as the study database knows it."""

    number: int
    state: TrialState
    attempt: int
    params: Mapping[str, Scalar]
    """What the sampler chose, by dotted name, e.g. `lora.rank`."""
    settings: TrialSettings
    """The complete settings, chosen and fixed."""
    examples: int = 0
    """The trial's whole length in training examples."""
    reports: Mapping[int, float] = field(default_factory=dict)
    """Objective by mark."""
    objective: float | None = None
    """The objective at the best mark; None if none was reached."""
    error: float | None = None
    """Standard error of `objective` over the validation rows."""
    best_mark: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Every metric at the best mark."""
    slices: tuple[SliceScores, ...] = ()
    """The same over parts of the validation rows."""
    errors: Mapping[str, float] = field(default_factory=dict)
    """Standard errors of those metrics that have one."""
    confusion: Confusion | None = None
    rows: tuple[float, ...] = ()
    """A value for every validation row whose mean is the objective, to pair trials by; empty where there is
    none."""
    diverged: bool = False
    """It failed as its loss or its objective was not finite."""
    trained: int = 0
    """Training examples computed over all attempts, repeated ones included."""
    seconds: float = 0.0
    """Device time over all attempts."""
    cost: Mapping[str, float] = field(default_factory=dict)
    """Measured by the worker: `train_seconds`, `evaluation_seconds`, `peak_memory_bytes`, ..."""
    engine: str = ""
    reason: str = ""
    origin: str = ""
    """Who asked for it, in words; empty where the sampler did."""
    warnings: tuple[str, ...] = ()
    adapter: Path | None = None
    samples: tuple[Sample, ...] = ()
    test: HeldOutScores | None = None
    """In a verdict alone."""
    retrains: int | None = None
    """In a study beside the sweep (`NAME/train`): the trial of the sweep whose settings this one has."""
    repeat: int = 0
    """In a verdict alone: which of the seeds it is, from 1."""

    @property
    def is_default(self) -> bool:
        """True for the first trial of a sweep, which has the default settings."""
        return self.number == 0 and self.retrains is None


@dataclass(frozen=True)
class DataSetInfo:
    """One split, as it is named in a tracker."""

    split: str
    rows: int
    source: str
    """Where it came from, in words: `docstrings of stdlib, torch, ...` or a file name."""
    digest: str


@dataclass(frozen=True)
class AuditInfo:
    """What was found in the rows before the sweep, as far as a tracker shows it."""

    numbers: Mapping[str, float]
    """By name: rows, findings of every severity, rows concerned by every check."""
    page: Path
    """audit.html."""
    time: float
    """When it was found, as Unix time in seconds."""


@dataclass(frozen=True)
class SweepInfo:
    """A sweep as its listeners see it; no value in it holds a secret."""

    name: str
    folder: Path
    objective: ObjectiveConfig
    budget: int
    """Total number of trials."""
    examples: int
    """Length of a trial with the default settings, in training examples."""
    marks: int
    """Evaluations of a trial with the default settings."""
    config: Mapping[str, Any]
    """The composed configuration as a plain tree."""
    varied: tuple[str, ...]
    """Names of the settings that the space varies."""
    model: str
    """Name and revision of the base model."""
    data: tuple[DataSetInfo, ...]
    study: str
    """Study database URL, password masked."""
    audit: AuditInfo | None = None
    """None where the rows were not looked at."""
    verdict_runs: int = 0
    """Runs of the verdict that comes at the end."""
    workers: int = 1
    """That train at the same time."""
    trained_by: str = ""
    """How many workers are where, in words."""
    is_verdict: bool = False
    """The trials are runs of a verdict: settings of a sweep, trained again and scored on the test rows."""
    also: tuple[ObjectiveConfig, ...] = ()
    """Further objectives."""
    constraints: tuple[ConstraintConfig, ...] = ()
    """What the best trial has to meet."""

    @property
    def goals(self) -> Goals:
        return Goals(self.objective, self.also, self.constraints)

    @property
    def test_share(self) -> float:
        """Test rows for each validation row; 0 where either is unknown."""
        rows = {info.split: info.rows for info in self.data}
        return rows.get("test", 0) / rows["validation"] if rows.get("validation") else 0.0


class Listener:
    """Hears all that happens in a sweep, in order, on the coordinator's thread, and does nothing about it."""

    def opened(self, sweep: SweepInfo, trials: Sequence[TrialRecord]) -> None:
        """The sweep starts or goes on; `trials` are those it already has, the base model first."""

    def started(self, trial: TrialRecord) -> None:
        """A worker has taken the trial."""

    def measured(self, point: Measurement) -> None:
        """A running trial, or the base model, has numbers."""

    def scoring(self, trial: int, done: int, of: int) -> None:
        """A trial, or the base model, is being evaluated: `done` rows of `of`."""

    def ended(self, trial: TrialRecord) -> None:
        """The trial is over, or waits to be continued; `trial.state` says which."""

    def closed(self, trials: Sequence[TrialRecord], best: TrialRecord | None, reason: str) -> None:
        """The sweep ends or is interrupted, for `reason`. Nothing follows."""
