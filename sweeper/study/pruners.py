"""Pruners: which trials to stop early.

Optuna's steps are marks here: training examples seen. A trial's whole length in examples stands in its user
attribute `examples`.
"""

import math
import warnings
from array import array
from collections.abc import Iterable
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import optuna
from optuna.pruners import BasePruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sweeper.config import PrunerConfig

Values = npt.NDArray[np.float64]

EXAMPLES = "examples"
"""User attribute of a trial with its whole length in training examples."""

VIOLATED = "violated"
"""User attribute of a trial with the marks where it met not all constraints."""


def make_pruner(config: PrunerConfig, first_mark: int, longest: int) -> BasePruner:
    """The pruner of a sweep.

    `first_mark` is the first mark of every trial, `longest` the length of the longest trial that the space
    allows, both in training examples. median and percentile are fair to longer trials; the others compare
    whoever has come as far. `sweeper.loading.load` has seen to it that the options are there.
    """
    match config.name:
        case "none":
            return optuna.pruners.NopPruner()
        case "median":
            return BeforeTheEnd(PeerPruner(50.0, cast(int, config.min_peers)))
        case "percentile":
            return BeforeTheEnd(PeerPruner(cast(float, config.percentile), cast(int, config.min_peers)))
        case "successive_halving":
            return BeforeTheEnd(
                optuna.pruners.SuccessiveHalvingPruner(
                    min_resource=first_mark, reduction_factor=cast(int, config.reduction_factor)
                )
            )
        case "hyperband":
            return BeforeTheEnd(
                optuna.pruners.HyperbandPruner(
                    min_resource=first_mark,
                    max_resource=longest,
                    reduction_factor=cast(int, config.reduction_factor),
                )
            )
        case "patient":
            return BeforeTheEnd(_patient(cast(int, config.patience)))


class BeforeTheEnd(BasePruner):
    """Lets another pruner judge a trial at each of its marks but the last, where the trial is finished.

    The other pruner is asked there too, since some keep a record of who has come how far. A value that is
    not finite is no ground for pruning: such a trial has failed, which is for others to say.
    """

    def __init__(self, pruner: BasePruner) -> None:
        self._pruner = pruner

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        mark = trial.last_step
        if mark is None or not math.isfinite(trial.intermediate_values[mark]):
            return False
        return self._pruner.prune(study, trial) and mark < trial.user_attrs[EXAMPLES]

    def catch_up(self, study: Study) -> None:
        """Look through the trials that there are already, so that no report has to wait for that."""
        if isinstance(self._pruner, PeerPruner):
            self._pruner.catch_up(study)


class PeerPruner(BasePruner):
    """Stops a trial whose best value so far is worse than a percentile of its peers' values at the same mark.

    The best `percentile` per cent go on; 50 is the median rule (Golovin et al. 2017, Google Vizier).

    Peers are the other trials that have a value at this mark, running and pruned ones included. Optuna's own
    MedianPruner looks at complete trials only and waits for five of them: a sweep of eight trials, or a first
    wave of simultaneous ones, would prune next to nothing.

    Peers have the trial's own whole length, if there are `min_peers` of those. With a decaying learning rate
    a short trial looks better than a long one at the same mark, so otherwise the peers are trials at least as
    long, which have decayed no further; if those are fewer than `min_peers` too, the trial goes on.

    A trial that meets the constraints at the mark has only such peers as meet them there too: one that does
    better by violating them must not stop it.
    """

    def __init__(self, percentile: float, min_peers: int) -> None:
        self._percentile = percentile
        self._min_peers = min_peers
        self._curves: _Curves | None = None

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial is to be stopped at its last mark."""
        mark = trial.last_step
        if mark is None:
            return False
        peers = self._peers(study, trial, mark)
        if len(peers) < self._min_peers:
            return False
        own = [value for value in trial.intermediate_values.values() if math.isfinite(value)]
        if not own:
            return False
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        return is_below(max(sign * value for value in own), sign * peers, 100.0 - self._percentile)

    def catch_up(self, study: Study) -> None:
        """As BeforeTheEnd's."""
        self._of(study).catch_up()

    def _of(self, study: Study) -> "_Curves":
        if self._curves is None or self._curves.study is not study:
            self._curves = _Curves(study)
        return self._curves

    def _peers(self, study: Study, trial: FrozenTrial, mark: int) -> Values:
        """The values at `mark` of those that the trial is compared with."""
        curves = self._of(study)
        curves.catch_up()
        found = curves.of_others(trial, mark)
        own = _kind(trial, mark)
        if own.meets:
            found = {kind: values for kind, values in found.items() if kind.meets}
        equal = _joined(values for kind, values in found.items() if kind.length == own.length)
        if len(equal) >= self._min_peers:
            return equal
        return _joined(values for kind, values in found.items() if kind.length >= own.length)


