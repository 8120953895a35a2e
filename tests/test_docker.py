"""docker/: linted, held against the Compose specification, and complete enough to build the package."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeper.__main__ import main
from sweeper.compose import compose, read_config

ROOT = Path(__file__).parent.parent
DOCKERFILE = ROOT / "docker" / "Dockerfile"
COMPOSE = ROOT / "docker" / "compose.yaml"
TOOLS = Path(sys.executable).parent


def instructions() -> list[tuple[str, str]]:
    """Every instruction of the Dockerfile with its arguments, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines if line.strip()]


def services() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE.read_text())["services"])


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    hadolint = shutil.which("hadolint", path=str(TOOLS)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is packaged for Linux on x86-64 alone")
    run = subprocess.run([hadolint, "--no-color", DOCKERFILE], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr


def test_compose_file_follows_the_compose_specification() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE]
    run = subprocess.run(check, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr


def test_base_image_is_pinned_and_the_same_in_both_stages() -> None:
    bases = [arguments.split()[0] for name, arguments in instructions() if name == "FROM"]
    assert set(bases) == {"python:${PYTHON}-slim-bookworm"}
    assert ("ARG", "PYTHON=3.12") in instructions()


def test_container_is_not_root() -> None:
    assert [arguments for name, arguments in instructions() if name == "USER"] == ["1000:1000"]


def test_every_installation_follows_the_constraints_file() -> None:
    runs = [arguments for name, arguments in instructions() if name == "RUN"]
    installs = [line for run in runs for line in re.findall(r"pip install [^|;&]*", run)]
    assert len(installs) >= 4
    assert all("-c constraints.txt" in line for line in installs)


def test_what_the_dockerfile_copies_builds_a_package_with_all_of_conf(tmp_path: Path) -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for name, arguments in instructions():
        if name == "COPY" and "--from" not in arguments:
            *sources, target = arguments.split()
            assert set(sources) <= allowed, f".dockerignore keeps {sources} out of the build"
            for source in sources:
                place = tmp_path / "src" / target / ("" if (ROOT / source).is_dir() else source)
                copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
                place.parent.mkdir(parents=True, exist_ok=True)
                copy(ROOT / source, place)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    run = subprocess.run(
        [*build, "-w", tmp_path, tmp_path / "src"], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert {f"sweeper/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")} <= packed
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "sweeper").rglob("*.py")} <= packed


def test_sweep_and_ui_share_one_volume_and_one_image() -> None:
    assert set(services()) == {"sweep", "ui"}
    assert {tuple(service["volumes"]) for service in services().values()} == {("sweeps:/work/sweeps",)}
    assert len({service["image"] for service in services().values()}) == 1
    assert ("VOLUME", "/work/sweeps") in instructions()


def test_services_run_commands_that_sweeper_knows(capsys: pytest.CaptureFixture[str]) -> None:
    read_config(compose(services()["sweep"]["command"]))
    verb, *options = services()["ui"]["command"]
    with pytest.raises(SystemExit, match="0"):
        main([verb, "--help"])
    usage = capsys.readouterr().out
    assert all(option in usage for option in options if option.startswith("--"))
    assert not any("entrypoint" in service for service in services().values())
    assert ("ENTRYPOINT", '["python", "-m", "sweeper"]') in instructions()


def test_the_ui_is_allowed_to_listen_at_the_containers_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(services()["ui"]["command"]) == 2
    assert "there is no sweeps/mlflow.db" in capsys.readouterr().err, "and nothing else is missing"


def test_nothing_is_published_beyond_this_machine() -> None:
    ports = [port for service in services().values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:5000:5000"]
    assert not any("network_mode" in service for service in services().values())


def test_services_have_no_privileges() -> None:
    for service in services().values():
        assert "privileged" not in service
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]


def test_no_image_is_called_latest() -> None:
    named = [service["image"] for service in services().values()]
    named += [arguments for name, arguments in instructions() if name == "FROM"]
    assert all(":" in name and ":latest" not in name for name in named)
