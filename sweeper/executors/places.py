"""How many workers there are, and on which device each of them works."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from sweeper.config import Config, ModelConfig
from sweeper.engines import needs_model
from sweeper.errors import ConfigError, Fault


@dataclass(frozen=True)
class Place:
    """Where one worker works."""

    device: str
    """In words; empty where nothing is trained."""
    visible: str | None = None
    """CUDA_VISIBLE_DEVICES of its process; None: as it is here."""


def find_places(config: Config) -> tuple[Place, ...]:
    """A place for each worker that the configuration asks for on this machine.

    Raises ConfigError for more workers than GPUs can take, or workers that should share one where there is
    none; ModelError if there is no such device.
    """
    executor, each = config.executor, config.executor.workers_per_device or 1
    gpus = _devices(config.model) if needs_model(config) else (Place(""),)
    if gpus[0].visible is None:
        if executor.workers is None and each > 1:
            fault = f"{each} workers can't share a GPU, for none is used here; set executor.workers={each}"
            raise ConfigError([Fault("executor.workers_per_device", fault)])
        return gpus * (executor.workers or 1)
    most = len(gpus) * each
    count = executor.workers or most
    if count > most:
        fault = f"{count} are more than fit on {len(gpus)} GPUs with executor.workers_per_device={each}"
        raise ConfigError(
            [Fault("executor.workers", f"{fault}; lower it, or raise executor.workers_per_device")]
        )
    return tuple(gpus[i % len(gpus)] for i in range(count))


def _devices(model: ModelConfig) -> tuple[Place, ...]:
    """Every GPU that may be used, or the one other device."""
    import torch

    from sweeper.models.pretrained import choose_device

    device = choose_device(model).type
    if device != "cuda":
        return (Place("the CPU" if device == "cpu" else device.upper()),)
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    ids = named.split(",")[:count] if named else [str(i) for i in range(count)]
    return tuple(Place(f"GPU {name.strip()}", name.strip()) for name in ids)


def in_words(places: Sequence[Place]) -> str:
    """How many workers are where, for people."""
    devices = dict.fromkeys(place.device for place in places if place.device)
    where = f" on {', '.join(devices)}" if devices else ""
    return f"{len(places)} worker{'s' if len(places) > 1 else ''}{where}"


def threads_each(workers: int) -> int:
    """Threads of each of so many workers, which share the cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // workers)
