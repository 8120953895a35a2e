"""Is a trial really better than the default settings? The arithmetic of the verdict, without any training.

Default settings and finalists are retrained over a few seeds, and every run is scored on the same test
rows. A gain is uncertain for two reasons, which add up: the test rows are a sample, shared by all runs, so
that more seeds don't help; and seeds are few. docs/verdict.md has the method in plain words, why it was
chosen, and how often it is right.

The variance of a gain is V = R + S:

- R, the rows' part: the variance over rows of the difference of the two sides' means over seeds, divided by
  the number of rows n; n - 1 degrees of freedom. A row is compared with itself.
- S, the seeds' part: s1^2 / m1 + s0^2 / m0 from the scores of m1 and m0 runs, with Welch's degrees of freedom
  (Biometrika 34, 1947), so that one side may vary more from seed to seed than the other.

What rows and seeds do together is in both parts, which errs on the safe side. The half-width of the interval
is (R t_R + S t_S) / sqrt(V): Student's quantiles, weighted as Cochran and Cox do it (Experimental Designs,
1957) for two means of unequal variance. With k comparisons every interval has the level 1 - (1 - level) / k
(Bonferroni), so that together they hold with the level asked for, and a decision is what its interval says.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sweeper.errors import VerdictError

Floats = NDArray[np.float64]

MIN_SEEDS = 2
"""Runs that either side needs: one run says nothing about how much another seed would have changed."""

_LEAST_P = 1e-100
"""Smaller p-values are given as zero."""

_ROUNDING = 1e-12
"""A gain that is a smaller share of the scores than this comes from adding in another order."""


class Outcome(Enum):
    """What a comparison with the default settings came to."""

    GAIN = "gain"
    TIE = "tie"
    WORSE = "worse"
    NOT_ENOUGH_SEEDS = "not enough seeds"


@dataclass(frozen=True, eq=False)
class Runs:
    """The finished runs of one setting over its seeds, m of them, scored on the n test rows.

    Made by `by_row` or by `overall`. `name` is what a sentence calls it: "trial 5", "the default settings".
    """

    name: str
    scores: Floats
    """[m] a score per run; every run with a seed of its own."""
    rows: Floats | None
    """[m, n] a score per run and row, the same rows in the same order on every side, if there are any."""
    test_rows: int
    """n"""
    error: float
    """Standard error of a run's score over the rows; used where a side has no scores per row."""
    seconds: float
    """What a run costs, in seconds of a device."""
    validation: float | None = None
    """The score on validation rows that this setting was chosen by."""
    failed: int = 0
    """Runs that came to nothing; they have no score."""

    @classmethod
    def by_row(
        cls, name: str, rows: ArrayLike, *, seconds: float, validation: float | None = None, failed: int = 0
    ) -> "Runs":
        """Runs whose score is the mean over rows, or whose rows come from `jackknife_rows`; [m, n].

        Raises VerdictError for scores that aren't finite and for less than two rows.
        """
        values = np.asarray(rows, float)
        if values.size == 0:
            return cls(name, np.empty(0), None, 0, math.nan, seconds, validation, failed)
        if values.ndim != 2:
            raise VerdictError(f"{name}: scores per row must be runs x rows, not of shape {values.shape}")
        error = math.nan  # of a single row, or of scores that aren't finite: refused with the others
        if values.shape[1] > 1 and np.isfinite(values).all():
            error = float(np.std(values.mean(0), ddof=1)) / math.sqrt(values.shape[1])
        return cls(name, values.mean(1), values, values.shape[1], error, seconds, validation, failed)

    @classmethod
    def overall(
        cls,
        name: str,
        scores: ArrayLike,
        *,
        error: float,
        test_rows: int,
        seconds: float,
        validation: float | None = None,
        failed: int = 0,
    ) -> "Runs":
        """Runs with one score each, [m], and the standard error of such a score over the rows.

        The rows can't be paired then, which costs power; `jackknife_rows` avoids that.
        Raises VerdictError for scores or errors that aren't finite and for less than two rows.
        """
        return cls(name, np.asarray(scores, float), None, test_rows, error, seconds, validation, failed)

    def __post_init__(self) -> None:
        if len(self.scores) == 0:
            return
        if not np.isfinite(self.scores).all():
            given = ", ".join(f"{score:g}" for score in self.scores)
            raise VerdictError(
                f"{self.name}: scores must be finite (given: {given}); count such a run as failed"
            )
        if self.test_rows < 2:
            raise VerdictError(f"{self.name}: a verdict needs at least 2 test rows (given: {self.test_rows})")
        if not (self.error >= 0 and math.isfinite(self.error)):
            raise VerdictError(
                f"{self.name}: the standard error over the test rows must be finite and not negative "
                f"(given: {self.error:g})"
            )
        if not (self.seconds >= 0 and math.isfinite(self.seconds)):
            raise VerdictError(
                f"{self.name}: seconds must be finite and not negative (given: {self.seconds:g})"
            )

    @property
    def enough(self) -> bool:
        return len(self.scores) >= MIN_SEEDS


