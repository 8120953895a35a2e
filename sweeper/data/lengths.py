"""Lengths that follow from the rows: as many tokens as nearly all of them need.

Where `task.max_input_tokens` or `task.max_answer_tokens` is auto, the rows are counted before they are
prepared: `PERCENTILE` of 100 are not cut, as far as the model's positions and the memory of a device allow.
"""

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from sweeper.config import ModelConfig, TaskConfig
from sweeper.config.types import AUTO
from sweeper.data.encode import IGNORED, Architecture, Encoded, Encoder, Unusable
from sweeper.data.manifest import Lengths
from sweeper.data.texts import Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


PERCENTILE = 98
"""Of 100 rows so many are not cut."""

ROWS = 2000
"""Rows that are counted at most, drawn by the sweep's seed."""

ON_GPU, ON_CPU = 4096, 1024
"""Tokens of a row at most: memory, and on a CPU time, grow with the longest row."""

_LEAST = 16
_STEP = 8
"""Lengths are multiples of it, so that a few rows more or less make no other sweep."""
_END = 1
_SPARE = 4
"""A text that is cut may have some tokens more where the prompt goes on."""


def take(
    task: TaskConfig,
    tokenizer: "PreTrainedTokenizerBase",
    architecture: Architecture,
    rows: Sequence[Text],
    positions: int | None,
    most: int,
) -> Lengths:
    """The lengths that `task` leaves to the rows, of which `rows` are a sample.

    `positions` is the number of tokens that the model can look at, `most` what a device has room for, beside
    a length that is given. Where no row can be encoded they are what there is room for: preparing the rows
    tells why.
    """
    if AUTO not in task.lengths.values():
        return Lengths()
    room = most + task.max_input_tokens + task.max_answer_tokens
    room = min(room, positions or room)
    is_chat = task.kind == "chat"
    around = 0 if is_chat else _around(task, tokenizer, architecture, rows)
    encoder = Encoder(_limited(task, room), tokenizer, architecture)
    inputs, answers, whole = array("q"), array("q"), array("q")
    for one in _encoded(encoder, rows):
        inputs.append(len(one.prompt_ids) - around)
        answers.extend(_turns(one) if is_chat else [one.answer_tokens])
        whole.append(one.answer_tokens)
    if whole:
        answer = _percentile(answers)
        wanted = max(_LEAST, _percentile(whole) - answer) if is_chat else _percentile(inputs), answer
    else:
        wanted = room, room
    fitted = _fitted(task, wanted, room - (0 if is_chat else around + _END + _SPARE), architecture)
    filled = task.with_lengths(dict(zip(("max_input_tokens", "max_answer_tokens"), fitted, strict=True)))
    filled = filled.with_lengths({"max_new_tokens": filled.max_answer_tokens})
    taken = {name: filled.lengths[name] for name, given in task.lengths.items() if given == AUTO}
    is_bound = any(
        given == AUTO and most < need
        for given, most, need in zip(
            (task.max_input_tokens, task.max_answer_tokens), fitted, wanted, strict=True
        )
    )
    return Lengths(taken, len(whole), PERCENTILE, room if is_bound else None)


def most_tokens(model: ModelConfig) -> int:
    """Tokens of a row at most, where lengths follow from the rows, by the device that the model is on."""
    from sweeper.models.pretrained import choose_device

    device = choose_device(model).type if model.device == "auto" else model.device
    return ON_GPU if device == "cuda" else ON_CPU


def _limited(task: TaskConfig, limit: int) -> TaskConfig:
    return replace(task, max_input_tokens=limit, max_answer_tokens=limit)


def _encoded(encoder: Encoder, rows: Sequence[Text]) -> Iterator[Encoded]:
    for row in rows:
        try:
            yield encoder.encode(row)
        except Unusable:
            continue


def _turns(chat: Encoded) -> Iterator[int]:
    """Tokens of each of the assistant's turns."""
    for has_loss, turn in groupby(chat.labels, lambda label: label != IGNORED):
        if has_loss:
            yield sum(1 for _ in turn)


def _around(
    task: TaskConfig, tokenizer: "PreTrainedTokenizerBase", architecture: Architecture, rows: Sequence[Text]
) -> int:
    """Tokens of a prompt beside the input's."""
    encoder = Encoder(_limited(task, 1), tokenizer, architecture)
    return next((max(0, len(one.prompt_ids) - 1) for one in _encoded(encoder, rows)), 0)


def _percentile(counts: Sequence[int]) -> int:
    count = float(np.percentile(counts, PERCENTILE, method="higher"))
    return max(_LEAST, _STEP * math.ceil(count / _STEP))


def _fitted(
    task: TaskConfig, wanted: tuple[int, int], room: int, architecture: Architecture
) -> tuple[int, int]:
    """Lengths of input and answer as far as there is room; a given one stays as it is."""
    inputs, answers = task.max_input_tokens, task.max_answer_tokens
    apart = architecture != "causal"  # nothing but a decoder has both in one row
    if answers == AUTO:
        left = room if apart else room - (inputs or wanted[0])
        if inputs == AUTO:
            left = max(left, room * 3 // 4)  # where both are too long, the input gives way first
        answers = min(wanted[1], left)
    if inputs == AUTO:
        inputs = min(wanted[0], room if apart else room - answers)
    return max(1, inputs), max(1, answers)
