"""The MLflow UI as sweeper starts it: on the loopback, and deaf to other names and origins."""

import http.client
import json
import shutil
import socket
import sqlite3
import subprocess
from contextlib import closing

import pytest

from sweeper.__main__ import main
from sweeper.errors import ConfigError
from sweeper.layout import Layout
from sweeper.tracking.ui import refuse_taken, run_pages, ui_command
from tests.conftest import Server


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "lab.example", ""])  # noqa: S104 - nothing listens there
def test_an_address_for_others_demands_names(host, capsys):
    assert main(["ui", "--host", host, "--port", "5017"]) == 2
    said = capsys.readouterr().err
    assert "has no login: who reaches it can read, change and delete every run" in said
    assert "--allow-hosts " in said
    assert "use a tunnel: ssh -L 5017:127.0.0.1:5017 HOST" in said


@pytest.mark.parametrize(
    "name", ["*", "*.example", "", "a b", "-x", "http://lab.example", "lab.example:x", "a,b"]
)
def test_a_pattern_is_no_name(tmp_path, name):
    with pytest.raises(ConfigError, match=r"--allow-hosts: .* is no name of a host"):
        ui_command(Layout(tmp_path, ""), 5000, "0.0.0.0", [name])  # noqa: S104 - nothing listens there


def test_a_taken_port_is_told_with_a_free_one(tmp_path, capsys):
    (tmp_path / "mlflow.db").touch()
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        assert main(["ui", "--folder", str(tmp_path), "--port", str(port)]) == 2
    said = capsys.readouterr().err
    assert f"--port {port}: is taken at 127.0.0.1; take another one: --port " in said


def test_the_pages_of_runs_are_told_by_the_names_of_sweeps(tmp_path):
    database = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE experiments (experiment_id, name, lifecycle_stage)")
        connection.execute("CREATE TABLE runs (experiment_id)")
        rows = [(0, "Default", "active"), (1, "summarize", "active"), (2, "old", "deleted")]
        connection.executemany("INSERT INTO experiments VALUES (?, ?, ?)", rows)
        connection.executemany("INSERT INTO runs VALUES (?)", [(1,), (2,)])
    page = "http://127.0.0.1:5000/#/experiments/1/runs"
    assert run_pages(database, "http://127.0.0.1:5000") == [("summarize", page)]
    database.write_text("no database at all, but long enough to be looked at")
    assert run_pages(database, "http://127.0.0.1:5000") == []


SEARCH = "/api/2.0/mlflow/experiments/search?max_results=9"
CREATE = "/api/2.0/mlflow/experiments/create"


def ask(port: int, path: str = SEARCH, name: str | None = None, **headers: str) -> tuple[int, str]:
    """The status that the server answers with, and what it says; with a name one is to be created."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        body = json.dumps({"name": name}) if name else None
        connection.request(
            "POST" if name else "GET", path, body, {"Content-Type": "application/json", **headers}
        )
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


@pytest.fixture(scope="module")
def port(ui_server: Server) -> int:
    return int(ui_server.address.rpartition(":")[2])


@pytest.mark.parametrize(
    "name", ["localhost", "localhost:8080", "127.0.0.1:{port}", "[::1]:{port}", "lab.example"]
)
def test_its_own_names_are_answered(port, name):
    status, said = ask(port, Host=name.format(port=port))
    assert (status, '"name": "Default"' in said) == (200, True)


@pytest.mark.parametrize(
    "name",
    [
        *("evil.example", "evil.example:{port}", "localhost.evil.example", "lab.example.evil.example"),
        # Which MLflow's own default takes for private addresses.
        *("10.evil.example", "192.168.evil.example:{port}", "172.16.evil.example", "10.0.0.1:{port}"),
    ],
)
def test_other_names_are_refused(port, name):
    """A page whose name was made to lead to 127.0.0.1 (DNS rebinding) sends its own name."""
    assert ask(port, Host=name.format(port=port))[0] == 403


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://10.evil.example", "http://localhost.evil.example"]
)
def test_pages_elsewhere_change_nothing(port, origin):
    assert ask(port, CREATE, Origin=origin, name="planted")[0] == 403
    assert "planted" not in ask(port)[1]


@pytest.mark.parametrize(
    "origin", ["http://localhost:{port}", "http://lab.example:{port}", "https://lab.example"]
)
def test_its_own_pages_may(port, origin):
    origin = origin.format(port=port)
    assert ask(port, CREATE, Origin=origin, name=f"from {origin}")[0] == 200


def test_it_listens_on_the_loopback_alone(port):
    """Every address of this machine but the loopback's is deaf."""
    if shutil.which("hostname") is None:
        pytest.skip("no command hostname")
    told = subprocess.run(["hostname", "-I"], capture_output=True, text=True).stdout.split()
    for address in {one for one in told if "." in one} - {"127.0.0.1"}:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((address, port), timeout=10)


def test_the_last_port_has_none_after_it(monkeypatch):
    monkeypatch.setattr("sweeper.tracking.ui._is_free", lambda host, port: port > 65_535)
    with pytest.raises(ConfigError, match=r"--port 65535: is taken at 127.0.0.1; take another one$"):
        refuse_taken("127.0.0.1", 65_535)
