"""The verb `trials`: the trials of a sweep, one of them in full, and commands that steer the sweep."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from sweeper.errors import StudyError
from sweeper.events import TrialRecord
from sweeper.inbox import Command, Enqueue, Inbox, Prune
from sweeper.layout import Layout
from sweeper.loading import dotted, to_tree
from sweeper.messages import BASE, TrialState
from sweeper.storage import lock
from sweeper.stored import stored
from sweeper.study.study import Study
from sweeper.terminal.screen import Screen
from sweeper.terminal.tables import harmless, number, value
from sweeper.tracking.words import leaderboard
from sweeper.verbs.commands import read_command, trial_number


def trials(layout: Layout, words: Sequence[str], as_csv: bool, screen: Screen) -> int:
    """List the trials of a sweep, show one, or leave a command for the coordinator; gives the exit code.

    Raises StudyError or ConfigError for what can't be done.
    """
    config, study = stored(layout)
    match words:
        case [] | ["list"] if as_csv:
            screen.say(_as_csv(study).rstrip())
        case _ if as_csv:
            raise StudyError("--csv is a form of the list: python -m sweeper trials NAME --csv")
        case [] | ["list"]:
            _list(study, Inbox(layout).waiting(), lock.is_held(layout), screen)
        case ["show", number]:
            trial = trial_number(number)
            study.state(trial)
            _show(study, trial, layout, screen)
        case _:
            command = read_command(words, study)
            Inbox(layout).put(command)
            _say_when(command, config["budget"]["trials"], study, layout, screen)
    return 0


def _list(study: Study, waiting: Sequence[Command], is_running: bool, screen: Screen) -> None:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for column in ("trial", "state", f"{study.objective.metric} ± error", "examples", "s", ""):
        table.add_column(column, justify="left" if column in ("state", "") else "right", overflow="fold")
    best = study.best()
    for record in study.records():
        is_base = record.number == BASE
        remarks = [
            "best" if best is not None and record.number == best.number else "",
            "the default settings" if record.is_default else "",
            f"the settings of trial {record.retrains}" if record.retrains is not None else "",
            record.origin,
            record.reason,
        ]
        table.add_row(
            "base" if is_base else str(record.number),
            _state(record, is_running),
            number(record.objective, record.error),
            "" if is_base else f"{max(record.reports, default=0)}/{record.examples or '?'}",
            f"{record.seconds:.0f}" if record.seconds else "",
            harmless("; ".join(filter(None, remarks))),
        )
    screen.console.print(table)
    if waiting:
        screen.say("Not done yet: " + "; ".join(_told(command) for command in waiting))


def _state(record: TrialRecord, is_running: bool) -> str:
    """Where a trial stands; a sweep that was ended at once leaves trials running that nobody trains."""
    return "interrupted" if record.state is TrialState.RUNNING and not is_running else record.state.value


def _as_csv(study: Study) -> str:
    """All trials with every score, cost and setting, for programs."""
    records = study.records()
    scores = sorted({name for record in records for name in (*record.metrics, *record.cost)} - {"seconds"})
    settings = dict.fromkeys(name for record in records for name in dotted(to_tree(record.settings)))
    return leaderboard(records, study.goals, scores, list(settings))


def _show(study: Study, trial: int, layout: Layout, screen: Screen) -> None:
    record = study.record(trial)
    state = _state(record, lock.is_held(layout))
    screen.say(f"Trial {trial}: {state}" + (f", {record.reason}" if record.reason else ""))
    if record.origin:
        screen.say(f"  {record.origin}")
    _section("Settings, those that vary in this sweep with a *", _settings(record), screen)
    name = study.objective.metric
    best = {record.best_mark: "  best"}
    curve = {f"after {mark} examples": f"{v:.4g}{best.get(mark, '')}" for mark, v in record.reports.items()}
    _section(f"{name} ({study.objective.direction}), length {record.examples or '?'} examples", curve, screen)
    scores = {
        one: f"{v:.4g}" + (f" ± {record.errors[one]:.2g}" if one in record.errors else "")
        for one, v in record.metrics.items()
    }
    _section(f"Scores after {record.best_mark} examples", scores, screen)
    cost = {
        "attempts": str(record.attempt),
        "device time": f"{record.seconds:.1f} s",
        "examples trained": str(record.trained),
        **{key: f"{v:.4g}" for key, v in record.cost.items() if key != "seconds"},
    }
    _section("Cost", cost, screen)
    for warning in record.warnings:
        screen.say(f"Warning: {warning}")
    screen.say(f"Adapter: {record.adapter or 'none'}\nMeasurements: {layout.metrics(trial)}")
    for sample in record.samples:
        screen.say(f"\nPrompt:    {sample.prompt}\nReference: {sample.reference}\nOutput:    {sample.output}")


def _settings(record: TrialRecord) -> dict[str, str]:
    every = dotted(to_tree(record.settings))
    return {f"{name}{'*' if name in record.params else ''}": str(v) for name, v in every.items()}


def _section(title: str, lines: dict[str, str], screen: Screen) -> None:
    if lines:
        width = max(map(len, lines))
        screen.say(title)
        for name, text in lines.items():
            screen.say(f"  {name:<{width}}  {text}")


def _say_when(command: Command, budget: int, study: Study, layout: Layout, screen: Screen) -> None:
    """What a command that was just put into the inbox will do, and when."""
    screen.say(_told(command))
    wanted = sum(record.number != BASE for record in study.records())
    wanted += sum(isinstance(one, Enqueue) for one in Inbox(layout).waiting())
    if isinstance(command, Enqueue) and wanted > budget:
        screen.say(
            f"That makes {wanted} trials and the budget is {budget}: it waits for a run with "
            f"budget.trials={wanted} or more."
        )
    elif lock.is_held(layout):
        when = "at the trial's next report" if not isinstance(command, Enqueue) else "as the next trial"
        screen.say(f"The sweep is running: this is done {when}.")
    else:
        screen.say("The sweep is not running: this is done when its command is run again.")


def _told(command: Command) -> str:
    if not isinstance(command, Enqueue):
        done = "Prune" if isinstance(command, Prune) else "Stop"
        kept = "" if isinstance(command, Prune) else " and keep what it has reached"
        return f"{done} trial {command.trial}{kept}" + (f" ({command.why})" if command.why else "")
    settings = ", ".join(f"{name}={value(v)}" for name, v in command.params.items())
    return f"Train {settings or 'the default settings'} ({command.origin})"
