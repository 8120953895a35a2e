"""Killed at every durable step: afterwards the same command goes on, and nothing is lost or done twice.

What fails is replayed by giving the points that a message names to the command line, one run after the other:
SWEEPER_FAILPOINT=study.finished:1 python -m sweeper ...
"""

import ast
import json
import shutil
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from sweeper import failpoints
from sweeper.engines.replay import ReplayEngine
from sweeper.failpoints import POINTS
from sweeper.inbox import Enqueue, Inbox, Stop
from sweeper.layout import Layout
from sweeper.messages import BASE, TrialState
from sweeper.preemption import INTERRUPTED
from sweeper.storage import lock
from sweeper.study.study import Study
from tests.forks import Forks
from tests.journeys import TRAINED, Journey, write_inputs
from tests.sweeps import REPLAY, configure, open_coordinator

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="orphans are found as Linux tells of them"),
    pytest.mark.timeout(1800),  # sixty runs, a minute and a half on an idle core
]

SOURCES = sorted((Path(__file__).parents[1] / "sweeper").rglob("*.py"))
JUDGED = (*TRAINED, "budget.finalists=1", "budget.seeds=2")
STEERED = {name for name in POINTS if name.startswith("inbox.")}
CONSTRAINED = ("task.constraints=[{metric: exact_match, at_least: 0.32}]", "budget.trials=3")


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    """One of this module's own, which has imported what trains."""
    with Forks("mlflow", "sweeper.engines.trainer") as process:
        yield process


# The points themselves


def test_every_point_has_a_place_and_every_place_is_a_point() -> None:
    calls = [node for path in SOURCES for node in ast.walk(ast.parse(path.read_text())) if _reaches(node)]
    assert {ast.literal_eval(call.args[0]) for call in calls} == POINTS.keys()
    assert len(POINTS) >= 40


