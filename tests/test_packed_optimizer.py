"""AdamW over the stack against torch.optim.AdamW, slot by slot."""

import math

import pytest
import torch

from sweeper.engines.packed.optimizer import Step, schedule, update
from sweeper.engines.packed.stack import Adapter, Stack
from tests import tiny

SLOTS = [(1e-2, 0.0, 0.0), (3e-3, 0.1, 0.5), (0.1, 0.01, 10.0)]
"""Learning rate, weight decay, norm to clip to"""


def random(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((4, 6), (5, 4)))


def make_stack() -> Stack:
    adapters = [Adapter({"q": random(slot)}, 1.0) for slot in range(len(SLOTS))]
    stack = Stack({}, len(SLOTS), 0, torch.float64).fitted([one.form for one in adapters], len(SLOTS))
    for slot, one in enumerate(adapters):
        stack.put(slot, one)
    return stack


def loss(a: torch.Tensor, b: torch.Tensor, slot: int) -> torch.Tensor:
    """A in [6, 4], B in [4, 5]."""
    return 10.0**slot * (a @ b - slot).square().mean()


def test_every_slot_steps_as_alone():
    stack = make_stack()
    alone = [[part.clone().requires_grad_() for part in random(slot)] for slot in range(len(SLOTS))]
    optimizers = [
        torch.optim.AdamW(alone[slot], lr=rate, weight_decay=decay)
        for slot, (rate, decay, _) in enumerate(SLOTS)
    ]
    for step in range(30):
        a, b = stack.layers["q"]
        stack.add_gradients(sum(loss(a[slot, :, :4], b[slot, :4], slot) for slot in range(len(SLOTS))))
        update(stack, {slot: Step(step + 1, *values) for slot, values in enumerate(SLOTS)})
        assert not stack.gradients.any()
        for slot, (optimizer, (_, _, limit)) in enumerate(zip(optimizers, SLOTS, strict=True)):
            optimizer.zero_grad()
            loss(alone[slot][0].T, alone[slot][1].T, slot).backward()
            if limit:
                torch.nn.utils.clip_grad_norm_(alone[slot], limit)
            optimizer.step()
    for slot, (a, b) in enumerate(alone):
        found = stack.take(slot).weights["q"]
        torch.testing.assert_close(found, (a.detach(), b.detach()), rtol=0, atol=1e-12)


def test_other_slots_are_not_touched():
    stack = make_stack()
    stack.gradients[0] = 1.0
    stack.first[1:] = stack.second[1:] = 0.5
    before = stack.take(1), stack.take(2)
    update(stack, {0: Step(1, 1e-2, 0.1, 1.0)})
    for slot, kept in enumerate(before, start=1):
        found = stack.take(slot)
        for one, other in ((found.weights, kept.weights), *zip(found.moments, kept.moments, strict=True)):
            assert all(map(torch.equal, one["q"], other["q"]))


def test_nan_and_infinity_stay_in_their_slot():
    stack = make_stack()
    stack.gradients.fill_(1.0)
    stack.gradients[1, 0], stack.gradients[2, 0] = math.nan, math.inf
    update(stack, {slot: Step(1, 1e-2, 0.1, 1.0) for slot in range(3)})
    assert stack.weights[0].isfinite().all()
    assert stack.weights[1].isnan().any()
    assert stack.weights[2].isnan().any()


@pytest.mark.parametrize("scheduler", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.3])
def test_the_schedule_is_trainers(tmp_path, scheduler, warmup):
    settings = tiny.settings(scheduler=scheduler, warmup=warmup)
    channel = tiny.run(tiny.spec(tmp_path, settings))
    told = [report.metrics["learning_rate"] for report in channel.reports if report.metrics]
    rate = schedule(settings, 6)
    assert [rate(step) for step in range(6)] == pytest.approx(told, rel=1e-12)
