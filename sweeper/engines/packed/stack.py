"""The adapters of all slots, side by side.

Weights, gradients and both moments of AdamW are one tensor [slots, size] each. A slot is a row of them, so
that an optimizer step is a few operations over everything, and a norm of a slot is a norm of a row. Layers
see parts of the rows as A [slots, in, rank] and B [slots, rank, out].

Ranks are padded with zeros. A padded column of A meets a padded row of B: both have zero gradients, and stay
zero. A layer that a trial doesn't adapt is all padding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BUCKETS = (8, 16, 32, 64, 128)
"""Ranks that the stack is made for; a larger one is a bucket of its own."""

Shapes = Mapping[str, tuple[int, int]]
"""Inputs and outputs of linear layers, by name."""

Pairs = Mapping[str, tuple[Tensor, Tensor]]
"""A [rank, in] and B [out, rank], as PEFT has them, by layer."""


@dataclass(frozen=True)
class Form:
    """An adapter without its values."""

    shapes: Shapes
    ranks: Mapping[str, int]
    scaling: float
    """By which the adapter's output is multiplied; follows from the true rank."""

    @property
    def bucket(self) -> int:
        rank = max(self.ranks.values())
        return next((bucket for bucket in BUCKETS if bucket >= rank), rank)


@dataclass(frozen=True)
class Adapter:
    """What one slot holds."""

    weights: Pairs
    scaling: float
    moments: tuple[Pairs, Pairs] | None = None
    """Of AdamW, the first and the second; None before the first step."""

    @property
    def form(self) -> Form:
        shapes = {name: (a.shape[1], b.shape[0]) for name, (a, b) in self.weights.items()}
        return Form(shapes, {name: len(a) for name, (a, _) in self.weights.items()}, self.scaling)


class Stack:
    """Adapters of `slots` trials, empty at first."""

    def __init__(
        self, shapes: Shapes, slots: int, rank: int, dtype: torch.dtype, device: "torch.device | str" = "cpu"
    ) -> None:
        self.shapes = dict(shapes)
        self.slots, self.rank = slots, rank
        size = sum(rank * (inputs + outputs) for inputs, outputs in shapes.values())
        self.weights, self.gradients, self.first, self.second = (
            torch.zeros(slots, size, dtype=dtype, device=device) for _ in range(4)
        )
        self.scaling = torch.zeros(slots, dtype=dtype, device=device)
        self._held: list[Form | None] = [None] * slots
        self.layers = {
            name: (a.detach().requires_grad_(), b.detach().requires_grad_())
            for name, (a, b) in self._views(self.weights).items()
        }
        """A and B of each layer: leaves for autograd, parts of `weights`."""
        self._leaves = [part for pair in self.layers.values() for part in pair]
        self._gradients = [part for pair in self._views(self.gradients).values() for part in pair]

    def add_gradients(self, loss: Tensor) -> None:
        """Add the gradients of `loss` to those that are there."""
        # By hand, as autograd likes the gradients of such parts laid out in its own way.
        torch._foreach_add_(self._gradients, list(torch.autograd.grad(loss, self._leaves)))

    def put(self, slot: int, adapter: Adapter) -> None:
        """Let `slot` hold `adapter` and nothing else."""
        self.clear(slot)
        self._held[slot] = adapter.form
        self.scaling[slot] = adapter.scaling
        buffers = [(self.weights, adapter.weights)]
        if adapter.moments is not None:
            buffers += zip((self.first, self.second), adapter.moments, strict=True)
        for buffer, pairs in buffers:
            views = self._views(buffer)
            for name, (a, b) in pairs.items():
                views[name][0][slot, :, : len(a)] = a.T
                views[name][1][slot, : len(a)] = b.T

    def take(self, slot: int) -> Adapter:
        """What `slot` holds now, at its true rank."""
        form = self._held[slot]
        if form is None:
            raise LookupError(f"slot {slot} of {self.slots} holds no adapter")
        weights, first, second = (
            {name: _sliced(views[name], slot, rank) for name, rank in form.ranks.items()}
            for views in map(self._views, (self.weights, self.first, self.second))
        )
        return Adapter(weights, form.scaling, (first, second))

    def clear(self, slot: int) -> None:
        """Leave nothing in `slot`, whatever became of it."""
        self._held[slot] = None
        for buffer in (self.weights, self.gradients, self.first, self.second, self.scaling):
            buffer[slot] = 0

    def fitted(self, newcomers: Sequence[Form], slots: int) -> "Stack":
        """A stack with `slots` slots for what this one holds and `newcomers`, no larger than they need.

        It is this one where that fits already. What is held must lie in the first `slots` slots.
        """
        together = [*(form for form in self._held if form is not None), *newcomers]
        shapes: dict[str, tuple[int, int]] = {}
        for form in together:
            shapes |= form.shapes
        rank = max((form.bucket for form in together), default=0)
        if (shapes, slots, rank) == (self.shapes, self.slots, self.rank):
            return self
        stack = Stack(shapes, slots, rank, self.weights.dtype, self.weights.device)
        for slot, held in enumerate(self._held):
            if held is not None:
                stack.put(slot, self.take(slot))
        return stack

    def _views(self, buffer: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        views, start = {}, 0
        for name, (inputs, outputs) in self.shapes.items():
            middle = start + inputs * self.rank
            end = middle + self.rank * outputs
            a = buffer[:, start:middle].view(self.slots, inputs, self.rank)
            b = buffer[:, middle:end].view(self.slots, self.rank, outputs)
            views[name], start = (a, b), end
        return views


def _sliced(views: tuple[Tensor, Tensor], slot: int, rank: int) -> tuple[Tensor, Tensor]:
    """PEFT's A and B of one slot, on their own."""
    a, b = views
    return a[slot, :, :rank].T.contiguous(), b[slot, :rank].T.contiguous()
