"""The executor `ray` on a cluster of two nodes on this machine: a lost one, interruptions, who gets in.

What it has in common with the others, workers that die or hang included: test_executor_contract.py.
"""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

# As for a cluster that the executor starts: loopback addresses alone, and a token. Ray reads it on import.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
pytest.importorskip("ray", reason="the executor `ray` needs Ray: pip install -c constraints.txt -e '.[ray]'")

from ray.cluster_utils import Cluster

from sweeper.config import ExecutorConfig
from sweeper.errors import ClusterError, ConfigError
from sweeper.events import Measurement
from sweeper.executors import make_executor
from sweeper.executors.actor import Site
from sweeper.executors.cluster import cluster
from sweeper.journal import measurements
from sweeper.layout import Layout
from sweeper.messages import BASE, TrialState
from sweeper.preemption import INTERRUPTED
from tests.sweeps import REPLAY, Recorder, configure, open_coordinator, open_study

ROOT = Path(__file__).parents[1]


@dataclass
class Nodes:
    """A head that trains nothing, and the one other node that does."""

    cluster: Cluster
    node: Any = None

    @property
    def address(self) -> str:
        return self.cluster.address

    def join(self) -> None:
        self.node = self.cluster.add_node(num_cpus=2)

    def kill(self) -> None:
        self.cluster.remove_node(self.node, allow_graceful=False)

    def workers(self) -> list[psutil.Process]:
        (raylet,) = self.node.all_processes["raylet"]
        children = psutil.Process(raylet.process.pid).children()
        return [child for child in children if child.name().startswith("ray::Worker")]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    head = {"num_cpus": 0, "include_dashboard": False}
    nodes = Nodes(Cluster(initialize_head=True, head_node_args=head))
    nodes.join()
    yield nodes
    nodes.cluster.shutdown()


