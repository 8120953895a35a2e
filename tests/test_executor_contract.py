"""What every executor has to do: run workers on a coordinator until the sweep is over or stopped."""

import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack, chdir
from importlib.util import find_spec
from pathlib import Path
from typing import get_args, get_type_hints

import psutil
import pytest

from sweeper.config import ExecutorConfig
from sweeper.data.prepare import prepare
from sweeper.errors import DataError
from sweeper.events import Measurement
from sweeper.executors import make_executor, spawned
from sweeper.executors.cluster import cluster
from sweeper.journal import measurements
from sweeper.layout import Layout
from sweeper.messages import BASE, TrialState
from sweeper.models.pretrained import architecture, load_tokenizer, resolve
from tests import tiny
from tests.sweeps import REPLAY, Recorder, configure, open_coordinator
from tests.test_worker import texts

EXECUTORS = get_args(get_type_hints(ExecutorConfig)["name"])
SEVERAL = dict.fromkeys(("local", "ray"), ("executor.workers=2",))
APART = {
    "executor=local": {
        "SIGKILL": "its worker was ended by SIGKILL, as the system does when memory runs out",
        "SIGSEGV": "its worker was ended by SIGSEGV",
    },
    "executor=ray": dict.fromkeys(("SIGKILL", "SIGSEGV"), "its worker was lost: The actor "),
}
"""Executors whose workers may die without this process, and how they tell it."""


@pytest.fixture(scope="module")
def a_ray_cluster(tmp_path_factory):
    """Starting one takes longer than all these sweeps. It gives the folder in which it was started."""
    if find_spec("ray") is None:
        pytest.skip("the executor `ray` needs Ray: pip install -c constraints.txt -e '.[ray]'")
    folder = tmp_path_factory.mktemp("own")
    with ExitStack() as stack:
        with chdir(folder):
            stack.enter_context(cluster(ExecutorConfig(name="ray", workers=2)))
        yield folder


@pytest.fixture(params=EXECUTORS)
def over(request):
    if request.param == "ray":
        request.getfixturevalue("a_ray_cluster")
    return (f"executor={request.param}", *SEVERAL.get(request.param, ()))


@pytest.fixture(params=APART)
def apart(request):
    """One worker in a process of its own, so that it is known which trial a killed one had."""
    if request.param == "executor=ray":
        request.getfixturevalue("a_ray_cluster")
    return (request.param, "executor.workers=1")


def test_workers_on_ray_import_nothing_from_where_the_cluster_was_started(a_ray_cluster):
    import ray

    places = ray.get(ray.remote(num_cpus=1)(lambda: sys.path).remote())
    assert a_ray_cluster not in [Path(place) for place in places]


class Striking(Recorder):
    """A recorder that does something to the workers at measurements that `when` picks out."""

    def __init__(self, when: Callable[[Measurement], bool], number: int, once: bool = True) -> None:
        super().__init__()
        self.when, self.number, self.once = when, number, once
        self.struck: list[psutil.Process] = []

    def measured(self, point: Measurement) -> None:
        super().measured(point)
        if self.when(point) and not (self.once and self.struck):
            for one in workers():
                one.send_signal(self.number)
                self.struck.append(one)


def workers() -> list[psutil.Process]:
    """The processes of workers that this process has."""
    children = psutil.Process().children(recursive=True)
    return [one for one in children if is_alive(one) and {spawned.__name__, "ray::Worker"} & names(one)]


def names(process: psutil.Process) -> set[str]:
    """What tells a worker: its module's name, or the one that Ray has given it."""
    line = process.cmdline()
    return {*line, line[0].partition(".")[0]} if line else set()


def nobody_is_left_behind() -> bool:
    """Ray takes a moment to end what it was told to end."""
    return not psutil.wait_procs(workers(), timeout=60)[1]


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def execute(folder, *overrides, recorder=None, like=REPLAY, rows=96):
    coordinator, study, recorder = open_coordinator(
        folder, *overrides, recorder=recorder, like=like, rows=rows
    )
    config, _ = configure(folder, *overrides, like=like)
    make_executor(config, Layout(folder, config.sweep.name)).run(coordinator)
    coordinator.close()
    assert nobody_is_left_behind()
    return study, recorder


def attempts(recorder) -> list[tuple[int, int]]:
    return [(record.number, record.attempt) for record in recorder.of("started")]


