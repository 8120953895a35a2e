"""Dropout whose masks follow from (trial seed, step, layer) alone.

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


def row_key(seed: int, step: int, place: int) -> int:
    """The 32 bits that stand for a row: `place` is its number in the effective batch of `step`."""
    key = 0
    for part in (seed, step, place):
        key = _mixed(key ^ (part & _WORD))
    return key


@dataclass(frozen=True)
class Dropout:
    """For one pass: a key and a rate per row."""

    keys: Tensor
    """[rows], int64, of `row_key`"""
    rates: Tensor
    """[rows]"""

    @classmethod
    def of(cls, keys: Sequence[int], rates: Sequence[float], device: torch.device) -> "Dropout | None":
        """None where no row drops anything."""
        if not any(rates):
            return None
        return cls(torch.tensor(keys, device=device), torch.tensor(rates, device=device))

    def __call__(self, x: Tensor, layer: int) -> Tensor:
        """x [rows, ..., features] with some of its elements zero, the others scaled up as nn.Dropout does."""
        places = torch.arange(x[0].numel(), device=x.device)
        ones = [1] * (x.dim() - 1)
        keys = _mixed(self.keys ^ _mixed(layer + 1)).view(-1, *ones)
        rates = self.rates.view(-1, *ones)
        drawn = _mixed(_mixed(places).view(1, *x.shape[1:]) ^ keys)
        return x * ((drawn >= rates * (_WORD + 1)) / (1 - rates)).to(x.dtype)


Bits = TypeVar("Bits", int, Tensor)


def _mixed(x: Bits) -> Bits:
    """A bijective hash of 32 bits; its products stay below 2 ** 63, so that int64 never overflows."""
    for _ in range(2):
        x = ((x >> 16 ^ x) * 0x45D9F3B) & _WORD
    return x >> 16 ^ x