@dataclass(frozen=True)
class Compared:
    """One finalist against the default settings; positive gains are better, whatever the direction."""

    name: str
    outcome: Outcome
    gain: float
    """Difference of the mean test scores; NaN where a side has no finished run."""
    low: float
    high: float
    """Interval of the gain, corrected for all comparisons; infinite without enough seeds."""
    p: float
    """Corrected p-value: below 1 - level where the interval excludes zero; 1 without enough seeds."""
    seed_share: float
    """Share of the interval's width that is due to seeds, 0 to 1; the rest is due to rows."""
    seeds: int
    failed: int
    seconds: float
    """Of one run."""
    validation_gain: float | None
    """The gain that validation promised; too large on average, as the best of many was picked."""

    @property
    def optimism(self) -> float | None:
        """By how much validation promised too much: validation gain less test gain."""
        return None if self.validation_gain is None else self.validation_gain - self.gain


@dataclass(frozen=True)
class Tied:
    """One of several settings between which the test doesn't decide."""

    name: str
    seconds: float
    """Of one run."""


@dataclass(frozen=True)
class Comparison:
    """All finalists against the default settings, and what follows."""

    metric: str
    direction: Literal["maximize", "minimize"]
    level: float
    default: str
    default_seeds: int
    default_failed: int
    test_rows: int
    compared: tuple[Compared, ...]
    """In the order given."""
    winner: Compared | None
    """The largest gain among those that are real; None if there is none."""
    tied: tuple[Tied, ...]
    """With a winner: itself and the other real gains that can't be told from it. Without one: the default
    settings and those that can't be told from them. Empty if nothing could be compared for want of seeds."""

    @property
    def cheapest(self) -> Tied | None:
        """The one of `tied` whose runs cost least."""
        return min(self.tied, key=lambda one: one.seconds, default=None)

    @property
    def outcome(self) -> Outcome:
        """GAIN if any is real; else TIE if any is; else WORSE if any is. Nothing to compare is a TIE."""
        found = {compared.outcome for compared in self.compared}
        order = (Outcome.GAIN, Outcome.TIE, Outcome.WORSE, Outcome.NOT_ENOUGH_SEEDS)
        return next((outcome for outcome in order if outcome in found), Outcome.TIE)


def compare(
    default: Runs,
    candidates: Sequence[Runs],
    *,
    metric: str,
    direction: Literal["maximize", "minimize"],
    level: float = 0.95,
) -> Comparison:
    """Compare every candidate with the default settings, all intervals together at `level`.

    A real gain needs two seeds on either side and an interval above zero. Raises VerdictError where names
    repeat, the numbers of test rows differ or `level` isn't between 0 and 1.
    """
    sides = {runs.name: runs for runs in (default, *candidates)}
    if len(sides) <= len(candidates):
        raise VerdictError(f"every side needs a name of its own (given: {_names(default, candidates)})")
    sizes = {runs.test_rows for runs in sides.values() if len(runs.scores)}
    if len(sizes) > 1:
        raise VerdictError(f"all runs must be scored on the same test rows (given: {sorted(sizes)} rows)")
    if not 0 < level < 1:
        raise VerdictError(f"the level of an interval must be between 0 and 1 (given: {level:g})")

    sign = 1 if direction == "maximize" else -1
    compared = tuple(_against(default, one, sign, 1 - level, len(candidates)) for one in candidates)
    real = [one for one in compared if one.outcome is Outcome.GAIN]
    winner = max(real, key=lambda one: one.gain, default=None)
    if winner is not None:
        alpha = (1 - level) / max(math.comb(len(candidates), 2), 1)
        others = [one.name for one in real if one is not winner]
        best = sides[winner.name]
        tied = [best.name, *(name for name in others if _alike(best, sides[name], alpha))]
    elif default.enough and (not candidates or any(candidate.enough for candidate in candidates)):
        tied = [default.name, *(one.name for one in compared if one.outcome is Outcome.TIE)]
    else:
        tied = []
    return Comparison(
        metric=metric,
        direction=direction,
        level=level,
        default=default.name,
        default_seeds=len(default.scores),
        default_failed=default.failed,
        test_rows=max(sizes, default=0),
        compared=compared,
        winner=winner,
        tied=tuple(Tied(name, sides[name].seconds) for name in tied),
    )


