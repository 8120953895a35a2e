"""One function per verb of the command line; the only module that calls Hydra."""

import os
import shlex
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from sweeper import provenance, verdict
from sweeper.compose import compose, read_config
from sweeper.conclusion import conclude, conclude_in_writing, publish, show_trials
from sweeper.config import Config, TrackingConfig
from sweeper.coordinator import in_common
from sweeper.credentials import opened
from sweeper.errors import StudyError, SweeperError, SweepFailed
from sweeper.failpoints import reach
from sweeper.gate import inspect, refuse_other_rows
from sweeper.inbox import Inbox
from sweeper.inputs import Inputs, fingerprint, prepare_inputs, rows_are_unchanged, same_lengths, settled
from sweeper.launch import (
    End,
    clear_away,
    launch,
    pruning_range,
    save_best,
    sweep_info,
)
from sweeper.layout import Layout, write_atomically
from sweeper.loading import read
from sweeper.messages import BASE, TrialState
from sweeper.overrides import masked_override
from sweeper.preemption import INTERRUPTED, STOPPING, leaving_in_time
from sweeper.relocation import located, same_model
from sweeper.space import Space
from sweeper.storage import lock
from sweeper.storage.database import check_database, refuse_shared
from sweeper.storage.disk import naming
from sweeper.stored import (
    as_begun,
    as_yaml,
    names,
    public,
    refused,
    stored,
    stored_config,
    study_url,
    tracking_of,
)
from sweeper.study.pruners import make_pruner
from sweeper.study.study import Study
from sweeper.terminal.screen import Screen, make_screen
from sweeper.terminal.tables import harmless, number, trials_in_words
from sweeper.tracking.sending import make_tracker
from sweeper.tracking.store import check_uri
from sweeper.tracking.tracker import Tracker
from sweeper.tracking.ui import refuse_taken, run_pages, ui_command, ui_environment
from sweeper.verbs.export import CHAMPION, choose, hub_token, push, register, write_export
from sweeper.verbs.repair import repair
from sweeper.verbs.retrain import refuse_another_winner, retraining
from sweeper.verbs.rows import show_rows
from sweeper.verbs.trials import trials


def run(overrides: Sequence[str]) -> int:
    """Run a sweep and its verdict, or go on with them; gives the exit code."""
    config, space = read_config(compose(overrides))
    screen = make_screen()
    layout = Layout(config.sweep.folder, config.sweep.name)
    config = _settled(as_begun(config, layout), layout, screen)
    url = study_url(config, layout)
    check_database(url)
    tracking = opened(config.tracking.uri or layout.tracking_url, "tracking.uri")
    check_uri(tracking)
    refuse_shared(url, tracking)
    with _obeying_signals(config, screen), naming(layout.folder), lock.hold(layout, url):
        if (begun := Study.known(url, layout.name, layout.folder)) is not None:
            config = same_lengths(same_model(config, begun.fingerprint), begun.fingerprint)
        known = _known(url, config, space, layout)
        is_over = known is not None and _is_over(known, config, layout)
        if known is not None and is_over and _has_verdict(known, config, layout):
            screen.say(f"Sweep {layout.name} is complete; {_how_to_continue(known, config)}.")
            return _tell_again(known, config, layout, screen)
        pins = known.fingerprint.get("pins", {}) if known is not None else {}
        inputs = prepare_inputs(config, space, layout, pins, screen)
        study = _open(url, config, space, inputs, layout)
        command = f"python -m sweeper {shlex.join(masked_override(o) for o in overrides)}"
        _note(inputs, layout, command)
        end = End() if is_over else _search(study, inputs, layout, screen)
        if not end.interrupted:
            end = _judge(study, inputs, layout, screen)
        return _leave(study, inputs, layout, screen, end, command)


