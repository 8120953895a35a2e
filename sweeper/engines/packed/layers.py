"""How a batch goes through the base model with another adapter for each group of its rows.

Hooks add s dropout(x) A B to the outputs of linear layers; the model itself stays what it is, and without a
stack at work the hooks do nothing. A batch is [groups x rows, tokens, features]: each group belongs to one
slot, and a batched product gives every group its own A and B. Groups never meet in one product, so that
whatever is in one of them, NaN included, stays there.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sweeper.engines.packed.dropout import Dropout
from sweeper.engines.packed.own_dropout import OwnDropout
from sweeper.engines.packed.stack import Stack


@dataclass(frozen=True)
class _Work:
    stack: Stack
    groups: int
    slots: Tensor | None
    """[groups] the slot of each; None where they are all of them in their order."""
    dropout: Dropout | None

    def of_groups(self, parts: Tensor) -> Tensor:
        """[groups, ...] of parts [slots, ...]"""
        return parts if self.slots is None else parts.index_select(0, self.slots)


class Layers:
    """The linear layers of `model` that can carry adapters: all but the output layer."""

    def __init__(self, model: Any) -> None:
        output = model.get_output_embeddings()
        self._model = model
        self._work: _Work | None = None
        self.names = [
            name
            for name, module in model.named_modules()
            if type(module) is nn.Linear and module is not output
        ]
        self._own_dropout = OwnDropout(model, len(self.names))

    @contextmanager
    def on_model(self) -> Iterator[None]:
        """Within, the model has the hooks."""
        handles = [
            self._model.get_submodule(name).register_forward_hook(partial(self._adapt, number, name))
            for number, name in enumerate(self.names)
        ]
        try:
            with self._own_dropout.on_model():
                yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def training(self) -> Iterator[None]:
        """Within, the model is in training mode, and drops nothing but what `at_work` is told."""
        self._model.train()
        try:
            with self._own_dropout.training():
                yield
        finally:
            self._model.eval()

    @contextmanager
    def at_work(self, stack: Stack, groups: Sequence[int], dropout: Dropout | None = None) -> Iterator[None]:
        """Within, every batch consists of `len(groups)` equal groups of rows, slot `groups[i]`'s in turn."""
        every = list(groups) == list(range(stack.slots))
        slots = None if every else torch.tensor(groups, device=stack.weights.device)
        self._work = _Work(stack, len(groups), slots, dropout)
        self._own_dropout.at_work(dropout)
        try:
            yield
        finally:
            self._work = None
            self._own_dropout.at_work(None)

    def _adapt(self, number: int, name: str, module: Any, args: tuple[Tensor], output: Tensor) -> Tensor:
        work = self._work
        if work is None or name not in work.stack.layers:
            return output
        (x,) = args
        a, b = work.stack.layers[name]
        # As the engine `trainer`: training computes in the base's type, scores are what plain PEFT gives.
        kind = x.dtype if torch.is_grad_enabled() else a.dtype
        a = work.of_groups(a).to(kind)
        b = work.of_groups(b * work.stack.scaling[:, None, None]).to(kind)
        seen = x if work.dropout is None else work.dropout.of_adapters(x, number)
        inner = torch.bmm(seen.reshape(work.groups, -1, x.shape[-1]).to(kind), a)
        plain = output.reshape(work.groups, -1, output.shape[-1]).to(kind)
        return torch.baddbmm(plain, inner, b).view(output.shape).to(output.dtype)
