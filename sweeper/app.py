"""One function per verb of the command line; the only module that calls Hydra."""

import os
import shlex
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

from rich.markup import escape
from rich.table import Table

from sweeper import lock
from sweeper.compose import compose, masked_override, read_config
from sweeper.config import Config
from sweeper.coordinator import Coordinator, in_common, marks_of
from sweeper.database import check_database, masked, sqlite_path
from sweeper.errors import StudyError, SweeperError, SweepFailed
from sweeper.events import SweepInfo, TrialRecord
from sweeper.executors import make_executor
from sweeper.export import CHAMPION, choose, hub_token, push, register, write_export
from sweeper.gate import inspect
from sweeper.inbox import Inbox
from sweeper.inputs import Inputs, fingerprint, longest, prepare_inputs, rows_are_unchanged
from sweeper.journal import Journal
from sweeper.layout import Layout, write_atomically
from sweeper.messages import BASE
from sweeper.pruners import make_pruner
from sweeper.retrain import refuse_another_winner, retraining
from sweeper.screen import Screen, conclusions, make_screen, number, trial_table
from sweeper.space import Space
from sweeper.stored import as_yaml, names, public, stored, stored_config, study_url
from sweeper.study import Study
from sweeper.tracking import make_tracker, ui_command, ui_environment
from sweeper.trials import trials

INTERRUPTED = 130
"""Exit code of a sweep that was interrupted and can go on, as shells have it for Ctrl-C."""


def run(overrides: Sequence[str]) -> int:
    """Run a sweep, or go on with it; gives the exit code."""
    config, space = read_config(compose(overrides))
    screen = make_screen()
    layout = Layout(config.sweep.folder, config.sweep.name)
    url = study_url(config, layout)
    check_database(url)
    _obey_signals()
    with lock.hold(layout, sqlite_path(url)):
        known = _known(url, config, space, layout)
        if known is not None and _is_over(known, config, layout):
            screen.say(f"Sweep {layout.name} is complete; a larger budget.trials continues it.")
            _save_best(known, layout)
            return _conclude(known, _info(known, config, layout), screen, "")
        pins = known.fingerprint.get("pins", {}) if known is not None else {}
        inputs = prepare_inputs(config, space, layout, pins, screen)
        study = _open(url, config, space, inputs, layout)
        return _sweep(study, inputs, layout, screen, shlex.join(masked_override(o) for o in overrides))


def train(folder: Path, name: str) -> int:
    """Train the winner of a sweep on all training rows, or go on with it; gives the exit code."""
    layout, screen = Layout(folder, name), make_screen()
    stored_config(layout)  # a lock would make its folder
    _obey_signals()
    with lock.hold(layout), lock.hold(layout.training):
        plan = retraining(layout)
        config, space, winner = plan.config, plan.space, plan.winner
        url = study_url(config, layout)
        known = Study.known(url, plan.layout.name, plan.layout.folder)
        if known is not None:
            refuse_another_winner(known, plan)
            known = _known(url, config, space, plan.layout)
        if known is not None and _is_over(known, config, plan.layout):
            screen.say(f"{plan.layout.name} is complete.")
            return _conclude(known, _info(known, config, plan.layout), screen, "")
        metric = config.task.objective.metric
        reached = f"{metric} {number(winner.objective, winner.error)}"
        screen.say(f"Training with the settings of trial {winner.number} ({reached}) on all rows")
        pins = known.fingerprint.get("pins", {}) if known is not None else {}
        inputs = prepare_inputs(config, space, plan.layout, pins, screen, beside=layout.rows)
        study = _open(url, config, space, inputs, plan.layout)
        if all(record.number == BASE for record in study.records()):
            study.enqueue({}, winner.number, 0)
        return _sweep(study, inputs, plan.layout, screen, f"train {name}")


def audit(overrides: Sequence[str]) -> int:
    """Look at the rows without training anything; gives the exit code."""
    config, _ = read_config(compose(overrides), sweeping=False)
    inspect(config, Layout(config.sweep.folder, config.sweep.name), make_screen(), details=True)
    return 0


def show_config(overrides: Sequence[str]) -> int:
    """Print the composed configuration, passwords masked, after checking it."""
    config, _ = read_config(compose(overrides))
    print(as_yaml(public(config)), end="")
    return 0


def list_sweeps(folder: Path) -> int:
    """Print a line for every sweep in `folder`."""
    screen = make_screen()
    found = names(folder)
    if not found:
        screen.say(f"No sweep in {folder}/ yet; begin one with: python -m sweeper +experiment=summarize")
        return 0
    table = Table()
    for column in ("sweep", "state", "trials", "objective", "best", "trial"):
        table.add_column(column, justify="right" if column in ("trials", "best", "trial") else "left")
    faults = []
    for name in found:
        try:
            table.add_row(*_row(Layout(folder, name)))
        except SweeperError as error:
            table.add_row(escape(name), "unreadable")
            faults.append(f"{name}: {error}")
    screen.console.print(table)
    for fault in faults:
        screen.say(fault)
    return 0


