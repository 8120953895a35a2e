"""Importances: found where they are, with a range, and not claimed where there is nothing to tell."""

import random
from dataclasses import replace

import pytest

from sweeper.entry import Entry
from sweeper.messages import TrialState
from sweeper.report.importance import importances
from tests.telling import told

SPACE = (
    Entry("learning_rate", float, low=1e-4, high=1e-2, log=True),
    Entry("batch_size", int, choices=(4, 8, 16)),
    Entry("epochs", int, low=1, high=4),
)


def trials(count, objective, seed=0):
    """Trials drawn from SPACE; `objective` gives a trial's value from its settings and a random number."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        values = {entry.name: entry.at(rng.random()) for entry in SPACE}
        record = told().trials[0]
        settings = replace(record.settings, **values)
        score = objective(settings, rng.random())
        made.append(replace(record, number=number, params=values, settings=settings, objective=score))
    return made


def test_the_setting_that_matters_comes_first_and_its_range_is_apart():
    found = importances(trials(40, lambda s, noise: s.batch_size + 0.1 * noise), SPACE, 7, resamples=6)
    assert found.settings[0].name == "batch_size"
    first, second = found.settings[:2]
    assert first.low > 0.8
    assert second.high < 0.2
    assert first.low <= first.share <= first.high
    assert found.trials == 40
    assert found.explained > 0.8


def test_pure_noise_has_no_importances():
    silent = [
        importances(trials(40, lambda s, noise: noise, seed), SPACE, 7, resamples=4).why_not
        for seed in range(4)
    ]
    assert sum("don't tell the trials apart" in why for why in silent) >= 3


def test_the_same_seed_gives_the_same_numbers():
    made = trials(15, lambda s, noise: s.batch_size + noise)
    assert importances(made, SPACE, 7, resamples=3) == importances(made, SPACE, 7, resamples=3)


def test_trials_of_all_other_kinds_are_left_out():
    made = trials(12, lambda s, noise: s.batch_size + noise)
    others = [
        replace(made[0], state=TrialState.PRUNED),
        replace(made[0], objective=None),
        replace(made[0], objective=float("nan")),
        replace(made[0], settings=replace(made[0].settings, batch_size=5)),
    ]
    assert importances([*made, *others], SPACE, 7, resamples=3).trials == 12


@pytest.mark.parametrize(
    ("count", "objective", "space", "why"),
    [
        (9, lambda s, noise: noise, SPACE, "Too few trials: 9 finished, and 10 are needed"),
        (12, lambda s, noise: 1.0, SPACE, "the same objective"),
        (12, lambda s, noise: noise, (), "Nothing varies"),
    ],
)
def test_why_there_is_nothing_to_tell(count, objective, space, why):
    found = importances(trials(count, objective), space, 7)
    assert why in found.why_not
    assert found.settings == ()