def jackknife_rows(score: float, without: ArrayLike) -> Floats:
    """Scores per row, [n], for a metric that is no mean over rows: macro-F1, AUROC, loss per token.

    `without` holds the metric without each row in turn, [n]. What comes out has `score` as its mean, and the
    variance of that mean is the jackknife's, so that rows can be paired between runs: Tukey's pseudo-values,
    centred. Dorfman, Berbaum and Metz (Investigative Radiology 27, 1992) compare AUROCs in this way.
    """
    values = np.asarray(without, float)
    rows: Floats = score + (len(values) - 1) * (values.mean() - values)
    return rows


@dataclass(frozen=True)
class _Difference:
    """A difference of two sides, and the two parts of its variance with their degrees of freedom."""

    value: float
    rows: float
    rows_df: float
    seeds: float
    seeds_df: float

    @classmethod
    def of(cls, side: Runs, other: Runs, sign: int) -> "_Difference":
        """`side` less `other`, each with MIN_SEEDS runs or more; `sign` -1 where less is better."""
        value = sign * float(side.scores.mean() - other.scores.mean())
        if abs(value) <= _ROUNDING * max(np.abs(side.scores).max(), np.abs(other.scores).max()):
            value = 0.0
        if side.rows is None or other.rows is None:
            # Rows that are hard for one side are hard for the other: a positive covariance, left out here.
            rows = side.error**2 + other.error**2
        else:
            rows = float(np.var(side.rows.mean(0) - other.rows.mean(0), ddof=1)) / side.test_rows
        parts = [float(np.var(runs.scores, ddof=1)) / len(runs.scores) for runs in (side, other)]
        squares = sum(
            part**2 / (len(runs.scores) - 1) for part, runs in zip(parts, (side, other), strict=True)
        )
        # Without any spread the degrees of freedom don't matter.
        seeds_df = sum(parts) ** 2 / squares if squares > 0 else 1.0
        return cls(value, rows, side.test_rows - 1, sum(parts), seeds_df)

    def margin(self, alpha: float) -> float:
        """Half-width of the interval of level 1 - alpha."""
        return self._of_rows(alpha) + self._of_seeds(alpha)

    def p(self) -> float:
        """The alpha whose interval ends at zero."""
        from scipy.optimize import brentq  # half a second to import

        size = abs(self.value)
        if size == 0:
            return 1.0
        if self.margin(_LEAST_P) < size:
            return 0.0
        exponent = brentq(lambda power: self.margin(10.0**power) - size, math.log10(_LEAST_P), 0.0)
        return float(10.0**exponent)

    def seed_share(self, alpha: float) -> float:
        """Share of `margin` that the seeds account for; 0 where there is no margin."""
        margin = self.margin(alpha)
        return self._of_seeds(alpha) / margin if margin > 0 else 0.0

    def _of_rows(self, alpha: float) -> float:
        return self._weight(self.rows) * _quantile(self.rows_df, alpha)

    def _of_seeds(self, alpha: float) -> float:
        return self._weight(self.seeds) * _quantile(self.seeds_df, alpha)

    def _weight(self, part: float) -> float:
        return part / math.sqrt(self.rows + self.seeds) if part > 0 else 0.0


def _quantile(df: float, alpha: float) -> float:
    """Of Student's t: what its size exceeds with probability alpha."""
    from scipy.special import stdtrit

    return -float(stdtrit(df, alpha / 2))


def _against(default: Runs, candidate: Runs, sign: int, alpha: float, comparisons: int) -> Compared:
    """`candidate` against `default`; `alpha` is for all `comparisons` together."""
    if default.enough and candidate.enough:
        difference = _Difference.of(candidate, default, sign)
        gain, margin = difference.value, difference.margin(alpha / comparisons)
        p, seed_share = min(1.0, comparisons * difference.p()), difference.seed_share(alpha / comparisons)
        outcome = Outcome.GAIN if gain > margin else Outcome.WORSE if gain < -margin else Outcome.TIE
    else:
        both = len(default.scores) and len(candidate.scores)
        gain = sign * float(candidate.scores.mean() - default.scores.mean()) if both else math.nan
        margin, p, seed_share, outcome = math.inf, 1.0, 1.0, Outcome.NOT_ENOUGH_SEEDS
    known = candidate.validation is not None and default.validation is not None
    return Compared(
        name=candidate.name,
        outcome=outcome,
        gain=gain,
        low=-math.inf if math.isinf(margin) else gain - margin,
        high=math.inf if math.isinf(margin) else gain + margin,
        p=p,
        seed_share=seed_share,
        seeds=len(candidate.scores),
        failed=candidate.failed,
        seconds=candidate.seconds,
        validation_gain=sign * (candidate.validation - default.validation) if known else None,  # type: ignore[operator]
    )


def _alike(side: Runs, other: Runs, alpha: float) -> bool:
    difference = _Difference.of(side, other, 1)
    return abs(difference.value) <= difference.margin(alpha)


def _names(default: Runs, candidates: Sequence[Runs]) -> str:
    return ", ".join(runs.name for runs in (default, *candidates))
