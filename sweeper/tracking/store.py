"""MLflow's store beyond one sweep's runs: experiments, their database, pages on runs, deletion."""

import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from filelock import FileLock

from sweeper.credentials import masked
from sweeper.errors import ConfigError, Fault
from sweeper.failpoints import reach
from sweeper.storage.database import sqlite_path, write_ahead
from sweeper.storage.postgres import alone, is_postgres, with_driver

_SCHEMES = ("http", "https", "databricks", "sqlite", "postgresql", "postgres", "mysql", "mssql")
"""What MLflow's client takes; it has given up folders (`./mlruns`)."""

_PORTS = {"http": 80, "https": 443}
_KNOCK_SECONDS = 5.0


def check_uri(uri: str) -> None:
    """Raise ConfigError if MLflow can't keep anything at `uri`, whatever is or isn't there."""
    scheme, is_url, _ = uri.partition("://")
    if uri != "databricks" and not (is_url and scheme.partition("+")[0] in _SCHEMES):
        raise ConfigError(
            [
                Fault(
                    "tracking.uri",
                    f"is nothing that MLflow can use (given: {masked(uri)}); write a server like "
                    "https://mlflow.example, a database like sqlite:///sweeps/mlflow.db or "
                    f"postgresql://user@host/name, or databricks. It begins with one of "
                    f"{', '.join(_SCHEMES)}",
                )
            ]
        )


def quiet_mlflow() -> None:
    """Keep MLflow off the terminal and off the network; what the user has set stays."""
    for name, value in {
        "MLFLOW_LOGGING_LEVEL": "CRITICAL",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        # A call to a server that is away must fail soon: the tracker has its own patience.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    }.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="mlflow|sqlalchemy")


def client_of(uri: str) -> Any:
    """MLflow's client of the tracking server or database at `uri`; raises OSError if nobody listens there."""
    _knock(uri)
    from mlflow import MlflowClient

    whole = with_driver(uri)
    return MlflowClient(tracking_uri=whole, registry_uri=whole)


def _knock(uri: str) -> None:
    """Raise OSError if nobody listens at a server's address: it takes MLflow seconds to find that out."""
    address = urlsplit(uri)
    if address.scheme not in _PORTS or not address.hostname:
        return
    if getproxies() and not proxy_bypass(address.hostname):
        return  # who listens behind a proxy shows when it is asked
    where = address.hostname, address.port or _PORTS[address.scheme]
    socket.create_connection(where, _KNOCK_SECONDS).close()


def open_experiment(uri: str, name: str, artifacts: Path) -> tuple[Any, str]:
    """A client of MLflow, and the id of the experiment `name`; a database of ours is set up if need be."""
    if uri.startswith("sqlite:"):
        _set_up_database(uri, artifacts)
    elif is_postgres(uri):
        _set_up_tables(uri, artifacts)
    client = client_of(uri)
    found = client.get_experiment_by_name(name)
    if found is None:
        # A server knows best where its artifacts go; a database doesn't.
        served = uri.startswith(("http:", "https:"))
        location = None if served else artifacts.resolve().as_uri()
        # The kind spares the user MLflow's question whether this is about prompts or about training.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        created = str(client.create_experiment(name, location, tags=kind))
        reach("tracking.experiment")
        return client, created
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return client, str(found.experiment_id)


def attach_page(uri: str, experiment: str, identity: str, page: Path) -> None:
    """Put an HTML page on the parent run found by `identity`: an artifact, linked from its description."""
    client = client_of(uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return
    for parent in search_runs(client, found.experiment_id, f"tags.`sweeper.id` = '{identity}'"):
        run_id, note = parent.info.run_id, parent.data.tags.get("mlflow.note.content", "")
        client.log_artifact(run_id, str(page))
        client.set_tag(run_id, f"sweeper.{page.stem}", str(page.resolve()))
        link = f"[{page.name}](#/experiments/{found.experiment_id}/runs/{run_id}/artifacts/{page.name})"
        if link not in note:
            client.set_tag(run_id, "mlflow.note.content", f"{note}\n\n{link}".strip())
        reach("tracking.attached")


def delete_runs(uri: str, experiment: str, identity: str) -> None:
    """Delete the parent run found by `identity` and its trials; `mlflow gc` then frees the space."""
    client = client_of(uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return
    for parent in search_runs(client, found.experiment_id, f"tags.`sweeper.id` = '{identity}'"):
        condition = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
        # Children first: cut short, they are still found through their parent.
        for run in [*search_runs(client, found.experiment_id, condition), parent]:
            client.delete_run(run.info.run_id)


def search_runs(client: Any, experiment: str, condition: str) -> Iterator[Any]:
    """Every run that fulfils `condition`, the oldest first."""
    token = None
    while True:
        page = client.search_runs(
            [experiment],
            condition,
            max_results=1000,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def _set_up_tables(uri: str, artifacts: Path) -> None:
    """Create MLflow's tables in a PostgreSQL database, one process after another."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with alone(uri, "tables of MLflow"):
        SqlAlchemyStore(with_driver(uri), artifacts.resolve().as_uri()).engine.dispose()


def _set_up_database(uri: str, artifacts: Path) -> None:
    """Create MLflow's SQLite database whole or not at all, however many processes try at once.

    MLflow's own set-up leaves a database that can't be used when it is killed or done twice at once.
    """
    path = sqlite_path(uri, "tracking.uri")
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists():
            return
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        unfinished = path.with_name(f".{path.name}.unfinished")
        for left in path.parent.glob(
            f"{unfinished.name}*"
        ):  # its journal would be taken for that of a new one
            left.unlink()
        SqlAlchemyStore(f"sqlite:///{unfinished}", artifacts.resolve().as_uri()).engine.dispose()
        write_ahead(unfinished)  # the UI reads while the sweep writes
        reach("tracking.founded")
        os.replace(unfinished, path)
        reach("tracking.settled")
