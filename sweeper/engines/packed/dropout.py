"""Dropout whose masks follow from (trial seed, step, layer) alone: the adapters', and the base model's own.

torch draws masks from one generator in the order in which layers run, so that a mask depends on everything
that was drawn before. Here it is a hash of what it belongs to: the trial's seed, the step, the row's place in
the effective batch, the layer, the token and the feature. Whoever shares the pass, however rows are padded or
split into passes, and whether a step is run again: a row's mask is the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF

_TOKENS = 1 << 13
"""Attention weights are numbered as if there were so many tokens, whatever the padding."""


def row_key(seed: int, step: int, place: int) -> int:
    """The 32 bits that stand for a row: `place` is its number in the effective batch of `step`."""
    key = 0
    for part in (seed, step, place):
        key = _mixed(key ^ (part & _WORD))
    return key


@dataclass(frozen=True)
class Dropout:
    """For one pass: a key per row, and the rate of its adapter."""

    keys: Tensor
    """[rows], int64, of `row_key`"""
    rates: Tensor | None
    """[rows]; None where no adapter drops anything"""

    @classmethod
    def of(cls, keys: Sequence[int], rates: Sequence[float], device: torch.device) -> "Dropout":
        """On `device`, from plain numbers."""
        of_adapters = torch.tensor(rates, device=device) if any(rates) else None
        return cls(torch.tensor(keys, device=device), of_adapters)

    def of_adapters(self, x: Tensor, layer: int) -> Tensor:
        """x [rows, tokens, features] with some elements zero, the others scaled up as nn.Dropout does."""
        return x if self.rates is None else self._dropped(x, layer, self.rates.view(-1, *[1] * (x.dim() - 1)))

    def of_base(self, x: Tensor, site: int, rate: float) -> Tensor:
        """The same at one rate for all rows; x may be attention weights [rows, heads, tokens, tokens], too.

        `site` is a number that no layer has.
        """
        return self._dropped(x, site, rate)

    def _dropped(self, x: Tensor, place: int, rates: "Tensor | float") -> Tensor:
        keys = _mixed(self.keys ^ _mixed(place + 1)).view(-1, *[1] * (x.dim() - 1))
        drawn = _mixed(_mixed(_numbered(x)) ^ keys)
        return x * ((drawn >= rates * (_WORD + 1)) / (1 - rates)).to(x.dtype)


def _numbered(x: Tensor) -> Tensor:
    """[1, ...] a number for each element of a row, which padding on the right doesn't change."""
    strides = [1]
    for size in reversed(x.shape[2:]):
        strides.insert(0, strides[0] * (size if x.dim() == 3 else _TOKENS))
    places = torch.zeros(1, *[1] * (x.dim() - 1), dtype=torch.int64, device=x.device)
    for dim, stride in enumerate(strides, start=1):
        shape = [-1 if dim == other else 1 for other in range(x.dim())]
        places = places + (torch.arange(x.shape[dim], device=x.device) * stride).view(shape)
    return places


Bits = TypeVar("Bits", int, Tensor)


def _mixed(x: Bits) -> Bits:
    """A bijective hash of 32 bits; its products stay below 2 ** 63, so that int64 never overflows."""
    for _ in range(2):
        x = ((x >> 16 ^ x) * 0x45D9F3B) & _WORD
    return x >> 16 ^ x
