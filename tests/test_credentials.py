"""Secrets of URLs: masked, and read from files that nobody else can read."""

import os
from pathlib import Path

import pytest

from sweeper.credentials import masked, opened, without_secrets
from sweeper.errors import ConfigError

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


def secret(folder: Path, content: str = f"https://me:{CANARY}@h/x\n", mode: int = 0o600) -> Path:
    path = folder / "secret"
    path.write_bytes(content.encode("latin-1"))
    path.chmod(mode)
    return path


def test_a_file_stands_for_the_url_in_it(tmp_path, monkeypatch):
    path = secret(tmp_path)
    assert opened(f"@{path}", "sweep.study") == f"https://me:{CANARY}@h/x"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert opened("@~/secret", "sweep.study") == f"https://me:{CANARY}@h/x"
    path.chmod(0o400)
    assert opened(f"@{path}", "sweep.study") == f"https://me:{CANARY}@h/x"
    assert opened("sqlite:///study.db", "sweep.study") == "sqlite:///study.db"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o666, 0o777])
def test_rights_of_others_are_refused_with_the_command_that_takes_them_away(tmp_path, mode):
    path = secret(tmp_path, mode=mode)
    told = rf"sweep\.study: .* others than its owner have rights to it \({mode:04o}\).*: chmod 600 {path}"
    with pytest.raises(ConfigError, match=told) as refusal:
        opened(f"@{path}", "sweep.study")
    assert CANARY not in str(refusal.value)
    os.system(str(refusal.value).rpartition("away: ")[2])  # noqa: S605 - what a person would type
    assert opened(f"@{path}", "sweep.study")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is empty; write the URL into it"),
        ("\n", "is empty; write the URL into it"),
        (f"{CANARY} {CANARY}", "must hold one URL and nothing else; it holds 2 words"),
        (f"{CANARY}\xff", "is no text in UTF-8; write the URL into it"),
    ],
)
def test_another_content_is_refused_and_not_told(tmp_path, content, told):
    """Of a key that a configuration of somebody else points to, for instance."""
    with pytest.raises(ConfigError, match=f"tracking.uri: .*{told}") as refusal:
        opened(f"@{secret(tmp_path, content)}", "tracking.uri")
    assert CANARY not in str(refusal.value)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"tracking\.uri: .*nowhere can't be read: No such file"):
        opened(f"@{tmp_path / 'nowhere'}", "tracking.uri")
    with pytest.raises(ConfigError, match="can't be read: Is a directory"):
        opened(f"@{tmp_path}", "tracking.uri")
    with pytest.raises(ConfigError, match=r"tracking\.uri: @ names no file; write @FILE"):
        opened("@", "tracking.uri")