def _reaches(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "reach"


def pass_by(arguments: Sequence[str]) -> int:
    """Reach points, in the order of `arguments`."""
    for name in arguments:
        failpoints.reach(name)
    return 0


@pytest.mark.parametrize(
    ("where", "passed"),
    [
        ("", 4),
        ("study.finished", 2),
        ("study.finished:2", 4),
        ("study.reported:2", 3),
        ("3", 3),
        ("5", 4),
        ("study.finished:2,study.reported:2", 3),
    ],
)
def test_a_process_is_killed_where_the_environment_says(forks, tmp_path, where, passed):
    names = ["study.reported", "study.finished", "study.reported", "study.finished"]
    log = tmp_path / "points.log"
    environment = {"SWEEPER_FAILPOINT": where, "SWEEPER_FAILPOINT_LOG": str(log)}
    ended = forks.run("tests.test_failpoints:pass_by", names, tmp_path, environment)
    is_killed = bool(where) and where != "5"
    assert ended.code == (-9 if is_killed else 0)
    assert log.read_text().split() == names[:passed]
    assert (tmp_path / "points.killed").exists() == is_killed
    if is_killed:
        second = forks.run("tests.test_failpoints:pass_by", names, tmp_path, environment)
        assert second.code == 0, "of those with one log only one is killed"


def test_a_point_that_is_not_there_is_refused(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("SWEEPER_FAILPOINT", "study.finished,study.finnished:2")
        with pytest.raises(
            ValueError, match=r"there is no point study\.finnished; they are named in sweeper/fail"
        ):
            failpoints.arm()
    failpoints.arm()


# A sweep on MLflow with its verdict, exported, and deleted in the end


@pytest.fixture(scope="module")
def whole(forks, tmp_path_factory) -> Journey:
    """What nobody has killed."""
    journey = Journey(forks, tmp_path_factory.mktemp("whole"), {"summarize": 2, "summarize/verdict": 4})
    write_inputs(journey.folder)
    journey.run(JUDGED)
    return journey


@pytest.fixture(scope="module")
def killed(forks, whole, tmp_path_factory) -> Journey:
    """The same, killed at every point on its way."""
    journey = Journey(forks, tmp_path_factory.mktemp("killed"), whole.budgets)
    for name in ("model", "rows.jsonl"):
        (journey.folder / name).symlink_to(whole.folder / name)
    # Rows of another configuration lie in the place of the real ones.
    for point in ("audit.written", "queue.written", "audit.shown", "rows.placed"):
        journey.run([*JUDGED, "data.sizes.train=20"], point)
    journey.run_through(JUDGED)
    return journey


def test_a_sweep_ends_as_if_nobody_had_killed_it(whole, killed):
    assert whole.wrong == []
    assert killed.wrong == []
    for key, trial in killed.seen.trials.items():
        expected = whole.seen.trials[key]
        assert (trial.state, trial.params) == (expected.state, expected.params)
        assert trial.reports == pytest.approx(expected.reports, rel=1e-6)
    assert max(trial.attempt for trial in killed.seen.trials.values()) > 1
    lengths = [
        sum(line["mark"] == 24 for line in lines(trial.journal)) for trial in killed.seen.trials.values()
    ]
    assert lengths == [1] * 6, "each was trained to its end once"


def lines(journal: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in journal.splitlines()]


@pytest.fixture(scope="module")
def exported(killed) -> Journey:
    """The killed sweep, reported and exported with kills on the way."""
    killed.run_through(["report", "summarize"])
    killed.run_through(["export", "summarize", "--mlflow"])
    return killed


def test_an_export_is_whole_and_leaves_nothing_beside(exported):
    assert exported.wrong == []
    with closing(sqlite3.connect(exported.folder / "sweeps" / "mlflow.db")) as database:
        found = database.execute(
            "SELECT alias, status FROM registered_model_aliases JOIN model_versions USING (name, version)"
        ).fetchall()
    assert found == [("champion", "READY")]
    assert not (exported.folder / "sweeps" / "summarize" / ".export").exists()


@pytest.fixture(scope="module")
def deleted(exported) -> Journey:
    """And deleted at last."""
    root = exported.folder / "sweeps"
    journey = Journey(exported.forks, exported.folder, {})
    for point in ("delete.forgotten", "delete.erased", "delete.moved"):
        journey.run(["delete", "summarize", "--yes"], point)
        journey.seen = type(journey.seen)({})
    assert not (root / "summarize").exists()
    return journey


def test_a_sweep_is_deleted_whole_however_often_that_is_cut_short(deleted):
    layout = Layout(deleted.folder / "sweeps", "summarize")
    assert deleted.wrong == []
    assert deleted.kills == ["delete.forgotten:1", "delete.erased:1", "delete.moved:1"]
    assert Study.names(layout.study_url) == []
    assert layout.doomed.exists()
    with lock.hold(layout):
        assert not layout.doomed.exists(), "the next one of this name finds nothing of it"
    shutil.rmtree(layout.folder)


# At the first point, the second, the third ..., whichever they are


REPLAYED = (*REPLAY, "tracking=mlflow", "budget.trials=3", "sampler=quasi_random", "pruner=none")


def test_killed_at_the_first_point_the_second_and_so_on_until_a_run_passes_untouched(forks, tmp_path):
    whole, killed = (Journey(forks, tmp_path / name, {"summarize": 3}) for name in ("whole", "killed"))
    for journey in (whole, killed):
        journey.folder.mkdir()
    assert whole.run(REPLAYED).code == 0
    for ordinal in count(1):
        ended = killed.run(REPLAYED, str(ordinal))
        if ended.code >= 0 or killed.wrong:
            break
    assert whole.wrong == []
    assert killed.wrong == []
    assert ended.code == 0
    assert len(killed.kills) == ordinal - 1 > 20
    assert {key: (trial.state, trial.params, trial.reports) for key, trial in killed.seen.trials.items()} == {
        key: (trial.state, trial.params, trial.reports) for key, trial in whole.seen.trials.items()
    }


# In a worker's process


@pytest.mark.parametrize("point", ["checkpoint.placed", "checkpoint.published"])
def test_a_worker_that_is_killed_at_a_point_of_its_own_is_replaced(forks, whole, tmp_path, point):
    journey = Journey(forks, tmp_path, {"summarize": 2}, workers=2)
    for name in ("model", "rows.jsonl"):
        (tmp_path / name).symlink_to(whole.folder / name)
    ended = journey.run((*TRAINED, "executor=local", "executor.workers=2", "verdict=none"), f"{point}:1")
    assert (ended.code, journey.wrong, journey.kills) == (0, [], [f"{point}:1"]), "the command lives on"
    assert max(trial.attempt for trial in journey.seen.trials.values()) == 2


# Commands from other terminals, constraints, an orderly interruption


def write(arguments: Sequence[str]) -> int:
    """Leave a command for the sweep in this folder."""
    letters = Inbox(Layout(Path("sweeps"), "summarize"))
    (verb,) = arguments
    params = {"learning_rate": 1e-3, "batch_size": 4, "lora.rank": 16, "lora.dropout": 0.1}
    letters.put(
        Stop(0, "enough") if verb == "stop" else Enqueue(params, "by hand") if verb == "enqueue" else Stop(99)
    )
    return INTERRUPTED


def steer(arguments: Sequence[str]) -> int:
    """Replay a sweep with constraints; suspended on the way where `arguments` say so."""
    root = Path("sweeps")
    coordinator, study, _ = open_coordinator(root, *CONSTRAINED)

    def pass_time(_: float) -> None:
        if "suspended" in arguments and study.records()[-1].number == 0:
            coordinator.stop("as asked for")

    ReplayEngine(configure(root, *CONSTRAINED)[0], pass_time).run(coordinator)
    coordinator.close()
    return INTERRUPTED if coordinator.stopped else 0


@pytest.fixture(scope="module")
def steered(forks, tmp_path_factory) -> Journey:
    journey = Journey(forks, tmp_path_factory.mktemp("steered"), {"summarize": 3})
    journey.run(["suspended"], function="tests.test_failpoints:steer")
    journey.run(["suspended"], "study.finished", function="tests.test_failpoints:steer")
    journey.run(["stop"], "inbox.put", function="tests.test_failpoints:write")
    for verb in ("enqueue", "nonsense"):
        journey.run([verb], function="tests.test_failpoints:write")
    journey.run_through([], "tests.test_failpoints:steer", STEERED)
    return journey


def test_commands_are_obeyed_once_and_constraints_kept(steered):
    assert steered.wrong == []
    root = steered.folder / "sweeps"
    records = Study.read(f"sqlite:///{root / 'study.db'}", "summarize", root / "summarize").records()
    assert [record.number for record in records] == [BASE, 0, 1, 2]
    stopped, asked_for = records[1], records[2]
    assert (stopped.state, stopped.reason) == (TrialState.PRUNED, "stopped by hand: enough")
    assert asked_for.origin == "by hand"
    assert [path.suffix for path in (root / "summarize" / "inbox").iterdir()] == [".refused"]


# Runs of a verdict that nobody wants any more


@pytest.fixture(scope="module")
def judged_again(forks, tmp_path_factory) -> Journey:
    """More trials after the verdict has begun: another finalist."""
    journey = Journey(forks, tmp_path_factory.mktemp("again"), {"summarize": 5})
    command = [*REPLAY, "verdict=holdout", "budget.finalists=1", "budget.seeds=2"]
    journey.run([*command, "budget.trials=2"], "verdict.enqueued:4")
    for point in ("verdict.withdrawn", ""):
        journey.run([*command, "budget.trials=5"], point)
    return journey


def test_runs_of_a_former_finalist_are_withdrawn(judged_again):
    assert judged_again.wrong == []
    assert judged_again.kills == ["verdict.enqueued:4", "verdict.withdrawn:1"]
    runs = [trial for (study, _), trial in judged_again.seen.trials.items() if study == "summarize/verdict"]
    assert sum(run.state == "COMPLETE" for run in runs) == 4
    assert sum(run.state == "FAIL" for run in runs) == 2


def test_it_was_killed_at_every_point(killed, exported, deleted, steered, judged_again):
    journeys = (killed, deleted, steered, judged_again)
    died = {kill.partition(":")[0] for journey in journeys for kill in journey.kills}
    assert POINTS.keys() - died == set()
