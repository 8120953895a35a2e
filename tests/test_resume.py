"""Killed at any moment and run again: in the end exactly the budget, and nothing lost or done twice."""

import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from sweeper.engines.replay import ReplayEngine
from sweeper.messages import BASE, TrialState
from sweeper.preemption import STOPPING
from sweeper.study.study import Study
from tests.forks import Running
from tests.journeys import TRAINED, write_inputs
from tests.processes import read_until
from tests.sweeps import REPLAY, configure, open_coordinator

Start = Callable[..., Running]


@pytest.fixture
def start(forks) -> Start:
    """Begins a sweep in a folder."""
    return lambda folder, *over: forks.start([*REPLAY, "engine.speedup=150", *over], folder)


def records(folder: Path):
    url = f"sqlite:///{folder / 'sweeps' / 'study.db'}"
    return Study.read(url, "summarize", folder / "sweeps" / "summarize").records()


def test_killed_again_and_again(start, tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    # A Python of its own: an order of something unordered would be another one there.
    command = [sys.executable, "-m", "sweeper", *REPLAY, "engine.speedup=150"]
    subprocess.run(command, cwd=whole, env=os.environ | {"PYTHONHASHSEED": "3"}, check=True, timeout=300)
    chance = random.Random(3)
    kills = 0
    for _ in range(8):
        process = start(tmp_path)
        for _ in range(chance.randint(3, 15)):  # lines, not seconds: a busy machine kills as often
            process.stdout.readline()
        time.sleep(0.05 * chance.random())
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
        kills += process.returncode == -signal.SIGKILL
    process = start(tmp_path)
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert kills >= 2
    done, expected = records(tmp_path), records(whole)
    assert [r.number for r in done] == [BASE, *range(8)]
    assert all(r.state.is_over for r in done)
    assert [(r.params, r.objective, r.reports) for r in done] == [
        (r.params, r.objective, r.reports) for r in expected
    ]
    assert max(r.attempt for r in done) > 1
    database = sqlite3.connect(tmp_path / "sweeps" / "study.db")
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_killed_with_several_objectives_and_constraints(start, tmp_path):
    judged = (
        "task.also=[{metric: chrf, direction: maximize}, {metric: loss, direction: minimize}]",
        "task.constraints=[{metric: exact_match, at_least: 0.25}]",
        "budget.trials=6",
    )
    coordinator, whole, _ = open_coordinator(tmp_path / "whole", *judged)
    ReplayEngine(configure(tmp_path / "whole", *judged)[0], sleep=lambda _: None).run(coordinator)
    for text in ("Trial 1", "Trial 4"):
        process = start(tmp_path, "engine.speedup=20", *judged)
        read_until(process, text)
        read_until(process, "after 48 examples")
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
    told = start(tmp_path, *judged).communicate(timeout=120)[0]
    done, expected = records(tmp_path), whole.records()
    assert [(r.params, r.objective, r.reports, r.metrics, r.state) for r in done] == [
        (r.params, r.objective, r.reports, r.metrics, r.state) for r in expected
    ]
    assert max(r.attempt for r in done) > 1
    assert f"Best: trial {whole.best().number} with rougeL" in told
    assert "With several objectives no trial is pruned: pruner=median is not used" in told


def test_the_interrupted_trial_goes_on_from_its_checkpoint(start, tmp_path):
    process = start(tmp_path, "engine.speedup=20")
    read_until(process, "Trial 0: the default settings")
    read_until(process, "after 48 examples")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert start(tmp_path, "budget.trials=1").communicate(timeout=60)[0]
    base, trial = records(tmp_path)
    assert (base.number, trial.state, trial.attempt) == (BASE, TrialState.FINISHED, 2)
    journal = tmp_path / "sweeps" / "summarize" / "trials" / "0000" / "metrics.jsonl"
    points = [json.loads(line) for line in journal.read_text().splitlines()]
    second = [point["examples"] for point in points if point["attempt"] == 2]
    assert min(second) >= 48, "the first half was not trained again"
    assert [point["mark"] for point in points if point["mark"]] == [48, 96], "each mark is measured once"


@pytest.mark.parametrize("over", [(), ("executor=local", "executor.workers=2")], ids=["inline", "local"])
@pytest.mark.parametrize("how", STOPPING)
def test_a_signal_saves_the_trial_and_says_how_to_go_on(start, tmp_path, how, over):
    process = start(tmp_path, "engine.speedup=20", *over)
    read_until(process, "Trial 0: the default settings")
    time.sleep(0.3)
    process.send_signal(how)
    rest = process.communicate(timeout=30)[0]
    assert process.returncode == 130
    assert "Stopping: what runs is being saved. Ctrl-C again leaves at once." in rest
    assert "Go on with: python -m sweeper +experiment=summarize" in rest
    (trial,) = [r for r in records(tmp_path) if r.number == 0]
    assert trial.state is TrialState.WAITING
    assert not (tmp_path / "sweeps" / "summarize" / "holder.json").exists()
    report = (tmp_path / "sweeps" / "summarize" / "report.html").read_text()
    assert re.search(r"\b[12] of 8 trials begun", report), "two workers may have begun two"


def test_a_preempted_sweep_whose_reader_is_gone_is_saved_all_the_same(start, tmp_path):
    """As behind `| tee`, when a scheduler signals the whole job."""
    process = start(tmp_path, "engine.speedup=20")
    read_until(process, "Trial 0: the default settings")
    process.stdout.close()
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 130
    (trial,) = [r for r in records(tmp_path) if r.number == 0]
    assert trial.state is TrialState.WAITING


@pytest.fixture
def stuck(start, tmp_path):
    """A sweep that waits for its database, which somebody else has."""
    process = start(tmp_path, "engine.speedup=20", "budget.trials=2", "executor.grace_seconds=3")
    read_until(process, "Trial 0: the default settings")
    with closing(sqlite3.connect(tmp_path / "sweeps" / "study.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        read_until(process, "can't be used at the moment")
        yield process, other


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGUSR1])
def test_what_cannot_be_saved_holds_up_no_preemption(start, tmp_path, stuck, how):
    process, other = stuck
    process.send_signal(how)
    rest = process.communicate(timeout=30)[0]
    other.execute("ROLLBACK")
    assert process.returncode == 130
    assert "Leaving after executor.grace_seconds=3: what is not saved by now is trained again" in rest
    again = start(tmp_path, "budget.trials=2")
    told = again.communicate(timeout=120)[0]
    assert again.returncode == 0, told
    assert [(r.state, r.attempt) for r in records(tmp_path)[1:]] == [
        (TrialState.FINISHED, 2),
        (TrialState.FINISHED, 1),
    ]


def test_a_sweep_waits_for_its_database_and_goes_on(stuck, tmp_path):
    process, other = stuck
    time.sleep(7)  # longer than SQLite itself waits
    other.execute("ROLLBACK")
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert [(r.state, r.attempt) for r in records(tmp_path)[1:]] == [(TrialState.FINISHED, 1)] * 2


def test_ctrl_c_waits_until_all_is_saved(stuck):
    process, _ = stuck
    process.send_signal(signal.SIGINT)
    read_until(process, "Stopping: what runs is being saved")
    with pytest.raises(subprocess.TimeoutExpired, match="timed out after 6"):
        process.wait(6)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_rows_are_prepared_leaves_nothing_half_done(tmp_path, how):
    write_inputs(tmp_path)
    words = [f"{n} times {n} is {n * n}, " * 5 for n in range(4000)]
    rows = [json.dumps({"input": text, "target": text[:20]}) for text in words]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    folder = tmp_path / "sweeps" / "summarize"
    process = subprocess.Popen(
        [sys.executable, "-m", "sweeper", *TRAINED, "data.sizes.train=null"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(how, signal.SIG_IGN),
    )
    try:
        read_until(process, "Preparing the rows")
        while not list(folder.glob(".rows.*/*")):
            time.sleep(0.01)
            assert process.poll() is None
        process.send_signal(signal.SIGSTOP)
        assert list(folder.glob(".rows.*/*")), "half done, and so it stays until the signal is there"
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)
        rest = process.communicate(timeout=60)[0]
    finally:
        process.kill()
        process.communicate(timeout=30)
    assert process.returncode == 130, rest
    assert "interrupted; the same command goes on where it stopped" in rest
    assert "Traceback" not in rest
    assert not (folder / "rows").exists()
    assert not list(folder.glob(".rows*"))
    assert not (folder / "holder.json").exists()
    assert not (tmp_path / "sweeps" / "study.db").exists()


def test_a_second_ctrl_c_leaves_at_once(start, tmp_path):
    # So slow that the next report, at which the first Ctrl-C would take effect, never comes.
    process = start(tmp_path, "engine.speedup=0.05")
    read_until(process, "Trial 0: the default settings")
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    read_until(process, "Ctrl-C again leaves at once")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 130
    assert start(tmp_path, "budget.trials=1").communicate(timeout=60)[0]
    assert all(record.state.is_over for record in records(tmp_path))


def test_a_living_sweep_is_not_disturbed(start, tmp_path):
    process = start(tmp_path, "engine.speedup=5")
    read_until(process, "Trial 0: the default settings")
    second = start(tmp_path)
    told = second.communicate(timeout=60)[0]
    assert second.returncode == 2
    assert f"is being run by process {process.pid} on {os.uname().nodename}" in told
    assert process.poll() is None
