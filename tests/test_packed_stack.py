"""The stack of adapters: what is put comes back, padding stays zero, layouts change under what is held."""

import pytest
import torch

from sweeper.engines.packed.optimizer import Step, update
from sweeper.engines.packed.stack import Adapter, Stack


def adapter(rank: int, *layers: str, moments: bool = False, seed: int = 0) -> Adapter:
    """For layers of 6 inputs and 5 outputs."""
    generator = torch.Generator().manual_seed(seed)

    def pairs():
        return {
            name: (torch.randn(rank, 6, generator=generator), torch.randn(5, rank, generator=generator))
            for name in layers
        }

    return Adapter(pairs(), 0.5 * rank, (pairs(), pairs()) if moments else None)


def stack_of(*adapters: Adapter) -> Stack:
    stack = Stack({}, len(adapters), 0, torch.float32).fitted([one.form for one in adapters], len(adapters))
    for slot, one in enumerate(adapters):
        stack.put(slot, one)
    return stack


def assert_same(one: Adapter, other: Adapter) -> None:
    assert one.scaling == other.scaling
    kinds = [(one.weights, other.weights)]
    if one.moments is not None and other.moments is not None:
        kinds += zip(one.moments, other.moments, strict=True)
    for mine, yours in kinds:
        assert set(mine) == set(yours)
        for name in mine:
            assert all(map(torch.equal, mine[name], yours[name]))


def test_what_is_put_comes_back_at_its_true_rank():
    put = [adapter(3, "q", moments=True), adapter(8, "q", "v", seed=1), adapter(11, "v", seed=2)]
    stack = stack_of(*put)
    assert stack.rank == 16
    for slot, one in enumerate(put):
        assert_same(one, stack.take(slot))


def test_a_layer_sees_its_part_of_every_slot():
    one = adapter(3, "q")
    a, b = stack_of(one, adapter(4, "v")).layers["q"]
    assert (a.shape, b.shape) == ((2, 6, 8), (2, 8, 5))
    assert torch.equal(a[0, :, :3], one.weights["q"][0].T)
    assert torch.equal(b[0, :3], one.weights["q"][1].T)
    assert not a[0, :, 3:].any()
    assert not a[1].any()


def test_gradients_add_up_and_leave_padding_and_other_slots_zero():
    put = adapter(3, "q")
    stack = stack_of(put, adapter(3, "q", seed=1))
    x = torch.randn(4, 6)
    for _ in range(2):
        a, b = stack.layers["q"]
        stack.add_gradients((x @ a[0] @ b[0]).square().sum())
    a, b = (part.clone().requires_grad_() for part in put.weights["q"])
    (2 * (x @ a.T @ b.T).square().sum()).backward()
    expected = torch.cat(
        [torch.nn.functional.pad(a.grad.T, (0, 5)).flatten(), b.grad.T.flatten(), torch.zeros(25)]
    )
    torch.testing.assert_close(stack.gradients[0], expected)
    assert not stack.gradients[1].any()
    before = stack.weights.clone()
    for number in range(1, 51):
        stack.add_gradients((x @ stack.layers["q"][0][0] @ stack.layers["q"][1][0]).square().sum())
        update(stack, {slot: Step(number, 1e-2, 0.1, 1.0) for slot in (0, 1)})
    assert not torch.equal(stack.weights[0], before[0])
    assert not stack.layers["q"][0][0, :, 3:].any()
    assert not stack.layers["q"][1][0, 3:].any()


def test_a_stack_grows_and_shrinks_under_what_it_holds():
    held = adapter(3, "q", moments=True)
    stack = stack_of(held)
    assert stack.fitted([adapter(5, "q").form], 1) is stack
    wide = stack.fitted([adapter(33, "v").form], 3)
    assert (wide.rank, wide.slots, set(wide.shapes)) == (64, 3, {"q", "v"})
    assert_same(held, wide.take(0))
    narrow = wide.fitted([], 1)
    assert (narrow.rank, narrow.slots, set(narrow.shapes)) == (8, 1, {"q"})
    assert_same(held, narrow.take(0))


def test_a_rank_above_all_buckets_is_its_own():
    assert adapter(130, "q").form.bucket == 130
    assert [adapter(rank, "q").form.bucket for rank in (1, 8, 9, 128)] == [8, 8, 16, 128]


def test_a_cleared_slot_holds_nothing_not_even_nan():
    stack = stack_of(adapter(3, "q"), adapter(3, "q"))
    stack.weights[1] = stack.first[1] = torch.nan
    stack.clear(1)
    assert not stack.weights[1].any()
    with pytest.raises(LookupError, match="slot 1 of 2 holds no adapter"):
        stack.take(1)