def test_every_trial_of_the_budget_is_trained_once(tmp_path, over):
    study, recorder = execute(tmp_path, *over, "budget.trials=5")
    assert [r.number for r in study.records()] == [BASE, *range(5)]
    assert all(r.state.is_over for r in study.records())
    numbers = sorted(number for number, _ in attempts(recorder))
    assert numbers == [BASE, *range(5)], "no two workers have had the same trial"
    assert len(recorder.of("ended")) == 6


def test_a_sweep_goes_on_under_it(tmp_path, over):
    execute(tmp_path, *over, "budget.trials=2")
    study, recorder = execute(tmp_path, *over, "budget.trials=4")
    assert sorted(r.number for r in recorder.of("started")) == [2, 3], "nothing is trained twice"
    assert len(study.records()) == 5


def test_a_stopped_coordinator_ends_it_at_once(tmp_path, over):
    coordinator, study, recorder = open_coordinator(tmp_path, *over)
    coordinator.stop("interrupted (test)")
    config, _ = configure(tmp_path, *over)
    make_executor(config, Layout(tmp_path, config.sweep.name)).run(coordinator)
    assert recorder.of("started") == []
    assert study.records() == []


def test_a_suspended_trial_waits(tmp_path, over):
    coordinator, study, recorder = open_coordinator(tmp_path, *over)
    measured = recorder.measured

    def stop_in_trial_0(point):
        measured(point)
        if point.trial == 0:
            coordinator.stop("interrupted (test)")

    recorder.measured = stop_in_trial_0
    config, _ = configure(tmp_path, *over)
    make_executor(config, Layout(tmp_path, config.sweep.name)).run(coordinator)
    assert study.record(0).state is TrialState.WAITING
    assert study.record(0).reports == {}, "it was not trained to the next mark"


def test_a_trial_that_fails_by_itself_is_not_tried_again(tmp_path, over):
    bad = ["space=empty", "+space.learning_rate={low: 0.06, high: 1.0, log: true}", "trial.learning_rate=0.1"]
    study, recorder = execute(tmp_path, *over, *bad, "budget.trials=3", "budget.failures_in_row=9")
    assert [study.record(number).state for number in range(3)] == [TrialState.FAILED] * 3
    assert sorted(attempts(recorder)) == [(BASE, 1), (0, 1), (1, 1), (2, 1)]


def test_a_worker_that_cannot_load_ends_it_with_its_error(tmp_path, over):
    coordinator, study, _ = open_coordinator(tmp_path, *over)
    config, _ = configure(tmp_path, *over, f"engine.curves={tmp_path / 'none.jsonl'}")
    executor = make_executor(config, Layout(tmp_path, config.sweep.name))
    with pytest.raises(DataError, match=r"engine.curves: there is no file .*none.jsonl"):
        executor.run(coordinator)
    assert study.records() == []
    assert nobody_is_left_behind()


# Workers that die or hang


def in_trial_0(point):
    return point.trial == 0 and point.mark == 48


def test_a_killed_workers_trial_goes_on_as_the_same_trial(tmp_path, apart):
    whole, _ = execute(tmp_path / "whole", *apart, "budget.trials=2")
    recorder = Striking(in_trial_0, signal.SIGKILL)
    study, _ = execute(tmp_path / "killed", *apart, "budget.trials=2", recorder=recorder)
    assert len(recorder.struck) == 1
    assert attempts(recorder) == [(BASE, 1), (0, 1), (0, 2), (1, 1)]
    waiting = next(r for r in recorder.of("ended") if r.number == 0)
    assert waiting.state is TrialState.WAITING
    assert waiting.reason.startswith(APART[apart[0]]["SIGKILL"])
    assert [(r.params, r.reports, r.objective) for r in study.records()] == [
        (r.params, r.reports, r.objective) for r in whole.records()
    ]
    points = list(measurements(Layout(tmp_path / "killed", "summarize").metrics(0)))
    assert [point.mark for point in points if point.mark] == [48, 96]
    assert min(point.examples for point in points if point.attempt == 2) > 48, "from its checkpoint"


def test_a_hung_worker_is_replaced(tmp_path, apart):
    recorder = Striking(in_trial_0, signal.SIGSTOP)
    patience = ("executor.silence_seconds=4", "executor.retries=9")
    study, _ = execute(tmp_path, *apart, *patience, "budget.trials=1", recorder=recorder)
    assert (0, 2) in attempts(recorder)
    waiting = next(r for r in recorder.of("ended") if r.number == 0)
    assert waiting.reason == "its worker said nothing for 4 s"
    assert study.record(0).state is TrialState.FINISHED


