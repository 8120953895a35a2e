"""How a sweep was started: the command, the versions that were installed, the machine."""

import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

from pydantic import TypeAdapter, ValidationError

from sweeper.failpoints import reach
from sweeper.layout import Layout, write_atomically

PACKAGES = (
    "sweeper",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "optuna",
    "mlflow",
    "hydra-core",
    "rouge-score",
    "sacrebleu",
    "scikit-learn",
)
"""Packages whose version may change a result, or how it is found."""


@dataclass(frozen=True)
class Provenance:
    """What has to be the same for the same numbers, beside configuration and rows."""

    command: str
    """As it was typed, secrets masked; "" where it is not known."""
    time: float
    """Unix time in seconds."""
    python: str
    machine: str
    versions: Mapping[str, str]
    """By package; those of `PACKAGES` that are installed."""
    folder: str = ""
    """The working folder, absolute; "" where that was not noted."""


def here(command: str = "") -> Provenance:
    """This process, now."""
    return Provenance(
        command=command,
        time=time.time(),
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores{_accelerator()}",
        versions=dict(_versions()),
        folder=os.getcwd(),
    )


def write(layout: Layout, command: str) -> None:
    """Note how the sweep was started this time."""
    write_atomically(layout.provenance, json.dumps(asdict(here(command)), indent=1) + "\n")
    reach("provenance.written")


def read(layout: Layout) -> Provenance | None:
    """How the sweep was started last; None where that was not noted, or can't be read."""
    try:
        return TypeAdapter(Provenance).validate_json(layout.provenance.read_bytes())
    except (OSError, ValidationError):
        return None


def _versions() -> list[tuple[str, str]]:
    found = []
    for name in PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return found


def _accelerator() -> str:
    """The first CUDA device; asked for only where torch is loaded anyway."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return ""
    return f", {torch.cuda.get_device_name(0)}"
