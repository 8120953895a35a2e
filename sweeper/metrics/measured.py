"""A metric on the rows of one evaluation, ready to be asked for any part of them.

Most metrics are a formula of sums over rows. Then parts of the rows cost next to nothing, and so does the
jackknife, which leaves out each row in turn (Efron, "The Jackknife, the Bootstrap and Other Resampling
Plans", 1982): for a plain mean it gives std / sqrt(n).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sweeper.metrics.answers import Floats

Rows = NDArray[np.intp]
"""Numbers of rows, [m]."""

NOWHERE = float("nan")


class Measured(Protocol):
    """A metric's value over any of the rows it was measured on, and how sure it is."""

    @property
    def per_row(self) -> Floats | None:
        """[n] its value for every single row; None where a single row has none."""

    def value(self, rows: Rows) -> float:
        """Over these rows, of which there is one at least; NaN where they don't have it."""

    def error(self, rows: Rows) -> float:
        """Standard error of `value` over the rows; NaN where it has none, e.g. for a single row."""


@dataclass(frozen=True)
class Sums:
    """A formula of sums over rows: `parts` [n, k] are each row's summands.

    `formula` goes from sums [..., k] to values [...].
    """

    parts: Floats
    formula: Callable[[Floats], Floats]
    per_row: Floats | None = None

    def value(self, rows: Rows) -> float:
        with np.errstate(all="ignore"):
            return float(self.formula(self.parts[rows].sum(0)))

    def error(self, rows: Rows) -> float:
        parts = self.parts[rows]
        with np.errstate(all="ignore"):
            return jackknife(self.formula(parts.sum(0) - parts)) if len(rows) > 1 else NOWHERE


class Mean(Sums):
    """The mean of a number that every row has by itself."""

    def __init__(self, per_row: Sequence[float] | Floats) -> None:
        values = np.asarray(per_row, dtype=np.float64)
        super().__init__(np.stack([values, np.ones_like(values)], axis=-1), ratio, values)


def ratio(sums: Floats) -> Floats:
    """The first sum by the second, [..., 2] to [...]; NaN by nothing."""
    found: Floats = np.divide(
        sums[..., 0], sums[..., 1], out=np.full(sums.shape[:-1], NOWHERE), where=sums[..., 1] != 0
    )
    return found


def share(part: Floats, whole: Floats) -> Floats:
    """part / whole, 0 where there is nothing."""
    found: Floats = np.divide(part, whole, out=np.zeros_like(part, dtype=np.float64), where=whole > 0)
    return found


def jackknife(without: Floats) -> float:
    """Standard error of a metric from its values without each of the n rows in turn."""
    n = len(without)
    return float(np.sqrt((n - 1) / n * np.sum((without - without.mean()) ** 2)))
