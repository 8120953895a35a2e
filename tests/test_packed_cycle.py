"""A cycle: how rows are cut into passes and grouped, and that cutting changes no loss and no gradient."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sweeper.engines.batches import read_rows
from sweeper.engines.packed import cycle
from sweeper.engines.packed.adapters import fresh
from sweeper.engines.packed.cycle import Pass, Share, gradients, largest, passes
from sweeper.engines.packed.dropout import row_key
from sweeper.engines.packed.layers import Layers
from sweeper.engines.packed.stack import Adapter, Stack
from sweeper.models.modeling import BaseModel
from tests import tiny

ROWS = read_rows(tiny.rows().train)


def shares(*sizes: int, dropout: float = 0.3) -> list[Share]:
    """Slot by slot, that many rows each, no two slots' the same."""
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [
        Share(
            slot, ROWS[start : start + size], [row_key(slot, 0, i) for i in range(size)], dropout, 0.1 * slot
        )
        for slot, (start, size) in enumerate(zip(starts, sizes, strict=True))
    ]


def length(row) -> int:
    return len(row.input_ids)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(1, 100))
def test_every_row_is_in_one_pass_and_passes_keep_to_the_budget(sizes, budget):
    parts = shares(*sizes)
    found = passes(parts, budget, "causal")
    everything = [one for part in found for one in zip(part.shares, part.places, strict=True)]
    assert sorted(everything) == [(i, place) for i, size in enumerate(sizes) for place in range(size)]
    tokens = []
    for part in found:
        lengths = [length(parts[i].rows[j]) for i, j in zip(part.shares, part.places, strict=True)]
        tokens.append(len(lengths) * max(lengths))
        assert len(lengths) == 1 or tokens[-1] <= budget
        assert list(part.shares) == sorted(part.shares)
    assert largest(parts, budget, "causal") == (
        max(tokens),
        max(length(row) for s in parts for row in s.rows),
    )


def test_what_a_decoder_of_its_own_reads_counts_too():
    rows = [replace(row, input_ids=range(inputs), labels=range(10)) for inputs in (30, 6) for row in ROWS[:2]]
    parts = [Share(0, rows, range(4), 0.0, 0.0)]
    cut = {kind: [part.places for part in passes(parts, 80, kind)] for kind in ("causal", "seq2seq")}
    assert cut == {"causal": [(0, 1), (2, 3)], "seq2seq": [(0, 1), (2, 3)]}
    assert [part.places for part in passes(parts, 79, "causal")] == [(0, 1), (2, 3)]
    assert [part.places for part in passes(parts, 79, "seq2seq")] == [(0,), (1,), (2, 3)]
    assert largest(parts, 79, "causal") == (60, 30)
    assert largest(parts, 79, "seq2seq") == (40, 40)
    assert largest(parts, 80, "seq2seq") == (80, 40)


def test_groups_are_as_large_as_they_can_be():
    assert Pass((0, 0, 0, 0, 2, 2), (0,) * 6).groups == (0, 0, 2)
    assert Pass((0, 0, 1, 1, 1), (0,) * 5).groups == (0, 0, 1, 1, 1)
    assert Pass((3,) * 8, (0,) * 8).groups == (3,)


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return BaseModel(tiny.llama().double(), tiny.tokenizer(), "causal", name="tiny")


def work(base: BaseModel, parts: list[Share], budget: int) -> tuple[cycle.Losses, torch.Tensor]:
    adapters = [fresh(base, tiny.settings(lora_rank=3 + i), i).adapter for i in range(len(parts))]
    adapters = [
        Adapter({name: (a, torch.full_like(b, 0.1)) for name, (a, b) in one.weights.items()}, one.scaling)
        for one in adapters
    ]
    stack = Stack({}, len(parts), 0, torch.float64).fitted([one.form for one in adapters], len(parts))
    for slot, one in enumerate(adapters):
        stack.put(slot, one)
    layers = Layers(base.model)
    with layers.on_model():
        return gradients(base, layers, stack, parts, budget), stack.gradients


@pytest.mark.parametrize("budget", [1, 40, 100])
def test_passes_change_neither_losses_nor_gradients(base, budget):
    parts = shares(4, 6, 3)
    whole, expected = work(base, parts, 10_000)
    cut, found = work(base, parts, budget)
    assert cut.tokens == whole.tokens == [3 * len(part.rows) for part in parts]
    assert cut.nats == pytest.approx(whole.nats, rel=1e-6)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


def test_logits_in_chunks_change_nothing(base, monkeypatch):
    parts = shares(4, 6)
    whole, expected = work(base, parts, 10_000)
    monkeypatch.setattr(cycle, "_LOGITS", 4 * len(tiny.tokenizer()))
    cut, found = work(base, parts, 10_000)
    assert cut.nats == pytest.approx(whole.nats, rel=1e-9)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-12)


def test_the_model_is_left_as_it_was(base):
    before = {name: weight.clone() for name, weight in base.model.state_dict().items()}
    work(base, shares(2, 2), 100)
    assert not base.model.training
    assert not any(module._forward_hooks for module in base.model.modules())
    assert all(torch.equal(weight, before[name]) for name, weight in base.model.state_dict().items())
    assert all(weight.grad is None for weight in base.model.parameters())
