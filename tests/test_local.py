"""The executor `local` beyond the contract: pinning, output, workers that never come up, and no orphans."""

import os
import re
import signal
import sys
import time

import psutil
import pytest

from sweeper.errors import SweepFailed
from sweeper.executors.local import LocalExecutor
from sweeper.executors.places import Place
from sweeper.layout import Layout
from sweeper.messages import TrialState
from tests.processes import read_until
from tests.sweeps import REPLAY, Recorder, configure, open_coordinator
from tests.test_executor_contract import Striking, in_trial_0, is_alive, workers
from tests.test_resume import records

IN_A_WORKER = """
import os, sys
if "sweeper.executors.spawned" in sys.orig_argv:
"""


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Code that every worker's interpreter runs first."""

    def plant(code: str) -> None:
        folder = tmp_path / "planted"
        folder.mkdir()
        lines = "".join(f"    {line}\n" for line in code.splitlines())
        (folder / "sitecustomize.py").write_text(IN_A_WORKER + lines)
        monkeypatch.setenv("PYTHONPATH", str(folder))

    return plant


def run(folder, *places, recorder=None, overrides=()):
    chosen = ("executor=local", *overrides)
    coordinator, study, recorder = open_coordinator(folder, *chosen, recorder=recorder)
    config, _ = configure(folder, *chosen)
    try:
        LocalExecutor(config, Layout(folder, "summarize"), places or (Place(""),)).run(coordinator)
    finally:
        coordinator.close()
        assert workers() == []
    return study, recorder


def test_each_worker_sees_its_own_device(tmp_path, planted, capsys):
    planted("print('sees', os.environ['CUDA_VISIBLE_DEVICES'], flush=True)")
    run(tmp_path, Place("GPU 5", "5"), Place("GPU 7", "7"), overrides=("budget.trials=1",))
    assert sorted(re.findall(r"sees (\d)", capsys.readouterr().err)) == ["5", "7"]


def test_workers_have_no_way_to_the_databases(tmp_path, planted, capsys, monkeypatch):
    planted("print('has', [name for name in os.environ if name[:7] in ('MLFLOW_', 'SWEEPER')], flush=True)")
    monkeypatch.setenv("SWEEPER_STUDY", f"sqlite:///{tmp_path / 'study.db'}")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    run(tmp_path, overrides=("budget.trials=1",))
    assert "has ['SWEEPER_CACHE']" in capsys.readouterr().err


def test_workers_share_the_cores_unless_told_otherwise(tmp_path, planted, capsys, monkeypatch):
    planted("print('has', os.environ['OMP_NUM_THREADS'], 'threads', flush=True)")
    monkeypatch.delenv("OMP_NUM_THREADS")
    run(tmp_path / "1", *[Place("")] * 2, overrides=("budget.trials=1",))
    cores = len(os.sched_getaffinity(0))
    assert f"has {max(1, cores // 2)} threads" in capsys.readouterr().err
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    run(tmp_path / "2", *[Place("")] * 2, overrides=("budget.trials=1",))
    assert "has 3 threads" in capsys.readouterr().err


def test_what_workers_print_alike_is_told_once(tmp_path, planted, capsys):
    planted(
        "import warnings\n"
        "warnings.warn('something of a library will change')\n"
        "print('loading 10 %\\rloading 100 %', flush=True)\n"
        "os.write(1, b'\\xff unfinished')"
    )
    run(tmp_path, *[Place("")] * 2, overrides=("budget.trials=2",))
    told = capsys.readouterr().err
    assert told.count("UserWarning: something of a library will change") == 1
    assert re.findall("loading .*", told) == ["loading 100 %"]
    assert told.count("\ufffd unfinished") == 1


@pytest.mark.parametrize("workers_there", [1, 2])
def test_workers_that_never_come_up_end_the_sweep(tmp_path, planted, capsys, workers_there):
    planted("print('no such library', flush=True)\nos._exit(7)")
    lost = "3 workers in a row were lost before they took a trial; the last one ended with exit code 7"
    with pytest.raises(SweepFailed, match=lost):
        run(tmp_path, *[Place("")] * workers_there)
    assert "no such library" in capsys.readouterr().err


