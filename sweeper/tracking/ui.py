"""The MLflow UI as a server of its own: who may reach it, and by which names.

It has no login, so it listens on the loopback alone unless names are given that it may be asked by. What is
asked under another name, or would change something from a page elsewhere, is refused.
"""

import errno
import os
import re
import socket
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from socket import gethostname

from sweeper.errors import ConfigError, Fault
from sweeper.layout import Layout

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?")


def ui_command(layout: Layout, port: int, host: str = "127.0.0.1", allowed: Sequence[str] = ()) -> list[str]:
    """The program and arguments that show the sweeps of `layout.root` at http://`host`:`port`.

    The server answers to the loopback's names and to `allowed` (NAME or NAME:PORT). Raises ConfigError for an
    address beyond the loopback without such names, and for what is no name.
    """
    _check(host, port, allowed)
    # MLflow's own default takes private addresses by how they begin, and so 10.evil.example as well.
    asked_by = ["127.0.0.1", "127.0.0.1:*", "localhost", "localhost:*", "[::1]", "[[]::1]:*"]
    asked_by += [form for name in allowed for form in (name, f"{name}:*")]
    # Origins on the loopback are always taken by MLflow.
    origins = [f"{scheme}://{form}" for scheme in ("http", "https") for form in asked_by]
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--backend-store-uri", layout.tracking_url),
        *("--default-artifact-root", layout.artifacts.resolve().as_uri()),
        *("--artifacts-destination", layout.artifacts.resolve().as_uri()),
        *("--host", host, "--port", str(port), "--workers", "1"),
        *("--allowed-hosts", ",".join(asked_by)),
        *("--cors-allowed-origins", ",".join(origins)),
        *("--uvicorn-opts", "--log-level warning"),  # not a line for every request
    ]


def _check(host: str, port: int, allowed: Sequence[str]) -> None:
    faults = [
        Fault("--allow-hosts", f"{name!r} is no name of a host, like lab.example or lab.example:8080")
        for name in allowed
        if not _NAME.fullmatch(name)
    ]
    if host not in _LOOPBACK and not allowed:
        faults.append(
            Fault(
                f"--host {host}",
                "lets other machines in, and the MLflow UI has no login: who reaches it can read, change and "
                "delete every run. Say by which names it may be asked, e.g. "
                f"--allow-hosts {gethostname()}, or leave --host out and use a tunnel: "
                f"ssh -L {port}:127.0.0.1:{port} HOST",
            )
        )
    if faults:
        raise ConfigError(faults, "command")


def refuse_taken(host: str, port: int) -> None:
    """Raise ConfigError if something else listens at `port` of `host`, with one that is free."""
    if _is_free(host, port):
        return
    free = next((one for one in range(port + 1, min(port + 100, 65_536)) if _is_free(host, one)), None)
    another = f"take another one: --port {free}" if free is not None else "take another one"
    raise ConfigError([Fault(f"--port {port}", f"is taken at {host}; {another}")], "command")


def run_pages(database: Path, address: str) -> list[tuple[str, str]]:
    """Names of the experiments in MLflow's SQLite file, each with the page of its runs.

    MLflow's first page for an experiment may be the one about traces. Empty where the file can't be read.
    """
    try:
        with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            rows = connection.execute(
                "SELECT name, experiment_id FROM experiments WHERE lifecycle_stage = 'active' "
                "AND experiment_id IN (SELECT experiment_id FROM runs) ORDER BY experiment_id"
            ).fetchall()
    except sqlite3.Error:  # the server says what is wrong with it
        return []
    return [(str(name), f"{address}/#/experiments/{number}/runs") for name, number in rows]


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            one.bind((host, port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE  # what else is wrong, the server says
    return True


def ui_environment() -> dict[str, str]:
    """The environment for `ui_command`: this one, without telemetry and MLflow's job runners."""
    return {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Eight more processes, for features that a sweep has no use for.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        **os.environ,
    }
