"""How verdicts read."""

import numpy as np
import pytest

from sweeper.comparison import Runs, compare
from sweeper.sentence import sentence

SPREAD = np.array([[-0.01], [0.01], [0.0]])


def runs(
    name: str, mean: float, *, seconds: float = 60.0, seeds: int = 3, failed: int = 0, rows: int = 200
) -> Runs:
    """Runs whose seeds differ by a hundredth and whose rows don't differ."""
    return Runs.by_row(name, mean + SPREAD[:seeds] + np.zeros(rows), seconds=seconds, failed=failed)


def default(mean: float = 0.2, **kwargs: float) -> Runs:
    return runs("the default settings", mean, **kwargs)  # type: ignore[arg-type]


def read(*sides: Runs, metric: str = "rougeL", direction: str = "maximize", level: float = 0.95) -> str:
    return sentence(compare(sides[0], sides[1:], metric=metric, direction=direction, level=level))  # type: ignore[arg-type]


def test_a_gain():
    assert read(default(), runs("trial 5", 0.2512)) == (
        "Trial 5 beats the default settings by 0.051 rougeL (95 % interval 0.029 to 0.074, 3 seeds, 200 "
        "test rows)."
    )


def test_that_validation_promised_nothing_is_said_of_whatever_came_out():
    told = "; on the validation rows no trial was better than the default settings."
    for promised, is_told in ((0.30, True), (0.25, True), (0.31, False)):
        sides = (
            Runs.by_row(name, mean + SPREAD + np.zeros(200), seconds=60.0, validation=validation)
            for name, mean, validation in (
                ("the default settings", 0.2, 0.3),
                ("trial 5", 0.1, promised),
                ("trial 7", 0.15, 0.2),
            )
        )
        assert read(*sides).endswith(told) == is_told
    assert told not in read(default(), runs("trial 5", 0.1))


def test_a_gain_where_less_is_better_among_several_with_a_cheaper_one():
    assert read(
        default(2.5),
        runs("trial 5", 2.0, seconds=61),
        runs("trial 7", 2.01, seconds=1042),
        runs("trial 3", 2.004, seconds=4.06),
        metric="loss",
        direction="minimize",
    ) == (
        "Trial 5 beats the default settings by a 0.500 lower loss (95 % interval 0.468 to 0.532, corrected "
        "for 3 comparisons, 3 seeds, 200 test rows); trial 3, a real gain too, can't be told from it and "
        "costs less (4.1 s against 61 s a run)."
    )


def test_a_tie():
    assert read(default(rows=1200), runs("trial 5", 0.2081, rows=1200), level=0.9) == (
        "No real gain: trial 5 is better than the default settings by 0.008 rougeL, within the noise (90 % "
        "interval -0.009 to 0.026, 3 seeds, 1,200 test rows); of the tied, the default settings are "
        "cheapest (60 s a run)."
    )


def test_a_tie_that_is_worse_where_less_is_better_and_cheaper():
    text = read(default(), runs("trial 5", 0.204, seconds=10), metric="loss", direction="minimize")
    assert text == (
        "No real gain: trial 5 is worse than the default settings by a 0.004 higher loss, within the noise "
        "(95 % interval -0.019 to 0.027, 3 seeds, 200 test rows); of the tied, trial 5 is cheapest (10 s a "
        "run)."
    )


def test_a_tie_without_any_difference():
    text = read(default(), runs("trial 5", 0.2))
    assert text.startswith(
        "No real gain: trial 5 scores as the default settings do (95 % interval -0.023 to 0.023,"
    )


def test_no_finalists():
    assert read(default()) == "No real gain: there was no trial to compare with the default settings."


def test_worse():
    assert read(default(), runs("trial 5", 0.1)) == (
        "No gain: trial 5 is worse than the default settings by 0.100 rougeL (95 % interval 0.077 to 0.123, "
        "3 seeds, 200 test rows)."
    )
    text = read(default(), runs("trial 5", 0.05), runs("trial 6", 0.1))
    assert text.startswith(
        "No gain: even the closest, trial 6, is worse than the default settings by 0.100 rougeL"
    )


def test_not_enough_seeds():
    assert read(default(seeds=1, failed=2), runs("trial 5", 0.9, seeds=2)) == (
        "Not enough seeds for a verdict: finished were 1 run (2 failed) of the default settings and 2 runs "
        "of trial 5, and either side needs 2."
    )


def test_failed_runs_and_finalists_left_out_are_told():
    text = read(
        default(failed=2),
        runs("trial 5", 0.5, seeds=2, failed=1),
        runs("trial 6", 0.9, seeds=1),
        runs("trial 7", 0.2),
    )
    assert text.endswith(
        "corrected for 3 comparisons, 2 seeds against 3, 200 test rows); 1 of 3 runs of trial 5 failed; 2 "
        "of 5 runs of the default settings failed; trial 6: too few finished runs to compare."
    )


@pytest.mark.parametrize(
    ("gain", "told"),
    [
        (0.0232, "0.0232 rougeL (95 % interval 0.0005 to 0.0459"),
        (90, "90.000 rougeL (95 % interval 89.977 to 90.023"),
    ],
)
def test_numbers_have_the_digits_that_count(gain, told):
    assert f"by {told}, 3 seeds" in read(default(), runs("trial 5", 0.2 + gain))


def test_a_gain_without_any_spread():
    flat = [
        Runs.by_row(name, np.full((2, 9), score), seconds=1.0) for name, score in (("d", 0.0), ("t", 1.0))
    ]
    assert read(*flat, metric="accuracy") == (
        "T beats d by 1.000 accuracy (95 % interval 1.000 to 1.000, 2 seeds, 9 test rows)."
    )
