"""What the coordinator and its workers say to each other.

A worker holds a `Channel` and knows nothing else of the sweep; the coordinator is one. An executor
only carries these three calls from where the worker runs. Every message is a frozen dataclass of
plain values, so that it crosses a pipe as it is.

The life of a trial as the coordinator sees it:

    WAITING ──next_trial──▶ RUNNING ──finish──▶ FINISHED | PRUNED | FAILED
       ▲                       │
       └── suspended, or its worker was lost: attempt + 1, from the last checkpoint
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

from sweeper.config import TrialSettings

BASE = -1
"""Trial number of the untouched base model: evaluated once, trained on nothing, outside the budget."""


class TrialState(Enum):
    """Where a trial stands."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    PRUNED = "pruned"
    FAILED = "failed"

    @property
    def is_over(self) -> bool:
        """True once the trial can't change any more."""
        return self in (TrialState.FINISHED, TrialState.PRUNED, TrialState.FAILED)


class Decision(Enum):
    """The coordinator's answer to a report."""

    CONTINUE = "continue"
    STOP = "stop"
    """Stop training and `finish` the trial as finished with its best mark; as pruned where it has none."""
    PRUNE = "prune"
    """Stop training and `finish` the trial as pruned."""
    CANCEL = "cancel"
    """This attempt no longer counts (another one has taken over): drop it, `finish` as cancelled."""
    SUSPEND = "suspend"
    """Write a checkpoint, `finish` as suspended; `next_trial` will then say Done."""


class Ending(Enum):
    """How an attempt ended, as its worker tells it."""

    FINISHED = "finished"
    PRUNED = "pruned"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUSPENDED = "suspended"


@dataclass(frozen=True)
class TrialSpec:
    """One trial, as handed to a worker.

    `marks` are the points at which to evaluate, in training examples seen, ascending; the last one
    is `examples`, the trial's total length. For the base model both are zero: `marks == (0,)`.
    """

    trial: int
    attempt: int
    """Counts from 1; every restart after a suspension or a lost worker adds one."""
    seed: int
    """A function of (sweep seed, trial number) alone: data order, LoRA init and dropout follow from it."""
    settings: TrialSettings
    marks: tuple[int, ...]
    examples: int
    folder: Path
    """The trial's folder, e.g. sweeps/NAME/trials/0007; attempt n writes below `attempt-n`."""
    held_out: bool = False
    """In the verdict alone: score the best checkpoint on the test rows at the end; the base model on these
    only."""

    @property
    def is_base(self) -> bool:
        return self.trial == BASE


@dataclass(frozen=True)
class Wait:
    """No trial at this moment; ask again after `seconds`."""

    seconds: float


@dataclass(frozen=True)
class Done:
    """No trial will come any more; `reason` is for people."""

    reason: str = ""


@dataclass(frozen=True)
class SliceScores:
    """Scores over those evaluation rows that have one value in common."""

    by: str
    """What the rows were told apart by: `slice`, `group`, `length` or `label`."""
    value: str
    rows: int
    metrics: Mapping[str, float]
    """Every metric of the task; of a label precision, recall and F1."""
    errors: Mapping[str, float] = field(default_factory=dict)
    """Standard errors of those metrics that have one."""


@dataclass(frozen=True)
class Confusion:
    """How often rows of each class were taken for each class."""

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    """[true class, predicted class]"""


@dataclass(frozen=True)
class Evaluation:
    """Scores of a trial on the validation rows at `mark` (training examples seen)."""

    mark: int
    objective: float
    error: float
    """Standard error of the objective over the evaluation rows; NaN where it has none."""
    metrics: Mapping[str, float]
    """Every metric of the task, the objective's included."""
    slices: tuple[SliceScores, ...] = ()
    """Told where the mark is the trial's best so far."""
    errors: Mapping[str, float] = field(default_factory=dict)
    """Standard errors of those metrics that have one."""
    confusion: Confusion | None = None
    """task.kind=classify, with not too many classes; as `slices`."""
    rows: tuple[float, ...] = ()
    """A value for every validation row, in their order, whose mean is the objective; as `slices`. Empty where
    there is none, and with very many rows."""


@dataclass(frozen=True)
class Progress:
    """Sent at least every few seconds while a trial trains or evaluates.

    `metrics` are of the training itself: `train_loss`, `learning_rate`, `examples_per_second`,
    ... `evaluation` is there only at a mark. Where `engine=auto` has tried both ways with a trial, it tells
    once of `packed_examples_per_second`, `packed_slots` and `trainer_examples_per_second`. While it
    evaluates, `scored` are the rows that are done and those that there are.
    """

    trial: int
    attempt: int
    examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    scored: tuple[int, int] | None = None


@dataclass(frozen=True)
class HeldOutScores:
    """Scores of a trial's best checkpoint on the test rows; made for the verdict alone."""

    objective: float
    error: float
    """Standard error of the objective over the test rows; NaN where it has none."""
    metrics: Mapping[str, float]
    rows: tuple[float, ...] = ()
    """A value for every test row, in their order, whose mean is the objective; empty where there is none."""
    slices: tuple[SliceScores, ...] = ()
    samples: tuple["Sample", ...] = ()
    errors: Mapping[str, float] = field(default_factory=dict)
    """Standard errors of those metrics that have one."""
    confusion: Confusion | None = None
    count: int = 0
    """Test rows."""


@dataclass(frozen=True)
class Outcome:
    """The end of an attempt.

    `reason` says why a trial failed or stopped before its end, in words a person can act on.
    `best` is the evaluation whose checkpoint was restored, `adapter` the folder holding it in
    PEFT's format (full fine-tuning: a model folder).
    `examples` counts what this attempt itself trained, without what it took from a checkpoint.
    `cost` is measured: `train_seconds`, `evaluation_seconds`, `seconds`, `peak_memory_bytes`.
    """

    trial: int
    attempt: int
    ending: Ending
    examples: int
    engine: str
    reason: str = ""
    best: Evaluation | None = None
    adapter: Path | None = None
    cost: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    samples: tuple["Sample", ...] = ()
    test: HeldOutScores | None = None
    diverged: bool = False
    """It failed as its loss or its objective was not finite."""


@dataclass(frozen=True)
class Sample:
    """One validation row with the model's answer, for people to read."""

    row: str
    prompt: str
    reference: str
    output: str


class Channel(Protocol):
    """The three verbs between a worker and the coordinator."""

    def next_trial(self) -> TrialSpec | Wait | Done:
        """The next trial to train. Never blocks."""

    def report(self, progress: Progress) -> Decision:
        """Tell how a trial is doing and hear whether to go on."""

    def finish(self, outcome: Outcome) -> None:
        """Tell how an attempt ended. After this the worker keeps nothing of the trial."""


class Engine(Protocol):
    """A way to train trials: one after another, many at once, or from recorded curves."""

    def run(self, channel: Channel) -> None:
        """Train trials until `channel.next_trial()` says Done."""
