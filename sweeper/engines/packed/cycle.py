"""One effective batch of every slot: forward, backward, losses.

A cycle brings each slot exactly to its next optimizer step. Rows of all slots are sorted by length together
and cut into passes of at most `budget` tokens, padding counted, so that a pass holds rows of like length.
Every target's loss is divided by the number of targets in its slot's whole effective batch, which is known
before the first pass: gradients add up over the passes to those of the batch's mean, as in Trainer.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sweeper.engines.batches import Batch, Row, collate, logits
from sweeper.engines.packed.dropout import Dropout
from sweeper.engines.packed.layers import Layers
from sweeper.engines.packed.stack import Stack
from sweeper.models.modeling import BaseModel
from sweeper.models.pretrained import Architecture

_LOGITS = 1 << 26
"""Logits at once at most: 256 MiB of float32; more targets are worked through in chunks."""


@dataclass(frozen=True)
class Share:
    """One slot's part of a cycle."""

    slot: int
    rows: Sequence[Row]
    keys: Sequence[int]
    """Per row, what its dropout follows from."""
    dropout: float
    smoothing: float


@dataclass(frozen=True)
class Pass:
    """Rows that go through the model together: those of one share after those of another."""

    shares: tuple[int, ...]
    """[rows] the share that a row is of"""
    places: tuple[int, ...]
    """[rows] its number in that share"""

    @property
    def groups(self) -> tuple[int, ...]:
        """The share of each group; groups are equal and as large as they can be."""
        size = math.gcd(*Counter(self.shares).values())
        return self.shares[::size]


def passes(shares: Sequence[Share], budget: int, kind: Architecture) -> list[Pass]:
    """All rows of `shares`, cut so that no pass but one of a single row has more than `budget` tokens."""
    sizes = {
        (i, place): size_of(row, kind)
        for i, share in enumerate(shares)
        for place, row in enumerate(share.rows)
    }
    found: list[Pass] = []
    chosen: list[tuple[int, int]] = []
    longest = 0, 0
    for one in sorted(sizes, key=lambda one: sizes[one], reverse=True):
        together = max(longest[0], sizes[one][0]), max(longest[1], sizes[one][1])
        if chosen and (len(chosen) + 1) * sum(together) > budget:
            found.append(_pass(chosen))
            chosen, together = [], sizes[one]
        chosen.append(one)
        longest = together
    return [*found, _pass(chosen)]


def size_of(row: Row, kind: Architecture) -> tuple[int, int]:
    """Tokens that the model reads, and those that a decoder of its own does."""
    return len(row.input_ids), len(row.labels) if kind == "seq2seq" else 0


def _pass(chosen: list[tuple[int, int]]) -> Pass:
    shares, places = zip(*sorted(chosen), strict=True)
    return Pass(shares, places)


def largest(shares: Sequence[Share], budget: int, kind: Architecture) -> tuple[int, int]:
    """Tokens of the largest pass, padding counted, and of the longest row: less can't be asked for."""
    tokens = []
    for one in passes(shares, budget, kind):
        rows = (shares[i].rows[place] for i, place in zip(one.shares, one.places, strict=True))
        inputs, answers = zip(*(size_of(row, kind) for row in rows), strict=True)
        tokens.append(len(inputs) * (max(inputs) + max(answers)))
    return max(tokens), max(sum(size_of(row, kind)) for share in shares for row in share.rows)


@dataclass(frozen=True)
class Losses:
    """Per share: nats over its targets, without label smoothing and weights, and the number of targets."""

    nats: Sequence[float]
    tokens: Sequence[int]


def gradients(base: BaseModel, layers: Layers, stack: Stack, shares: Sequence[Share], budget: int) -> Losses:
    """Add the gradients of every share's mean loss to the stack's.

    Raises what torch raises when memory runs out; the stack's gradients are worth nothing then.
    """
    with layers.training():
        batches = [_Part(base, shares, one) for one in passes(shares, budget, base.kind)]
        tokens = torch.stack([part.tokens for part in batches]).sum(0)
        nats = torch.zeros(len(shares), dtype=stack.weights.dtype, device=base.device)
        for part in batches:
            with layers.at_work(stack, part.groups, part.dropout):
                loss, plain = part.losses(base, tokens)
                stack.add_gradients(loss)
            nats.index_add_(0, part.share, plain.to(nats.dtype))
    return Losses(nats.tolist(), tokens.tolist())


