"""Sweeps of tiny models that were interrupted, kept so that a later version can be seen to go on with them.

    python -m tests.recorded generate tests/data/sweep_generate.tar.xz
    python -m tests.recorded chat tests/data/sweep_chat.tar.xz

Each is begun, interrupted and packed; a copy of it is carried to its end, and what came of that is packed
too, as `expected.json`. Those in tests/data were made by the version of git commit a703e05: made anew
only where sweeps begun before need not go on.
"""

import json
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"

_TINY = (
    "model=custom", "model.name=model", "model.device=cpu", "model.dtype=float32", "executor=inline",
    "tracking=none", "sampler=random", "pruner=none", "trial.lora.rank=2",
    "space=empty", "trial.learning_rate=2e-2", "+space.learning_rate={low: 5e-3, high: 5e-2, log: true}",
    "data.keep_together=false",
    "data.audit.fail_on=never", "data.path=rows.jsonl", "data.cleaning=[exact_duplicates]",
)  # fmt: skip
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "generate": (
        "+experiment=summarize", *_TINY, "data=file", "sweep.name=recorded", "task.prompt='{input} :'",
        "data.sizes={train: 24, validation: 8, test: 8}", "task.max_input_tokens=6",
        "task.max_answer_tokens=3", "task.generation.max_new_tokens=4",
        "+space.epochs={low: 1, high: 2}", "budget.trials=5",
    ),
    "chat": (
        "+experiment=instruct", *_TINY, "sweep.name=recorded", "budget.trials=4", "verdict=none",
        "data.sizes={train: 16, validation: 6, test: 4}",
    ),
}  # fmt: skip
"""What the sweeps were begun with, and go on with."""

_UNTIL = {"generate": ["Trial 2 finished"], "chat": ["Trial 1: ", "  after 8 examples"]}
"""The words on screen, one after the other, at which each was interrupted."""


def unpack(kind: str, folder: Path) -> dict[str, Any]:
    """The recorded sweep `kind` in `folder`, as it was when it was interrupted; gives what is expected of it.

    `digests`: of the frozen rows' files; `trials`: per trial its parameters and, at its end, its loss.
    """
    with tarfile.open(DATA / f"sweep_{kind}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    expected: dict[str, Any] = json.loads((folder / "expected.json").read_text())
    return expected


def outcome(folder: Path) -> list[dict[str, Any]]:
    """Parameters and results of the trials of the sweep in `folder`, by number."""
    from sweeper.messages import BASE
    from sweeper.study.study import Study

    sweeps = folder / "sweeps"
    records = Study.read(f"sqlite:///{sweeps / 'study.db'}", "recorded", sweeps / "recorded").records()
    return [
        {"params": dict(one.params), "state": one.state.value, "loss": one.metrics.get("loss")}
        for one in records
        if one.number != BASE
    ]


def _write_inputs(kind: str, folder: Path) -> None:
    import torch

    from tests import tiny

    tiny.save(tiny.llama().to(torch.bfloat16), folder / "model")
    rows: list[Mapping[str, Any]] = []
    for i in range(90):
        words = [tiny.WORDS[(i * k + i // 12) % 12] for k in (1, 5, 7)]
        if kind == "generate":
            rows.append({"input": " ".join(words), "target": " ".join(words[:2])})
            continue
        said = [("user", " ".join(words)), ("assistant", words[0])] * (1 + i % 2)
        rows.append({"messages": [{"role": role, "content": content} for role, content in said]})
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))


def _run(kind: str, folder: Path, until: Sequence[str] = ()) -> None:
    """Run the sweep, and interrupt it once it has said the words of `until`, one after the other."""
    command = [sys.executable, "-m", "sweeper", *COMMANDS[kind]]
    run = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    left = list(until)
    for line in run.stdout or ():
        print(line, end="")
        if left and line.startswith(left[0]):
            left.pop(0)
            if not left:
                run.send_signal(signal.SIGINT)
    if run.wait() not in ((0,) if not until else (0, 130)):
        raise SystemExit(f"the sweep ended with exit code {run.returncode}")


def _pack(folder: Path, path: Path, left_out: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:xz", preset=9) as archive:
        for one in sorted(folder.rglob("*")):
            if one.is_file() and not any(part in one.name for part in left_out):
                archive.add(one, one.relative_to(folder))


def main(kind: str, target: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder, copy = Path(temporary) / "begun", Path(temporary) / "whole"
        folder.mkdir()
        _write_inputs(kind, folder)
        _run(kind, folder, _UNTIL[kind])
        shutil.copytree(folder, copy)
        _run(kind, copy)
        (folder / "expected.json").write_text(json.dumps(outcome(copy), indent=1))
        # Pages, and what names this machine and its processes, are of no use to whoever goes on.
        _pack(folder, Path(target).resolve(), (".html", "lock", "holder", "-shm", "started"))
    print(f"{target}: {Path(target).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(*sys.argv[1:])
