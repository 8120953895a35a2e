"""One function per verb of the command line; the only module that calls Hydra."""

import os
import shlex
import shutil
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from sweeper import lock, provenance, verdict
from sweeper.compose import compose, masked_override, read_config
from sweeper.config import Config
from sweeper.coordinator import in_common
from sweeper.database import check_database, sqlite_path
from sweeper.errors import StudyError, SweeperError, SweepFailed
from sweeper.events import SweepInfo, TrialRecord
from sweeper.gate import inspect, refuse_other_rows
from sweeper.inputs import Inputs, fingerprint, prepare_inputs, rows_are_unchanged
from sweeper.launch import INTERRUPTED, End, launch, pruning_range, save_best, sweep_info
from sweeper.layout import Layout, write_atomically
from sweeper.messages import BASE
from sweeper.pruners import make_pruner
from sweeper.report import read_facts, write_card, write_page
from sweeper.screen import Screen, conclusions, make_screen, number, trial_table, verdict_table
from sweeper.space import Space
from sweeper.stored import as_yaml, names, public, stored, stored_config, study_url
from sweeper.study import Study
from sweeper.tracking import NullTracker, Tracker, make_tracker, ui_command, ui_environment


def run(overrides: Sequence[str]) -> int:
    """Run a sweep and its verdict, or go on with them; gives the exit code."""
    config, space = read_config(compose(overrides))
    screen = make_screen()
    layout = Layout(config.sweep.folder, config.sweep.name)
    url = study_url(config, layout)
    check_database(url)
    for signum in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs begin with SIGINT ignored
        signal.signal(signum, signal.default_int_handler)
    with lock.hold(layout, sqlite_path(url)):
        known = _known(url, config, space, layout)
        is_over = known is not None and _is_over(known, config, layout)
        if known is not None and is_over and _has_verdict(known, config, layout):
            screen.say(f"Sweep {layout.name} is complete; a larger budget.trials continues it.")
            save_best(known, layout)
            code = _conclude(known, config, layout, screen)
            _conclude_in_writing(layout, NullTracker(), screen)  # that of the last run is there
            return code
        pins = known.fingerprint.get("pins", {}) if known is not None else {}
        inputs = prepare_inputs(config, space, layout, pins, screen)
        study = Study.open(
            url,
            config,
            space,
            make_pruner(config.pruner, *pruning_range(config, space, inputs.rows)),
            fingerprint(config, space) | {"pins": dict(inputs.pins)},
            layout.folder,
        )
        command = f"python -m sweeper {shlex.join(masked_override(o) for o in overrides)}"
        write_atomically(layout.config, as_yaml(public(inputs.config)))
        provenance.write(layout, command)
        end = End() if is_over else _search(study, inputs, layout, screen)
        if not end.interrupted:
            end = _judge(study, inputs, layout, screen)
        code = _conclude(study, inputs.config, layout, screen)
        _conclude_in_writing(layout, make_tracker(inputs.config.tracking, layout), screen)
        if end.interrupted:
            screen.say(f"What was trained is kept. Go on with: {command}")
            return INTERRUPTED
        return code


def audit(overrides: Sequence[str]) -> int:
    """Look at the rows without training anything; gives the exit code."""
    config, _ = read_config(compose(overrides), sweeping=False)
    layout = Layout(config.sweep.folder, config.sweep.name)
    refuse_other_rows(config, layout)
    inspect(config, layout, make_screen(), details=True)
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
    _conclude(study, read_config(config)[0], layout, screen, samples=True)
    if lock.is_held(layout):
        screen.say("It is running at this moment.")
    return 0


def report(folder: Path, name: str) -> int:
    """Write the report and the model card of a sweep anew, in whatever state the sweep is."""
    layout = Layout(folder, name)
    tracking = read_config(stored_config(layout)[0])[0].tracking
    _publish(layout, make_tracker(tracking, layout), make_screen())
    return 0


