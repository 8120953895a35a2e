"""The engine `packed`: slots that take the next trial as soon as they are free."""

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch

from sweeper.config import TrialSettings
from sweeper.engines.attempt import Workbench
from sweeper.engines.evaluate import free_memory, out_of_memory
from sweeper.engines.packed.cycle import Losses, Share, gradients, largest
from sweeper.engines.packed.fitting import why_alone
from sweeper.engines.packed.layers import Layers
from sweeper.engines.packed.memory import memory_of
from sweeper.engines.packed.optimizer import update
from sweeper.engines.packed.probe import Probe, Tried
from sweeper.engines.packed.stack import Stack
from sweeper.engines.packed.tenant import Tenant
from sweeper.engines.trainer import finish, train_alone
from sweeper.messages import Channel, Decision, Done, Progress, TrialSpec, Wait
from sweeper.metrics import Answers

_LOG = logging.getLogger(__name__)


class PackedEngine:
    """Trains up to `slots` of the trials that a channel hands out together, the others as `trainer` does.

    Without `slots` their number is found by trying, with the settings of the first trial that comes in.
    """

    def __init__(self, bench: Workbench, slots: int | None, token_budget: int) -> None:
        self._bench = bench
        self._base = bench.base
        self._layers = Layers(bench.base.model)
        dtype = torch.promote_types(bench.base.model.dtype, torch.float32)
        self._stack = Stack({}, 0, 0, dtype, bench.base.device)
        self._slots = slots
        self._token_budget = token_budget
        self._tenants: list[Tenant] = []
        self._done = False
        self._ask_at = 0.0

    def run(self, channel: Channel) -> None:
        """Train trials until the channel says Done."""
        with self._layers.on_model():
            self._train(channel)

    def choose_slots(self, settings: TrialSettings) -> Tried:
        """Try how many slots are worth having for trials like `settings`, unless their number is given."""
        probe = self._probe(settings)
        with self._layers.on_model():
            found = probe.choose() if self._slots is None else probe.fewer(self._slots)
        if self._slots not in (None, found.slots):
            _LOG.warning("engine.slots=%d don't fit into memory; going on with %d", self._slots, found.slots)
        self._slots = found.slots
        return found

    def why_alone(self, spec: TrialSpec) -> str:
        """Why a trial would not share a batch, or ""."""
        return why_alone(self._base, self._layers.names, spec)

    def _train(self, channel: Channel) -> None:
        self._done = False
        while True:
            self._evaluate_due()
            self._obey()
            self._let_out(channel)
            self._fill(channel)
            self._obey()
            ready = [one for one in self._tenants if not (one.is_done or one.is_due)]
            if ready and len(ready) == len(self._tenants):
                self._cycle(ready)
            elif not self._tenants:
                if self._done:
                    return
                time.sleep(max(0.0, self._ask_at - time.monotonic()))

    # Who trains

    def _fill(self, channel: Channel) -> None:
        """Let trials in while there is room. Who shall wait does so beside those that train."""
        while not self._done and self._has_room() and time.monotonic() >= self._ask_at:
            work = channel.next_trial()
            if isinstance(work, Done):
                self._done = True
            elif isinstance(work, Wait):
                self._ask_at = time.monotonic() + work.seconds
            elif work.is_base:
                train_alone(self._bench, _Meanwhile(channel, self._listen), work)
            elif why := self.why_alone(work):
                meanwhile = _Meanwhile(channel, self._listen)
                train_alone(self._bench, meanwhile, work, f"trained by the engine trainer: {why}")
            else:
                self._let_in(channel, work)

    def _has_room(self) -> bool:
        # Their number is found with the first trial that comes in.
        return len(self._tenants) < (self._slots or 1)

    def _let_in(self, channel: Channel, spec: TrialSpec) -> None:
        taken = {tenant.slot for tenant in self._tenants}
        slot = next(slot for slot in itertools.count() if slot not in taken)
        tenant = Tenant(self._bench, channel, spec, slot, self._listen)
        self._tenants.append(tenant)
        with _own_end(tenant):
            while not self._is_in(tenant, spec.settings):
                self._make_way(tenant)
            tenant.settle_in()

    def _is_in(self, newcomer: Tenant, settings: TrialSettings) -> bool:
        """Put a newcomer's adapter into its slot; False where memory runs out."""
        try:
            adapter = newcomer.arrive()
            if self._slots is None:
                self._slots = self._probe(settings).choose().slots
            self._stack = self._stack.fitted([adapter.form], self._width)
            self._stack.put(newcomer.slot, adapter)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            return False
        return True

    def _make_way(self, newcomer: Tenant) -> None:
        """For one whose adapter found no memory: it waits until others have left; alone, it has fewer slots.

        A stack for a larger rank is larger in every slot.
        """
        free_memory()
        if len(self._tenants) > 1:
            self._lower_slots(len(self._tenants) - 1)
            newcomer.turn_back()
        if self._width == 1:
            raise self._bench.no_memory(newcomer.settings)
        self._lower_slots(self._width // 2)

    def _let_out(self, channel: Channel) -> None:
        """Say of those that are done how they ended, and free their slots."""
        leaving = [one for one in self._tenants if one.is_done]
        for tenant in leaving:
            if tenant.wants_test:
                with _own_end(tenant), self._at_work(tenant):
                    self._stack.put(tenant.slot, tenant.best())
                    tenant.test(self._base.model)
            self._tenants.remove(tenant)
            if tenant.slot < self._stack.slots:  # it may have ended before the stack was made
                self._stack.clear(tenant.slot)
            finish(channel, tenant)
        if leaving and not self._shrink():
            free_memory()

    def _shrink(self) -> bool:
        """Hold no more slots than are needed, and nothing for nobody; False where memory doesn't do for both.

        The larger stack is as good then, until somebody leaves again.
        """
        if self._tenants and self._stack.slots <= self._width:
            return True
        try:
            self._stack = self._stack.fitted((), self._width)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            return False
        return True

    @property
    def _width(self) -> int:
        """Slots that the stack needs: some may lie beyond a number that was lowered, until they are free."""
        return max([self._slots or 1, *(tenant.slot + 1 for tenant in self._tenants)])

    def _lower_slots(self, slots: int) -> None:
        _LOG.warning(
            "out of memory: engine.slots goes down from %s to %d for the trials to come, too",
            self._slots,
            slots,
        )
        self._slots = slots

    def _probe(self, settings: TrialSettings) -> Probe:
        memory = memory_of(self._base.device)
        return Probe(self._bench, self._layers, settings, self._token_budget, memory, self._listen)

    # What they do

    def _cycle(self, tenants: Sequence[Tenant]) -> None:
        """One optimizer step of every tenant."""
        started = time.perf_counter()
        shares = [tenant.share() for tenant in tenants]
        losses: Losses | None = None
        try:
            losses = gradients(self._base, self._layers, self._stack, shares, self._token_budget)
        except Exception as error:
            self._stack.gradients.zero_()
            if not out_of_memory(error):
                _end(tenants, error)
                return
        if losses is None:
            self._make_room(shares)
            return
        update(self._stack, {tenant.slot: tenant.step() for tenant in tenants})
        seconds = time.perf_counter() - started
        for tenant, nats, tokens in zip(tenants, losses.nats, losses.tokens, strict=True):
            with _own_end(tenant):
                tenant.after_step(nats, tokens, seconds, partial(self._stack.take, tenant.slot))

    def _make_room(self, shares: Sequence[Share]) -> None:
        """For a step that has run out of memory: fewer tokens per pass, then fewer tenants.

        Nothing of the step has been applied, and it comes again with the same rows and masks.
        """
        free_memory()
        tokens, row = largest(shares, self._token_budget, self._base.kind)
        if tokens > row:
            fewer = max(row, tokens // 2)
            _LOG.warning(
                "out of memory: engine.token_budget goes down from %d to %d for the trials to come, too",
                self._token_budget,
                fewer,
            )
            self._token_budget = fewer
        elif len(self._tenants) == 1:
            _end(self._tenants, self._bench.no_memory(self._tenants[0].settings))
        else:
            last = max(self._tenants, key=lambda tenant: tenant.slot)
            self._lower_slots(len(self._tenants) - 1)
            with _own_end(last):
                last.leave(partial(self._stack.take, last.slot))

    def _evaluate_due(self) -> None:
        """Score every tenant that has passed a mark, all at once."""
        due = [tenant for tenant in self._tenants if tenant.is_due and tenant.ended is None]
        if due:
            self._evaluate(due)

    def _evaluate(self, due: Sequence[Tenant]) -> None:
        answers: Sequence[Answers] | None = None
        try:
            answers, seconds = self._answers(due)
        except _Called:
            return
        except Exception as error:
            if len(due) == 1 or not out_of_memory(error):
                _end(due, error)
                return
        if answers is None:
            free_memory()
            self._evaluate(due[::2])
            self._evaluate(due[1::2])
            return
        for tenant, one in zip(due, answers, strict=True):
            if not tenant.is_called:
                with _own_end(tenant), self._at_work(tenant):
                    tenant.judge(self._base.model, one, seconds)

    def _answers(self, due: Sequence[Tenant]) -> tuple[Sequence[Answers], float]:
        """Of each of them, and the seconds that it took."""

        def tick(done: int, of: int) -> None:
            for tenant in due:
                tenant.scores(done, of)
            self._listen()
            if all(tenant.is_called for tenant in due):
                raise _Called

        started = time.perf_counter()
        with self._at_work(*due):
            answers = self._bench.evaluator.answers_of_each(self._base.model, len(due), tick)
        return answers, time.perf_counter() - started

    def _at_work(self, *tenants: Tenant) -> AbstractContextManager[None]:
        return self._layers.at_work(self._stack, [tenant.slot for tenant in tenants])

    # What they are told meanwhile

    def _listen(self, speaking: Tenant | None = None) -> None:
        """Let all tenants report but the one that is speaking for itself."""
        for tenant in self._tenants:
            if tenant.ended is None and tenant is not speaking:
                with _own_end(tenant):
                    tenant.listen()

    def _obey(self) -> None:
        for tenant in self._tenants:
            if tenant.ended is None and tenant.is_called:
                with _own_end(tenant):
                    tenant.obey(partial(self._stack.take, tenant.slot))


class _Called(Exception):
    """Nobody is left for whom an evaluation would have to go on."""


class _Meanwhile:
    """The channel for a trial that is trained alone while the tenants wait: they report along with it."""

    def __init__(self, channel: Channel, listen: Callable[[], None]) -> None:
        self._listen = listen
        self.next_trial, self.finish = channel.next_trial, channel.finish
        self._report = channel.report

    def report(self, progress: Progress) -> Decision:
        self._listen()
        return self._report(progress)


def _end(tenants: Sequence[Tenant], error: Exception) -> None:
    for tenant in tenants:
        tenant.ended = error


@contextmanager
def _own_end(tenant: Tenant) -> Iterator[None]:
    """What ends one trial, or goes wrong in it, ends no other."""
    try:
        yield
    except Exception as error:
        tenant.ended = error