def is_below(value: float, others: Values, percentile: float) -> bool:
    """Whether `value` is less than a percentile of the others, which is linear between two of them.

    Counting tells, unless it lies between these two: with thousands of others a percentile takes far longer.
    """
    lower = math.floor((len(others) - 1) * percentile / 100)
    reached = np.count_nonzero(others <= value)
    if lower < reached < lower + 2:
        return value < float(np.percentile(others, percentile))
    return bool(reached <= lower)


class _Kind(NamedTuple):
    """Of values that are compared alike."""

    length: int
    """Of the whole trial, in training examples."""
    meets: bool
    """Whether the constraints are met at the mark."""


class _Curves:
    """The values at each mark of all trials but failed ones, so that no report has to look through a study.

    A value stays as it is once it is stored.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self._values: dict[int, dict[_Kind, array[float]]] = {}
        """Finite ones, by mark."""
        self._marks: dict[int, set[int]] = {}
        """What is in there of each trial that is not over."""
        self._seen = 0

    def of_others(self, trial: FrozenTrial, mark: int) -> dict[_Kind, Values]:
        """The values at `mark` of all trials but this one."""
        found = {kind: np.array(values) for kind, values in self._values.get(mark, {}).items()}
        own = _kind(trial, mark)
        if mark in self._marks.get(trial.number, ()) and own in found:
            (places,) = np.nonzero(found[own] == trial.intermediate_values[mark])
            found[own] = np.delete(found[own], places[:1])
        return found

    def catch_up(self) -> None:
        """Take in what has been reported, and leave out what has failed, since the last time."""
        trials = self.study.get_trials(deepcopy=False)
        self._marks |= {number: set() for number in range(self._seen, len(trials))}
        self._seen = len(trials)
        over = []
        for number, marks in self._marks.items():
            trial = trials[number]
            if len(trial.intermediate_values) > len(marks):
                self._take_in(trial, marks)
            if trial.state.is_finished():
                over.append(trial)
        for trial in over:
            marks = self._marks.pop(trial.number)
            if trial.state is TrialState.FAIL:
                self._take_out(trial, marks)

    def _take_in(self, trial: FrozenTrial, marks: set[int]) -> None:
        for mark in trial.intermediate_values.keys() - marks:
            marks.add(mark)
            if math.isfinite(value := trial.intermediate_values[mark]):
                of_mark = self._values.setdefault(mark, {})
                of_mark.setdefault(_kind(trial, mark), array("d")).append(value)

    def _take_out(self, trial: FrozenTrial, marks: set[int]) -> None:
        for mark in marks:
            if math.isfinite(value := trial.intermediate_values[mark]):
                self._values[mark][_kind(trial, mark)].remove(value)


def _joined(values: Iterable[Values]) -> Values:
    return np.concatenate([np.empty(0), *values])


def _kind(trial: FrozenTrial, mark: int) -> _Kind:
    return _Kind(trial.user_attrs[EXAMPLES], mark not in trial.user_attrs.get(VIOLATED, ()))


def _patient(patience: int) -> BasePruner:
    with warnings.catch_warnings():
        # Experimental since Optuna 2.8, with an interface of two numbers.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # Optuna tolerates `patience` marks and stops at the next one; ours stops at the last of them.
        return optuna.pruners.PatientPruner(None, patience=patience - 1)
