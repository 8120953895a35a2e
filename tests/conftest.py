"""What all tests share: no network, folders of their own for models, few threads."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.forks import Forks

# Libraries read these when they are imported, and processes started by tests inherit them.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GOMP_SPINCOUNT": "5000",  # as the command line sets it
}


def pytest_configure(config: pytest.Config) -> None:
    """Set up the environment before any test module is imported."""
    caches = tempfile.TemporaryDirectory(prefix="sweeper-tests-")
    config.add_cleanup(caches.cleanup)
    os.environ.update(OFFLINE, HF_HOME=f"{caches.name}/huggingface", TOKENIZERS_PARALLELISM="false")
    # The embedded model is converted once for all tests; a SWEEPER_CACHE that is set already spares that too.
    os.environ.setdefault("SWEEPER_CACHE", f"{caches.name}/sweeper")
    # Small models gain nothing from many threads, and equal numbers need equally many in every process.
    os.environ.setdefault("OMP_NUM_THREADS", "2")


class Server(NamedTuple):
    """An MLflow UI that `sweeper ui` has started."""

    address: str
    folder: Path
    """With its database."""


@pytest.fixture(scope="session")
def ui_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`sweeper ui --allow-hosts lab.example`, over nothing."""
    folder = tmp_path_factory.mktemp("ui")
    (folder / "mlflow.db").touch()  # MLflow makes its tables in it
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    line = ["ui", "--folder", str(folder), "--port", str(port), "--allow-hosts", "lab.example"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sweeper", *line],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(900):
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=5):  # noqa: S310 - it is http
                    break
            except OSError:
                time.sleep(0.2)
        yield Server(address, folder)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


@pytest.fixture(scope="session")
def forking() -> Iterator[Forks]:
    with Forks() as process:
        yield process


@pytest.fixture
def forks(forking: Forks) -> Iterator[Forks]:
    """Commands that begin in milliseconds, and don't outlive the test."""
    yield forking
    forking.end_all()


@pytest.fixture(autouse=True)
def the_same_draws() -> None:
    """Draws of torch don't depend on the tests before."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