class _Part:
    """One pass as tensors on the device."""

    def __init__(self, base: BaseModel, shares: Sequence[Share], one: Pass) -> None:
        device = base.device
        rows = [shares[i].rows[place] for i, place in zip(one.shares, one.places, strict=True)]
        batch = collate(rows, base.kind, base.tokenizer.pad_token_id)
        share = torch.tensor(one.shares)[batch["row"]]
        self.tokens = torch.bincount(share, minlength=len(shares))
        """[shares] targets"""
        self.share = share.to(device)
        """[targets] the share that a target is of"""
        self.batch: Batch = {name: tensor.to(device) for name, tensor in batch.items()}
        self.groups = [shares[i].slot for i in one.groups]
        self.dropout = Dropout.of(
            [shares[i].keys[place] for i, place in zip(one.shares, one.places, strict=True)],
            [shares[i].dropout for i in one.shares],
            device,
        )
        self.smoothing: Tensor | None = None
        """[targets]"""
        if any(one.smoothing for one in shares):
            kind = torch.promote_types(base.model.dtype, torch.float32)
            smoothing = torch.tensor([one.smoothing for one in shares], dtype=kind, device=device)
            self.smoothing = smoothing[self.share]

    def losses(self, base: BaseModel, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of all shares' mean losses, as far as this pass has part in them, and nats per target."""
        loss, nats = _losses(base, self.batch, self.smoothing)
        weights = 1 / tokens.to(loss.device, loss.dtype)[self.share]
        if (reweighting := self.batch.get("weights")) is not None:
            weights = weights * reweighting
        return (loss * weights).sum(), nats


def _losses(base: BaseModel, batch: Batch, smoothing: Tensor | None) -> tuple[Tensor, Tensor]:
    """Per target: the loss to train on, and the plain nats without a graph."""
    targets, vocabulary = batch["targets"], base.model.config.vocab_size
    if len(targets) * vocabulary <= _LOGITS:
        return _of_logits(logits(base.model, base.kind, batch), targets, smoothing)
    hidden, head = _hidden(base, batch), base.model.get_output_embeddings()
    size = _LOGITS // vocabulary
    found = []
    for start in range(0, len(targets), size):
        part = slice(start, start + size)
        smoothed = None if smoothing is None else smoothing[part]
        # The logits of a chunk are computed again for its backward pass, and never lie beside another's.
        found.append(checkpoint(_of_hidden, head, hidden[part], targets[part], smoothed, use_reentrant=False))
    losses, nats = zip(*found, strict=True)
    return torch.cat(losses), torch.cat(nats)


def _hidden(base: BaseModel, batch: Batch) -> Tensor:
    """[targets, features], what the output layer would be given for each target."""
    head = base.model.get_output_embeddings()
    head.forward = nn.Identity().forward
    try:
        return logits(base.model, base.kind, batch).to(head.weight.dtype)
    finally:
        del head.forward


def _of_hidden(head: Any, hidden: Tensor, targets: Tensor, smoothing: Tensor | None) -> tuple[Tensor, Tensor]:
    scores = head(hidden)
    return _of_logits(scores.to(torch.promote_types(scores.dtype, torch.float32)), targets, smoothing)


def _of_logits(scores: Tensor, targets: Tensor, smoothing: Tensor | None) -> tuple[Tensor, Tensor]:
    """As F.cross_entropy(reduction="none"), with a smoothing of its own for every target."""
    plain = F.cross_entropy(scores, targets, reduction="none")
    if smoothing is None:
        return plain, plain.detach()
    uniform = -scores.log_softmax(-1).mean(-1)
    return (1 - smoothing) * plain + smoothing * uniform, plain.detach()
