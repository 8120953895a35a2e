"""Pruners: which trials to stop early.

Optuna's steps are marks here: training examples seen. A trial's whole length in examples stands in its user
attribute `examples`.
"""

import math
import warnings
from array import array
from collections.abc import Callable, Sequence
from typing import cast

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
        self._finished: _Finished | None = None

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        mark = trial.last_step
        if mark is None:
            return False
        peers = self._peers(study, trial, mark)
        if len(peers) < self._min_peers:
            return False
        own = [value for value in trial.intermediate_values.values() if math.isfinite(value)]
        if not own:
            return False
        if study.direction == StudyDirection.MAXIMIZE:
            return max(own) < float(np.percentile(peers, 100.0 - self._percentile))
        return min(own) > float(np.percentile(peers, self._percentile))

    def _peers(self, study: Study, trial: FrozenTrial, mark: int) -> Values:
        """The values at `mark` of those that the trial is compared with."""
        if self._finished is None or self._finished.study is not study:
            self._finished = _Finished(study)
        finished = self._finished
        length = trial.user_attrs[EXAMPLES]
        violates = mark in trial.user_attrs.get(VIOLATED, ())
        others = [other for other in finished.update() if other.number != trial.number]

        def of(lengths: Callable[[int], bool]) -> Values:
            running = _values(others, mark, lengths, violates)
            return np.concatenate([*finished.values(mark, lengths, violates), running])

        equal = of(lambda examples: examples == length)
        return equal if len(equal) >= self._min_peers else of(lambda examples: examples >= length)


class _Finished:
    """The values of finished trials, which never change: no report has to look through a long study."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._values: dict[int, dict[tuple[int, bool], array[float]]] = {}
        """By mark, then by whole length and whether the constraints are met."""
        self._unfinished: list[int] = []
        self._seen = 0

    def update(self) -> list[FrozenTrial]:
        """Take in what has finished since the last time; gives the other trials."""
        trials = self.study.get_trials(deepcopy=False)
        news = [trials[number] for number in [*self._unfinished, *range(self._seen, len(trials))]]
        left = [trial for trial in news if not trial.state.is_finished()]
        self._unfinished, self._seen = [trial.number for trial in left], len(trials)
        for trial in news:
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
                for mark, value in trial.intermediate_values.items():
                    if math.isfinite(value):
                        kind = (trial.user_attrs[EXAMPLES], _meets(trial, mark))
                        self._values.setdefault(mark, {}).setdefault(kind, array("d")).append(value)
        return left

    def values(self, mark: int, lengths: Callable[[int], bool], violating: bool) -> list[Values]:
        """The values at `mark` of trials of such lengths; of violating ones only if asked for."""
        return [
            np.array(found)
            for (examples, meets), found in self._values.get(mark, {}).items()
            if lengths(examples) and (violating or meets)
        ]


def _values(
    trials: Sequence[FrozenTrial], mark: int, lengths: Callable[[int], bool], violating: bool
) -> list[float]:
    return [
        trial.intermediate_values[mark]
        for trial in trials
        if math.isfinite(trial.intermediate_values.get(mark, math.nan))
        and lengths(trial.user_attrs[EXAMPLES])
        and (violating or _meets(trial, mark))
    ]


def _meets(trial: FrozenTrial, mark: int) -> bool:
    return mark not in trial.user_attrs.get(VIOLATED, ())


def _patient(patience: int) -> BasePruner:
    with warnings.catch_warnings():
        # Experimental since Optuna 2.8, with an interface of two numbers.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # Optuna tolerates `patience` marks and stops at the next one; ours stops at the last of them.
        return optuna.pruners.PatientPruner(None, patience=patience - 1)