def test_a_trial_that_loses_all_its_workers_fails_and_others_go_on(tmp_path, apart):
    recorder = Striking(lambda point: point.trial == 0, signal.SIGSEGV, once=False)
    study, _ = execute(tmp_path, *apart, "executor.retries=1", "budget.trials=2", recorder=recorder)
    assert attempts(recorder) == [(BASE, 1), (0, 1), (0, 2), (1, 1)]
    assert study.record(0).state is TrialState.FAILED
    reason = study.record(0).reason
    assert reason.startswith(APART[apart[0]]["SIGSEGV"])
    assert reason.endswith("; that was worker 2 of this trial, and executor.retries=1 allows no more")
    assert study.record(1).state is TrialState.FINISHED


# Real training

TRAINING = (
    *("+experiment=summarize", "tracking=none", "verdict=none", "model=custom", "model.device=cpu"),
    *(
        "model.dtype=float32",
        "data=file",
        "data.input=input",
        "data.target=target",
        "data.sizes.train=48",
        "data.sizes.validation=8",
    ),
    *("data.sizes.test=8", "task.evaluation.samples=1", "task.generation.max_new_tokens=2", "space=empty"),
    *("+space.lora.dropout={low: 0.0, high: 0.2}", "trial.batch_size=4", "engine.report_seconds=1e-9"),
)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A tiny model and rows for it, and the overrides that name both."""
    folder = tmp_path_factory.mktemp("material")
    model = tiny.save(tiny.llama(), folder / "model")
    return (f"model.name={model}", f"data.path={texts(folder, rows=200)}")


def train(folder, *overrides, recorder=None):
    config, _ = configure(folder, *overrides, like=TRAINING)
    found = resolve(config.model)
    layout = Layout(folder, config.sweep.name)
    prepare(config, load_tokenizer(found), architecture(found, config.task), layout.rows)
    study, recorder = execute(folder, *overrides, recorder=recorder, like=TRAINING, rows=48)
    assert not list(layout.folder.rglob("step-*")), "trials that are over keep no checkpoints"
    return study, recorder, layout


def losses(layout, trial):
    """By attempt and examples."""
    return {
        (point.attempt, point.examples): point.metrics["train_loss"]
        for point in measurements(layout.metrics(trial))
        if "train_loss" in point.metrics and point.mark is None
    }


def test_a_killed_workers_training_goes_on_as_if_nothing_had_happened(tmp_path, apart, material):
    one = (*material, "budget.trials=1")
    _, _, whole = train(tmp_path / "whole", *one, "executor=inline")
    recorder = Striking(lambda point: point.trial == 0 and point.examples == 32, signal.SIGKILL)
    study, _, killed = train(tmp_path / "killed", *one, *apart, recorder=recorder)
    assert len(recorder.struck) == 1
    told, expected = losses(killed, 0), losses(whole, 0)
    assert [examples for attempt, examples in told if attempt == 1] == [4, 8, 12, 16, 20, 24, 28, 32]
    assert [examples for attempt, examples in told if attempt == 2] == [28, 32, 36, 40, 44, 48]
    assert {examples: loss for (_, examples), loss in told.items()} == {
        examples: loss for (_, examples), loss in expected.items()
    }
    assert study.record(0).state is TrialState.FINISHED


def test_packed_trials_outlive_their_worker(tmp_path, material):
    apart = ("executor=local", "executor.workers=1")  # how the calls travel makes no difference to the engine
    recorder = Striking(lambda point: point.trial == 1 and point.examples == 32, signal.SIGKILL)
    packed = ("engine=packed", "engine.slots=2", "budget.trials=2", "pruner=none")
    study, _, layout = train(tmp_path, *material, *packed, *apart, recorder=recorder)
    assert sorted(attempts(recorder)) == [(BASE, 1), (0, 1), (0, 2), (1, 1), (1, 2)]
    assert [(r.state, r.engine) for r in study.records()[1:]] == [(TrialState.FINISHED, "packed")] * 2
    for trial in (0, 1):
        again = [examples for attempt, examples in losses(layout, trial) if attempt == 2]
        assert min(again) == 28, "from its checkpoint"
