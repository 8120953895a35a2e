"""Answers to measure: texts, losses, classes."""

import numpy as np

from sweeper.config import EvaluationConfig, GenerationConfig, ObjectiveConfig, TaskConfig
from sweeper.config.metrics import metric_direction
from sweeper.metrics import Answers, Classes, Texts

REFERENCES = [
    "Return the number of rows in the table.",
    "Compute the running means of all columns.",
    "Open a file for reading.",
    "Draw samples from a normal distribution.",
    "Draw samples from a normal distribution.",
]
OUTPUTS = [
    "Returns the number of rows.",
    "Computes the mean of a column",
    "Open a file for reading.",
    "",
    "Draw samples from a uniform distribution, quickly.",
]
PROMPTS = [
    "The number of rows, and of columns.",
    "Means are running over columns.",
    "Opens a file for reading or writing.",
    "Samples.",
    "Draw samples from a uniform or normal one.",
]
LOSSES = {"loss_sums": [3.0, 8.0, 2.5, 4.0, 6.0], "token_counts": [3, 6, 5, 4, 2]}


def task(kind, metric, *further, slice_rows=5):
    return TaskConfig(
        kind=kind,
        prompt="{input}",
        chat_template=False,
        max_input_tokens=8,
        max_answer_tokens=8,
        objective=ObjectiveConfig(metric=metric, direction=metric_direction(metric) or "maximize"),
        generation=GenerationConfig(max_new_tokens=8, num_beams=1),
        evaluation=EvaluationConfig(
            marks_per_epoch=1, batch_size=1, samples=0, slice_rows=slice_rows, metrics=further
        ),
    )


def losses(n):
    return {"loss_sums": [1.0] * n, "token_counts": [1] * n}


def texts(outputs=OUTPUTS, references=REFERENCES, prompts=PROMPTS):
    found = LOSSES if len(outputs) == len(OUTPUTS) else losses(len(outputs))
    ended = [index % 3 > 0 for index in range(len(outputs))]
    prompts = list(prompts)[: len(outputs)]
    return Texts(outputs=outputs, references=references, prompts=prompts, ended=ended, **found)


def classes(predicted, true, probabilities=None, labels=None):
    """Where no probabilities are given, a class has 0.9 of the row it is predicted for."""
    size = int(max(*predicted, *true)) + 1
    if probabilities is None:
        probabilities = np.full((len(true), size), 0.1 / max(1, size - 1))
        probabilities[np.arange(len(true)), predicted] = 0.9
    names = labels or [f"c{i}" for i in range(probabilities.shape[1])]
    return Classes(
        predicted=predicted, true=true, probabilities=probabilities, labels=names, **losses(len(true))
    )


def drawn_classes(rows, size=3, seed=2, right=0.6):
    """Random rows of `size` classes with probabilities that know something."""
    draw = np.random.default_rng(seed)
    true = draw.integers(0, size, rows)
    scores = draw.random((rows, size))
    scores[np.arange(rows), true] += right
    shares = scores / scores.sum(1, keepdims=True)
    return classes(shares.argmax(1), true, shares)


EXAMPLES = {
    "generate": texts(),
    "chat": Answers(**LOSSES),
    "classify": classes([0, 1, 2, 2, 0, 1], [0, 1, 1, 2, 2, 0]),
}


def take(answers, rows):
    """The same of these rows alone."""
    from dataclasses import fields

    parts = {field.name: getattr(answers, field.name) for field in fields(answers)}
    labels = {"labels": parts.pop("labels")} if "labels" in parts else {}
    return type(answers)(**{name: np.asarray(part)[rows] for name, part in parts.items()}, **labels)
