"""Scores of a model's answers: every metric of a task, over all rows and over slices of them.

Shares lie in 0..1, BLEU and chrF too; losses are nats per token. The names are those of
`sweeper.config.metrics`; docs/metrics.md says what each one is. A package that adds metrics builds them of
`Mean` or `Sums`, or of a class of its own in the form of `Measured`.
"""

from sweeper.metrics.answers import Answers, Classes, Floats, Texts
from sweeper.metrics.generation import check_calls
from sweeper.metrics.measured import Mean, Measured, Sums
from sweeper.metrics.scores import Scores, objective_rows, score
from sweeper.metrics.slices import About, Slices, Slicing, check

__all__ = [
    "About",
    "Answers",
    "Classes",
    "Floats",
    "Mean",
    "Measured",
    "Scores",
    "Slices",
    "Slicing",
    "Sums",
    "Texts",
    "check",
    "check_calls",
    "objective_rows",
    "score",
]
