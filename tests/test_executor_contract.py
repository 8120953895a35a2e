"""What every executor has to do: run workers on a coordinator until the sweep is over or stopped."""

from typing import get_args, get_type_hints

import pytest

from sweeper.config import ExecutorConfig
from sweeper.executors import make_executor
from sweeper.layout import Layout
from sweeper.messages import BASE, TrialState
from tests.sweeps import configure, open_coordinator

EXECUTORS = get_args(get_type_hints(ExecutorConfig)["name"])


SEVERAL = {"local": ("executor.workers=2",)}


@pytest.fixture(params=EXECUTORS)
def over(request):
    return (f"executor={request.param}", *SEVERAL.get(request.param, ()))


def execute(folder, *overrides):
    coordinator, study, recorder = open_coordinator(folder, *overrides)
    config, _ = configure(folder, *overrides)
    make_executor(config, Layout(folder, config.sweep.name)).run(coordinator)
    coordinator.close()
    return study, recorder


def test_every_trial_of_the_budget_is_trained(tmp_path, over):
    study, recorder = execute(tmp_path, *over, "budget.trials=3")
    assert [r.number for r in study.records()] == [BASE, 0, 1, 2]
    assert all(r.state.is_over for r in study.records())
    assert len(recorder.of("started")) == len(recorder.of("ended")) == 4


def test_a_sweep_goes_on_under_it(tmp_path, over):
    execute(tmp_path, *over, "budget.trials=2")
    study, recorder = execute(tmp_path, *over, "budget.trials=4")
    assert [r.number for r in recorder.of("started")] == [2, 3], "nothing is trained twice"
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
