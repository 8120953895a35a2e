"""Which trial is best: by one objective or several, among those that meet the constraints."""

import math
from collections.abc import Sequence

from sweeper.config import Goals
from sweeper.events import TrialRecord
from sweeper.messages import BASE, TrialState


def best_of(records: Sequence[TrialRecord], goals: Goals) -> TrialRecord | None:
    """The best of the trials that can be; the earliest of equals, None if there is none.

    With several objectives it is the trial of the Pareto front that is best in the first one. Those within
    one standard error of it are tied with it, and the next objective decides among them, and so on (the
    one-standard-error rule of Breiman et al. 1984). Costs have no error, so that only equal ones are tied.
    """
    left = front(records, goals)
    for index in range(len(goals.objectives) - 1):
        left = _within_error(left, goals, index)
    return max(left, key=lambda record: _scores(record, goals)[-1], default=None)


def tied(records: Sequence[TrialRecord], goals: Goals) -> list[TrialRecord]:
    """The trials within one standard error of the highest score in the first objective, that one included.

    Of those that can be best, best first.
    """
    close = _within_error([record for record in records if is_eligible(record, goals)], goals, 0)
    return sorted(close, key=lambda record: _scores(record, goals)[0], reverse=True)


def front(records: Sequence[TrialRecord], goals: Goals) -> list[TrialRecord]:
    """The Pareto front of the trials that can be best: none is beaten, in the order of `records`.

    A trial beats another if it is as good in every objective and better in one.
    """
    eligible = [record for record in records if is_eligible(record, goals)]
    known = {record.number: _scores(record, goals) for record in eligible}
    kept: set[int] = set()
    # Best first: whoever comes later beats none that came before.
    for number in sorted(known, key=known.__getitem__, reverse=True):
        if not any(_beats(known[other], known[number]) for other in kept):
            kept.add(number)
    return [record for record in eligible if record.number in kept]


def nearest(records: Sequence[TrialRecord], goals: Goals) -> TrialRecord | None:
    """The finished trial that misses its constraints by the least in sum; None if nothing has finished."""
    finished = [record for record in records if _is_finished(record)]
    return min(finished, key=lambda r: sum(goals.missed(r.metrics).values()), default=None)


def why_no_best(records: Sequence[TrialRecord], goals: Goals) -> str:
    """In words, why none of the trials is best."""
    close = nearest(records, goals)
    if close is None or not goals.constraints:
        return "No trial has finished, so there is no best one."
    return (
        "No finished trial meets the constraints, so there is no best one. "
        f"Trial {close.number} came nearest: {'; '.join(violations(close, goals))}. "
        "More trials, another space or a looser bound may help."
    )


def is_eligible(record: TrialRecord, goals: Goals) -> bool:
    """True of a finished trial that has a value in every objective and meets all constraints."""
    return _is_finished(record) and None not in values(record, goals) and not goals.missed(record.metrics)


def values(record: TrialRecord, goals: Goals) -> tuple[float | None, ...]:
    """A trial's value in every objective, None where it has none."""
    return (record.objective, *(value(record, one.metric) for one in goals.also))


def value(record: TrialRecord, metric: str) -> float | None:
    """A metric of a trial at its best mark, or a cost; None if it has no value.

    `seconds` is the device time over all attempts, evaluation included; of the base model it is what its
    worker measured.
    """
    if metric == "seconds" and record.number != BASE:
        return record.seconds
    found = record.metrics.get(metric, record.cost.get(metric, math.nan))
    return None if math.isnan(found) else found


def violations(record: TrialRecord, goals: Goals) -> list[str]:
    """In words, which constraints a trial misses at its best mark, and by how much.

    Nothing is said of the base model, nor of a trial that reached no mark.
    """
    if record.number == BASE or record.objective is None:
        return []
    return [
        f"{one.metric} has no value, to be {one.bound}"
        if math.isinf(by)
        else f"{one.metric} {record.metrics[one.metric]:.3f} misses {one.bound} by {by:.3f}"
        for one, by in goals.missed(record.metrics).items()
    ]


def _is_finished(record: TrialRecord) -> bool:
    return record.state is TrialState.FINISHED and record.number != BASE


def _scores(record: TrialRecord, goals: Goals) -> list[float]:
    """A trial's values with a sign that makes more the better."""
    signs = [1.0 if one.direction == "maximize" else -1.0 for one in goals.objectives]
    return [sign * (found or 0.0) for sign, found in zip(signs, values(record, goals), strict=True)]


def _within_error(records: Sequence[TrialRecord], goals: Goals, index: int) -> list[TrialRecord]:
    """Those of `records` that are within one standard error of the best of them in one objective."""
    scores = [_scores(record, goals)[index] for record in records]
    if not scores:
        return []
    top = scores.index(max(scores))
    least = scores[top] - _error(records[top], goals.objectives[index].metric, goals)
    return [record for record, score in zip(records, scores, strict=True) if score >= least]


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def _error(record: TrialRecord, metric: str, goals: Goals) -> float:
    """Standard error of a metric; 0 where it has none."""
    error = record.error if metric == goals.objective.metric else record.errors.get(metric)
    return 0.0 if error is None or math.isnan(error) else error
