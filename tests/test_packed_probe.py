"""How many slots are chosen."""

import pytest
import torch

from sweeper.engines.packed.layers import Layers
from sweeper.engines.packed.probe import MOST, Tried, choose, speed_alone, try_slots
from sweeper.engines.trainer import workbench
from tests import tiny

SETTINGS = tiny.settings(batch_size=4, lora_dropout=0.1)


@pytest.fixture
def bench():
    return workbench(tiny.config(), tiny.base(), tiny.rows())


@pytest.fixture
def layers(bench):
    layers = Layers(bench.base.model)
    with layers.on_model(), tiny.one_thread():
        yield layers


def test_trying_times_a_step_and_leaves_the_model_as_it_was(bench, layers):
    before = {name: weight.clone() for name, weight in bench.base.model.state_dict().items()}
    tried = try_slots(bench, layers, SETTINGS, 3, 1000)
    assert (tried.slots, tried.peak_bytes) == (3, 0)
    assert tried.examples_per_second > 0
    assert speed_alone(bench, SETTINGS) > 0
    assert all(torch.equal(w, before[name]) for name, w in bench.base.model.state_dict().items())


def test_slots_double_while_they_fit(bench, layers):
    found = choose(bench, layers, SETTINGS, 1 << 20)
    assert found.slots in (1, 2, 4, 8, 16, MOST)
    assert found.examples_per_second > 0


@pytest.mark.parametrize(("rows_that_fit", "slots"), [(8, 2), (4, 1), (3, 1)])
def test_slots_that_ran_out_of_memory_are_not_chosen(bench, layers, rows_that_fit, slots):
    def hungry(module, args, kwargs):
        if len(kwargs["input_ids"]) > rows_that_fit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    handle = bench.base.model.register_forward_pre_hook(hungry, with_kwargs=True)
    try:
        assert choose(bench, layers, SETTINGS, 1 << 20).slots <= slots
    finally:
        handle.remove()


def test_another_fault_is_no_lack_of_memory(bench, layers):
    def broken(module, args, kwargs):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    handle = bench.base.model.register_forward_pre_hook(broken, with_kwargs=True)
    try:
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            choose(bench, layers, SETTINGS, 1 << 20)
    finally:
        handle.remove()


def test_what_comes_with_slots_doubles_with_them():
    assert Tried(4, 1.0, before_bytes=100, peak_bytes=160).bytes_for_twice == 220
