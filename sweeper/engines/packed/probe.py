"""How many slots are worth having: found by trying."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from sweeper.config import TrialSettings
from sweeper.engines.attempt import Workbench
from sweeper.engines.batches import Row, collate
from sweeper.engines.evaluate import free_memory, out_of_memory
from sweeper.engines.packed.adapters import fresh
from sweeper.engines.packed.cycle import Share, gradients
from sweeper.engines.packed.layers import Layers
from sweeper.engines.packed.optimizer import Step, update
from sweeper.engines.packed.stack import Stack
from sweeper.engines.training import gradients as gradients_alone
from sweeper.engines.training import wait_for

MOST = 32
_GROWTH = 1.1
"""Twice the slots have to bring at least this many times the speed."""

_MEMORY = 0.9
"""Share of the device's memory that may be asked for."""


@dataclass(frozen=True)
class Tried:
    """What so many slots were seen to do."""

    slots: int
    examples_per_second: float
    before_bytes: int
    peak_bytes: int
    """Allocated on the device before and at most; zero where there is no way to know."""

    @property
    def bytes_for_twice(self) -> int:
        """With rows of one length, everything that comes with a slot doubles: its rows, their squares in
        attention, its logits, its adapter and moments."""
        return self.before_bytes + 2 * (self.peak_bytes - self.before_bytes)


def try_slots(
    bench: Workbench, layers: Layers, settings: TrialSettings, slots: int, token_budget: int
) -> Tried:
    """Time a step of as many trials with `settings` as there are slots, on the longest rows."""
    base, cuda = bench.base, bench.base.device.type == "cuda"
    before = torch.cuda.memory_allocated() if cuda else 0
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    adapter = fresh(base, settings, 0).adapter
    stack = Stack(
        adapter.form.shapes,
        slots,
        adapter.form.bucket,
        torch.promote_types(base.model.dtype, torch.float32),
        base.device,
    )
    for slot in range(slots):
        stack.put(slot, adapter)
    rows = _rows(bench, settings)
    shares = [
        Share(slot, rows, range(len(rows)), settings.lora.dropout, settings.label_smoothing)
        for slot in range(slots)
    ]
    step = Step(1, settings.learning_rate, settings.weight_decay, settings.max_grad_norm)

    def work() -> float:
        started = time.perf_counter()
        gradients(base, layers, stack, shares, token_budget)
        update(stack, dict.fromkeys(range(slots), step))
        wait_for(base.device)
        return time.perf_counter() - started

    work()  # the first step warms up
    speed = slots * len(rows) / work()
    return Tried(slots, speed, before, torch.cuda.max_memory_allocated() if cuda else 0)


def choose(
    bench: Workbench,
    layers: Layers,
    settings: TrialSettings,
    token_budget: int,
    tick: Callable[[], None] = lambda: None,
) -> Tried:
    """The number of slots beyond which twice as many are hardly faster or don't fit into memory.

    `tick` is called before each number is tried.
    """
    cuda = bench.base.device.type == "cuda"
    room = _MEMORY * torch.cuda.get_device_properties(bench.base.device).total_memory if cuda else 0
    best = Tried(1, 0.0, 0, 0)
    while True:
        slots = 2 * best.slots if best.examples_per_second else 1
        if slots > MOST or best.bytes_for_twice > room:
            return best
        tick()
        tried = _if_it_fits(partial(try_slots, bench, layers, settings, slots, token_budget))
        if tried is None or tried.examples_per_second < _GROWTH * best.examples_per_second:
            return best
        best = tried


def try_fewer(
    bench: Workbench, layers: Layers, settings: TrialSettings, slots: int, token_budget: int
) -> Tried:
    """As `try_slots`, with half the slots as long as they don't fit into memory; speed 0 if one doesn't."""
    tried = _if_it_fits(partial(try_slots, bench, layers, settings, slots, token_budget))
    if tried is not None:
        return tried
    if slots == 1:
        return Tried(1, 0.0, 0, 0)
    return try_fewer(bench, layers, settings, slots // 2, token_budget)


def speed_alone(bench: Workbench, settings: TrialSettings) -> float:
    """Examples per second of one trial trained as the engine `trainer` does, on the same rows.

    With half of them as long as memory runs out; 0 if it does with one row.
    """
    rows = _rows(bench, settings)[: bench.micro_batch]
    while rows:
        speed = _if_it_fits(partial(_speed_on, bench, settings, rows))
        if speed is not None:
            return speed
        rows = rows[: len(rows) // 2]
    return 0.0


def _speed_on(bench: Workbench, settings: TrialSettings, rows: Sequence[Row]) -> float:
    base = bench.base
    batch = collate(rows, base.kind, base.tokenizer.pad_token_id)
    with base.put_on(settings, 0) as model:
        gradients_alone(model, base, batch, settings)  # the first pass warms up
        started = time.perf_counter()
        gradients_alone(model, base, batch, settings)
        return len(rows) / (time.perf_counter() - started)


def _if_it_fits(work: "Callable[[], T]") -> "T | None":
    """What `work` gives, or None if memory ran out."""
    try:
        return work()
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
    finally:
        free_memory()
    return None


T = TypeVar("T")


def _rows(bench: Workbench, settings: TrialSettings) -> Sequence[Row]:
    """An effective batch of the longest rows."""
    rows = sorted(bench.train_rows.rows, key=lambda row: len(row.input_ids), reverse=True)
    return rows[: settings.batch_size]
