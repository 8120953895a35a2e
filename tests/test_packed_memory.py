"""How many slots fit into memory is foretold: no more are tried, and hardly fewer."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sweeper.engines.packed import probe
from sweeper.engines.packed.layers import Layers
from sweeper.engines.packed.memory import CudaMemory, NoLimit, Taken, memory_of
from sweeper.engines.packed.probe import MOST, Probe
from sweeper.engines.packed.stack import Stack
from sweeper.engines.trainer import workbench
from tests import tiny

SETTINGS = tiny.settings(batch_size=4)


@given(
    fixed=st.integers(0, 10**9), per_token=st.integers(1, 10**6), per_weight=st.integers(16, 32),
    slots=st.integers(1, 16), more=st.integers(1, 16),
    tokens=st.integers(1, 9000), further=st.integers(0, 9000),
)  # fmt: skip
def test_never_less_is_expected_than_is_taken(fixed, per_token, per_weight, slots, more, tokens, further):
    def peak(slots, tokens):
        return 10**9 + fixed + per_token * tokens + per_weight * 5_000 * slots

    taken = Taken(slots, tokens, 5_000, before=10**9, peak=peak(slots, tokens))
    assert taken.expected(slots, tokens) == taken.peak
    assert taken.expected(slots + more, tokens + further) >= peak(slots + more, tokens + further) - 1


class Device:
    """Counters of a GPU with `room` bytes and a base model of 1,000,000."""

    def __init__(self, room: float, per_token: int, per_weight: int, fixed: int) -> None:
        self.room = room
        self._per_token, self._per_weight, self._fixed = per_token, per_weight, fixed
        self.slots: list[int] = []
        self.peaks: list[int] = []

    def begin(self) -> int:
        self._tokens = 0
        return 1_000_000

    def peak(self) -> int:
        self.peaks.append(self.of(self._tokens, self._weights))
        return self.peaks[-1]

    def of(self, tokens: int, weights: int) -> int:
        return 1_000_000 + self._fixed + self._per_token * tokens + self._per_weight * weights

    def saw_pass(self, module, args, kwargs) -> None:
        self._tokens = max(self._tokens, kwargs["input_ids"].numel())

    def saw_stack(self, *args) -> Stack:
        stack = Stack(*args)
        self.slots.append(stack.slots)
        self._weights = stack.weights.numel()
        return stack


@pytest.fixture
def tries(monkeypatch):
    """Chooses slots on a `Device` where a step takes as long with many slots as with one."""
    bench = workbench(tiny.config(), tiny.base(), tiny.rows())
    layers = Layers(bench.base.model)
    monkeypatch.setattr(probe.time, "perf_counter", itertools.count().__next__)

    def choose(device, token_budget):
        monkeypatch.setattr(probe, "Stack", device.saw_stack)
        handle = bench.base.model.register_forward_pre_hook(device.saw_pass, with_kwargs=True)
        try:
            with layers.on_model(), tiny.one_thread():
                return Probe(bench, layers, SETTINGS, token_budget, device).choose().slots
        finally:
            handle.remove()

    return choose


@pytest.mark.parametrize("per_weight", [16, 24, 32])
@pytest.mark.parametrize(("per_token", "token_budget"), [(1_000, 1 << 20), (20_000, 1 << 20), (20_000, 100)])
@pytest.mark.parametrize("fixed", [0, 300_000])
def test_no_more_slots_are_tried_than_fit(tries, per_weight, per_token, token_budget, fixed):
    device = Device(12_000_000, per_token, per_weight, fixed)
    chosen = tries(device, token_budget)
    assert all(peak <= device.room for peak in device.peaks)
    assert chosen == device.slots[-1] == max(device.slots)
    one = device.peaks[0] - 1_000_000
    assert chosen >= min(MOST, int(0.4 * (device.room - 1_000_000) / one)), "nor are they far fewer"


def test_where_they_fit_as_many_are_tried_as_there_may_be(tries):
    device = Device(float("inf"), 1_000, 20, 0)
    assert tries(device, 1 << 20) == MOST
    assert device.slots == [1, 2, 4, 8, 16, 32]


def test_where_twice_as_many_do_not_fit_the_most_that_do_are_tried(tries):
    one = Device(float("inf"), 100_000, 16, 0)
    tries(one, 1 << 20)
    slot = one.peaks[0] - 1_000_000
    device = Device(1_000_000 + 11.9 * slot, 100_000, 16, 0)
    assert tries(device, 1 << 20) == 11
    assert device.slots == [1, 2, 4, 8, 11]


def test_a_gpus_memory_is_counted_by_torch(monkeypatch):
    device = torch.device("cuda", 0)
    counters = {
        # Of 2,000 bytes others hold 1,000.
        "mem_get_info": lambda _: (600, 2_000),
        "memory_reserved": lambda _: 400,
        "reset_peak_memory_stats": lambda _: None,
        "memory_allocated": lambda _: 300,
        "max_memory_allocated": lambda _: 700,
    }
    for name, counter in counters.items():
        monkeypatch.setattr(torch.cuda, name, counter)
    memory = memory_of(device)
    assert isinstance(memory, CudaMemory)
    assert (memory.room, memory.begin(), memory.peak()) == (900, 300, 700)


def test_nobody_counts_a_cpus():
    memory = memory_of(torch.device("cpu"))
    assert isinstance(memory, NoLimit)
    assert (memory.begin(), memory.peak()) == (0, 0)
    assert memory.room > 1 << 60
