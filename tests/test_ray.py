"""The executor `ray` on clusters of processes on this machine: nodes that are lost, small, new or without the
sweep's folder; interruptions; who gets in.

What it has in common with the others, workers that die or hang included: test_executor_contract.py.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import psutil
import pytest

# As for a cluster that the executor starts: loopback addresses alone, and a token. Ray reads it on import.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
pytest.importorskip("ray", reason="the executor `ray` needs Ray: pip install -c constraints.txt -e '.[ray]'")

from ray._private.state import state
from ray.autoscaler._private.monitor import BASE_READONLY_CONFIG
from ray.cluster_utils import Cluster
from ray.core.generated.gcs_pb2 import ActorTableData

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


def run(folder: Path, address: str, recorder: Recorder, *overrides: str) -> None:
    """Replay a sweep of four trials to its end on the cluster at `address`."""
    over = ["executor=ray", f"executor.address={address}", "engine.speedup=60", "budget.trials=4"]
    over += ["pruner=none", *overrides]
    coordinator, study, _ = open_coordinator(folder, *over, recorder=recorder)
    config, _ = configure(folder, *over)
    with closing(coordinator):
        make_executor(config, Layout(folder, config.sweep.name)).run(coordinator)
    assert [r.number for r in study.records()] == [BASE, 0, 1, 2, 3]
    assert all(r.state is TrialState.FINISHED for r in study.records())


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
    run(tmp_path, nodes.address, recorder := Killing(nodes), "executor.workers=2")
    ends = Counter(r.number for r in recorder.of("ended") if r.state.is_over)
    assert set(ends.values()) == {1}, "no trial is trained twice to its end"
    trial = recorder.at.trial
    assert trial in {r.number for r in recorder.of("ended") if r.state is TrialState.WAITING}
    again = [p.examples for p in recorder.of("measured") if (p.trial, p.attempt) == (trial, 2)]
    assert min(again) > 48, "from its checkpoint"


class Watching(Recorder):
    """Asks Ray at every measurement which actors are alive, and how many wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: list[list[ActorTableData]] = []
        self.waiting: list[int] = []

    def measured(self, point: Measurement) -> None:
        super().measured(point)
        told = state._connect_and_get_accessor().get_actor_table(None, None)
        actors = [ActorTableData.FromString(actor) for actor in told]
        self.alive.append([actor for actor in actors if actor.state == ActorTableData.ALIVE])
        self.waiting.append(sum(actor.state == ActorTableData.PENDING_CREATION for actor in actors))

    @property
    def at_once(self) -> int:
        """The most trials that were running at a time."""
        changes = {"started": 1, "ended": -1}
        return max(accumulate(changes.get(kind, 0) for kind, _ in self.heard))


@pytest.fixture
def gpu(nodes) -> Iterator[None]:
    """A node with a GPU that exists in Ray's books alone."""
    node = nodes.cluster.add_node(num_cpus=0, num_gpus=1)
    yield
    nodes.cluster.remove_node(node, allow_graceful=False)


@pytest.mark.parametrize(
    ("asked", "held", "waiting"),
    [
        ("executor.workers_per_device=2", {(0.5,), (0.5, 0.5)}, 0),  # as many workers as the GPU holds
        ("executor.workers=2", {(1.0,)}, 1),  # a second one waits in vain
    ],
)
@pytest.mark.usefixtures("gpu")
def test_workers_hold_a_gpu_or_a_share_of_one(tmp_path, monkeypatch, nodes, asked, held, waiting):
    monkeypatch.setattr("sweeper.executors.ray.needs_model", lambda _: True)  # replayed trials ask for no GPU
    run(tmp_path, nodes.address, recorder := Watching(), asked)
    seen = {tuple(actor.required_resources["GPU"] for actor in alive) for alive in recorder.alive}
    most = max(held, key=len)
    assert most in seen <= held
    assert recorder.at_once == len(most)
    assert recorder.waiting[-1] == waiting


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill it, and all processes that it has started."""
    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(process.pid)
        first.suspend()  # so that it starts no more
        ours = first.children(recursive=True)
        for each in (first, *ours):
            with suppress(psutil.NoSuchProcess):
                each.kill()
    process.wait()
    assert not psutil.wait_procs(ours, timeout=60)[1]


@pytest.fixture
def growing(tmp_path) -> Iterator[str]:
    """The address of a cluster that begins with a head, which trains nothing, and may start two nodes."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    provider = {"type": "fake_multinode", "gcs_address": f"127.0.0.1:{port}", "launch_multiple": True}
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    other = {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2}
    growth = BASE_READONLY_CONFIG | {"max_workers": 2, "idle_timeout_minutes": 5}
    growth["provider"] = BASE_READONLY_CONFIG["provider"] | provider
    growth["available_node_types"] = {"ray.head.default": head, "other": other}
    (file := tmp_path / "growth.json").write_text(json.dumps(growth))
    line = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--head", f"--port={port}"]
    line += [f"--autoscaling-config={file}", "--num-cpus=0", f"--object-store-memory={100 * 2**20}"]
    line += ["--include-dashboard=false", "--disable-usage-stats"]
    with tempfile.TemporaryDirectory(prefix="ray-") as folder, (tmp_path / "log").open("wb") as log:
        env = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_TMPDIR": folder}
        process = subprocess.Popen(line, env=os.environ | env, stdout=log, stderr=log)
        try:
            wait_for(
                lambda: "Ray runtime started" in (tmp_path / "log").read_text() or process.poll() is not None
            )
            assert process.poll() is None, (tmp_path / "log").read_text()
            yield f"127.0.0.1:{port}"
        finally:
            end(process)


