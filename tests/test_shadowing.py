"""A file of the user that is called as a library is not run in its place."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.shadowing import leave_out
from tests.test_worker import texts

LIBRARY = str(Path(os.__file__).parent)
THEIRS = ("queue", "datasets", "pydantic", "numpy", "hydra", "optuna", "transformers", "torch", "wandb")


@pytest.fixture
def folder(tmp_path):
    """A working folder with rows, and files that leave a trace and break off when they are imported."""
    texts(tmp_path)
    code = f"open({str(tmp_path / 'TRACE')!r}, 'a').write(__name__ + '\\n')\nraise ImportError('mine')\n"
    for name in THEIRS:
        (tmp_path / f"{name}.py").write_text(code)
    (tmp_path / "tokenizers").mkdir()
    (tmp_path / "tokenizers" / "__init__.py").write_text(code)
    return tmp_path


def test_files_of_the_working_folder_are_not_run(folder):
    """An empty place in PYTHONPATH is the working folder, too."""
    line = [sys.executable, "-m", "sweeper", "audit", "+experiment=summarize", "data=file"]
    line += ["data.path=rows.jsonl"]
    ended = subprocess.run(
        line,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{os.pathsep}{folder}"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert not (folder / "TRACE").exists(), (folder / "TRACE").read_text()


def test_what_comes_before_the_library_is_left_out_in_this_process_and_in_those_it_starts(
    monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), "elsewhere", LIBRARY, "site", str(tmp_path)])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([".", "elsewhere", ""]))
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    leave_out()
    # Behind the library stands what is installed from there: it hides nothing.
    assert sys.path == ["elsewhere", LIBRARY, "site", str(tmp_path)]
    assert (os.environ["PYTHONPATH"], os.environ["PYTHONSAFEPATH"]) == ("elsewhere", "1")
