"""The arithmetic of the verdict: against scipy where it has the special case, and against known truth."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from sweeper.comparison import Comparison, Outcome, Runs, compare, jackknife_rows
from sweeper.errors import VerdictError
from tests.benchmarks.verdict_power import (
    BUDGETS,
    METHODS,
    RATIOS,
    Budget,
    Noise,
    Rates,
    draw,
    judge,
    method_rates,
    simulate,
)


def by_row(name: str, rows: object, seconds: float = 60.0, **kwargs: float) -> Runs:
    return Runs.by_row(name, rows, seconds=seconds, **kwargs)  # type: ignore[arg-type]


def noisy(name: str, mean: float, *, seeds: int = 3, rows: int = 100, seed: int = 0, **kwargs: float) -> Runs:
    """Runs around `mean` whose seeds and rows vary by a hundredth."""
    rng = np.random.default_rng(seed)
    values = mean + rng.normal(0, 0.01, (seeds, 1)) + rng.normal(0, 0.01, (seeds, rows))
    return by_row(name, values, **kwargs)


def judged(default: Runs, *candidates: Runs, direction: str = "maximize", level: float = 0.95) -> Comparison:
    return compare(default, candidates, metric="rougeL", direction=direction, level=level)  # type: ignore[arg-type]


def test_without_a_spread_over_rows_it_is_welchs_t_test():
    one, other = [0.31, 0.35, 0.36, 0.30], [0.22, 0.21, 0.26]
    (found,) = judged(
        by_row("default", np.repeat(other, 5).reshape(3, 5)),
        by_row("trial 1", np.repeat(one, 5).reshape(4, 5)),
    ).compared
    welch = stats.ttest_ind(one, other, equal_var=False)
    interval = welch.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(welch.pvalue)
    assert found.seed_share == pytest.approx(1)


def test_without_a_spread_over_seeds_it_is_the_paired_t_test_over_rows():
    rng = np.random.default_rng(0)
    other = rng.random(20)
    one = other + rng.normal(0.05, 0.1, 20)
    (found,) = judged(by_row("default", [other, other]), by_row("trial 1", [one, one, one])).compared
    paired = stats.ttest_rel(one, other)
    interval = paired.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(paired.pvalue)
    assert found.seed_share == pytest.approx(0)


def test_both_parts_are_weighted_by_their_variances():
    rng = np.random.default_rng(1)
    one, other = rng.normal(0.1, 1, (3, 40)), rng.normal(0, 1, (3, 40))
    (found,) = judged(by_row("default", other), by_row("trial 1", one)).compared
    rows = np.var(one.mean(0) - other.mean(0), ddof=1) / 40
    parts = [np.var(side.mean(1), ddof=1) / 3 for side in (one, other)]
    seeds = sum(parts)
    welch = seeds**2 / sum(part**2 / 2 for part in parts)
    half = (rows * stats.t.ppf(0.975, 39) + seeds * stats.t.ppf(0.975, welch)) / math.sqrt(rows + seeds)
    assert (found.high - found.low) / 2 == pytest.approx(half)


def test_several_comparisons_are_corrected_together():
    default = noisy("default", 0.2)
    alone = judged(default, noisy("trial 1", 0.25, seed=1), level=1 - 0.05 / 3).compared[0]
    among = judged(default, *(noisy(f"trial {n}", 0.25, seed=n) for n in (1, 2, 3))).compared[0]
    assert (among.low, among.high) == pytest.approx((alone.low, alone.high))
    assert among.p == pytest.approx(3 * alone.p)


@pytest.mark.parametrize("gain", [-0.3, -0.06, -0.03, 0.0, 0.03, 0.06, 0.3])
def test_decision_interval_and_p_value_say_the_same(gain):
    (found,) = judged(noisy("default", 0.5), noisy("trial 1", 0.5 + gain, seed=1)).compared
    assert found.low <= found.gain <= found.high
    expected = Outcome.GAIN if found.low > 0 else Outcome.WORSE if found.high < 0 else Outcome.TIE
    assert found.outcome is expected
    assert (found.p < 0.05) == (expected is not Outcome.TIE)


def test_every_outcome_occurs_and_where_less_is_better_it_turns_round():
    default, better, worse = (
        noisy("default", 0.5),
        noisy("trial 1", 0.8, seed=1),
        noisy("trial 2", 0.2, seed=2),
    )
    found = judged(default, better, worse)
    assert [one.outcome for one in found.compared] == [Outcome.GAIN, Outcome.WORSE]
    assert found.winner == found.compared[0]
    turned = judged(default, better, worse, direction="minimize")
    assert [one.outcome for one in turned.compared] == [Outcome.WORSE, Outcome.GAIN]
    assert turned.winner == turned.compared[1]
    assert turned.compared[1].gain == pytest.approx(-found.compared[1].gain)
    assert judged(default, noisy("trial 1", 0.5, seed=1)).outcome is Outcome.TIE
    assert judged(default, worse).outcome is Outcome.WORSE


@pytest.mark.parametrize(("seeds", "others"), [(0, 3), (1, 3), (3, 1), (3, 0), (1, 1)])
def test_below_two_seeds_on_either_side_there_is_no_verdict(seeds, others):
    candidate = noisy("trial 1", 9.0, seeds=seeds, seed=1) if seeds else by_row("trial 1", [])
    default = noisy("default", 0.0, seeds=others) if others else by_row("default", [])
    found = judged(default, candidate)
    (one,) = found.compared
    assert one.outcome is found.outcome is Outcome.NOT_ENOUGH_SEEDS
    assert (one.low, one.high, one.p) == (-math.inf, math.inf, 1.0)
    assert math.isnan(one.gain) == (0 in (seeds, others))
    assert (found.winner, found.tied, found.cheapest) == (None, (), None)


def test_one_finalist_without_enough_seeds_leaves_the_others_comparable():
    found = judged(noisy("default", 0.2), noisy("trial 1", 0.9, seeds=1), noisy("trial 2", 0.8, seed=2))
    assert [one.outcome for one in found.compared] == [Outcome.NOT_ENOUGH_SEEDS, Outcome.GAIN]
    assert found.winner == found.compared[1]


def test_no_finalist_at_all_is_a_tie():
    found = judged(noisy("default", 0.2))
    assert found.outcome is Outcome.TIE
    assert [one.name for one in found.tied] == ["default"]


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_cheapest_is_sought_among_real_gains_that_cannot_be_told_from_the_winner(direction):
    sign = 1 if direction == "maximize" else -1
    found = judged(
        noisy("default", 0.5, seconds=1),
        noisy("trial 1", 0.5 + sign * 0.305, seed=1, seconds=60),
        noisy("trial 2", 0.5 + sign * 0.3, seed=2, seconds=40),
        noisy("trial 3", 0.5 + sign * 0.15, seed=3, seconds=20),
        noisy("trial 4", 0.5, seed=4, seconds=10),
        direction=direction,
    )
    gains = {Outcome.GAIN: {"trial 1", "trial 2", "trial 3"}, Outcome.TIE: {"trial 4"}}
    assert {
        outcome: {one.name for one in found.compared if one.outcome is outcome} for outcome in gains
    } == gains
    assert {one.name for one in found.tied} == {"trial 1", "trial 2"}
    assert found.cheapest is not None
    assert (found.cheapest.name, found.cheapest.seconds) == ("trial 2", 40)


def test_without_a_winner_the_default_settings_are_among_the_tied():
    tie = noisy("trial 1", 0.5, seed=1, seconds=40)
    found = judged(noisy("default", 0.5, seconds=60), tie, noisy("trial 2", 0.1, seed=2, seconds=1))
    assert [one.name for one in found.tied] == ["default", "trial 1"]
    assert found.cheapest is not None
    assert found.cheapest.name == "trial 1"


def test_what_validation_promised_is_set_against_what_the_test_gave():
    default = by_row("default", [[0.2, 0.4], [0.4, 0.2]], validation=0.31)
    candidate = by_row("trial 1", [[0.3, 0.5], [0.5, 0.3]], validation=0.50)
    (found,) = judged(default, candidate).compared
    assert found.gain == pytest.approx(0.1)
    assert found.validation_gain == pytest.approx(0.19)
    assert found.optimism == pytest.approx(0.09)
    (unknown,) = judged(by_row("default", [[0.2, 0.4], [0.4, 0.2]]), candidate).compared
    assert (unknown.validation_gain, unknown.optimism) == (None, None)
    (turned,) = judged(default, candidate, direction="minimize").compared
    assert (turned.validation_gain, turned.optimism) == pytest.approx((-0.19, -0.09))


def test_constant_scores_are_a_tie_when_equal_and_a_gain_when_not():
    default = by_row("default", np.full((2, 7), 0.1))
    (equal,) = judged(default, by_row("trial 1", np.full((3, 7), 0.1))).compared
    assert (equal.outcome, equal.gain, equal.low, equal.high, equal.p) == (Outcome.TIE, 0, 0, 0, 1)
    (above,) = judged(default, by_row("trial 1", np.full((3, 7), 1.0))).compared
    assert (above.outcome, above.p) == (Outcome.GAIN, pytest.approx(0, abs=1e-12))
    assert above.low == pytest.approx(0.9)


@pytest.mark.parametrize(("seeds", "rows"), [(7, 2), (7, 30), (10, 30), (11, 3)])
def test_equal_scores_added_in_another_order_are_a_tie(seeds, rows):
    default, candidate = (by_row(f"side {n}", np.full((n, rows), 0.1)) for n in (2, seeds))
    (found,) = judged(default, candidate).compared
    assert (found.outcome, found.gain, found.p) == (Outcome.TIE, 0, 1)


def test_overwhelming_gains_have_a_p_value_of_zero():
    (found,) = judged(
        noisy("default", 0.0, rows=2000, seeds=400), noisy("trial 1", 9.0, rows=2000, seeds=400, seed=1)
    ).compared
    assert (found.outcome, found.p) == (Outcome.GAIN, 0.0)


def test_without_scores_per_row_the_rows_cannot_be_paired():
    rng = np.random.default_rng(0)
    rows = rng.normal(0.3, 0.2, 50)
    one, other = rows + rng.normal(0.05, 0.02, (3, 50)), rows + rng.normal(0, 0.02, (3, 50))
    paired = judged(by_row("default", other), by_row("trial 1", one)).compared[0]
    error = 0.2 / math.sqrt(50)
    apart = judged(
        Runs.overall("default", other.mean(1), error=error, test_rows=50, seconds=1.0),
        Runs.overall("trial 1", one.mean(1), error=error, test_rows=50, seconds=1.0),
    ).compared[0]
    assert apart.gain == pytest.approx(paired.gain)
    assert (paired.outcome, apart.outcome) == (Outcome.GAIN, Outcome.TIE)
    rows_alone = math.sqrt(2) * error * stats.t.ppf(0.975, 49)
    assert (apart.high - apart.low) / 2 > 0.95 * rows_alone
    mixed = judged(
        Runs.overall("default", other.mean(1), error=error, test_rows=50, seconds=1.0), by_row("trial 1", one)
    ).compared[0]
    assert mixed.high - mixed.low == pytest.approx(apart.high - apart.low, rel=0.1)


def test_jackknifed_rows_of_a_mean_are_the_rows():
    rows = np.random.default_rng(0).random(12)
    without = (rows.sum() - rows) / 11
    assert jackknife_rows(rows.mean(), without) == pytest.approx(rows)


def test_jackknifed_rows_of_a_ratio_have_its_value_and_its_jackknife_variance():
    rng = np.random.default_rng(0)
    sums, tokens = rng.random(30) * 9, rng.integers(1, 9, 30).astype(float)
    loss = sums.sum() / tokens.sum()
    without = (sums.sum() - sums) / (tokens.sum() - tokens)
    rows = jackknife_rows(loss, without)
    assert rows.mean() == pytest.approx(loss)
    jackknife = 29 / 30 * np.sum((without - without.mean()) ** 2)
    assert np.var(rows, ddof=1) / 30 == pytest.approx(jackknife)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_that_are_not_finite_are_refused(value):
    with pytest.raises(
        VerdictError,
        match=rf"trial 1: scores must be finite \(given: 0.2, {value}\); count such a run as failed",
    ):
        by_row("trial 1", [[0.1, 0.3], [0.1, value]])
    with pytest.raises(VerdictError, match="trial 1: scores must be finite"):
        Runs.overall("trial 1", [0.1, value], error=0.1, test_rows=5, seconds=1.0)


def test_a_single_row_is_refused():
    with pytest.raises(VerdictError, match=r"trial 1: a verdict needs at least 2 test rows \(given: 1\)"):
        by_row("trial 1", [[0.1], [0.2]])
    with pytest.raises(VerdictError, match="at least 2 test rows"):
        Runs.overall("trial 1", [0.1, 0.2], error=0.1, test_rows=1, seconds=1.0)


def test_what_is_no_table_of_runs_and_rows_is_refused():
    with pytest.raises(
        VerdictError, match=r"trial 1: scores per row must be runs x rows, not of shape \(3,\)"
    ):
        by_row("trial 1", [0.1, 0.2, 0.3])


@pytest.mark.parametrize("error", [math.nan, math.inf, -0.1])
def test_an_unknown_error_over_rows_is_refused(error):
    with pytest.raises(VerdictError, match=f"must be finite and not negative .given: {error:g}"):
        Runs.overall("trial 1", [0.1, 0.2], error=error, test_rows=5, seconds=1.0)


@pytest.mark.parametrize("seconds", [math.nan, -1.0])
def test_unknown_seconds_are_refused(seconds):
    with pytest.raises(VerdictError, match="trial 1: seconds must be finite and not negative"):
        noisy("trial 1", 0.1, seconds=seconds)


def test_different_numbers_of_rows_are_refused():
    with pytest.raises(VerdictError, match=r"scored on the same test rows \(given: \[50, 60\] rows\)"):
        judged(noisy("default", 0.1, rows=50), noisy("trial 1", 0.1, rows=60))


def test_names_that_repeat_are_refused():
    with pytest.raises(VerdictError, match=r"a name of its own \(given: trial 1, trial 1\)"):
        judged(noisy("trial 1", 0.1), noisy("trial 1", 0.2))


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_a_level_that_is_no_share_is_refused(level):
    with pytest.raises(VerdictError, match=f"must be between 0 and 1 .given: {level:g}"):
        judged(noisy("default", 0.1), noisy("trial 1", 0.2), level=level)


REPETITIONS = 200
CONF = Path(__file__).parents[1] / "conf"


def shipped(group: str) -> dict[str, Any]:
    """The files of a group; some set the lengths of the task beside what they are about."""
    files = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((CONF / group).glob("*.yaml"))}
    return {name: tree.get(group, tree) for name, tree in files.items()}


SHIPPED = {
    (name, rows): Budget(one["trials"], one["finalists"], one["seeds"], rows)
    for name, one in shipped("budget").items()
    for rows in sorted({data["sizes"]["test"] for data in shipped("data").values()})
}
"""Every budget with every number of test rows."""


def test_what_the_documentation_tells_of_is_what_is_shipped():
    assert {name for name, _ in SHIPPED} <= set(BUDGETS)
    assert all(BUDGETS[name] in SHIPPED.values() for name, _ in SHIPPED)


@pytest.fixture(scope="module")
def rates() -> dict[object, Rates]:
    """Without a true gain; the tables of docs/verdict.md have more repetitions."""
    return {
        (name, shape, ratio): simulate(budget, Noise(shape, ratio), REPETITIONS, seed=100 * index + position)
        for index, (name, budget) in enumerate(SHIPPED.items())
        for shape in ("Gaussian", "skewed")
        for position, ratio in enumerate(RATIOS)
    }


def failing(rates: dict[object, Rates], shares: Sequence[float]) -> dict[object, float]:
    return {case: share for case, share in zip(rates, shares, strict=True) if share < 0.93}


def test_intervals_cover_the_truth_and_noise_is_called_a_tie(rates):
    assert failing(rates, [rate.covered for rate in rates.values()]) == {}
    assert failing(rates, [rate.tied for rate in rates.values()]) == {}
    assert np.mean([rate.covered for rate in rates.values()]) > 0.96


def test_intervals_cover_the_truth_where_seeds_move_one_side_much_more():
    rates = {
        name: simulate(budget, Noise("skewed", 1.0, default_ratio=9.0), 400)
        for name, budget in SHIPPED.items()
    }
    assert {name: rate.covered for name, rate in rates.items() if rate.covered < 0.93} == {}


def test_real_gains_are_found():
    powers = [simulate(BUDGETS["standard"], Noise("skewed"), 100, gain=gain).gained for gain in (1, 2, 3)]
    assert powers == sorted(powers)
    assert powers[-1] > 0.75


def test_trials_that_were_lucky_on_validation_rows_are_called_a_tie():
    found = simulate(BUDGETS["standard"], Noise("skewed"), 300, selected=True)
    assert found.tied >= 0.93
    assert found.validation_gain > 1.5
    assert abs(found.test_gain) < 0.25


def macro_f1_rows(correct: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Rows of macro-F1 by the jackknife, [side, seed, row], for two classes."""
    predicted = np.where(correct, true, 1 - true)
    without, overall = np.zeros(correct.shape), np.zeros(correct.shape[:2])
    for label in (0, 1):
        hits = (predicted == label) & (true == label)
        named = (predicted == label) * 1 + (true == label)
        overall += hits.sum(-1) / named.sum(-1)
        without += (hits.sum(-1, keepdims=True) - hits) / (named.sum(-1, keepdims=True) - named)
    return np.array(
        [
            [jackknife_rows(score, row) for score, row in zip(scores, rows, strict=True)]
            for scores, rows in zip(overall, without, strict=True)
        ]
    )


def test_macro_f1_by_the_jackknife_is_covered_as_well():
    rng = np.random.default_rng(0)
    budget = BUDGETS["standard"]
    wrong, _ = draw(budget, Noise("zero-one"), np.zeros((250, budget.finalists)), rng)
    ties = []
    for run in wrong:
        rows = macro_f1_rows(run == 0, rng.random(budget.rows) < 0.3)
        found = judge(rows, np.zeros(budget.finalists + 1))
        ties.append(all(one.outcome is Outcome.TIE for one in found.compared))
    assert np.mean(ties) >= 0.93


def test_the_simulation_fails_methods_that_are_known_to_fail():
    rates = method_rates(BUDGETS["quick"], Noise(ratio=1.0), 1000)
    assert {method for method in METHODS if rates[method][0] < 0.93} == {
        "percentile bootstrap over seeds",
        "paired t over rows, seeds taken as given",
    }
