"""How much of the differences between trials each setting accounts for, and how sure that is.

Functional ANOVA over a random forest (Hutter, Hoos and Leyton-Brown, ICML 2014), as Optuna computes it, on
resamples of the finished trials: shares that move a lot from one resample to the next mean little. Shares
always add up to one, of noise too. So a forest first has to show that it predicts trials it was not fitted to
better than their mean does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, create_trial

from sweeper.entry import Entry, Scalar
from sweeper.events import TrialRecord
from sweeper.loading import dotted, to_tree
from sweeper.messages import TrialState

_RESAMPLES = 12
_MOST_DRAWN = 80
"""Trials in a resample: the time that a forest takes grows with them, 0.2 s for these."""
_TREES = 32
_LEAST = 10
"""Finished trials that are needed, and three for every setting that varies."""


@dataclass(frozen=True)
class Importance:
    """One setting's share of the differences, 0 to 1."""

    name: str
    share: float
    """Median over resamples."""
    low: float
    high: float
    """Tenth and ninetieth percentile over resamples."""


@dataclass(frozen=True)
class Importances:
    """The settings, the most important first; or why there is nothing to tell."""

    settings: tuple[Importance, ...]
    trials: int
    """Finished trials that they come from."""
    explained: float
    """Share of the variance of left-out trials that the forest explains, 1 at most."""
    why_not: str = ""


def importances(
    trials: Sequence[TrialRecord], space: Sequence[Entry], seed: int, resamples: int = _RESAMPLES
) -> Importances:
    """Importances of the settings of `space` for the objective of finished trials."""
    usable = [
        (params, record.objective)
        for record in trials
        if record.state is TrialState.FINISHED
        and record.objective is not None
        and math.isfinite(record.objective)
        and (params := _values(record, space)) is not None
    ]
    needed = max(_LEAST, 3 * len(space))
    values = [value for _, value in usable]

    def nothing(why: str) -> Importances:
        return Importances((), len(usable), 0.0, why)

    if not space:
        return nothing("Nothing varies in this sweep.")
    if len(usable) < needed:
        return nothing(
            f"Too few trials: {len(usable)} finished, and {needed} are needed to say which of "
            f"{len(space)} settings matter. With fewer, shares would be noise."
        )
    if len(set(values)) == 1:
        return nothing("All finished trials have the same objective.")
    distributions = {entry.name: _distribution(entry) for entry in space}
    explained = _explained([params for params, _ in usable], values, distributions, seed)
    if explained <= 0:
        return nothing(
            "The settings don't tell the trials apart: a model fitted to some trials predicts the others no "
            "better than their mean does. Shares would be noise."
        )
    made = [create_trial(params=params, distributions=distributions, value=v) for params, v in usable]
    shares = [_shares(_resample(made, seed + number), seed + number) for number in range(resamples)]
    settings = [_summary(entry.name, [one[entry.name] for one in shares]) for entry in space]
    settings.sort(key=lambda one: -one.share)
    return Importances(tuple(settings), len(usable), explained)


def _values(record: TrialRecord, space: Sequence[Entry]) -> dict[str, Scalar] | None:
    """Every varied setting, inactive ones with the default's value; None for a trial outside the space."""
    settings = dotted(to_tree(record.settings))
    values = {entry.name: settings[entry.name] for entry in space}
    return values if all(entry.contains(values[entry.name]) for entry in space) else None


def _distribution(entry: Entry) -> BaseDistribution:
    if entry.choices:
        return CategoricalDistribution(entry.choices)
    if entry.kind is int:
        return IntDistribution(entry.low, entry.high, log=entry.log, step=entry.step or 1)
    return FloatDistribution(entry.low, entry.high, log=entry.log, step=entry.step)


def _resample(trials: Sequence[FrozenTrial], seed: int) -> list[FrozenTrial]:
    """As many trials, `_MOST_DRAWN` at most, drawn with replacement; again where only equal ones came."""
    import random

    draw = random.Random(seed)  # noqa: S311 - a resample, not a secret
    while True:
        drawn = draw.choices(trials, k=min(len(trials), _MOST_DRAWN))
        if len({trial.value for trial in drawn}) > 1:
            return drawn


def _shares(trials: Sequence[FrozenTrial], seed: int) -> dict[str, float]:
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    study = optuna.create_study()
    study.add_trials(trials)
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(n_trees=_TREES, seed=seed))


def _summary(name: str, shares: Sequence[float]) -> Importance:
    tenths = quantiles(shares, n=10, method="inclusive")
    return Importance(name, tenths[4], tenths[0], tenths[8])


def _explained(
    params: Sequence[dict[str, Scalar]],
    values: Sequence[float],
    distributions: dict[str, BaseDistribution],
    seed: int,
) -> float:
    """Out-of-bag R^2 of a random forest (Breiman, Machine Learning 45, 2001)."""
    from sklearn.ensemble import RandomForestRegressor

    columns = []
    for name, distribution in distributions.items():
        column = [one[name] for one in params]
        if isinstance(distribution, CategoricalDistribution):
            columns += [[float(v == choice) for v in column] for choice in distribution.choices]
        else:
            log = getattr(distribution, "log", False)
            columns.append([math.log(float(v)) if log else float(v) for v in column])
    rows = list(map(list, zip(*columns, strict=True)))
    forest = RandomForestRegressor(n_estimators=200, oob_score=True, random_state=seed)
    return float(forest.fit(rows, values).oob_score_)