def train(folder: Path, name: str) -> int:
    """Train the winner of a sweep on all training rows, or go on with it; gives the exit code."""
    layout, screen = Layout(folder, name), make_screen()
    tree, url = stored_config(layout)  # a lock would make its folder
    with (
        _obeying_signals(read_config(tree)[0], screen),
        naming(layout.folder),
        lock.hold(layout, url),
        lock.hold(layout.training, url),
    ):
        plan = retraining(layout)
        config, space, winner = plan.config, plan.space, plan.winner
        known = Study.known(url, plan.layout.name, plan.layout.folder)
        if known is not None:
            refuse_another_winner(known, plan)
            known = _known(url, config, space, plan.layout)
        if known is not None and _is_over(known, config, plan.layout):
            if (failure := known.record(0)).state is TrialState.FAILED:
                raise StudyError(
                    f"the training of `{plan.layout.name}` failed: {failure.reason}. "
                    f"`python -m sweeper delete {plan.layout.name}{layout.flag}` makes room for another one"
                )
            screen.say(f"{plan.layout.name} is complete.")
            return _tell_again(known, config, plan.layout, screen)
        metric = config.task.objective.metric
        reached = f"{metric} {number(winner.objective, winner.error)}"
        screen.say(f"Training with the settings of trial {winner.number} ({reached}) on all rows")
        pins = known.fingerprint.get("pins", {}) if known is not None else {}
        inputs = prepare_inputs(config, space, plan.layout, pins, screen, beside=layout.rows)
        study = _open(url, config, space, inputs, plan.layout)
        if all(record.number == BASE for record in study.records()):
            study.enqueue({}, winner.number, 0)
        command = f"python -m sweeper train {name}{layout.flag}"
        _note(inputs, plan.layout, command)
        end = _search(study, inputs, plan.layout, screen)
        return _leave(study, inputs, plan.layout, screen, end, command)


def _settled(config: Config, layout: Layout, screen: Screen) -> Config:
    """With the columns that it leaves open as the rows tell them, which is said."""
    config, told = settled(config, layout)
    if told:
        screen.say(told)
    return config


def audit(overrides: Sequence[str]) -> int:
    """Look at the rows without training anything; gives the exit code."""
    config, _ = read_config(compose(overrides), sweeping=False)
    layout, screen = Layout(config.sweep.folder, config.sweep.name), make_screen()
    config = _settled(config, layout, screen)
    refuse_other_rows(config, layout)
    inspect(config, layout, screen, details=True)
    return 0


def rows(folder: Path, words: Sequence[str], split: str, number: int) -> int:
    """Print rows as the model sees them: of the sweep that is named, or as overrides would have them."""
    if len(words) == 1 and "=" not in words[0] and not words[0].startswith("~"):
        layout = Layout(folder, words[0])
        tree, study = stored(layout)
        config = located(read_config(tree)[0], layout, study.fingerprint["pins"].get("revision", ""))
    else:
        config = read_config(compose(words), sweeping=False)[0]
        layout = Layout(config.sweep.folder, config.sweep.name)
    screen = make_screen()
    show_rows(_settled(config, layout, screen), layout, split, number, screen)
    return 0


def show_config(overrides: Sequence[str]) -> int:
    """Print the composed configuration, passwords masked, after checking it."""
    config, _ = read_config(compose(overrides))
    print(as_yaml(public(config)), end="")
    return 0


def list_sweeps(folder: Path) -> int:
    """Print a line for every sweep in `folder`."""
    screen = make_screen()
    found, left = names(folder), refused(folder)
    if not found and not left:
        screen.say(f"No sweep in {folder}/ yet; begin one with: python -m sweeper +experiment=summarize")
        return 0
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for column in ("sweep", "state", "trials", "objective", "best", "trial", "verdict"):
        table.add_column(column, justify="right" if column in ("trials", "best", "trial") else "left")
    faults = []
    for name in found:
        try:
            table.add_row(*_row(Layout(folder, name)))
        except SweeperError as error:
            table.add_row(harmless(name), "unreadable")
            faults.append(f"{name}: {error}")
    for name in left:
        is_held = lock.is_held(Layout(folder, name))
        table.add_row(harmless(name), "starting" if is_held else "refused before its first trial")
    screen.console.print(table)
    for fault in faults:
        screen.say(fault)
    return 0


def _row(layout: Layout) -> list[str]:
    tree, study = stored(layout)
    config, best = read_config(tree)[0], study.best()
    over = sum(record.state.is_over for record in study.records() if record.number != BASE)
    facts = verdict.reached(study, config, layout)
    return [
        harmless(layout.name),
        verdict.state(study, config, layout, facts) + _rehearsed(config),
        f"{over}/{config.budget.trials}",
        f"{study.objective.direction} {study.objective.metric}",
        number(best.objective, best.error) if best else "-",
        str(best.number) if best else "-",
        facts.outcome if facts else "",
    ]


def _rehearsed(config: Config) -> str:
    """Marks a sweep that has trained nothing."""
    return " (replayed)" if config.engine.name == "replay" else ""


def show_sweep(folder: Path, name: str) -> int:
    """Print the trials and the result of one sweep."""
    layout = Layout(folder, name)
    config, study = stored(layout)
    screen = make_screen()
    conclude(study, read_config(config)[0], layout, screen, samples=True)
    if lock.is_held(layout):
        screen.say("It is running at this moment.")
    return 0