def _publish(layout: Layout, tracker: Tracker, screen: Screen, running: bool | None = None) -> None:
    """Write the report and the model card, and put the report beside the sweep's runs in `tracker`.

    `running` None: asked of the sweep's lock. Raises StudyError, or CardError once the report is written.
    """
    facts = read_facts(layout, verdict.read(layout), running)
    page = write_page(facts, layout)
    screen.say(f"Report: {page}")
    tracker.attach(page)
    card = write_card(facts, layout)
    if card is not None:
        screen.say(f"Model card: {card}")


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
        loaded = read_config(config)[0]
        if "***" in (loaded.tracking.uri or ""):
            screen.say(f"Its runs at {loaded.tracking.uri} stay: the secret in that URI is not stored.")
        else:
            with screen.step("Deleting its runs in MLflow"):
                make_tracker(loaded.tracking, layout).forget(name)
        for stored_as in (layout.verdict.name, name):
            if stored_as in Study.names(url):
                Study.delete(url, stored_as)
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
    exhausted = config.sampler.name == "grid" and len(trials) > len(study.space.grid())
    return (
        done
        and (len(trials) >= config.budget.trials or exhausted)
        and make_tracker(config.tracking, layout).has_all(records)
        and rows_are_unchanged(config, layout)
    )


def _has_verdict(study: Study, config: Config, layout: Layout) -> bool:
    """Whether nothing is left to do for the verdict either."""
    if config.verdict.name == "none" or verdict.hindrance(study, config, layout):
        return True
    runs = verdict.known_runs(config, layout)
    return (
        runs is not None
        and verdict.judge(study, runs, config) is not None
        and make_tracker(config.tracking, layout.verdict).has_all(runs.records())
    )


def _search(study: Study, inputs: Inputs, layout: Layout, screen: Screen) -> End:
    """The sweep itself. Raises SweepFailed after too many failures in a row."""

    def conclude() -> str:
        save_best(study, layout)
        return ""

    info = sweep_info(study, inputs.config, layout, inputs)
    end = launch(study, inputs, info, layout, screen, conclude)
    if end.reason:
        screen.say(f"The sweep has stopped: {end.reason}.")
    if not end.interrupted and len(end.failures) >= inputs.config.budget.failures_in_row:
        _show_trials(study, info, screen)
        _conclude_in_writing(layout, make_tracker(inputs.config.tracking, layout), screen)
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

    def conclude() -> str:
        facts = verdict.judge(study, runs, config)
        return facts.sentence if facts is not None else ""

    return launch(runs, replace(inputs, config=config), info, layout.verdict, screen, conclude)


def _conclude(study: Study, config: Config, layout: Layout, screen: Screen, samples: bool = False) -> int:
    """Print trials, verdict and where to look further; gives the exit code."""
    info, best = sweep_info(study, config, layout), study.best()
    _show_trials(study, info, screen)
    if layout.best.exists():
        screen.say(f"Best adapter: {layout.best} (an ordinary PEFT folder)")
    if best is not None:
        if samples:
            _show_samples(best, screen)
        _show_verdict(study, config, layout, screen)
    name, root = layout.name, layout.root
    flag = "" if root == Path("sweeps") else f" --folder {root}"
    screen.say(f"Look further: python -m sweeper show {name}{flag}   python -m sweeper ui{flag}")
    return 0 if best is not None else 1


def _show_trials(study: Study, info: SweepInfo, screen: Screen) -> None:
    records, best = study.records(), study.best()
    screen.console.print()
    screen.console.print(trial_table(info, records, best))
    for line in conclusions(info, records, best):
        screen.say(line)


def _show_verdict(study: Study, config: Config, layout: Layout, screen: Screen) -> None:
    runs = verdict.known_runs(config, layout)
    facts = verdict.judge(study, runs, config) if runs is not None else None
    if facts is None:
        if outlook := verdict.outlook(study, config, layout):
            screen.say(outlook)
        return
    screen.console.print()
    screen.console.print(verdict_table(facts, config.task.objective.metric))
    screen.say(f"Verdict: {facts.sentence}")


def _conclude_in_writing(layout: Layout, tracker: Tracker, screen: Screen) -> None:
    """The report at the end of a run; one that can't be written takes nothing from the sweep."""
    try:
        _publish(layout, tracker, screen, running=False)
    except SweeperError as error:
        screen.say(f"Mind: {error}")


def _show_samples(best: TrialRecord, screen: Screen) -> None:
    for sample in best.samples[:3]:
        screen.say(f"\nPrompt:    {sample.prompt}\nReference: {sample.reference}\nOutput:    {sample.output}")
