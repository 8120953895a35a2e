"""Rows as tensors: collation, and the forward pass.

The output layer, which for a small model with a large vocabulary costs more than the rest, runs only
at positions that have a label.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sweeper.models.pretrained import Architecture

IGNORED = -100
"""Label of a position without loss."""

Batch = dict[str, Tensor]
"""`input_ids`, `attention_mask` [rows, tokens]; `targets` [n], the labels in row order; causal: `keep`
[rows, tokens], True where the next token has a label; seq2seq: `labels` [rows, answer tokens]; `row` [n],
the row in the batch that a target belongs to; `weights` [n], float32, by which the targets' losses count
where they don't count the same."""


@dataclass(frozen=True)
class Row:
    """One tokenised row, as `sweeper.data.prepare` describes its columns."""

    id: str
    prompt: str
    answer: str
    input_ids: Sequence[int]
    labels: Sequence[int]
    prompt_ids: Sequence[int]
    label: int
    slice: str = ""
    group: str = ""
    weight: float = 1.0
    """How much its loss counts in training."""


_COLUMNS = ("id", "prompt", "answer", "input_ids", "labels", "prompt_ids", "label", "slice", "group")


def read_rows(dataset: Any, outputs: Sequence[int] = ()) -> list[Row]:
    """All rows of a `datasets.Dataset`, held in memory for the life of a worker.

    `outputs`: of a classifier whose outputs have an order of their own, the one for each class.
    """
    rows = [Row(**row) for row in dataset.select_columns(list(_COLUMNS)).to_list()]
    return [replace(row, label=outputs[row.label]) for row in rows] if outputs else rows


def collate(rows: Sequence[Row], kind: Architecture, pad: int) -> Batch:
    """One batch on the CPU, padded on the right."""
    input_ids, attention_mask = pad_rows([row.input_ids for row in rows], pad)
    batch = {"input_ids": input_ids, "attention_mask": attention_mask}
    if kind == "classifier":
        batch |= {"targets": torch.tensor([row.label for row in rows]), "row": torch.arange(len(rows))}
    else:
        batch |= _text_targets([row.labels for row in rows], kind)
    if any(row.weight != 1 for row in rows):
        batch["weights"] = torch.tensor([row.weight for row in rows])[batch["row"]]
    return batch


def _text_targets(rows: Sequence[Sequence[int]], kind: Architecture) -> Batch:
    labels, _ = pad_rows(rows, IGNORED)
    if kind == "seq2seq":
        keep = labels != IGNORED
        return {"labels": labels, "targets": labels[keep], "row": keep.nonzero()[:, 0]}
    following = F.pad(labels, (0, 1), value=IGNORED)[:, 1:]
    keep = following != IGNORED
    return {"keep": keep, "targets": following[keep], "row": keep.nonzero()[:, 0]}


def pad_rows(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, [rows, longest]."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), value)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(longest - len(row), longest) if left else slice(0, len(row))
        ids[i, place] = torch.tensor(row, dtype=torch.long)
        mask[i, place] = 1
    return ids, mask


def logits(model: Any, kind: Architecture, batch: Batch) -> Tensor:
    """Logits for `batch["targets"]`, [n, classes or vocabulary], in float32 at least."""
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    if kind == "classifier":
        found = model(**inputs).logits
    elif kind == "seq2seq":
        decoder = model.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
        found = model(**inputs, decoder_input_ids=decoder, use_cache=False).logits
        found = found[batch["labels"] != IGNORED]
    elif can_keep(model):
        found = model(**inputs, logits_to_keep=batch["keep"], use_cache=False).logits
    else:
        found = model(**inputs, use_cache=False).logits[batch["keep"]]
    return found.to(torch.promote_types(found.dtype, torch.float32))  # type: ignore[no-any-return]


def can_keep(model: Any) -> bool:
    """True if the model can be told at which positions its output layer is to run."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(base.forward).parameters