def report(folder: Path, name: str) -> int:
    """Write the report and the model card of a sweep anew, in whatever state the sweep is."""
    layout = Layout(folder, name)
    tree, study = stored(layout)
    tracking = _tracking(tree)
    with naming(layout.folder):
        if not lock.is_held(layout):
            save_best(study, layout)
        publish(layout, make_tracker(tracking, layout), make_screen())
    return 0


def steer(folder: Path, name: str, words: Sequence[str], as_csv: bool) -> int:
    """List the trials of a sweep, show one, or tell its coordinator to stop or train some."""
    return trials(Layout(folder, name), words, as_csv, make_screen())


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


def repair_sweep(folder: Path, name: str) -> int:
    """Put right what a crash, or an MLflow that was away, has left of a sweep that nobody runs."""
    layout = Layout(folder, name)
    with naming(layout.folder):
        repair(layout, make_screen())
    return 0


def delete_sweep(folder: Path, name: str, yes: bool) -> int:
    """Delete a sweep: its trials in the study database, its runs in MLflow, its folder."""
    layout, screen = Layout(folder, name), make_screen()
    if name in refused(folder):  # MLflow has never heard of it
        with lock.hold(layout):
            if Study.known(layout.study_url, name, layout.folder) is not None:
                Study.delete(layout.study_url, name)
            _remove(layout)
        screen.say(f"Deleted {name}, in which nothing was trained.")
        return 0
    config, url = stored_config(layout)
    study = Study.known(url, name, layout.folder)
    count = 0 if study is None else len([r for r in study.records() if r.number != BASE])
    if not yes:
        question = f"Delete sweep {harmless(name)} with its {trials_in_words(count)}? \\[y/N] "
        try:
            answer = screen.console.input(question)
        except EOFError:
            again = f"python -m sweeper delete {name} --yes{layout.flag}"
            raise StudyError(
                f"nobody answers here, and nothing was deleted; without a question: {again}"
            ) from None
        if answer.strip().lower() not in ("y", "yes"):
            screen.say("Nothing was deleted.")
            return 1
    with lock.hold(layout, url):
        tracking = _tracking(config)
        every = [one for one in Study.names(url) if one == name or one.startswith(f"{name}/")]
        if "***" in (tracking.uri or ""):
            screen.say(f"Its runs at {tracking.uri} stay: the secret in that URI is not stored.")
        else:
            # Those that belong to it are found in its experiment, whatever they are called.
            tracking = replace(tracking, experiment=tracking.experiment or name)
            with screen.step("Deleting its runs in MLflow"):
                for one in every:
                    make_tracker(tracking, Layout(folder, one)).forget(one)
        reach("delete.forgotten")
        for one in every:
            Study.delete(url, one)
        reach("delete.erased")
        _remove(layout)
    screen.say(f"Deleted {name}.")
    return 0


def _remove(layout: Layout) -> None:
    """Remove a sweep's folder, which is out of the way at once: no new sweep must go on from half of it."""
    os.replace(layout.folder, layout.doomed)
    reach("delete.moved")
    shutil.rmtree(layout.doomed, ignore_errors=True)


def ui(folder: Path, port: int, host: str, allowed: Sequence[str]) -> int:
    """Become the MLflow UI over the sweeps in `folder`; does not return unless there is nothing to show.

    `allowed`: names that it answers to beside this machine's own. Raises ConfigError where they are missing.
    """
    command = ui_command(Layout(folder, ""), port, host, allowed)
    if not (folder / "mlflow.db").exists():
        raise StudyError(
            f"there is no {folder / 'mlflow.db'}; run a sweep with tracking=mlflow first, or open the UI of "
            "the server in tracking.uri"
        )
    refuse_taken(host, port)
    make_screen().say(f"MLflow UI on http://{host}:{port} - end it with Ctrl-C")
    for name, page in run_pages(folder / "mlflow.db", f"http://{host}:{port}"):
        make_screen().say(f"  {harmless(name)}: {page}")
    os.execve(command[0], command, ui_environment())  # noqa: S606 - our interpreter with mlflow's module


def _tracking(tree: dict[str, Any]) -> TrackingConfig:
    """Of a stored sweep; the secret in its URI as far as the environment has it."""
    tracking = read(TrackingConfig, tree["tracking"], "tracking")
    try:
        return tracking_of(tracking)
    except StudyError:
        return tracking


@contextmanager
def _obeying_signals(config: Config, screen: Screen) -> Iterator[None]:
    for signum in STOPPING:  # a shell's background jobs begin with SIGINT ignored
        signal.signal(signum, signal.default_int_handler)

    def say(text: str) -> None:
        screen.console.show_cursor(True)
        screen.say(text)

    with leaving_in_time(config.executor.grace_seconds, say):
        yield


