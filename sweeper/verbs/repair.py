"""Mending a sweep: what a crash left undone, and what MLflow has missed, is put right and said.

The study database and the journals are the truth; everything else follows from them.
"""

from sweeper import verdict
from sweeper.compose import read_config
from sweeper.config import Config
from sweeper.credentials import masked, opened
from sweeper.errors import StudyError
from sweeper.inputs import stored_inputs
from sweeper.launch import sweep_info
from sweeper.layout import Layout
from sweeper.storage import lock
from sweeper.storage.database import damage, sqlite_path
from sweeper.stored import stored, stored_config, tracking_of
from sweeper.study.study import Study
from sweeper.terminal.screen import Screen
from sweeper.tracking.sending import make_tracker


def repair(layout: Layout, screen: Screen) -> None:
    """Mend a sweep that nobody runs, its verdict with it, and say what was done.

    Raises StudyError if a database is damaged, or MLflow can't be reached; what comes before that is done.
    """
    tree, url = stored_config(layout)
    with lock.hold(layout, url):
        _check_study(url, screen)
        _, study = stored(layout)
        config, _ = read_config(tree)
        runs = verdict.known_runs(config, layout)
        for one, name in ((study, layout.name), (runs, layout.verdict.name)):
            if one is not None:
                _take_back(one, name, screen)
        _tell_mlflow(study, runs, config, layout, screen)


def _check_study(url: str, screen: Screen) -> None:
    path = sqlite_path(url)
    if path is None:
        screen.say(f"Study {masked(url)}: on a server, which looks after its files itself")
        return
    if found := damage(path):
        raise StudyError(
            f"{path} is damaged ({found}). Put a backup in its place, or save what can be read: "
            f"sqlite3 {path} .recover | sqlite3 saved.db"
        )
    screen.say(f"Study {path}: sound")


def _take_back(study: Study, name: str, screen: Screen) -> None:
    left = study.take_back()
    numbers = ", ".join(map(str, left)) or "none"
    screen.say(f"Trials of {name} that were left running, and wait now: {numbers}")


def _tell_mlflow(study: Study, runs: Study | None, config: Config, layout: Layout, screen: Screen) -> None:
    if config.tracking.name == "none":
        screen.say("MLflow: not used (tracking=none)")
        return
    tracking = tracking_of(config.tracking)
    uri = opened(tracking.uri or layout.tracking_url, "tracking.uri")
    path = sqlite_path(uri, "tracking.uri") if uri.startswith("sqlite:") else None
    if path is not None and path.exists() and (found := damage(path)):
        raise StudyError(
            f"{path} is damaged ({found}). Move it away, then repair every sweep in {layout.root}: it is "
            "written anew from the studies"
        )
    inputs = stored_inputs(config, study.fingerprint["pins"], layout)
    tracker = make_tracker(tracking, layout)
    with screen.step(f"Telling MLflow at {masked(uri)} what it may have missed"):
        tracker.send_again(sweep_info(study, config, layout, inputs), study.records(), study.best(), "")
        if layout.report.exists():
            tracker.attach(layout.report)
        if runs is not None:
            facts = verdict.judge(study, runs, config)
            make_tracker(tracking, layout.verdict).send_again(
                sweep_info(runs, config, layout.verdict, inputs),
                runs.records(),
                runs.best(),
                facts.sentence if facts is not None else "",
            )
    records = study.records() + (runs.records() if runs is not None else [])
    screen.say(f"MLflow has {sum(record.state.is_over for record in records)} trials and runs that are over")