def wait_for(what: Callable[[], Any], seconds: float = 90) -> Any:
    """What `what` says as soon as it is true."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
    return found


class Killing(Recorder):
    """Kills the node at the first mark that a trial reaches, and has another one join."""

    def __init__(self, nodes: Nodes) -> None:
        super().__init__()
        self.nodes = nodes
        self.at: Measurement | None = None

    def measured(self, point: Measurement) -> None:
        super().measured(point)
        if self.at is None and point.mark == 48:
            self.at = point
            of_the_node = self.nodes.workers()
            self.nodes.kill()
            assert not psutil.wait_procs(of_the_node, timeout=60)[1]
            self.nodes.join()


def test_trials_of_a_lost_node_go_on_from_their_checkpoints_on_another(tmp_path, nodes):
    over = ["executor=ray", f"executor.address={nodes.address}", "executor.workers=2"]
    over += ["engine.speedup=60", "budget.trials=4", "pruner=none"]
    coordinator, study, recorder = open_coordinator(tmp_path, *over, recorder=Killing(nodes))
    config, _ = configure(tmp_path, *over)
    make_executor(config, Layout(tmp_path, config.sweep.name)).run(coordinator)
    coordinator.close()
    assert [r.number for r in study.records()] == [BASE, 0, 1, 2, 3]
    assert all(r.state is TrialState.FINISHED for r in study.records())
    ends = Counter(r.number for r in recorder.of("ended") if r.state.is_over)
    assert set(ends.values()) == {1}, "no trial is trained twice to its end"
    trial = recorder.at.trial
    assert trial in {r.number for r in recorder.of("ended") if r.state is TrialState.WAITING}
    again = [p.examples for p in recorder.of("measured") if (p.trial, p.attempt) == (trial, 2)]
    assert min(again) > 48, "from its checkpoint"


def test_an_interrupted_sweep_saves_its_trials_and_a_killed_one_leaves_no_worker(tmp_path, nodes):
    command = [sys.executable, "-m", "sweeper", *REPLAY, f"sweep.folder={tmp_path}", "engine.speedup=4"]
    command += ["executor=ray", f"executor.address={nodes.address}", "executor.workers=2", "pruner=none"]
    layout = Layout(tmp_path, "summarize")

    def attempts() -> set[int]:
        return {point.attempt for point in measurements(layout.metrics(1))}

    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as first:
        wait_for(lambda: 1 in attempts() or first.poll() is not None)
        first.terminate()
        assert first.wait(60) == INTERRUPTED, first.stderr.read()
    assert open_study(tmp_path).record(1).state is TrialState.WAITING
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as second:
        wait_for(lambda: 2 in attempts() or second.poll() is not None)
        assert nodes.workers()
        second.kill()
    wait_for(lambda: not nodes.workers())


def test_a_node_without_the_sweeps_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # and back at the end
    (tmp_path / "proof").write_text("word")
    Site(ROOT, tmp_path / "proof", "word").enter()
    with pytest.raises(ClusterError, match=f"the node .* can't work in {tmp_path}/nowhere.*No such file"):
        Site(tmp_path / "nowhere", tmp_path / "proof", "word").enter()
    for site in (Site(ROOT, tmp_path / "other", "word"), Site(ROOT, tmp_path / "proof", "another word")):
        with pytest.raises(ClusterError, match=f"does not see {tmp_path} of this sweep.*set sweep.folder"):
            site.enter()


def test_a_cluster_started_here_is_for_this_user_on_this_machine_alone(monkeypatch):
    secret = "postgresql://someone:canary@somewhere/study"  # noqa: S105 - what the test looks for
    for name in ("SWEEPER_STUDY", "MLFLOW_TRACKING_URI", "PGPASSWORD"):
        monkeypatch.setenv(name, secret)
    signal.signal(signal.SIGTERM, handler := lambda *_: None)
    others = set(psutil.Process().children(recursive=True))
    with cluster(ExecutorConfig(name="ray", workers=1)):
        assert signal.getsignal(signal.SIGTERM) is handler
        ours = set(psutil.Process().children(recursive=True)) - others
        listening = [c for process in ours for c in process.net_connections("tcp") if c.status == "LISTEN"]
        assert {c.laddr.ip.removeprefix("::ffff:") for c in listening} == {"127.0.0.1"}
        assert not any("canary" in str(process.environ()) for process in ours)
        assert os.environ["SWEEPER_STUDY"] == secret
    assert signal.getsignal(signal.SIGTERM) is handler
    _, alive = psutil.wait_procs(ours, timeout=60)
    assert not alive


def test_a_cluster_is_closed_to_those_without_its_token(nodes):
    code = (
        "from sweeper.config import ExecutorConfig; from sweeper.executors.cluster import cluster; "
        f"cluster(ExecutorConfig(name='ray', address='{nodes.address}')).__enter__(); print('let in')"
    )
    env = os.environ | {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_NUM_REDIS_GET_RETRIES": "2"}
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, timeout=120)
    assert b"let in" not in run.stdout
    assert b"ClusterError: executor.address: no Ray cluster at" in run.stderr
    assert b"have its token" in run.stderr


@pytest.mark.parametrize("address", ["127.0.0.1:1", "auto"])
def test_a_cluster_that_is_not_there_is_told_at_once(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    refused = "executor.address: no Ray cluster at 127.0.0.1:1 .*Connection refused.*executor.address=null"
    with pytest.raises(ClusterError, match=refused), cluster(ExecutorConfig(name="ray", address=address)):
        pass


def test_a_cluster_that_was_killed_and_left_its_address_behind_is_told_at_once(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (left := tmp_path / "ray" / "ray_current_cluster").parent.mkdir()
    left.write_text("127.0.0.1:1\n")
    refused = f"no Ray cluster at 127.0.0.1:1 .from {left}. that lets this process in .*Connection refused"
    with pytest.raises(ClusterError, match=refused), cluster(ExecutorConfig(name="ray", address="auto")):
        pass


def test_rays_client_is_no_way_in(tmp_path):
    with pytest.raises(
        ConfigError, match=r"executor\.address: must be auto, or HOST:PORT .* 'ray://head:10001'"
    ):
        configure(tmp_path, "executor=ray", "executor.address=ray://head:10001")


def test_without_ray_the_command_that_installs_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ClusterError, match=r"pip install -c constraints.txt -e '\.\[ray\]'"),
        cluster(ExecutorConfig(name="ray")),
    ):
        pass
