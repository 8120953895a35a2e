"""One attempt at one trial: training up to its marks, evaluating there, and doing as it is told."""

import logging
import math
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from sweeper.advice import less_memory
from sweeper.config import Config, TrialSettings
from sweeper.engines import checkpoints
from sweeper.engines.batches import collate
from sweeper.engines.checkpoints import Checkpoint, TrialState
from sweeper.engines.dry_run import dry_run
from sweeper.engines.evaluate import Evaluator, free_memory, out_of_memory, overfitting
from sweeper.engines.order import TrainingRows
from sweeper.engines.recent import Recent
from sweeper.engines.training import TrialTrainer, gradients
from sweeper.errors import (
    DeviceError,
    DivergedError,
    ModelError,
    OutOfMemoryError,
    StorageError,
    TrialError,
    first_line,
)
from sweeper.layout import Layout
from sweeper.messages import (
    Channel,
    Decision,
    Ending,
    Evaluation,
    HeldOutScores,
    Outcome,
    Progress,
    TrialSpec,
)
from sweeper.metrics import Answers, Scores
from sweeper.models.modeling import BaseModel
from sweeper.space import Space
from sweeper.storage.disk import raise_if_full

_log = logging.getLogger(__name__)

_REPORTS = 20
"""Reports of the training loss over a trial at least, however short it is: enough to see whether it falls."""

_ENDINGS = {
    Decision.PRUNE: Ending.PRUNED,
    Decision.STOP: Ending.PRUNED,  # before the first mark there is nothing to keep
    Decision.CANCEL: Ending.CANCELLED,
    Decision.SUSPEND: Ending.SUSPENDED,
}


@dataclass
class Workbench:
    """What stays loaded from one trial to the next."""

    config: Config
    base: BaseModel
    train_rows: TrainingRows
    evaluator: Evaluator
    test: Callable[[], Evaluator]
    """Over the test rows, which it opens when it is first called."""
    micro_batch: int
    """Rows per forward pass at most; becomes smaller for good when memory runs out."""
    report_seconds: float

    def no_memory(self, settings: TrialSettings) -> OutOfMemoryError:
        """For a trial that finds none for a single row."""
        dtype = str(next(self.base.model.parameters()).dtype)
        ways = less_memory(self.config, settings, dtype)
        return OutOfMemoryError(f"out of memory with one row per forward pass; {ways}")