def test_a_cluster_that_can_start_nodes_starts_them_for_workers(tmp_path, growing):
    run(tmp_path, growing, recorder := Watching(), "executor.workers=2", "engine.speedup=20")
    used = {actor.address.node_id.hex()[-5:] for alive in recorder.alive for actor in alive}
    assert used == {"00001", "00002"}, "as those are numbered that were started after the head"
    assert recorder.at_once == 2


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


_NODE = """
import signal, sys
from ray._private.node import Node
from ray._private.parameter import RayParams

address = sys.argv[1]
params = RayParams(gcs_address=address, redis_address=address, num_cpus=2, object_store_memory=100 * 2**20)
params.update_if_absent(min_worker_port=0, max_worker_port=0, node_manager_port=0, include_log_monitor=False)
params.dashboard_agent_listen_port = None
Node(params, head=False, shutdown_at_exit=True, spawn_reaper=True)
signal.pause()
"""
"""As `ray start --address`, which would look for a head on loopback at the machine's other address."""


@pytest.fixture
def blind(tmp_path, nodes) -> Iterator[None]:
    """In the place of the node: one of another name, with a file system of its own over `tmp_path`."""
    apart = ["unshare", "--map-root-user", "--mount", "--uts", "sh", "-ec"]
    can = (
        shutil.which("unshare")
        and not subprocess.run([*apart, "hostname elsewhere; mount -t tmpfs none /tmp"]).returncode
    )
    if not can:
        pytest.skip("this system gives a process no file system of its own")
    nodes.kill()
    line = 'hostname elsewhere; mount -t tmpfs none "$1"; exec "$2" -c "$3" "$4"'
    process = subprocess.Popen([*apart, line, "sh", tmp_path, sys.executable, _NODE, nodes.address])

    def has_joined() -> bool:
        known = nodes.cluster.global_state.node_table()
        return any(node["NodeManagerHostname"] == "elsewhere" and node["Alive"] for node in known)

    try:
        wait_for(has_joined)
        yield
    finally:
        nodes.join()
        end(process)


@pytest.mark.usefixtures("blind")
def test_a_node_that_does_not_see_the_sweeps_folder_trains_nothing(tmp_path, nodes):
    unseen = f"^the node elsewhere does not see {tmp_path}/summarize of this sweep.*set sweep.folder"
    with pytest.raises(ClusterError, match=unseen):
        run(tmp_path, nodes.address, recorder := Recorder(), "executor.workers=2")
    assert not recorder.of("started")


def test_a_node_without_the_sweeps_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # and back at the end
    (tmp_path / "proof").write_text("word")
    Site(ROOT, tmp_path / "proof", "word").enter()
    with pytest.raises(ClusterError, match=f"the node .* can't work in {tmp_path}/nowhere.*No such file"):
        Site(tmp_path / "nowhere", tmp_path / "proof", "word").enter()
    for site in (Site(ROOT, tmp_path / "other", "word"), Site(ROOT, tmp_path / "proof", "another word")):
        with pytest.raises(ClusterError, match=f"does not see {tmp_path} of this sweep.*set sweep.folder"):
            site.enter()
    monkeypatch.setattr("os.access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK))
    with pytest.raises(ClusterError, match=r"or may not write there; set sweep\.folder"):
        Site(ROOT, tmp_path / "proof", "word").enter()


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
