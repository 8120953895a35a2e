"""No secret of a URL is shown: not in a printed configuration, not in a fault, not in an error."""

import subprocess
import sys

import pytest

from sweeper.compose import compose, masked_override, read_config
from sweeper.credentials import masked, without_secrets
from sweeper.database import open_storage
from sweeper.errors import ConfigError, StudyError

CANARY = "c4nary"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:c4nary@mlflow.example/x", "https://me:***@mlflow.example/x"),
        ("https://c4nary@mlflow.example", "https://***@mlflow.example"),
        ("https://mlflow.example:5000/?a=1&access_token=c4nary&b=2",
         "https://mlflow.example:5000/?a=1&access_token=***&b=2"),
        ("postgresql://db.example/x?user=me&password=c4nary#;", "postgresql://db.example/x?user=me&password=***"),
        ("postgresql://me:c4/na@c4nary@db.example/x", "postgresql://me:***@db.example/x"),
        ("mysql://h/x?PWD=c4nary;ssl=1", "mysql://h/x?PWD=***"),
        ("sqlite:///sweeps/study.db?timeout=3", "sqlite:///sweeps/study.db?timeout=3"),
        ("mlruns/here", "mlruns/here"),
    ],
)  # fmt: skip
def test_secrets_of_a_url_are_masked(url, shown):
    assert masked(url) == shown


@pytest.mark.parametrize("name", ["passwd", "pwd", "token", "secret", "api_key", "key", "client_secret"])
def test_query_values_that_are_secret_by_name(name):
    assert masked(f"postgresql://h/x?{name}={CANARY}&sslmode=on") == f"postgresql://h/x?{name}=***&sslmode=on"


def test_urls_within_a_text():
    assert without_secrets("at http://a:c4nary@h now") == "at http://a:***@h now"


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
    with pytest.raises(ConfigError, match="in the configuration") as caught:
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
    assert "me:***@h/x: is neither a verb nor an override" in done.stderr
    assert CANARY not in done.stderr