def _row(layout: Layout) -> list[str]:
    config, study = stored(layout)
    trials = [r for r in study.records() if r.number != BASE]
    over, best = sum(r.state.is_over for r in trials), study.best()
    total = config["budget"]["trials"]
    state = "running" if lock.is_held(layout) else "complete" if over >= total else "stopped"
    return [
        escape(layout.name),
        state,
        f"{over}/{total}",
        f"{study.objective.direction} {study.objective.metric}",
        number(best.objective, best.error) if best else "-",
        str(best.number) if best else "-",
    ]


def show_sweep(folder: Path, name: str) -> int:
    """Print the trials and the result of one sweep."""
    layout = Layout(folder, name)
    config, study = stored(layout)
    screen = make_screen()
    info = _info(study, read_config(config)[0], layout)
    _conclude(study, info, screen, "", samples=True)
    if lock.is_held(layout):
        screen.say("It is running at this moment.")
    return 0


def steer(folder: Path, name: str, words: Sequence[str]) -> int:
    """List the trials of a sweep, show one, or tell its coordinator to stop or train some."""
    return trials(Layout(folder, name), words, make_screen())


def export_trial(
    folder: Path,
    name: str,
    trial: int | None,
    merge: bool,
    to: Path | None,
    mlflow: bool,
    repository: str | None,
) -> int:
    """Write the best trial of a sweep, or the one named, for use elsewhere; register and push it if asked."""
    if repository is not None:
        hub_token()  # before anything takes time
    screen = make_screen()
    choice = choose(Layout(folder, name), trial)
    told = f"trial {choice.record.number}, {choice.config.task.objective.metric} "
    told += number(choice.record.objective, choice.record.error)
    if choice.is_running and trial is None:
        screen.say("The sweep is running: this is its best trial so far.")
    with screen.step(f"Exporting {told}"):
        written = write_export(choice, merge, to)
    is_whole = merge or not choice.is_adapter
    what = "transformers' from_pretrained" if is_whole else "peft's AutoPeftModel....from_pretrained"
    screen.say(f"{'Model' if is_whole else 'Adapter'}: {written} (load it by {what})")
    if mlflow:
        with screen.step("Registering it in MLflow"):
            registered, version = register(choice, written if is_whole else None)
        screen.say(f"MLflow: models:/{registered}@{CHAMPION} is version {version}")
    if repository is not None:
        with screen.step(f"Pushing it to {repository}"):
            url = push(choice, written, repository)
        screen.say(f"Pushed: {url}")
    return 0


