"""Device time of a sweep: where it went, and what pruning saved."""

from collections.abc import Sequence
from dataclasses import dataclass

from sweeper.events import TrialRecord
from sweeper.messages import TrialState
from sweeper.study.objectives import value
from sweeper.verdict import VerdictFacts

_VERDICT = "verdict"
_BY_HAND = ("stopped by hand", "pruned by hand")
"""How the reason of a trial begins that a person has ended; it counts as pruned, by no pruner."""

HOW_SAVED = (
    "Estimated: every pruned trial would have gone on to its own full length at the speed that it had until "
    "it was pruned, evaluations included."
)


@dataclass(frozen=True)
class Effort:
    """Seconds of a device, evaluations included."""

    parts: tuple[tuple[str, float], ...]
    """The base model, every state that a trial is in, and the verdict: those that cost something."""
    training: float
    """Of the sweep's own trials and base model, in training steps, as far as workers told."""
    evaluating: float
    saved: float
    """An estimate, see `HOW_SAVED`."""
    pruned: int
    """Trials that `saved` is about."""

    @property
    def total(self) -> float:
        return sum(seconds for _, seconds in self.parts)

    @property
    def share_saved(self) -> float:
        """Of the time that the sweep, without its verdict, would have taken otherwise, 0 to 1."""
        searched = self.total - dict(self.parts).get(_VERDICT, 0.0)
        return self.saved / (searched + self.saved) if self.saved else 0.0


def effort(
    base: TrialRecord | None, trials: Sequence[TrialRecord], verdict: VerdictFacts | None = None
) -> Effort:
    """Add up what the study knows; the worker's own clock counts for the base model."""
    spent = {"base model": (value(base, "seconds") or 0.0) if base else 0.0}
    for state in (TrialState.FINISHED, TrialState.PRUNED, TrialState.FAILED, TrialState.RUNNING):
        spent[state.value] = sum(record.seconds for record in trials if record.state is state)
    spent["interrupted"] = sum(r.seconds for r in trials if r.state is TrialState.WAITING)
    spent[_VERDICT] = verdict.seconds if verdict else 0.0
    everything = [*trials, *([base] if base else [])]
    saved = [seconds for record in trials if (seconds := saved_by(record)) is not None]
    return Effort(
        parts=tuple((name, seconds) for name, seconds in spent.items() if seconds),
        training=sum(record.cost.get("train_seconds", 0.0) for record in everything),
        evaluating=sum(record.cost.get("evaluation_seconds", 0.0) for record in everything),
        saved=sum(saved),
        pruned=len(saved),
    )


def saved_by(record: TrialRecord) -> float | None:
    """Seconds that pruning this trial saved; None where no pruner ended it, or nothing was measured."""
    if record.state is not TrialState.PRUNED or record.reason.startswith(_BY_HAND):
        return None
    if not record.reports or not record.trained:
        return None
    left = max(record.examples - max(record.reports), 0)
    return left * record.seconds / record.trained
