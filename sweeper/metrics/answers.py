"""What a model made of rows: the material that every metric is measured on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """What a model made of n rows, measured by its loss alone (task.kind=chat without generated answers).

    `loss_sums` are nats summed over each row's answer tokens, `token_counts` how many tokens those are.
    """

    loss_sums: Sequence[float]
    token_counts: Sequence[int]


@dataclass(frozen=True)
class Texts(Answers):
    """Generated texts beside the reference texts and what the model was given (task.kind=generate; of a
    chat: the last turn of the assistant that is within the length limit, and all before it)."""

    outputs: Sequence[str]
    references: Sequence[str]
    prompts: Sequence[str]
    ended: Sequence[bool] = ()
    """Whether each output ended by itself, not at the limit of tokens; empty where that is not known."""


@dataclass(frozen=True)
class Classes(Answers):
    """Predicted beside true class ids (task.kind=classify); each row counts as one token."""

    predicted: Sequence[int]
    true: Sequence[int]
    probabilities: Floats
    """[n, classes], each row adds up to 1."""
    labels: Sequence[str]
    """Names of the classes, by id."""
