"""No secret is shown or left: by a configuration, a fault, an error, a file, the arguments of a process."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from sweeper.__main__ import main
from sweeper.compose import compose, read_config
from sweeper.errors import ConfigError, StudyError
from sweeper.overrides import masked_override
from sweeper.storage.database import open_storage

CANARY = "c4nary"


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        ("budget.trials=3", "budget.trials=3"),
        ("sweep.study=null", "sweep.study=null"),
        ("sweep.study=host=h password=c4nary", "sweep.study=***"),
        ("+tracking.uri='https://me:c4nary@h'", "+tracking.uri='https://me:***@h'"),
        ("tracking={uri: https://me:c4nary@h}", "tracking={uri: https://me:***@h}"),
    ],
)
def test_an_override_is_shown_without_secrets(override, shown):
    assert masked_override(override) == shown


@pytest.mark.parametrize(
    "override",
    [
        f"sweep.study=postgresql://me@h/x?password={CANARY}]",
        f"sweep.study=str(postgresql://me:{CANARY}@h",
        f"sweep.study=postgresql://me:a,{CANARY}@h",
        f"sweep.studdy=postgresql://me:{CANARY}@h",
        f"sweep.study=[{CANARY}]",
        f"'sweep.study={{password: {CANARY}}}'",
        f"sweep.study={{password: {CANARY}}}",
        f"tracking.uri=[{CANARY}",
        f"sweep=postgresql://me:{CANARY}@h",
    ],
)
def test_faults_tell_no_secret(override):
    with pytest.raises(ConfigError, match="fault in the") as caught:
        read_config(compose(["+experiment=summarize", override]))
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://me@127.0.0.1:1/x?password={CANARY}",
        f"postgresql+psycopg://me:{CANARY}@127.0.0.1:port/x",
        f"nosuch://me:{CANARY}@h/x?token={CANARY}",
    ],
)
def test_errors_of_the_database_tell_no_secret(url):
    with pytest.raises(StudyError, match=r"can't be used|is no database URL") as caught:
        open_storage(url)
    assert CANARY not in str(caught.value)


def sweeper(*line: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sweeper", *line]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command_line_prints_no_secret():
    done = sweeper(
        "--cfg",
        "+experiment=summarize",
        f'sweep.study="postgresql://me@h/x?password={CANARY}"',
        f'tracking.uri="https://h/x?access_token={CANARY}"',
    )
    assert done.returncode == 0, done.stderr
    assert "password=***" in done.stdout
    assert "access_token=***" in done.stdout
    assert CANARY not in done.stdout + done.stderr


def test_a_word_that_is_no_override_is_shown_without_secrets():
    done = sweeper(f"--sweep.study=postgresql://me:{CANARY}@h/x")
    assert done.returncode == 2
    assert "--sweep.study: is written without dashes" in done.stderr
    assert CANARY not in done.stderr


def given(path: Path, content: str) -> str:
    """A file of 0600 with a secret in it, as a configuration names it."""
    path.write_text(content)
    path.chmod(0o600)
    return f"@{path}"


def arguments(pid: int) -> bytes:
    """Those of a process and of all that it has started, as everybody on the machine can read them."""
    found, waiting = b"", [pid]
    while waiting:
        folder = Path(f"/proc/{waiting.pop()}")
        with suppress(OSError):
            found += (folder / "cmdline").read_bytes() + b"\n"
            for task in (folder / "task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
    return found


QUICK = ["+experiment=summarize", "engine=replay", "engine.speedup=1e6", "budget.trials=2", "verdict=none"]


def test_nothing_that_a_sweep_leaves_or_says_has_a_secret_in_it(
    tmp_path, ui_server, monkeypatch, capfd, caplog
):
    """Secrets in files, in the environment and on the command line; sweeps that succeed, go on and fail."""
    secrets, work = tmp_path / "secrets", tmp_path / "work"
    secrets.mkdir()
    work.mkdir()
    monkeypatch.chdir(work)
    for name in ("HF_TOKEN", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, CANARY)
    uri = ui_server.address.replace("//", f"//me:{CANARY}@")
    server = given(secrets / "mlflow", uri)
    absent = given(secrets / "study", f"postgresql+psycopg://me:{CANARY}@127.0.0.1:1/x?password={CANARY}")

    assert main([*QUICK, f"tracking.uri={server}", "sweep.name=by_file"]) == 0
    assert main([*QUICK, f"tracking.uri={server}", "sweep.name=by_file", "budget.trials=3"]) == 0
    assert main(["export", "by_file", "--mlflow"]) == 2  # a replay has nothing to export
    assert main([*QUICK, f"tracking.uri={uri}", "sweep.name=typed"]) == 0
    assert main([*QUICK, f"sweep.study={absent}", "sweep.name=absent"]) == 2
    monkeypatch.setenv("SWEEPER_STUDY", absent)
    assert main([*QUICK, "sweep.name=absent"]) == 2
    monkeypatch.delenv("SWEEPER_STUDY")
    for name in ("by_file", "typed"):
        verbs = (["list"], ["show", name], ["report", name], ["trials", name, "show", "1"])
        assert [main(verb) for verb in verbs] == [0, 0, 0, 0]
    assert main(["delete", "by_file", "--yes"]) == 0
    said = capfd.readouterr()
    assert CANARY not in said.out + said.err + caplog.text

    stored = [path for path in [*work.rglob("*"), *ui_server.folder.rglob("*")] if path.is_file()]
    names = {path.name for path in stored}
    assert names >= {"config.yaml", "started.json", "study.db", "mlflow.db", "tracked.json", "report.html"}
    assert [path for path in stored if CANARY.encode() in path.read_bytes()] == []
    masked = ui_server.address.replace("//", "//me:***@")
    assert f"uri: {masked}" in (work / "sweeps/typed/config.yaml").read_text()


def test_no_process_has_a_secret_of_a_file_among_its_arguments(tmp_path, ui_server):
    server = given(tmp_path / "mlflow", ui_server.address.replace("//", f"//me:{CANARY}@"))
    command = [sys.executable, "-m", "sweeper", *QUICK, f"tracking.uri={server}"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    seen = b""
    for line in process.stdout:
        seen += arguments(process.pid)
        if line.startswith("Trial 0"):
            break
    process.kill()
    process.communicate(timeout=60)
    assert b"sweeper" in seen
    assert CANARY.encode() not in seen


@pytest.mark.parametrize(
    "fault",
    [
        f"raise RuntimeError('at https://me:{CANARY}@h \\x1b[2J')",
        f"logging.getLogger('of a library').warning('at https://me:{CANARY}@h \\x1b[2J')",
    ],
    ids=["a traceback", "a warning"],
)
def test_what_nobody_foresaw_is_told_without_secrets(fault):
    """Nothing is known of what a fault of ours, or a library, quotes."""
    code = (
        "import logging\nfrom sweeper import __main__, app\n"
        f"def list_sweeps(folder):\n    {fault}\n"
        "app.list_sweeps = list_sweeps\n__main__.main(['list'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stderr.splitlines()[-1].removeprefix("RuntimeError: ") == "at https://me:***@h <1b>[2J"
    assert CANARY not in done.stderr
