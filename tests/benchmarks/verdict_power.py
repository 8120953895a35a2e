"""How often the verdict is right, by simulation: python -m tests.benchmarks.verdict_power

    python -m tests.benchmarks.verdict_power --repetitions 200      # does it run at all?

Retrained settings are drawn at random, scored row by row and given to `sweeper.comparison.compare`; the truth
is known, so every verdict can be checked. A run's score on a row is made of

    the row itself + what its setting does with this row + the seed + what seed and row do together

whose variances are shares of one, and the seed's. Units: the variance over rows of the mean score of one
run is the row variance; `ratio` is the seed variance in units of it; a standard deviation (SD) is that of
one run's test score, the root of both together. Rows are Gaussian; or skewed, between 0 and 1 with many
zeros, as ROUGE-L is; or 0 or 1.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from sweeper.comparison import Comparison, Outcome, Runs, compare

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Budget:
    """What a verdict has to go by."""

    trials: int
    """Among which the finalists are chosen."""
    finalists: int
    seeds: int
    rows: int


BUDGETS = {
    "quick": Budget(trials=8, finalists=1, seeds=3, rows=96),
    "standard": Budget(trials=40, finalists=1, seeds=5, rows=128),
    "k=3, s=5, 500 rows": Budget(trials=100, finalists=3, seeds=5, rows=500),
}
"""The shipped ones with as many test rows as the shipped data have, and a larger one with three finalists."""

OTHERS = {
    f"k={k}, s={seeds}, {rows} rows": Budget(40, k, seeds, rows)
    for k, seeds, rows in (
        (1, 2, 96), (1, 3, 64), (1, 3, 500), (1, 5, 500), (2, 4, 128), (2, 5, 128), (3, 3, 128), (3, 5, 128),
        (1, 10, 128),
    )
}  # fmt: skip
"""What else could be bought."""

RATIOS = (0.0, 0.5, 1.0, 2.0)

SHAPES: dict[str, Callable[[Floats], Floats]] = {
    "Gaussian": lambda latent: latent,
    "skewed": lambda latent: np.clip(latent + 0.3, 0.0, 3.0) ** 2 / 9,
    "zero-one": lambda latent: (latent > 0.5).astype(float),
}
"""From a standard normal latent score to the score of a row; `skewed` has 38 % zeros."""


@dataclass(frozen=True)
class Noise:
    """Where a run's score comes from, apart from its setting."""

    shape: str = "Gaussian"
    ratio: float = 1.0
    """Seed variance of the finalists, in units of the row variance."""
    default_ratio: float | None = None
    """The same of the default settings; like the finalists' if None."""
    shared: float = 0.5
    """Share of the row variance that is the same for all settings."""
    own: float = 0.2
    """Share that each setting has for itself; the rest changes with every run."""
    same_order: float = 0.0
    """Correlation between the seed effects of equal seed number."""

    @property
    def sd(self) -> float:
        """Of one run's test score, in units of the root of the row variance."""
        return math.sqrt(1 + self.ratio)


@dataclass(frozen=True)
class Rates:
    """Shares of the simulated verdicts."""

    covered: float
    """All intervals hold the truth."""
    tied: float
    """Every finalist was called a tie."""
    gained: float
    """The first finalist was called a gain."""
    validation_gain: float = math.nan
    """Of the best finalist, on average, in SD."""
    test_gain: float = math.nan


