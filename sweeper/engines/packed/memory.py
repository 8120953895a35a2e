"""What so many slots would take of a device's memory, told from what fewer were seen to take."""

from dataclasses import dataclass
from typing import Protocol

import torch

_SHARE = 0.9
"""Of the memory that nobody else holds, so much may be asked for."""

_HELD, _PASSING = 16, 16
"""Bytes per adapter weight: held in the stack (weight, gradient, two moments), and passing at most (what
autograd hands over, and copies in the base model's type)."""


class Memory(Protocol):
    """What is allocated on a device."""

    room: float
    """Bytes that may be asked for."""

    def begin(self) -> int:
        """Bytes allocated now; the peak is counted from here."""

    def peak(self) -> int:
        """Bytes allocated at most since `begin`."""


class CudaMemory:
    """A GPU's."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        free, _ = torch.cuda.mem_get_info(device)
        self.room = _SHARE * (free + torch.cuda.memory_reserved(device))

    def begin(self) -> int:
        """As torch counts it."""
        torch.cuda.reset_peak_memory_stats(self._device)
        return torch.cuda.memory_allocated(self._device)

    def peak(self) -> int:
        """As torch counts it."""
        return torch.cuda.max_memory_allocated(self._device)


class NoLimit:
    """Of a device whose memory nobody counts."""

    room = float("inf")

    def begin(self) -> int:
        """Nothing."""
        return 0

    def peak(self) -> int:
        """Nothing."""
        return 0


def memory_of(device: torch.device) -> Memory:
    """Counted on a GPU, unlimited elsewhere."""
    return CudaMemory(device) if device.type == "cuda" else NoLimit()


@dataclass(frozen=True)
class Taken:
    """What a step took.

    Memory is that of the base model, so much per adapter weight, and so much per token of the largest pass:
    activations, attention (rows of like length, so that their squares are as good as tokens) and logits.
    """

    slots: int
    tokens: int
    """Of the largest pass."""
    weights: int
    """Adapter weights of a slot."""
    before: int
    peak: int
    """Bytes."""

    def expected(self, slots: int, tokens: int) -> float:
        """Bytes for more slots and tokens; not less than they take, as what is not held counts twice."""
        per_token = (self.peak - self.before - _HELD * self.weights * self.slots) / self.tokens
        more_weights = (slots - self.slots) * self.weights
        return self.peak + (_HELD + _PASSING) * more_weights + per_token * (tokens - self.tokens)
