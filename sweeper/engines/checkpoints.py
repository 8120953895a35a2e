"""Checkpoints of a trial: complete or not there at all, and recognised when damaged.

    TRIAL/attempt-2/step-000012/     what transformers.Trainer needs to go on, and state.json
    TRIAL/attempt-2/best/            the best adapter (or model) of a finished trial
    TRIAL/attempt-2/.writing/        a checkpoint on its way

Optimizer and random states are torch files that are only ever read with `weights_only=True`.
"""

import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from sweeper.failpoints import reach
from sweeper.layout import Layout, write_atomically
from sweeper.messages import Evaluation, Sample

STATE = "state.json"

MOMENTS = "moments.safetensors"
"""What the engine `packed` needs to go on."""

_FOR_TRAINING = (
    *("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"),
    *(MOMENTS, STATE, "README.md"),
)
"""What a checkpoint holds beside the model; the README is PEFT's empty form."""


@dataclass(frozen=True)
class TrialState:
    """How far a trial has come, beside its weights."""

    engine: str = "trainer"
    """That it began with, and goes on with: another one can't read its checkpoints."""
    step: int = 0
    """Optimizer steps done."""
    examples: int = 0
    loss_sum: float = 0.0
    """Training loss since the last mark: nats over `loss_tokens` answer tokens."""
    loss_tokens: int = 0
    evaluations: tuple[Evaluation, ...] = ()
    samples: tuple[Sample, ...] = ()
    best: Evaluation | None = None
    best_folder: str | None = None
    """The best checkpoint, relative to the trial's folder."""


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    state: TrialState


@dataclass(frozen=True)
class _Sealed:
    """The content of state.json, beside its own checksum.

    `files` are sizes and CRC-32 sums of the files beside it.
    """

    state: TrialState
    files: dict[str, tuple[int, int]]


_SEALED = TypeAdapter(_Sealed)


def place(trial_folder: Path, attempt: int, step: int) -> Path:
    """Where a checkpoint lies when it is complete."""
    return Layout.attempt(trial_folder, attempt) / f"step-{step:06d}"


def seal(written: Path, target: Path, state: TrialState) -> Checkpoint:
    """Complete the files in `written` with `state` and move them to `target` in one go."""
    reach("checkpoint.written")
    files = {path.name: _fingerprint(path) for path in written.iterdir()}
    _write(written, _Sealed(state, files))
    reach("checkpoint.sealed")
    if target.exists():
        shutil.rmtree(target)
    os.replace(written, target)
    reach("checkpoint.placed")
    return Checkpoint(target, state)


def update(checkpoint: Checkpoint, state: TrialState) -> Checkpoint:
    """The same checkpoint with more known about it."""
    _write(checkpoint.folder, replace(_read(checkpoint.folder), state=state))
    reach("checkpoint.updated")
    return Checkpoint(checkpoint.folder, state)


def newest(trial_folder: Path, mind: Callable[[str], None] = lambda _: None) -> Checkpoint | None:
    """The checkpoint that went furthest, over all attempts.

    Damaged ones are passed over, of which `mind` is told in words.
    """
    folders = sorted(
        trial_folder.glob("attempt-*/step-*"), key=lambda folder: (folder.name, folder.stat().st_mtime)
    )
    for folder in reversed(folders):
        if (sealed := _valid(folder)) is None:
            mind(f"the checkpoint {folder} is damaged: the one before it is used, or the trial begins anew")
            continue
        state = sealed.state
        if state.best_folder is not None and _valid(trial_folder / state.best_folder) is None:
            # Without its weights a best mark is worth nothing: a later one shall take its place.
            mind(f"the best checkpoint {trial_folder / state.best_folder} is damaged: a later mark will do")
            state = replace(state, best=None, best_folder=None)
        return Checkpoint(folder, state)
    return None


def keep(trial_folder: Path, folders: Iterable[Path]) -> None:
    """Delete every other checkpoint of the trial."""
    kept = set(folders)
    for folder in trial_folder.glob("attempt-*/step-*"):
        if folder not in kept:
            shutil.rmtree(folder, ignore_errors=True)
    reach("checkpoint.kept")


def publish(checkpoint: Path, target: Path) -> Path:
    """Copy the adapter (or model) of a checkpoint to `target`, an ordinary PEFT (or model) folder."""
    temporary = target.with_name(f".{target.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(checkpoint, temporary, ignore=lambda _, names: {*_FOR_TRAINING, *_hidden(names)})
    reach("checkpoint.copied")
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)
    reach("checkpoint.published")
    return target


def weights_bytes(folder: Path) -> int:
    """The size of the weights in a published folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def clear(trial_folder: Path, published: Path | None = None) -> None:
    """Delete all checkpoints of a trial that is over, and what it has `published` before."""
    for folder in trial_folder.glob("attempt-*"):
        for path in folder.iterdir():
            if path.is_dir() and path != published:
                shutil.rmtree(path, ignore_errors=True)
            elif path.name.startswith("."):
                path.unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()
    reach("checkpoint.cleared")


def _hidden(names: Iterable[str]) -> set[str]:
    return {name for name in names if name.startswith(".")}


def drop_unfinished(trial_folder: Path) -> None:
    """Delete checkpoints that were not written to their end."""
    for folder in trial_folder.glob("attempt-*/.writing"):
        shutil.rmtree(folder, ignore_errors=True)


def _valid(folder: Path) -> _Sealed | None:
    try:
        sealed = _read(folder)
        intact = all(_fingerprint(folder / name) == tuple(known) for name, known in sealed.files.items())
    except (OSError, ValueError):  # pydantic's and json's are ValueErrors too
        return None
    return sealed if intact else None


def _read(folder: Path) -> _Sealed:
    tree = json.loads((folder / STATE).read_bytes())
    if not isinstance(tree, dict) or tree.pop("checksum", None) != _checksum(tree):
        raise ValueError(f"{folder / STATE} is damaged; the trial goes on from the checkpoint before it")
    return _SEALED.validate_python(tree)


def _write(folder: Path, sealed: _Sealed) -> None:
    tree = asdict(sealed)
    write_atomically(folder / STATE, json.dumps(tree | {"checksum": _checksum(tree)}, indent=1))


def _checksum(tree: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(tree).encode())


def _fingerprint(path: Path) -> tuple[int, int]:
    """Size in bytes and CRC-32."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return path.stat().st_size, checksum
