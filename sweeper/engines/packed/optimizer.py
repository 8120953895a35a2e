"""AdamW over the stack: each slot with its own learning rate, decay, step and clipping.

Row k of every tensor follows Loshchilov and Hutter (arXiv 1711.05101) as torch.optim.AdamW does, after its
gradient was clipped to its own norm as torch.nn.utils.clip_grad_norm_ does:

    g = g min(1, c / (|g| + 1e-6))
    m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2
    w = w (1 - lr wd) - lr / (1 - b1^t)  m / (sqrt(v / (1 - b2^t)) + eps)
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from transformers import get_scheduler

from sweeper.config import TrialSettings
from sweeper.engines.packed.stack import Stack
from sweeper.engines.training import SCHEDULERS

_BETAS, _EPSILON = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class Step:
    """What one slot's next optimizer step is made with."""

    number: int
    """Counts from 1."""
    learning_rate: float
    weight_decay: float
    max_grad_norm: float
    """0: no clipping."""


def schedule(settings: TrialSettings, steps: int) -> Callable[[int], float]:
    """The learning rate before each of `steps` optimizer steps, counted from 0: as Trainer has it."""
    stand_in = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = get_scheduler(
        SCHEDULERS[settings.scheduler], stand_in, math.ceil(settings.warmup * steps), steps
    )
    (factor,) = scheduler.lr_lambdas
    return lambda step: settings.learning_rate * float(factor(step))


@torch.no_grad()
def update(stack: Stack, steps: Mapping[int, Step]) -> None:
    """One optimizer step for every slot of `steps`, with the gradients that lie there; these are zero then.

    Other slots are not touched.
    """
    columns = [_column(steps.get(slot)) for slot in range(stack.slots)]
    like = stack.weights
    matrix = torch.tensor(columns, dtype=like.dtype, device=like.device)
    rate, kept, limit, correction, newness, newness_squared = matrix.T[:, :, None]
    gradients, first, second = stack.gradients, stack.first, stack.second
    norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
    gradients.mul_((limit / (norms + 1e-6)).clamp(max=1.0))
    first.lerp_(gradients, newness)
    second.lerp_(gradients.square_(), newness_squared)
    stack.weights.mul_(kept).sub_(first / (second.sqrt().div_(correction).add_(_EPSILON)) * rate)
    gradients.zero_()


def _column(step: Step | None) -> tuple[float, ...]:
    """What a slot's row is computed with; None leaves it as it is."""
    if step is None:
        return (0.0, 1.0, math.inf, 1.0, 0.0, 0.0)
    return (
        step.learning_rate / (1 - _BETAS[0] ** step.number),
        1 - step.learning_rate * step.weight_decay,
        step.max_grad_norm or math.inf,
        math.sqrt(1 - _BETAS[1] ** step.number),
        1 - _BETAS[0],
        1 - _BETAS[1],
    )
