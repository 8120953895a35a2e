"""One attempt at one trial, in a slot of the packed engine."""

import shutil
from collections.abc import Callable
from typing import Any

from sweeper.config import TrialSettings
from sweeper.engines import checkpoints
from sweeper.engines.attempt import Attempt, Workbench
from sweeper.engines.checkpoints import TrialState
from sweeper.engines.packed import adapters
from sweeper.engines.packed.cycle import Share
from sweeper.engines.packed.dropout import row_key
from sweeper.engines.packed.optimizer import Step, schedule
from sweeper.engines.packed.stack import Adapter
from sweeper.layout import Layout
from sweeper.messages import Channel, Decision, Ending, TrialSpec
from sweeper.metrics import Answers


class Tenant(Attempt):
    """Marks, checkpoints, reports and decisions are those of any attempt; the engine trains it.

    What ends the trial before its time is raised by its methods. Whoever calls them keeps it in `ended`, and
    takes the outcome.
    """

    engine = "packed"

    def __init__(
        self,
        bench: Workbench,
        channel: Channel,
        spec: TrialSpec,
        slot: int,
        meanwhile: Callable[["Tenant"], None],
    ) -> None:
        """`meanwhile` is called while nobody but this one is at work, for the others to report."""
        super().__init__(bench, channel, spec)
        self.slot = slot
        self._meanwhile = meanwhile
        self.ended: Exception | None = None
        self._held = Decision.CONTINUE

    def arrive(self) -> Adapter:
        """The adapter to go on with: that of the newest checkpoint, or a fresh one."""
        spec = self._spec
        fresh = adapters.fresh(self._bench.base, spec.settings, spec.seed)
        self._config, self._fresh = fresh.config, fresh.adapter
        trained = sum(a.numel() + b.numel() for a, b in fresh.adapter.weights.values())
        self._sizes["trainable_parameters"] = float(trained)
        self._rows, order = self._bench.train_rows.of_trial(
            spec.settings, spec.seed, spec.settings.batch_size
        )
        self._steps = order.micro_batches
        self._rate = schedule(spec.settings, len(self._steps))
        self._checkpoint = checkpoints.newest(spec.folder, self._mind)
        self._state = self._checkpoint.state if self._checkpoint else TrialState(engine=self.engine)
        return adapters.read(self._checkpoint.folder, fresh.adapter) if self._checkpoint else fresh.adapter

    def settle_in(self) -> None:
        """Tell again what an earlier attempt found."""
        self._tell_again()

    def turn_back(self) -> None:
        """End as suspended before the first step: what there is to go on with is on the disk already."""
        self._obey(Decision.SUSPEND)

    @property
    def is_due(self) -> bool:
        """True if a mark has been passed and not been evaluated."""
        return bool(self._due())

    @property
    def is_done(self) -> bool:
        """True if nothing is left to do."""
        return self.ended is not None or (self._state.step == len(self._steps) and not self._due())

    # A step

    def share(self) -> Share:
        """The rows of the next optimizer step."""
        step, settings = self._state.step, self._spec.settings
        rows = [self._rows[number] for number in self._steps[step]]
        keys = [row_key(self._spec.seed, step, place) for place in range(len(rows))]
        return Share(self.slot, rows, keys, settings.lora.dropout, settings.label_smoothing)

    def step(self) -> Step:
        """How the optimizer is to make it."""
        done, settings = self._state.step, self._spec.settings
        return Step(done + 1, self._rate(done), settings.weight_decay, settings.max_grad_norm)

    def after_step(self, nats: float, tokens: int, seconds: float, take: Callable[[], Adapter]) -> None:
        """Count the step; at a mark, or before leaving, write what `take` gives as a checkpoint."""
        self._recent.learning_rate = self._rate(self._state.step)
        self._count_step(self._state.step + 1, nats, tokens, seconds)
        if self._wants_checkpoint:
            self._write(take())

    def _write(self, adapter: Adapter) -> None:
        writing = Layout.attempt(self._spec.folder, self._spec.attempt) / ".writing"
        shutil.rmtree(writing, ignore_errors=True)
        # After the last step only the weights are of use.
        adapters.write(adapter, self._config, writing, self._state.examples < self._spec.examples)
        self._seal(writing)

    # A mark

    def judge(self, model: Any, answers: Answers, seconds: float) -> None:
        """Score and tell the answers that `model`, with this trial's adapter at work, gave in `seconds`."""
        self._scored = None
        self._evaluation_seconds += seconds
        self._judge(model, answers, self._due())

    def scores(self, done: int, of: int) -> None:
        """Note how many of the validation rows the evaluation that it is part of has done."""
        self._scored = done, of

    def _while_evaluating(self, done: int, of: int) -> None:
        super()._while_evaluating(done, of)
        self._meanwhile(self)

    # While it has to wait

    def listen(self) -> None:
        """Report if it is time, and keep the answer: what is going on belongs to others, too."""
        if not self.is_called and self._recent.age >= self._bench.report_seconds:
            self._held = self._report()

    @property
    def is_called(self) -> bool:
        """True if an answer other than to go on is kept."""
        return self._held is not Decision.CONTINUE

    def obey(self, take: Callable[[], Adapter]) -> None:
        """Do what the answer said that was kept. Called between steps, where a checkpoint is exact."""
        held, self._held = self._held, Decision.CONTINUE
        is_saved = self._checkpoint is not None and self._checkpoint.state.step == self._state.step
        if held is Decision.SUSPEND and not is_saved:
            self._suspending = True
            self._write(take())
        self._obey(held)

    def leave(self, take: Callable[[], Adapter]) -> None:
        """Write a checkpoint and end as suspended, to go on where there is room."""
        self._held = Decision.SUSPEND
        self.obey(take)

    # The end

    @property
    def wants_test(self) -> bool:
        """True for a verdict's run that has come to its end, or as far as its patience went."""
        by_itself = self.ended is None or getattr(self.ended, "ending", None) is Ending.FINISHED
        return self._spec.held_out and by_itself and self._state.best_folder is not None

    def best(self) -> Adapter:
        """The adapter of the best mark."""
        return adapters.read(self._spec.folder / str(self._state.best_folder), self._fresh)

    def test(self, model: Any) -> None:
        """Score `model`, with the best adapter at work, on the test rows."""
        self._score_held_out(model)

    def _within_memory(self, work: Callable[[Any, int], None], settings: TrialSettings) -> None:
        """Where an attempt of its own would train, this one has: what ended it is raised here."""
        if self.ended is not None:
            raise self.ended
