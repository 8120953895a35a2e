"""One study carried to its end, or to an interruption: what a sweep and its verdict have in common."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType

from sweeper.comparison import MIN_SEEDS
from sweeper.config import Config
from sweeper.coordinator import Coordinator, marks_of
from sweeper.credentials import masked
from sweeper.engines import checkpoints
from sweeper.events import Listener, SweepInfo, TrialRecord
from sweeper.executors import make_executor
from sweeper.failpoints import reach
from sweeper.garbage import Keeper, keep, reading
from sweeper.inputs import Inputs, longest
from sweeper.journal import Journal
from sweeper.layout import Layout
from sweeper.messages import BASE
from sweeper.preemption import INTERRUPTED, STOPPING
from sweeper.space import Space
from sweeper.stored import public, study_url
from sweeper.study.study import Study
from sweeper.terminal.screen import Screen
from sweeper.tracking.sending import make_tracker


@dataclass(frozen=True)
class End:
    """How a study was left."""

    reason: str = ""
    """Why it stopped before its budget of trials was used; empty if it didn't."""
    interrupted: bool = False
    failures: Sequence[TrialRecord] = ()
    """Trials that failed one after another, up to the end."""


def launch(
    study: Study,
    inputs: Inputs,
    info: SweepInfo,
    layout: Layout,
    screen: Screen,
    conclude: Callable[[], str] = lambda: "",
) -> End:
    """Train what the study asks for, until its budget is used or somebody interrupts it.

    `conclude` is called when nothing is trained any more; what it says, if anything, is what listeners hear
    as the reason for the end.
    """
    config = inputs.config
    executor = make_executor(config, layout)
    info = replace(info, workers=executor.workers, trained_by=executor.about)
    listeners: list[Listener] = [Journal(layout), make_tracker(config.tracking, layout), screen]
    if executor.elsewhere:
        listeners.append(Keeper())
    coordinator = Coordinator(study, layout, info, config, inputs.rows, listeners)
    with reading():
        coordinator.open()
    keep()
    interruption = _Interruption()
    with _suspending(coordinator, screen, interruption):
        try:
            executor.run(coordinator)
        finally:
            reason = ""
            try:
                reason = conclude()
            finally:
                coordinator.close(reason)
    return End(coordinator.stopped, interruption.happened, coordinator.failures)


def sweep_info(study: Study, config: Config, layout: Layout, inputs: Inputs | None = None) -> SweepInfo:
    """The sweep, or the verdict that `layout` is of, as listeners see it; less of it without `inputs`."""
    marks = marks_of(config.trial, inputs.rows if inputs is not None else 1, config.task.evaluation)
    budget, is_verdict = config.budget, layout != layout.sweep
    judged = config.verdict.name != "none" and budget.seeds >= MIN_SEEDS and not is_verdict
    return SweepInfo(
        name=layout.name,
        folder=layout.folder,
        objective=config.task.objective,
        also=config.task.also,
        constraints=config.task.constraints,
        budget=budget.trials,
        examples=marks[-1],
        marks=len(marks),
        config=public(config),
        varied=study.space.names,
        model=inputs.model if inputs is not None else config.model.name,
        data=inputs.data if inputs is not None else (),
        study=masked(study_url(config, layout)),
        audit=inputs.audit if inputs is not None else None,
        verdict_runs=(budget.finalists + 1) * budget.seeds if judged else 0,
        is_verdict=is_verdict,
    )


def pruning_range(config: Config, space: Space, rows: int) -> tuple[int, int]:
    """The first mark of every trial and the length of the longest one, in training examples."""
    marks = marks_of(replace(config.trial, epochs=longest(space)), rows, config.task.evaluation)
    return marks[0], marks[-1]


def clear_away(study: Study, layout: Layout) -> None:
    """Delete the checkpoints of trials that a kill has hit between their end and this."""
    for record in study.records():
        if record.state.is_over and record.number != BASE:
            checkpoints.clear(layout.trial(record.number), record.adapter)


def save_best(study: Study, layout: Layout) -> None:
    """Copy the best trial's adapter to where people look for it."""
    best = study.best()
    if best is None or best.adapter is None or not best.adapter.exists():
        return
    fresh = layout.best.with_name(".best.new")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(best.adapter, fresh)
    reach("best.copied")
    shutil.rmtree(layout.best, ignore_errors=True)
    reach("best.removed")
    os.replace(fresh, layout.best)
    reach("best.placed")


@dataclass
class _Interruption:
    happened: bool = False


@contextmanager
def _suspending(coordinator: Coordinator, screen: Screen, interruption: _Interruption) -> Iterator[None]:
    """First signal: save what runs and leave. A second Ctrl-C or SIGTERM: leave at once, workers too."""

    def leave(signum: int, frame: FrameType | None) -> None:
        screen.console.show_cursor(True)
        os._exit(INTERRUPTED)

    def suspend(signum: int, frame: FrameType | None) -> None:
        interruption.happened = True
        coordinator.stop(f"interrupted ({signal.Signals(signum).name})")
        for again in (signal.SIGINT, signal.SIGTERM):
            signal.signal(again, leave)
        screen.say("Stopping: what runs is being saved. Ctrl-C again leaves at once.")

    before = {number: signal.signal(number, suspend) for number in STOPPING}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
