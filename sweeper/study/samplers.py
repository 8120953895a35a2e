"""Samplers: which settings to try next.

A sampler is made anew for every proposal, with a seed that follows from (sweep seed, trial number) alone. So
a sweep that is interrupted and continued proposes what it would have proposed in one go.
"""

import hashlib
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from sweeper.config import SamplerConfig
from sweeper.entry import Scalar
from sweeper.space import Space


def derive_seed(seed: int, *labels: int | str) -> int:
    """A seed below 2**31 for the purpose named by `labels`, the same on every platform."""
    text = "/".join(str(part) for part in (seed, *labels))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def make_sampler(config: SamplerConfig, space: Space, seed: int, number: int) -> BaseSampler:
    """The sampler that proposes trial `number` of a sweep with this seed.

    tpe: conditional settings are modelled where they are active. gp: models the settings that every trial
    has, and draws conditional ones at random. nsga2: one generation is `population_size` finished trials.
    grid: proposes nothing itself; `grid_order` gives what to enqueue. `sweeper.loading.load` has seen to it
    that the options are there.
    """
    if config.name == "quasi_random":
        return QuasiRandomSampler(space, derive_seed(seed, "sampler"))
    return SettingwiseSampler(lambda own: _make(config, space, own), derive_seed(seed, "sampler", number))


def grid_order(points: Sequence[Mapping[str, Scalar]], seed: int) -> list[dict[str, Scalar]]:
    """The points of a grid in the order in which to try them: shuffled, so that any part is a fair sample."""
    order = sorted(range(len(points)), key=lambda index: derive_seed(seed, "grid", index))
    return [dict(points[index]) for index in order]


class SettingwiseSampler(BaseSampler):
    """Draws what another sampler draws, so that a proposal which a crash cut short is completed as it began.

    Settings that are proposed together are kept with the trial: when it is asked for again, other trials may
    have ended, and Optuna's samplers may take its first half for another trial. A setting that is drawn on
    its own has a seed of its own, so that it doesn't matter how many are drawn before it.
    """

    _TOGETHER = "sweeper:together"

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make = make
        self._seed = seed
        self._joint = make(seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._joint.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        kept: dict[str, Any] | None = trial.system_attrs.get(self._TOGETHER)
        if kept is not None:
            return {name: value for name, value in kept.items() if name in search_space}
        drawn = self._joint.sample_relative(study, trial, search_space)
        if drawn:
            study._storage.set_trial_system_attr(trial._trial_id, self._TOGETHER, drawn)
        return drawn

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        sampler = self._make(derive_seed(self._seed, param_name))
        return sampler.sample_independent(study, trial, param_name, param_distribution)


class QuasiRandomSampler(BaseSampler):
    """Trial n takes point n of one scrambled Sobol sequence (Sobol 1967; Owen 1998).

    Optuna's QMCSampler counts its points in the study, so that a trial asked for twice moves all later ones,
    and it leaves out settings that the first trial doesn't have. Here the point follows from the trial's
    number, and it has a coordinate for every setting, active or not.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self._space = space
        self._seed = seed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        names = self._space.names
        index = names.index(param_name)
        return self._space.entries[index].at(self._point(trial.number, len(names))[index])

    def _point(self, number: int, dimensions: int) -> Sequence[float]:
        from scipy.stats.qmc import Sobol  # half a second to import

        sequence = Sobol(dimensions, scramble=True, rng=self._seed)
        if number > 0:
            sequence.fast_forward(number)
        return [float(share) for share in sequence.random(1)[0]]


def _make(config: SamplerConfig, space: Space, seed: int) -> BaseSampler:
    match config.name:
        case "tpe":
            with warnings.catch_warnings():
                # `group` is what models conditional settings; it has been experimental since Optuna 2.8.
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                startup = cast(int, config.startup_trials)
                # `group` needs `multivariate`, which is not the default with several objectives.
                conditional = space.is_conditional
                return optuna.samplers.TPESampler(
                    seed=seed, n_startup_trials=startup, group=conditional, multivariate=conditional or None
                )
        case "gp":
            # It asks for a package with which it proposes no faster here.
            logging.getLogger("optuna._gp.batched_lbfgsb").setLevel(logging.ERROR)
            startup = cast(int, config.startup_trials)
            return optuna.samplers.GPSampler(
                seed=seed, n_startup_trials=startup, warn_independent_sampling=False
            )
        case "nsga2":
            population = cast(int, config.population_size)
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=population)
        case _:
            return optuna.samplers.RandomSampler(seed=seed)