def test_loading_does_not_count_as_hanging(tmp_path, planted):
    planted("import time\ntime.sleep(4)")
    patience = ("executor.silence_seconds=2", "executor.retries=9", "budget.trials=1")
    study, _ = run(tmp_path, overrides=patience)
    assert study.record(0).state is TrialState.FINISHED


def test_loading_without_end_does(tmp_path, planted):
    planted("import time\ntime.sleep(600)")
    with pytest.raises(SweepFailed, match=r"before they took a trial; the last one said nothing for 1\.2 s"):
        run(tmp_path, overrides=("executor.silence_seconds=0.2",))


def test_one_that_never_comes_up_is_given_up_while_others_train(tmp_path, planted, caplog):
    planted("if os.environ['CUDA_VISIBLE_DEVICES'] == '1':\n    os._exit(7)")
    slow = ("engine.speedup=20", "budget.trials=3", "pruner=none")
    study, _ = run(tmp_path, Place("GPU 0", "0"), Place("GPU 1", "1"), overrides=slow)
    assert all(study.record(number).state is TrialState.FINISHED for number in range(3))
    assert "with exit code 7 on GPU 1: going on without one there" in caplog.text


def test_one_whose_device_is_lost_makes_room_for_another(tmp_path, planted, capsys):
    planted(
        "import sweeper.worker\n"
        "from sweeper.errors import DeviceError\n"
        "def run(*given):\n"
        "    raise DeviceError('the device gave up')\n"
        "sweeper.worker.run = run"
    )
    with pytest.raises(SweepFailed, match=r"3 workers in a row .* the last one ended with exit code 70"):
        run(tmp_path)
    assert "the device gave up" in capsys.readouterr().err


def test_one_that_breaks_off_shows_its_traceback_and_saves_the_others(tmp_path, planted, capsys, monkeypatch):
    planted(
        "if os.environ['CUDA_VISIBLE_DEVICES'] == '1':\n"
        "    import time\n"
        "    from sweeper.engines import replay\n"
        "    def broken(self, channel):\n"
        "        while not os.path.exists(os.environ['PLANTED']):\n"
        "            time.sleep(0.02)\n"
        "        raise ValueError('planted')\n"
        "    replay.ReplayEngine.run = broken"
    )
    flag = tmp_path / "flag"
    monkeypatch.setenv("PLANTED", str(flag))
    recorder = Recorder()
    recorder.started = lambda record: record.number == 0 and flag.touch()
    with pytest.raises(SweepFailed, match="a worker broke off with ValueError: planted"):
        run(
            tmp_path,
            *(Place("GPU 0", "0"), Place("GPU 1", "1")),
            recorder=recorder,
            overrides=("engine.speedup=5",),
        )
    told = capsys.readouterr().err
    assert "Traceback (most recent call last)" in told
    assert told.count("ValueError: planted") == 1
    ((_, _, reason),) = recorder.of("closed")
    assert reason == "a worker could not go on"
    _, study, _ = open_coordinator(tmp_path, "executor=local")
    assert study.record(0).state is TrialState.WAITING


def test_what_a_worker_does_after_its_last_trial_is_not_cut_off(tmp_path, planted, monkeypatch):
    planted(
        "import time\n"
        "from sweeper.engines.replay import ReplayEngine\n"
        "class Tidying:\n"
        "    def __init__(self, channel):\n"
        "        self.next_trial, self.report = channel.next_trial, channel.report\n"
        "        self._finish = channel.finish\n"
        "    def finish(self, outcome):\n"
        "        self._finish(outcome)\n"
        "        time.sleep(1)\n"
        "        open(os.path.join(os.environ['PLANTED'], str(outcome.trial)), 'w').close()\n"
        "replay = ReplayEngine.run\n"
        "ReplayEngine.run = lambda self, channel: replay(self, Tidying(channel))"
    )
    tidied = tmp_path / "tidied"
    tidied.mkdir()
    monkeypatch.setenv("PLANTED", str(tidied))
    run(tmp_path, *[Place("")] * 2, overrides=("budget.trials=3",))
    assert sorted(path.name for path in tidied.iterdir()) == ["-1", "0", "1", "2"]