class Attempt(TrainerCallback):  # type: ignore[misc]
    """What happens between Trainer's steps, and before and after them.

    At a mark the checkpoint is written first and evaluated then, so that whoever is killed while evaluating
    loses no training.
    """

    engine = "trainer"

    def __init__(self, bench: Workbench, channel: Channel, spec: TrialSpec) -> None:
        self._bench = bench
        self._channel = channel
        self._spec = spec
        self.folder = spec.folder
        self._goals = bench.config.task.goals
        self._state = TrialState()
        self._checkpoint: Checkpoint | None = None
        self._trainer: TrialTrainer | None = None
        self._test: HeldOutScores | None = None
        self._reason = ""
        self._minded: list[str] = []
        self._trained = 0
        self._told: set[int] = set()
        self._scored: tuple[int, int] | None = None
        self._reported = 0
        self._diverged = False
        self._suspending = False
        self._train_seconds = self._evaluation_seconds = 0.0
        self._speed: dict[str, float] = {}
        self._sizes: dict[str, float] = {}
        self._recent = Recent()
        self._started = time.perf_counter()
        if bench.base.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    @property
    def settings(self) -> TrialSettings:
        """Of the trial."""
        return self._spec.settings

    def outcome(self) -> Outcome:
        """Run the attempt to its end.

        As exceptions leave only KeyboardInterrupt, SystemExit, StorageError, DeviceError and ModelError: a
        full disk, a study database that is away, a device that is lost, a model that can't be trained are not
        the trial's fault.
        """
        ending, adapter = Ending.FINISHED, None
        try:
            if self._spec.is_base:
                self._measure_base()
            else:
                self._within_memory(self._fit, self._spec.settings)
            reason = self._reason
        except _Stop as stop:
            ending, reason = stop.ending, stop.reason
        except TrialError as error:
            ending, reason = Ending.FAILED, str(error)
            self._diverged = isinstance(error, DivergedError)
        except (StorageError, ModelError):
            raise
        except Exception as error:
            checkpoints.drop_unfinished(self.folder)
            if isinstance(error, torch.AcceleratorError):
                raise DeviceError(
                    f"the device gave up in trial {self._spec.trial} ({first_line(error)}): whatever this "
                    "process asks of it would fail. Its trials go on from their checkpoints in another "
                    "process; without one, run the same command again"
                ) from error
            raise_if_full(error, self.folder)
            ending, reason = Ending.FAILED, f"{type(error).__name__}: {error}"
        if ending is Ending.FINISHED and self._state.best_folder is not None:
            target = Layout.attempt(self._spec.folder, self._spec.attempt) / "best"
            adapter = checkpoints.publish(self._spec.folder / self._state.best_folder, target)
            self._sizes["adapter_megabytes"] = checkpoints.weights_bytes(adapter) / 1e6
        seconds = time.perf_counter() - self._started
        cuda = self._bench.base.device.type == "cuda"
        cost = self._sizes | {
            "train_seconds": self._train_seconds,
            "evaluation_seconds": self._evaluation_seconds,
            "overhead_seconds": seconds - self._train_seconds - self._evaluation_seconds,
            "seconds": seconds,
            "peak_memory_bytes": float(torch.cuda.max_memory_allocated()) if cuda else _peak_memory(),
        }
        epochs = self._spec.settings.epochs
        if not self._spec.is_base and (warning := overfitting(self._state.evaluations, epochs)):
            self._minded.append(warning)
        return Outcome(
            trial=self._spec.trial,
            attempt=self._spec.attempt,
            ending=ending,
            examples=self._trained,
            engine=self.engine,
            reason=reason,
            best=self._state.best,
            adapter=adapter,
            cost=cost | self._speed,
            warnings=tuple(self._minded),
            samples=self._state.samples,
            test=self._test,
            diverged=self._diverged,
        )

    def _measure_base(self) -> None:
        """Evaluate the untouched model, and time training: a sweep's length follows from both."""
        if self._spec.held_out:
            self._score_held_out(self._bench.base.model)
            return
        bench, space = self._bench, Space.parse(self._bench.config.space, self._bench.config.trial)
        rows, labels = bench.train_rows.rows, bench.evaluator.labels
        place = self.folder / ".dry_run"
        dry_run(bench.base, bench.config.task, space, rows, labels, self._within_memory, place)
        self._within_memory(self._time_a_step, self._spec.settings)
        self._evaluate(self._bench.base.model, (0,))

    def _time_a_step(self, model: Any, micro_batch: int) -> None:
        base, settings = self._bench.base, self._spec.settings
        rows = self._bench.train_rows.rows[:micro_batch]
        batch = collate(rows, base.kind, base.tokenizer.pad_token_id)
        gradients(model, base, batch, settings)  # the first pass warms up
        started = time.perf_counter()
        gradients(model, base, batch, settings)
        self._speed = {"train_examples_per_second": len(rows) / (time.perf_counter() - started)}

    def _within_memory(self, work: Callable[[Any, int], None], settings: TrialSettings) -> None:
        """`work` on the model, trainable as `settings` say, with fewer rows per pass when memory runs out."""
        bench = self._bench
        while True:
            micro_batch = min(bench.micro_batch, settings.batch_size)
            try:
                with bench.base.put_on(settings, self._spec.seed) as model:
                    work(model, micro_batch)
                return
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if micro_batch == 1:
                    raise bench.no_memory(settings) from error
            bench.micro_batch = (micro_batch + 1) // 2
            free_memory()

    def _fit(self, model: Any, micro_batch: int) -> None:
        """Train from the newest checkpoint, or from the start, to the end."""
        spec = self._spec
        trained = (weights.numel() for weights in model.parameters() if weights.requires_grad)
        self._sizes["trainable_parameters"] = float(sum(trained))
        self._checkpoint = checkpoints.newest(spec.folder, self._mind)
        self._state = self._checkpoint.state if self._checkpoint else TrialState()
        rows, order = self._bench.train_rows.of_trial(spec.settings, spec.seed, micro_batch)
        writing = Layout.attempt(spec.folder, spec.attempt) / ".writing"
        self._trainer = TrialTrainer(self._bench.base, model, spec, rows, order, writing, self)
        try:
            self._train(self._trainer)
            if spec.held_out and self._state.best_folder is not None:
                self._trainer.restore(spec.folder / self._state.best_folder)
                self._score_held_out(model)
        finally:
            self._trainer.let_go()
            self._trainer = None

    def _mind(self, warning: str) -> None:
        """Say now what is also told at the end: this attempt may not live to see it."""
        if warning not in self._minded:
            self._minded.append(warning)
            _log.warning("Trial %d: %s", self._spec.trial, warning)

    def _train(self, trainer: TrialTrainer) -> None:
        """Train to the end, or as far as patience goes."""
        try:
            trainer.train(resume_from_checkpoint=str(self._checkpoint.folder) if self._checkpoint else None)
        except _Stop as stop:
            if stop.ending is not Ending.FINISHED:
                raise
            self._reason = stop.reason

    def _score_held_out(self, model: Any) -> None:
        started = time.perf_counter()
        try:
            self._test = self._bench.test().held_out(model, self._while_evaluating)
        finally:
            self._scored = None
            self._evaluation_seconds += time.perf_counter() - started

    # What Trainer calls

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell again what an earlier attempt found, and catch up on a mark that it did not evaluate."""
        self._tell_again()
        self._evaluate(kwargs["model"], self._due())

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._step_started = time.perf_counter()

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._while_training()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._recent.learning_rate = kwargs["optimizer"].param_groups[0]["lr"]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the step; ask for a checkpoint at a mark, or before leaving."""
        assert self._trainer is not None  # noqa: S101 - for mypy
        nats, tokens = self._trainer.take_losses()
        self._count_step(state.global_step, nats, tokens, time.perf_counter() - self._step_started)
        # After the last step only the weights are of use.
        args.save_only_model = self._state.examples == self._spec.examples
        control.should_save = self._wants_checkpoint

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Complete the checkpoint that Trainer has written, then evaluate, or leave."""
        self._seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")
        self._evaluate(kwargs["model"], self._due())

    # Steps and their checkpoints

    def _count_step(self, step: int, nats: float, tokens: int, seconds: float) -> None:
        """Note what the optimizer step has brought, and report it if it is time."""
        examples = min(step * self._spec.settings.batch_size, self._spec.examples)
        rows = examples - self._state.examples
        self._state = replace(
            self._state,
            step=step,
            examples=examples,
            loss_sum=self._state.loss_sum + nats,
            loss_tokens=self._state.loss_tokens + tokens,
        )
        self._trained += rows
        self._train_seconds += seconds
        self._recent.add(nats, tokens, rows, seconds)
        if not math.isfinite(nats):
            raise DivergedError(
                f"the training loss became {nats} at example {examples}; lower the learning rate, lengthen "
                f"the warm-up or {'lower' if self._spec.settings.max_grad_norm else 'set'} max_grad_norm"
            )
        self._while_training()

    @property
    def _wants_checkpoint(self) -> bool:
        return self._suspending or bool(self._due())

    def _seal(self, written: Path) -> None:
        """Complete a written checkpoint, and leave if that is what it is for."""
        target = checkpoints.place(self._spec.folder, self._spec.attempt, self._state.step)
        self._checkpoint = checkpoints.seal(written, target, self._state)
        self._keep_best_and_last()
        if self._suspending:
            raise _Stop(Ending.SUSPENDED)

    # Marks

    def _due(self) -> tuple[int, ...]:
        """Marks that have been passed and not been evaluated."""
        done = {evaluation.mark for evaluation in self._state.evaluations}
        return tuple(m for m in self._spec.marks if m <= self._state.examples and m not in done)

    def _evaluate(self, model: Any, marks: Sequence[int]) -> None:
        """Score the model once and report it for all of `marks`."""
        if not marks:
            return
        started = time.perf_counter()
        try:
            answers = self._bench.evaluator.answers(model, self._while_evaluating)
        finally:
            self._scored = None
            self._evaluation_seconds += time.perf_counter() - started
        self._judge(model, answers, marks)

    def _judge(self, model: Any, answers: Answers, marks: Sequence[int]) -> None:
        """Score the model's answers, keep them, and report them for all of `marks`."""
        started = time.perf_counter()
        try:
            evaluator = self._bench.evaluator
            self._remember(evaluator.scores(answers), marks)
            if marks[-1] == self._spec.marks[-1] or self._out_of_patience():
                samples = evaluator.samples(model, answers, self._while_evaluating)
                self._state = replace(self._state, samples=samples)
        finally:
            self._scored = None
            self._evaluation_seconds += time.perf_counter() - started
        if self._checkpoint is not None:
            self._checkpoint = checkpoints.update(self._checkpoint, self._state)
            self._keep_best_and_last()
        for evaluation in self._state.evaluations[-len(marks) :]:
            self._tell(evaluation)
        self._stop_without_patience()

    def _remember(self, scores: Scores, marks: Sequence[int]) -> None:
        """Add the scores to what is known of the trial."""
        known, found = self._state, dict(scores.metrics)
        if not (math.isfinite(scores.objective) and math.isfinite(found["loss"])):
            raise DivergedError(
                f"the validation loss or the objective is not finite after {known.examples} examples; "
                "lower the learning rate or lengthen the warm-up"
            )
        if known.loss_tokens:
            found["train_loss"] = known.loss_sum / known.loss_tokens
            found["generalization_gap"] = found["loss"] - found["train_loss"]
        first, *others = (
            Evaluation(mark, scores.objective, scores.error, found, errors=scores.errors) for mark in marks
        )
        earlier = known.evaluations
        is_best = known.best is None or self._goals.better(found, known.best.metrics)
        if is_best:
            # Every checkpoint holds all evaluations, and slices are large: only the best mark keeps them.
            first = replace(
                first, slices=scores.slices, confusion=scores.confusion, rows=scores.objective_rows
            )
            earlier = tuple(replace(one, slices=(), confusion=None, rows=()) for one in earlier)
        evaluations = (*earlier, first, *others)
        self._state = replace(known, evaluations=evaluations, loss_sum=0.0, loss_tokens=0)
        if is_best:
            folder = str(self._checkpoint.folder.relative_to(self._spec.folder)) if self._checkpoint else None
            self._state = replace(self._state, best=first, best_folder=folder)

    def _keep_best_and_last(self) -> None:
        assert self._checkpoint is not None  # noqa: S101 - for mypy
        best = [self._spec.folder / self._state.best_folder] if self._state.best_folder else []
        checkpoints.keep(self._spec.folder, [self._checkpoint.folder, *best])

    def _out_of_patience(self) -> str:
        """Why the trial stops by itself before its end, or ""."""
        patience, best = self._spec.settings.patience, self._state.best
        if not patience or best is None:
            return ""
        since = [evaluation for evaluation in self._state.evaluations if evaluation.mark > best.mark]
        if len(since) < patience or since[-1].mark == self._spec.examples:
            return ""
        return (
            f"stopped at example {since[-1].mark} of {self._spec.examples}: "
            f"{self._goals.objective.metric} was best at {best.mark}, {len(since)} marks ago"
        )

    def _stop_without_patience(self) -> None:
        if reason := self._out_of_patience():
            raise _Stop(Ending.FINISHED, reason)

    # What is told, and the answers

    def _tell_again(self) -> None:
        for evaluation in self._state.evaluations:
            self._tell(evaluation)
        self._stop_without_patience()

    def _tell(self, evaluation: Evaluation) -> None:
        if evaluation.mark not in self._told:
            self._told.add(evaluation.mark)
            self._obey(self._report(evaluation))

    def _while_training(self) -> None:
        """Report if it is time. SUSPEND waits for the end of the step: only there is a checkpoint exact."""
        so_far = self._state.examples
        is_next = (so_far - self._reported) * _REPORTS >= self._spec.examples
        if self._recent.age < self._bench.report_seconds and not is_next:
            return
        decision = self._report()
        if decision is Decision.SUSPEND:
            self._suspending = True
        else:
            self._obey(decision)

    def _while_evaluating(self, done: int, of: int) -> None:
        self._scored = done, of
        if self._recent.age >= self._bench.report_seconds:
            self._obey(self._report())

    def _report(self, evaluation: Evaluation | None = None) -> Decision:
        measured = self._recent.metrics() | self._speed
        self._reported = self._state.examples
        self._recent = Recent(learning_rate=self._recent.learning_rate)
        spec, scored = self._spec, self._scored if evaluation is None else None
        return self._channel.report(
            Progress(spec.trial, spec.attempt, self._state.examples, measured, evaluation, scored)
        )

    def _obey(self, decision: Decision) -> None:
        if decision is Decision.STOP and self._state.best is not None:
            seen, whole = self._state.best.mark, self._spec.examples
            marks = [evaluation.mark for evaluation in self._state.evaluations]
            left = f"its best mark is {seen}, its last one {max(marks)} of {whole} examples"
            raise _Stop(Ending.FINISHED, left if max(marks) < whole else "")
        if decision is not Decision.CONTINUE:
            raise _Stop(_ENDINGS[decision])


class _Stop(Exception):
    """No error: the attempt ends here."""

    def __init__(self, ending: Ending, reason: str = "") -> None:
        super().__init__(reason)
        self.ending = ending
        self.reason = reason


def _peak_memory() -> float:
    """The process's largest resident size so far, in bytes."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(largest if sys.platform == "darwin" else largest * 1024)
