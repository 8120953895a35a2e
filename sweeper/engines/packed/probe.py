"""How many slots are worth having: found by trying."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TypeVar

import torch

from sweeper.config import TrialSettings
from sweeper.engines.attempt import Workbench
from sweeper.engines.batches import Batch, Row, collate
from sweeper.engines.evaluate import free_memory, out_of_memory
from sweeper.engines.packed.adapters import fresh
from sweeper.engines.packed.cycle import Share, gradients, largest, size_of
from sweeper.engines.packed.layers import Layers
from sweeper.engines.packed.memory import Memory, Taken
from sweeper.engines.packed.optimizer import Step, update
from sweeper.engines.packed.stack import Stack
from sweeper.engines.training import backward, wait_for
from sweeper.models.modeling import BaseModel

MOST = 32
_GROWTH = 0.1
"""Twice the slots have to bring at least this share more speed."""

TIMES = 3
"""Steps that are timed; the fastest counts."""


@dataclass(frozen=True)
class Tried:
    """What so many slots were seen to do."""

    slots: int
    examples_per_second: float
    taken: Taken | None = None
    """None where memory ran out."""


@dataclass(frozen=True)
class Probe:
    """Steps of as many trials with `settings` as there are slots, on the longest rows."""

    bench: Workbench
    layers: Layers
    settings: TrialSettings
    token_budget: int
    memory: Memory
    tick: Callable[[], None] = lambda: None
    """Called before each number of slots is tried."""

    def choose(self) -> Tried:
        """The number of slots beyond which more are hardly faster or are not expected to fit into memory."""
        best, slots = Tried(1, 0.0), 1
        while slots:
            tried = _if_it_fits(partial(self.run, slots))
            if tried is None or tried.examples_per_second < _worth(best, slots):
                break
            best, slots = tried, self._more(tried)
        return best

    def fewer(self, slots: int) -> Tried:
        """`slots` of them, or half as many as long as they don't fit into memory; speed 0 if one doesn't."""
        while slots:
            if (tried := _if_it_fits(partial(self.run, slots))) is not None:
                return tried
            slots //= 2
        return Tried(1, 0.0)

    def run(self, slots: int) -> Tried:
        """Time a step. Raises what torch raises when memory runs out."""
        self.tick()
        base, settings = self.bench.base, self.settings
        before = self.memory.begin()
        adapter = fresh(base, settings, 0).adapter
        dtype = torch.promote_types(base.model.dtype, torch.float32)
        stack = Stack(adapter.form.shapes, slots, adapter.form.bucket, dtype, base.device)
        for slot in range(slots):
            stack.put(slot, adapter)
        shares = self._shares(slots)
        step = Step(1, settings.learning_rate, settings.weight_decay, settings.max_grad_norm)

        def work() -> float:
            """Seconds of one step."""
            started = time.perf_counter()
            gradients(base, self.layers, stack, shares, self.token_budget)
            update(stack, dict.fromkeys(range(slots), step))
            wait_for(base.device)
            return time.perf_counter() - started

        work()  # the first step warms up
        seconds = min(work() for _ in range(TIMES))
        examples = sum(len(share.rows) for share in shares)
        weights = stack.weights.numel() // slots
        taken = Taken(slots, self._tokens(shares), weights, before, self.memory.peak())
        return Tried(slots, examples / seconds, taken)

    def _more(self, tried: Tried) -> int:
        """The most slots that are expected to fit, up to twice those that were tried; 0 if no more do."""

        def fits(slots: int) -> bool:
            tokens = self._tokens(self._shares(slots))
            return tried.taken is not None and tried.taken.expected(slots, tokens) <= self.memory.room

        found = range(min(2 * tried.slots, MOST), tried.slots, -1)
        return next((slots for slots in found if fits(slots)), 0)

    def _shares(self, slots: int) -> list[Share]:
        rows, lora = longest(self.bench, self.settings), self.settings.lora
        return [
            Share(slot, rows, range(len(rows)), lora.dropout, self.settings.label_smoothing)
            for slot in range(slots)
        ]

    def _tokens(self, shares: Sequence[Share]) -> int:
        return largest(shares, self.token_budget, self.bench.base.kind)[0]


def _worth(best: Tried, slots: int) -> float:
    """The speed that makes more slots than the best worth having."""
    return best.examples_per_second * (1 + _GROWTH * (slots / best.slots - 1))


def speed_alone(bench: Workbench, settings: TrialSettings) -> float:
    """Examples per second of one trial's optimizer step as the engine `trainer` makes it, on the same rows.

    With half as many per pass as long as memory runs out; 0 if it does with one row. What Trainer does around
    its steps is not counted.
    """
    rows, base = longest(bench, settings), bench.base
    size = min(bench.micro_batch, len(rows))
    while size:
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        batches = [collate(part, base.kind, base.tokenizer.pad_token_id) for part in parts]
        seconds = _if_it_fits(partial(_step_alone, base, settings, batches))
        if seconds is not None:
            return len(rows) / seconds
        size //= 2
    return 0.0


def _step_alone(base: BaseModel, settings: TrialSettings, batches: Sequence[Batch]) -> float:
    """Seconds of a step over `batches`."""
    with base.put_on(settings, 0) as model:
        weights = [one for one in model.parameters() if one.requires_grad]
        optimizer = torch.optim.AdamW(weights, settings.learning_rate, weight_decay=settings.weight_decay)

        def work() -> float:
            """Seconds of one step."""
            started = time.perf_counter()
            for batch in batches:
                backward(model, base, batch, settings)
            if settings.max_grad_norm:
                torch.nn.utils.clip_grad_norm_(weights, settings.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            wait_for(base.device)
            return time.perf_counter() - started

        work()  # the first step warms up
        return min(work() for _ in range(TIMES))


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


def longest(bench: Workbench, settings: TrialSettings) -> Sequence[Row]:
    """An effective batch of the rows with most tokens, augmented copies among them."""
    every = chain(bench.train_rows.rows, *bench.train_rows.copies)
    rows = sorted(every, key=lambda row: sum(size_of(row, bench.base.kind)), reverse=True)
    return rows[: settings.batch_size]