def delete_sweep(folder: Path, name: str, yes: bool) -> int:
    """Delete a sweep: its trials in the study database, its runs in MLflow, its folder."""
    layout = Layout(folder, name)
    config, url = stored_config(layout)
    screen = make_screen()
    study = Study.known(url, name, layout.folder)
    count = 0 if study is None else len([r for r in study.records() if r.number != BASE])
    if not yes:
        answer = screen.console.input(f"Delete sweep {escape(name)} with its {count} trials? [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            screen.say("Nothing was deleted.")
            return 1
    with lock.hold(layout):
        tracking = read_config(config)[0].tracking
        every = [name, *(one for one in Study.names(url) if one.startswith(f"{name}/"))]
        if "***" in (tracking.uri or ""):
            screen.say(f"Its runs at {tracking.uri} stay: the secret in that URI is not stored.")
        else:
            # Those that belong to it are found in its experiment, whatever they are called.
            tracking = replace(tracking, experiment=tracking.experiment or name)
            with screen.step("Deleting its runs in MLflow"):
                for one in every:
                    make_tracker(tracking, Layout(folder, one)).forget(one)
        for one in every:
            if one != name or study is not None:
                Study.delete(url, one)
        shutil.rmtree(layout.folder)
    screen.say(f"Deleted {name}.")
    return 0


def ui(folder: Path, port: int, host: str) -> int:
    """Become the MLflow UI over the sweeps in `folder`; does not return unless there is nothing to show."""
    layout = Layout(folder, "")
    if not (folder / "mlflow.db").exists():
        raise StudyError(
            f"there is no {folder / 'mlflow.db'}; run a sweep first, or open the UI of the server "
            "in tracking.uri"
        )
    command = ui_command(layout, port, host)
    make_screen().say(f"MLflow UI on http://{host}:{port} - end it with Ctrl-C")
    os.execve(command[0], command, ui_environment())  # noqa: S606 - our interpreter with mlflow's module


def _obey_signals() -> None:
    for signum in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs begin with SIGINT ignored
        signal.signal(signum, signal.default_int_handler)


def _open(url: str, config: Config, space: Space, inputs: Inputs, layout: Layout) -> Study:
    return Study.open(
        url,
        replace(config, sweep=replace(config.sweep, name=layout.name)),
        space,
        make_pruner(config.pruner, *_pruning_range(config, space, inputs.rows)),
        fingerprint(config, space) | {"pins": dict(inputs.pins)},
        layout.folder,
    )


def _known(url: str, config: Config, space: Space, layout: Layout) -> Study | None:
    """The study if there is one; refuses at once if the configuration has changed since."""
    study = Study.known(url, layout.name, layout.folder)
    if study is None:
        return None
    study.refuse_if_changed(fingerprint(config, space) | {"pins": study.fingerprint.get("pins", {})})
    return study


def _is_over(study: Study, config: Config, layout: Layout) -> bool:
    records = study.records()
    trials = [record for record in records if record.number != BASE]
    done = all(r.state.is_over for r in trials) and len(records) > len(trials)
    proposed = sum(not record.origin for record in trials)
    exhausted = config.sampler.name == "grid" and proposed > len(study.space.grid())
    exhausted = exhausted and not Inbox(layout).waiting()
    return (
        done
        and (len(trials) >= config.budget.trials or exhausted)
        and make_tracker(config.tracking, layout).has_all(records)
        and rows_are_unchanged(config, layout)
    )


def _pruning_range(config: Config, space: Space, rows: int) -> tuple[int, int]:
    """The first mark of every trial and the length of the longest one, in training examples."""
    marks = marks_of(replace(config.trial, epochs=longest(space)), rows, config.task.evaluation)
    return marks[0], marks[-1]


def _sweep(study: Study, inputs: Inputs, layout: Layout, screen: Screen, command: str) -> int:
    """The sweep itself, between an open study and the result on screen."""
    config = inputs.config
    write_atomically(layout.config, as_yaml(public(config)))
    info = _info(study, config, layout, inputs)
    tracker = make_tracker(config.tracking, layout)
    coordinator = Coordinator(
        study,
        layout,
        info,
        config.budget,
        config.sampler,
        config.task.evaluation,
        inputs.rows,
        [Journal(layout), tracker, screen],
    )
    coordinator.open()
    with _suspending(coordinator, screen):
        try:
            make_executor(config, layout).run(coordinator)
        finally:
            _save_best(study, layout)
            coordinator.close()
    interrupted = coordinator.stopped.startswith("interrupted")
    code = _conclude(study, info, screen, coordinator.stopped)
    if interrupted:
        screen.say(f"What was trained is kept. Go on with: python -m sweeper {command}")
        return INTERRUPTED
    if len(coordinator.failures) >= config.budget.failures_in_row:
        raise SweepFailed(
            f"{len(coordinator.failures)} trials failed in a row. {in_common(coordinator.failures)} "
            "Change the space or the defaults; budget.failures_in_row sets how many are borne."
        )
    return code


@contextmanager
def _suspending(coordinator: Coordinator, screen: Screen) -> Iterator[None]:
    """First Ctrl-C or SIGTERM: save the running trial and leave. Second Ctrl-C: leave at once."""

    def leave(signum: int, frame: FrameType | None) -> None:
        screen.console.show_cursor(True)
        os._exit(INTERRUPTED)

    def suspend(signum: int, frame: FrameType | None) -> None:
        coordinator.stop(f"interrupted ({signal.Signals(signum).name})")
        signal.signal(signal.SIGINT, leave)
        screen.say("Stopping: the running trial is being saved. Ctrl-C again leaves at once.")

    before = {number: signal.signal(number, suspend) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _info(study: Study, config: Config, layout: Layout, inputs: Inputs | None = None) -> SweepInfo:
    rows = inputs.rows if inputs is not None else 1
    marks = marks_of(config.trial, rows, config.task.evaluation)
    return SweepInfo(
        name=layout.name,
        folder=layout.folder,
        objective=config.task.objective,
        budget=config.budget.trials,
        examples=marks[-1],
        marks=len(marks),
        config=public(config),
        varied=study.space.names,
        model=inputs.model if inputs is not None else config.model.name,
        data=inputs.data if inputs is not None else (),
        study=masked(study_url(config, layout)),
        audit=inputs.audit if inputs is not None else None,
    )


def _conclude(study: Study, info: SweepInfo, screen: Screen, stopped: str, samples: bool = False) -> int:
    """Print the result; gives the exit code."""
    records, best = study.records(), study.best()
    screen.console.print()
    screen.console.print(trial_table(info, records, best))
    for line in conclusions(info, records, best):
        screen.say(line)
    if stopped:
        screen.say(f"The sweep has stopped: {stopped}.")
    folder = info.folder
    if (folder / "best").exists():
        screen.say(f"Best adapter: {folder / 'best'} (an ordinary PEFT folder)")
    if samples and best is not None:
        _show_samples(best, screen)
    name = info.name
    root = folder.parents[name.count("/")]
    flag = "" if root == Path("sweeps") else f" --folder {root}"
    screen.say(f"Look further: python -m sweeper show {name}{flag}   python -m sweeper ui{flag}")
    return 0 if best is not None else 1


def _show_samples(best: TrialRecord, screen: Screen) -> None:
    for sample in best.samples[:3]:
        screen.say(f"\nPrompt:    {sample.prompt}\nReference: {sample.reference}\nOutput:    {sample.output}")


def _save_best(study: Study, layout: Layout) -> None:
    """Copy the best trial's adapter to where people look for it."""
    best = study.best()
    if best is None or best.adapter is None or not best.adapter.exists():
        return
    fresh = layout.best.with_name(".best.new")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(best.adapter, fresh)
    shutil.rmtree(layout.best, ignore_errors=True)
    os.replace(fresh, layout.best)
