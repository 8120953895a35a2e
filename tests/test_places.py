"""Where workers work: one place for each, on the GPUs there are or on the CPU."""

import os

import pytest
import torch

from sweeper.errors import ConfigError
from sweeper.executors import make_executor
from sweeper.executors.inline import InlineExecutor
from sweeper.executors.local import LocalExecutor
from sweeper.executors.places import Place, find_places, in_words, threads_each
from sweeper.layout import Layout
from tests.sweeps import configure


@pytest.fixture
def gpus(monkeypatch):
    """A machine with so many GPUs, as far as anybody asks."""

    def there(count, visible=None):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return there


def places(folder, *overrides):
    like = ("+experiment=summarize", "tracking=none", "verdict=none")
    return find_places(configure(folder, *overrides, like=like)[0])


def test_every_gpu_has_a_worker(tmp_path, gpus):
    gpus(3)
    assert places(tmp_path) == (Place("GPU 0", "0"), Place("GPU 1", "1"), Place("GPU 2", "2"))
    assert [place.visible for place in places(tmp_path, "executor.workers=2")] == ["0", "1"]


def test_several_share_a_gpu_where_they_are_asked_to(tmp_path, gpus):
    gpus(2)
    shared = places(tmp_path, "executor.workers_per_device=2")
    assert [place.visible for place in shared] == ["0", "1", "0", "1"]
    assert in_words(shared) == "4 workers on GPU 0, GPU 1"
    fewer = places(tmp_path, "executor.workers_per_device=2", "executor.workers=3")
    assert [place.visible for place in fewer] == ["0", "1", "0"]


def test_the_gpus_that_may_be_seen_are_those(tmp_path, gpus):
    gpus(2, visible="5, GPU-0f1e")
    assert [place.visible for place in places(tmp_path)] == ["5", "GPU-0f1e"]


def test_more_workers_than_gpus_take_are_refused(tmp_path, gpus):
    gpus(2)
    with pytest.raises(ConfigError, match=r"3 are more than fit on 2 GPUs with executor\.workers_per_dev"):
        places(tmp_path, "executor.workers=3")


@pytest.mark.parametrize("unused", [("model.device=cpu",), ("engine=replay",), ("executor=local",)])
def test_workers_that_share_no_gpu_are_refused_unless_they_are_counted(tmp_path, gpus, unused):
    gpus(0 if "executor=local" in unused else 2)
    shared = (*unused, "executor.workers_per_device=3")
    told = r"executor\.workers_per_device: 3 workers can't share a GPU.*set executor\.workers=3"
    with pytest.raises(ConfigError, match=told):
        places(tmp_path, *shared)
    assert len(places(tmp_path, *shared, "executor.workers=2")) == 2


@pytest.mark.parametrize("count", [0, 4])
def test_on_the_cpu_there_are_as_many_as_are_asked_for(tmp_path, gpus, count):
    gpus(count)
    assert places(tmp_path, "model.device=cpu") == (Place("the CPU"),)
    shared = places(tmp_path, "model.device=cpu", "executor.workers=2")
    assert in_words(shared) == "2 workers on the CPU"


def test_a_replay_needs_no_device(tmp_path):
    config, _ = configure(tmp_path, "executor.workers=3")
    assert in_words(find_places(config)) == "3 workers"


def test_the_cores_are_shared():
    cores = len(os.sched_getaffinity(0))
    assert threads_each(1) == cores
    assert threads_each(10 * cores) == 1


@pytest.mark.parametrize(
    ("overrides", "kind", "about"),
    [
        ((), InlineExecutor, "1 worker, in this process"),
        (("executor.workers=1",), InlineExecutor, "1 worker, in this process"),
        (("executor.workers=2",), LocalExecutor, "2 workers, each in a process of its own"),
        (("executor=inline",), InlineExecutor, "1 worker, in this process"),
        (("executor.workers=4", "budget.trials=1"), InlineExecutor, "1 worker, in this process"),
        (("executor=local", "executor.workers=9"), LocalExecutor, "8 workers, each in a process of its own"),
        (("executor=local",), LocalExecutor, "1 worker, in a process of its own"),
    ],
)
def test_auto_takes_processes_for_more_than_one_worker(tmp_path, overrides, kind, about):
    config, _ = configure(tmp_path, *overrides)
    executor = make_executor(config, Layout(tmp_path, "summarize"))
    assert isinstance(executor, kind)
    assert executor.about == about
