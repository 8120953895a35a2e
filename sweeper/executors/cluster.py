"""The Ray cluster that workers run on: joined where it runs, or started on this machine."""

import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sweeper.config import ExecutorConfig
from sweeper.errors import ClusterError, installing
from sweeper.executors.line import OF_THE_COORDINATOR

_OBJECT_STORE_BYTES = 100 * 2**20
"""Of a cluster started here: nothing but messages crosses it. Ray wants 75 MiB at least."""

_REACH_SECONDS = 10.0
"""For a connection to a cluster that is there."""


@contextmanager
def cluster(executor: ExecutorConfig) -> Iterator[Any]:
    """Ray, connected to the cluster that `executor.address` names; null starts one that ends with the block.

    A cluster that this process is connected to already is used as it is, and left to who connected it.
    Raises ClusterError if Ray isn't installed or the cluster can't be reached.
    """
    ray = _import_ray(executor)
    if ray.is_initialized():
        yield ray
        return
    with _keeping_sigterm():
        if executor.address is None:
            _start(ray, executor.workers)
        else:
            _join(ray, executor.address)
    try:
        yield ray
    finally:
        with _keeping_sigterm():
            ray.shutdown()


def _import_ray(executor: ExecutorConfig) -> Any:
    if executor.address is None:
        # Read when Ray is imported, and named after the systems where it is the default: every port is on the
        # loopback address.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        # Keeps out this machine's other users. One that Ray makes itself would stay in a file in their reach.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ImportError as error:
        raise ClusterError(f"executor=ray needs Ray; install it {installing('ray')}") from error
    return ray


def _start(ray: Any, workers: int | None) -> None:
    cores = os.cpu_count() or 1
    with (
        _environment_of_workers(threads=max(1, cores // (workers or 1))),
        tempfile.TemporaryDirectory(prefix="sweeper-") as empty,
    ):
        ray.init(
            address="local",
            num_cpus=max(cores, workers or 1),
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            # Else the first place where workers look for modules is the folder that this process works in.
            runtime_env={"working_dir": empty},
        )


def _join(ray: Any, address: str) -> None:
    found_in = ""
    try:
        if address == "auto":
            address, found_in = _of_this_machine()
        if address != "auto":  # Ray itself would try for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), _REACH_SECONDS).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ClusterError(
            f"executor.address: no Ray cluster at {address} {found_in}that lets this process in ({error}); "
            "this machine must be one of its nodes (`ray start --address=HOST:PORT`) and have its token "
            "(RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or ~/.ray/auth_token); executor.address=null starts one"
        ) from error


def _of_this_machine() -> tuple[str, str]:
    """The address that Ray means by `auto`, and where it was found; `auto` if Ray has to look for itself."""
    if named := os.environ.get("RAY_ADDRESS"):
        return named, "(from RAY_ADDRESS) "
    folder = os.environ.get("TMPDIR", "/tmp") if sys.platform == "linux" else "/tmp"  # noqa: S108 - Ray's own
    file = Path(os.environ.get("RAY_TMPDIR", folder), "ray", "ray_current_cluster")
    # `ray start` writes it, and a cluster that was killed leaves it behind.
    return (file.read_text().strip(), f"(from {file}) ") if file.exists() else ("auto", "")


@contextmanager
def _environment_of_workers(threads: int) -> Iterator[None]:
    """What a cluster started here gives its workers: no way to the databases, their share of the cores."""
    names = [name for name in os.environ if name.startswith(OF_THE_COORDINATOR)]
    hidden = {name: os.environ.pop(name) for name in names}
    shares = "OMP_NUM_THREADS" not in os.environ
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    try:
        yield
    finally:
        os.environ.update(hidden)
        if shares:
            del os.environ["OMP_NUM_THREADS"]


@contextmanager
def _keeping_sigterm() -> Iterator[None]:
    """Ray answers SIGTERM by a handler of its own, which leaves without saving a trial."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