def test_where_a_worker_crashed_is_told(tmp_path, capsys):
    run(tmp_path, recorder=Striking(in_trial_0, signal.SIGSEGV), overrides=("budget.trials=1",))
    told = capsys.readouterr().err
    assert "Fatal Python error: Segmentation fault" in told
    assert "spawned.py" in told


def test_what_a_worker_prints_steers_no_terminal_and_tells_no_secret(tmp_path, planted, capsys):
    planted("print('\\x1b]0;owned\\x07\\x1b[2J at https://me:c4nary@host/x', flush=True)")
    run(tmp_path, overrides=("budget.trials=1",))
    told = capsys.readouterr().err
    assert "<1b>]0;owned<07><1b>[2J at https://" in told
    assert "c4nary" not in told
    assert "\x1b" not in told


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_signals_are_the_parents_business(tmp_path, how):
    recorder = Striking(in_trial_0, how)
    study, _ = run(tmp_path, recorder=recorder, overrides=("budget.trials=1",))
    assert len(recorder.struck) == 1
    assert (study.record(0).state, study.record(0).attempt) == (TrialState.FINISHED, 1)


# The parent's end

SLOW = ("executor=local", "executor.workers=2", "engine.speedup=1")


@pytest.fixture
def sweep(forks, tmp_path, request):
    """A sweep in a process of its own, in the middle of its first trials, and its workers."""
    process = forks.start([*REPLAY, *SLOW, *getattr(request, "param", ())], tmp_path)
    read_until(process, "Trial 1:")
    return process, [child for child in psutil.Process(process.pid).children() if is_alive(child)]


def all_gone(processes, seconds=20.0):
    until = time.monotonic() + seconds
    while any(map(is_alive, processes)) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(map(is_alive, processes))


def test_workers_end_with_a_killed_parent(sweep):
    process, there = sweep
    assert len(there) == 2
    process.send_signal(signal.SIGKILL)
    assert all_gone(there)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a stopped worker waits until it is let go on")
def test_even_stopped_workers_end_with_a_killed_parent(sweep):
    process, there = sweep
    for one in there:
        one.suspend()
    process.send_signal(signal.SIGKILL)
    assert all_gone(there)


def test_a_second_signal_leaves_at_once_and_takes_the_workers_along(sweep):
    process, there = sweep
    process.send_signal(signal.SIGTERM)
    read_until(process, "Ctrl-C again leaves at once")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert all_gone(there)


@pytest.mark.parametrize("sweep", [["executor.grace_seconds=2"]], indirect=True)
def test_a_preempted_sweep_waits_for_no_worker_that_hangs(sweep):
    process, there = sweep
    for one in there:
        one.suspend()
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=30)[0]
    assert process.returncode == 130
    assert "Leaving after executor.grace_seconds=2" in rest
    assert all_gone(there)


def test_ctrl_c_in_a_terminal_is_not_for_the_workers(sweep):
    process, there = sweep
    groups = {os.getpgid(one.pid) for one in there}
    assert len(groups) == 2
    assert os.getpgid(process.pid) not in groups


def test_an_interrupted_sweep_has_saved_what_all_workers_trained(sweep, tmp_path):
    process, there = sweep
    process.send_signal(signal.SIGUSR1)
    rest = process.communicate(timeout=120)[0]
    assert process.returncode == 130
    assert "interrupted (SIGUSR1)" in rest
    assert all_gone(there)
    assert [r.state for r in records(tmp_path)[1:]] == [TrialState.WAITING] * 2