def draw(budget: Budget, noise: Noise, effects: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Scores [repetition, side, seed, row] and true scores [repetition, side]; the default settings first.

    `effects` [repetition, finalist] are true gains in SD, realised where they are small.
    """
    repetitions, finalists = effects.shape
    shape = SHAPES[noise.shape]
    slope, deviation = _slope(shape), float(np.std(shape(_NORMAL)))
    to_latent = deviation / slope / math.sqrt(budget.rows)

    moved = np.zeros((repetitions, finalists + 1))
    moved[:, 1:] = effects * noise.sd * to_latent
    default_ratio = noise.ratio if noise.default_ratio is None else noise.default_ratio
    spread = np.sqrt([default_ratio, *[noise.ratio] * finalists]) * to_latent
    common = math.sqrt(noise.same_order) * rng.standard_normal((repetitions, 1, budget.seeds))
    alone = rng.standard_normal((repetitions, finalists + 1, budget.seeds))
    seeds = spread[:, None] * (common + math.sqrt(1 - noise.same_order) * alone)

    sides, rows = finalists + 1, budget.rows
    rest = max(1 - noise.shared - noise.own, 0.0)
    latent = math.sqrt(rest) * rng.standard_normal((repetitions, sides, budget.seeds, rows))
    latent += math.sqrt(noise.own) * rng.standard_normal((repetitions, sides, 1, rows))
    latent += math.sqrt(noise.shared) * rng.standard_normal((repetitions, 1, 1, rows))
    latent += (moved[:, :, None] + seeds)[..., None]

    truth = np.empty_like(moved)
    for side, deviation in enumerate(np.hypot(1, spread)):
        grid = np.linspace(moved[:, side].min(), moved[:, side].max() + 1e-9, 33)
        means = [shape(point + deviation * _NORMAL).mean() for point in grid]
        truth[:, side] = np.interp(moved[:, side], grid, means)
    return shape(latent), truth


_NORMAL = ndtri((np.arange(20_000) + 0.5) / 20_000)
"""Evenly spaced quantiles of the standard normal distribution."""


def _slope(shape: Callable[[Floats], Floats]) -> float:
    """How much the mean score moves with the latent one."""
    return float(shape(_NORMAL + 0.05).mean() - shape(_NORMAL - 0.05).mean()) / 0.1


def simulate(
    budget: Budget,
    noise: Noise,
    repetitions: int,
    *,
    gain: float = 0.0,
    selected: bool = False,
    seed: int = 0,
) -> Rates:
    """Judge `repetitions` sweeps whose first finalist is better by `gain` SD, the others not at all.

    `selected`: finalists are those of all trials that did best on validation rows, which are as noisy as the
    test of one run. With no true gain it is nothing but luck who is chosen.
    """
    rng = np.random.default_rng(seed)
    covered, tied, gained, promised, found = [], [], [], [], []
    for count in _portions(repetitions, budget):
        effects = np.zeros((count, budget.finalists))
        effects[:, 0] = gain
        validation = np.zeros((count, budget.finalists + 1))
        if selected:
            luck = rng.standard_normal((count, budget.trials)) * noise.sd
            validation[:, 0] = luck[:, 0]  # trial 0 is the default settings
            validation[:, 1:] = -np.sort(-luck[:, 1:])[:, : budget.finalists]
        scores, truth = draw(budget, noise, effects, rng)
        unit = float(np.std(SHAPES[noise.shape](_NORMAL))) / math.sqrt(budget.rows)
        for rows, true, chosen_by in zip(scores, truth, validation * unit, strict=True):
            comparison = judge(rows, chosen_by)
            true_gains = true[1:] - true[0]
            pairs = list(zip(comparison.compared, true_gains, strict=True))
            covered.append(all(one.low <= of <= one.high for one, of in pairs))
            tied.append(all(one.outcome is Outcome.TIE for one, _ in pairs))
            gained.append(comparison.compared[0].outcome is Outcome.GAIN)
            promised.append((comparison.compared[0].validation_gain or 0.0) / unit / noise.sd)
            found.append(comparison.compared[0].gain / unit / noise.sd)
    return Rates(*(float(np.mean(values)) for values in (covered, tied, gained, promised, found)))


def judge(rows: Floats, validation: Sequence[float] | Floats) -> Comparison:
    """The verdict on scores [side, seed, row], by the function that a sweep calls."""
    sides = [
        Runs.by_row(f"trial {number}", of_side, seconds=1.0, validation=float(chosen_by))
        for number, (of_side, chosen_by) in enumerate(zip(rows, validation, strict=True))
    ]
    return compare(sides[0], sides[1:], metric="score", direction="maximize")


def _portions(repetitions: int, budget: Budget) -> Iterator[int]:
    """Counts that add up to `repetitions`, each with at most two million scores."""
    most = max(2_000_000 // ((budget.finalists + 1) * budget.seeds * budget.rows), 1)
    while repetitions > 0:
        yield min(repetitions, most)
        repetitions -= most


METHODS = (
    "percentile bootstrap over seeds",
    "Welch's t over seeds, rows taken as given",
    "paired t over rows, seeds taken as given",
    "both parts, Satterthwaite's degrees of freedom",
    "both parts, seeds pooled, 2(m-1) degrees of freedom",
    "both parts, Cochran and Cox (the one taken)",
    "both parts, Banerjee",
)


def half_widths(scores: Floats, rng: np.random.Generator) -> dict[str, Floats]:
    """Half-widths [repetition, finalist] by every method of METHODS, Bonferroni-corrected to 95 %."""
    _, sides, seeds, rows = scores.shape
    alpha = 0.05 / (sides - 1) / 2
    differences = (scores[:, 1:] - scores[:, :1]).mean(2)
    of_rows = differences.var(-1, ddof=1) / rows
    means = scores.mean(-1)
    part = means.var(-1, ddof=1) / seeds
    one, other = part[:, 1:], part[:, :1]
    of_seeds = one + other
    welch = of_seeds**2 / (one**2 + other**2) * (seeds - 1)
    both = of_rows + of_seeds
    satterthwaite = both**2 / (of_rows**2 / (rows - 1) + (one**2 + other**2) / (seeds - 1))

    def t(df: Any) -> Any:
        return -stdtrit(df, alpha)

    picks = rng.integers(seeds, size=(2, 400, seeds))
    resampled = means[:, 1:, picks[0]].mean(-1) - means[:, :1, picks[1]].mean(-1)
    centre = (means[:, 1:] - means[:, :1]).mean(-1)
    # The half-width towards zero gain is what decides; the percentile interval is nearly symmetric here.
    low, high = np.quantile(resampled, [alpha, 1 - alpha], axis=-1)
    bootstrap = np.where(centre > 0, centre - low, high - centre)
    widths = (
        bootstrap,
        t(welch) * np.sqrt(of_seeds),
        t(rows - 1.0) * np.sqrt(of_rows),
        t(satterthwaite) * np.sqrt(both),
        (of_rows * t(rows - 1.0) + of_seeds * t(2.0 * (seeds - 1))) / np.sqrt(both),
        (of_rows * t(rows - 1.0) + of_seeds * t(welch)) / np.sqrt(both),
        np.sqrt(t(rows - 1.0) ** 2 * of_rows + t(welch) ** 2 * of_seeds),
    )
    return dict(zip(METHODS, widths, strict=True))


def method_rates(budget: Budget, noise: Noise, repetitions: int) -> dict[str, tuple[float, float]]:
    """Simultaneous coverage without a gain, and power for a gain of 2 SD, of every method."""
    rng = np.random.default_rng(0)
    totals = {method: np.zeros(2) for method in METHODS}
    for count in _portions(repetitions, budget):
        scores, truth = draw(budget, noise, np.zeros((count, budget.finalists)), rng)
        gains = scores.mean((2, 3))[:, 1:] - scores.mean((2, 3))[:, :1]
        error = gains - (truth[:, 1:] - truth[:, :1])
        added = 2 * noise.sd * float(np.std(SHAPES[noise.shape](_NORMAL))) / math.sqrt(budget.rows)
        for method, width in half_widths(scores, rng).items():
            covered = (np.abs(error) <= width).all(-1).sum()
            totals[method] += covered, (error[:, 0] + added > width[:, 0]).sum()
    return {method: (float(a) / repetitions, float(b) / repetitions) for method, (a, b) in totals.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=2000)
    repetitions = parser.parse_args().repetitions
    for print_table in (print_coverage, print_power, print_hard_cases, print_methods, print_selection):
        print_table(repetitions)


def print_coverage(repetitions: int) -> None:
    print(
        "\nCoverage of the 95 % intervals, all together; no true gain: the share called a tie is the same\n"
    )
    print("| budget | rows are | " + " | ".join(f"seed variance {ratio:g}" for ratio in RATIOS) + " |")
    print("|---|---" + "|---" * len(RATIOS) + "|")
    for name, budget in BUDGETS.items():
        for shape in SHAPES:
            rates = [simulate(budget, Noise(shape, ratio), repetitions) for ratio in RATIOS]
            print(
                f"| {name} | {shape} | " + " | ".join(f"{100 * rate.covered:.1f} %" for rate in rates) + " |"
            )


def print_power(repetitions: int) -> None:
    print("\nPower: a true gain of 1 / 2 / 3 SD is called a gain\n")
    print("| budget | runs | rows are | " + " | ".join(f"seed variance {ratio:g}" for ratio in RATIOS) + " |")
    print("|---|---|---" + "|---" * len(RATIOS) + "|")
    for name, budget in (BUDGETS | OTHERS).items():
        runs = (budget.finalists + 1) * budget.seeds
        for shape in ("Gaussian", "skewed") if name in BUDGETS else ("Gaussian",):
            cells = []
            for ratio in RATIOS:
                noise = Noise(shape, ratio)
                gained = [simulate(budget, noise, repetitions // 2, gain=gain).gained for gain in (1, 2, 3)]
                cells.append(" / ".join(f"{100 * share:.0f}" for share in gained) + " %")
            print(f"| {name} | {runs} | {shape} | " + " | ".join(cells) + " |")


HARD = {
    "default settings with 9 times the seed variance": Noise(ratio=1.0, default_ratio=9.0),
    "default settings with 100 times the seed variance": Noise(ratio=1.0, default_ratio=100.0),
    "default settings without seed variance": Noise(ratio=2.0, default_ratio=0.0),
    "no row in common": Noise(shared=0.0, own=0.5),
    "rows nearly all in common": Noise(shared=0.9, own=0.05),
    "every run answers the rows anew": Noise(shared=0.0, own=0.0),
    "equal seed numbers agree (0.5)": Noise(same_order=0.5),
    "a true gain of 2 SD, skewed rows": Noise("skewed"),
}


def print_hard_cases(repetitions: int) -> None:
    print("\nCoverage where the assumptions bend; seed variance 1\n")
    print("| case | " + " | ".join(BUDGETS) + " |")
    print("|---" * (len(BUDGETS) + 1) + "|")
    for case, noise in HARD.items():
        gain = 2.0 if "true gain" in case else 0.0
        rates = [simulate(budget, noise, repetitions, gain=gain) for budget in BUDGETS.values()]
        print(f"| {case} | " + " | ".join(f"{100 * rate.covered:.1f} %" for rate in rates) + " |")


def print_methods(repetitions: int) -> None:
    print(
        "\nMethods: least coverage over seed variances 0 to 2; the same with 9 times the seed variance in the"
    )
    print("default settings; power for a gain of 2 SD at seed variance 1. Gaussian rows\n")
    print("| method | " + " | ".join(BUDGETS) + " |")
    print("|---" * (len(BUDGETS) + 1) + "|")
    cells: dict[str, list[str]] = {method: [] for method in METHODS}
    for budget in BUDGETS.values():
        equal = {ratio: method_rates(budget, Noise(ratio=ratio), repetitions) for ratio in RATIOS}
        unequal = [
            method_rates(budget, Noise(ratio=ratio, default_ratio=9 * ratio), repetitions)
            for ratio in RATIOS
            if ratio
        ]
        for method in METHODS:
            least, bent = (
                100 * min(r[method][0] for r in rates) for rates in (list(equal.values()), unequal)
            )
            cells[method].append(f"{least:.0f} %, {bent:.0f} %; {100 * equal[1.0][method][1]:.0f} %")
    for method, columns in cells.items():
        print(f"| {method} | " + " | ".join(columns) + " |")


def print_selection(repetitions: int) -> None:
    print("\nAll trials equally good, finalists chosen by validation scores; seed variance 1, skewed rows\n")
    print("| budget | of trials | validation promised | test gave | called a tie |")
    print("|---|---|---|---|---|")
    for name, budget in BUDGETS.items():
        rates = simulate(budget, Noise("skewed"), repetitions, selected=True)
        gains = f"{rates.validation_gain:.2f} SD | {rates.test_gain:.2f} SD"
        print(f"| {name} | {budget.trials} | {gains} | {100 * rates.tied:.1f} % |")


if __name__ == "__main__":
    main()
