"""Device time of a sweep: where it went, and what pruning saved."""

from collections.abc import Sequence
from dataclasses import dataclass

from sweeper.events import TrialRecord
from sweeper.messages import TrialState

HOW_SAVED = (
    "Estimated: every pruned trial would have gone on to its own full length at the speed that it had until "
    "it was pruned, evaluations included."
)


@dataclass(frozen=True)
class Effort:
    """Seconds of a device, evaluations included."""

    by_state: tuple[tuple[str, float], ...]
    """The base model and every state that a trial is in, those that cost something."""
    training: float
    """Of it, in training steps, as far as workers told."""
    evaluating: float
    saved: float
    """An estimate, see `HOW_SAVED`."""
    pruned: int
    """Trials that `saved` is about."""

    @property
    def total(self) -> float:
        return sum(seconds for _, seconds in self.by_state)

    @property
    def share_saved(self) -> float:
        """Of the time that the sweep would have taken otherwise, 0 to 1."""
        return self.saved / (self.total + self.saved) if self.saved else 0.0


def effort(base: TrialRecord | None, trials: Sequence[TrialRecord]) -> Effort:
    """Add up what the study knows; the worker's own clock counts for the base model."""
    spent = {"base model": base.cost.get("seconds", 0.0) if base else 0.0}
    for state in (TrialState.FINISHED, TrialState.PRUNED, TrialState.FAILED, TrialState.RUNNING):
        spent[state.value] = sum(record.seconds for record in trials if record.state is state)
    spent["interrupted"] = sum(r.seconds for r in trials if r.state is TrialState.WAITING)
    everything = [*trials, *([base] if base else [])]
    saved = [seconds for record in trials if (seconds := saved_by(record)) is not None]
    return Effort(
        by_state=tuple((name, seconds) for name, seconds in spent.items() if seconds),
        training=sum(record.cost.get("train_seconds", 0.0) for record in everything),
        evaluating=sum(record.cost.get("evaluation_seconds", 0.0) for record in everything),
        saved=sum(saved),
        pruned=len(saved),
    )


def saved_by(record: TrialRecord) -> float | None:
    """Seconds that pruning this trial saved; None where it wasn't pruned, or nothing was measured."""
    if record.state is not TrialState.PRUNED or not record.reports or not record.trained:
        return None
    left = max(record.examples - max(record.reports), 0)
    return left * record.seconds / record.trained