def _open(url: str, config: Config, space: Space, inputs: Inputs, layout: Layout) -> Study:
    return Study.open(
        url,
        replace(config, sweep=replace(config.sweep, name=layout.name)),
        space,
        make_pruner(config.pruner, *pruning_range(config, space, inputs.rows)),
        fingerprint(config, space) | {"pins": dict(inputs.pins)},
        layout.folder,
    )


def _known(url: str, config: Config, space: Space, layout: Layout) -> Study | None:
    """The study if there is one; refuses at once if the configuration has changed since."""
    study = Study.known(url, layout.name, layout.folder)
    if study is None:
        return None
    try:
        study.refuse_if_changed(fingerprint(config, space) | {"pins": study.fingerprint.get("pins", {})})
    except StudyError:
        if study.records():
            raise
        Study.delete(
            url, layout.name
        )  # it was refused before anything was trained: there is nothing to go on with
        return None
    clear_away(study, layout)
    return study


def _is_over(study: Study, config: Config, layout: Layout) -> bool:
    records = study.records()
    trials = [record for record in records if record.number != BASE]
    return (
        study.is_over(config.budget.trials, config.sampler)
        and len(trials) < len(records)
        and (len(trials) >= config.budget.trials or not Inbox(layout).waiting())
        and make_tracker(config.tracking, layout).has_all(records)
        and rows_are_unchanged(config, layout)
    )


def _how_to_continue(study: Study, config: Config) -> str:
    if len([record for record in study.records() if record.number != BASE]) < config.budget.trials:
        return "every point of its grid was tried, and another sampler goes on, e.g. sampler=tpe"
    return "a larger budget.trials continues it"


def _has_verdict(study: Study, config: Config, layout: Layout) -> bool:
    """Whether nothing is left to do for the verdict either."""
    if config.verdict.name == "none" or verdict.hindrance(study, config, layout):
        return True
    runs = verdict.known_runs(config, layout)
    if runs is not None:
        clear_away(runs, layout.verdict)
    return (
        runs is not None
        and verdict.judge(study, runs, config) is not None
        and make_tracker(config.tracking, layout.verdict).has_all(runs.records())
    )


def _note(inputs: Inputs, layout: Layout, command: str) -> None:
    """Keep what is trained, and how that was asked for."""
    write_atomically(layout.config, as_yaml(public(inputs.config)))
    reach("config.written")
    provenance.write(layout, command)


def _tell_again(study: Study, config: Config, layout: Layout, screen: Screen) -> int:
    """Tell what came out where nothing is left to do; gives the exit code."""
    save_best(study, layout)
    code = conclude(study, config, layout, screen)
    conclude_in_writing(layout, Tracker(), screen)  # what the last run has kept is there
    return code


def _leave(study: Study, inputs: Inputs, layout: Layout, screen: Screen, end: End, command: str) -> int:
    """Tell what came out; gives the exit code."""
    code = conclude(study, inputs.config, layout, screen)
    conclude_in_writing(layout, make_tracker(inputs.config.tracking, layout), screen)
    if end.interrupted:
        screen.say(f"What was trained is kept. Go on with: {command}")
        return INTERRUPTED
    return code


def _search(study: Study, inputs: Inputs, layout: Layout, screen: Screen) -> End:
    """The sweep itself. Raises SweepFailed after too many failures in a row."""

    def last() -> str:
        save_best(study, layout)
        return ""

    info = sweep_info(study, inputs.config, layout, inputs)
    end = launch(study, inputs, info, layout, screen, last)
    if end.reason:
        screen.say(f"The sweep has stopped: {end.reason}.")
    if not end.interrupted and len(end.failures) >= inputs.config.budget.failures_in_row:
        show_trials(study, info, screen)
        conclude_in_writing(layout, make_tracker(inputs.config.tracking, layout), screen)
        raise SweepFailed(
            f"{len(end.failures)} trials failed in a row. {in_common(end.failures)} "
            "Change the space or the defaults; budget.failures_in_row sets how many are borne."
        )
    return end


def _judge(study: Study, inputs: Inputs, layout: Layout, screen: Screen) -> End:
    """The runs of the verdict, if there is to be one."""
    if inputs.config.verdict.name == "none" or verdict.hindrance(study, inputs.config, layout):
        return End()
    runs, config = verdict.open_runs(study, inputs.config, layout)
    info = sweep_info(runs, config, layout.verdict, inputs)

    def last() -> str:
        facts = verdict.judge(study, runs, config)
        return facts.sentence if facts is not None else ""

    return launch(runs, replace(inputs, config=config), info, layout.verdict, screen, last)
