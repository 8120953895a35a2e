"""Loss and perplexity: how likely the right answers are to the model."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sweeper.metrics.answers import Answers, Floats
from sweeper.metrics.measured import Measured, Rows, Sums, ratio


def measure(answers: Answers) -> Mapping[str, Measured]:
    """`loss` in nats per token, over all tokens alike, and `perplexity`, its exponential."""
    parts = np.array([answers.loss_sums, answers.token_counts], dtype=np.float64).T
    loss = Sums(parts, ratio, parts[:, 0] / parts[:, 1])
    return {"loss": loss, "perplexity": _Exponential(loss)}


@dataclass(frozen=True)
class _Exponential:
    """exp of another metric, with its error by the delta method."""

    of: Measured
    per_row: Floats | None = None

    def value(self, rows: Rows) -> float:
        with np.errstate(over="ignore"):
            return float(np.exp(self.of.value(rows)))

    def error(self, rows: Rows) -> float:
        return self.value(rows) * self.of.error(rows)
