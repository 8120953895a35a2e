"""From plain trees to the configuration and back, with every fault told at once."""

import difflib
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from sweeper.config import (
    EMBEDDED,
    Config,
    DataConfig,
    EngineConfig,
    ExecutorConfig,
    ModelConfig,
    ObjectiveConfig,
    PrunerConfig,
    SamplerConfig,
    TaskConfig,
    TrialSettings,
    VerdictConfig,
)
from sweeper.config.metrics import COSTS, MetricName, metric_direction, metric_fault
from sweeper.config.prompt import INPUT, Prompt
from sweeper.errors import ConfigError, Fault

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
    given = item["input"]
    if item["type"] in ("string_type", "path_type") and isinstance(given, (bool, int, float)):
        return f'must be text, and {given!r} is none to YAML; write it in quotes: "{given}"'
    wanted = item["msg"].replace("Input should be", "must be").replace("String should", "must")
    wanted = wanted.removeprefix("Value error, ")  # of a check of ours
    return f"{wanted} (given: {given!r})"


def _names_at(kind: type, path: Sequence[str]) -> list[str]:
    for part in path:
        inner = kind if part.isdecimal() else get_type_hints(kind).get(part)
        if get_origin(inner) is tuple:
            inner = get_args(inner)[0]
        if not is_dataclass(inner):
            return []
        kind = inner  # type: ignore[assignment]
    return [field.name for field in fields(kind)]


def unknown_name(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """What to say about a name that isn't known, with the nearest one that is."""
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known)}"
    return f"unknown name; {hint}"


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
    if task is not None and data is not None:
        faults += _column_faults(task, data)
    if task is not None and sections["engine"] is not None:
        faults += _replay_faults(task, sections["engine"])
    if sections["engine"] is not None and sections["executor"] is not None:
        faults += _silence_faults(sections["engine"], sections["executor"])
    faults += _trial_faults(sections)
    for group in ("sampler", "pruner", "engine", "executor", "verdict"):
        faults += _option_faults(group, sections[group])
    if model is not None and model.embedded:
        faults += _embedded_faults(model)
    return faults


def _embedded_faults(model: ModelConfig) -> list[Fault]:
    """What is asked of the embedded model as if it were another one."""
    faults = []
    if model.name != EMBEDDED:
        another = f"model=custom model.name={model.name}"
        faults.append(Fault("model.name", f"the embedded model is {EMBEDDED}; for another one: {another}"))
    if model.revision is not None:
        faults.append(
            Fault("model.revision", "an embedded model has none; leave it out or set model.embedded=false")
        )
    return faults


def _task_faults(task: TaskConfig) -> list[Fault]:
    wrong = (metric_fault(task.kind, name) for name in task.evaluation.metrics)
    faults = [Fault("task.evaluation.metrics", why) for why in wrong if why is not None]
    faults += _objective_faults(
        "task.objective", task.objective, metric_fault(task.kind, task.objective.metric)
    )
    for i, one in enumerate(task.also):
        why = None if one.metric in COSTS else metric_fault(task.kind, one.metric)
        faults += _objective_faults(f"task.also.{i}", one, why and f"{why}; or a cost: {', '.join(COSTS)}")
        if one.metric in [earlier.metric for earlier in (task.objective, *task.also[:i])]:
            faults.append(Fault(f"task.also.{i}.metric", f"`{one.metric}` is an objective already"))
    if task.prompt or task.kind == "chat":  # none: it follows from the form of the rows
        faults += _prompt_faults(task)
    return faults + _constraint_faults(task)


def _objective_faults(field: str, objective: ObjectiveConfig, wrong_name: str | None) -> list[Fault]:
    if wrong_name is not None:
        return [Fault(f"{field}.metric", wrong_name)]
    right = metric_direction(objective.metric)
    if right in (None, objective.direction):
        return []
    why = f"`{objective.metric}` is {right}d: set {field}.direction={right}"
    return [Fault(f"{field}.direction", why)]


_RIGHT_BOUND = {"maximize": "at_least", "minimize": "at_most"}


def _constraint_faults(task: TaskConfig) -> list[Fault]:
    faults = []
    for i, one in enumerate(task.constraints):
        field = f"task.constraints.{i}"
        given = [name for name in _RIGHT_BOUND.values() if getattr(one, name) is not None]
        wrong_name = metric_fault(task.kind, one.metric)
        if wrong_name is not None:
            faults.append(Fault(f"{field}.metric", wrong_name))
        if len(given) != 1:
            told = " and ".join(given) or "neither"
            faults.append(Fault(field, f"needs one of at_least and at_most (given: {told})"))
        elif wrong_name is None and (direction := metric_direction(one.metric)) is not None:
            bound = _RIGHT_BOUND[direction]
            if bound not in given:
                faults.append(Fault(field, f"`{one.metric}` is {direction}d; bound it by {bound}"))
    return faults


def _prompt_faults(task: TaskConfig) -> list[Fault]:
    if task.kind == "chat":
        return []
    try:
        prompt = Prompt.parse(task.prompt)
    except ValueError as error:
        return [Fault("task.prompt", f"{error} (given: {task.prompt!r})")]
    if not prompt.names:
        why = "must name a column of the rows in single braces, e.g. {input}, that of data.input"
        return [Fault("task.prompt", f"{why} (given: {task.prompt!r})")]
    return []


def _names(task: TaskConfig) -> tuple[str, ...]:
    """What the prompt names in braces, nothing if it can't be read."""
    try:
        return Prompt.parse(task.prompt).names
    except ValueError:
        return ()


def _prompted_faults(task: TaskConfig, data: DataConfig) -> list[Fault]:
    """A prompt that holds the answer."""
    columns = {name: data.input or name if name == INPUT else name for name in _names(task)}
    return [
        Fault(
            "task.prompt",
            f"shows the answer itself: {{{name}}} is the column `{column}`, which is data.target; name the "
            "columns that the model is to see",
        )
        for name, column in columns.items()
        if column == data.target
    ]


def _column_faults(task: TaskConfig, data: DataConfig) -> list[Fault]:
    """Metrics over slices whose column is not named."""
    needed = {name: MetricName.parse(name).column for name in task.named_metrics}
    return [
        Fault(f"data.{column}", f"is needed for the metric `{name}`: the name of a column")
        for name, column in needed.items()
        if column is not None and getattr(data, column) is None
    ]


def _replay_faults(task: TaskConfig, engine: EngineConfig) -> list[Fault]:
    """Costs that a replay doesn't know: it trains nothing."""
    if engine.name != "replay":
        return []
    return [
        Fault(f"task.also.{i}.metric", f"`{one.metric}` is not known of replayed curves; seconds are")
        for i, one in enumerate(task.also)
        if one.metric in COSTS and one.metric != "seconds"
    ]


_REPORTS_IN_SILENCE = 5
"""Reports that a worker must have missed before it may count as hung."""


def _silence_faults(engine: EngineConfig, executor: ExecutorConfig) -> list[Fault]:
    """A worker would count as hung between two of its reports."""
    report, silence = engine.report_seconds, executor.silence_seconds
    if report is None or silence is None or silence >= _REPORTS_IN_SILENCE * report:
        return []
    why = (
        f"must be at least {_REPORTS_IN_SILENCE} times engine.report_seconds, {report:g} (given: {silence:g})"
    )
    return [Fault("executor.silence_seconds", f"{why}; raise it, or lower engine.report_seconds")]


def _trial_faults(sections: Mapping[str, Any]) -> list[Fault]:
    """Trial settings, given or varied, for which data and task lack what they need."""
    trial: TrialSettings | None = sections["trial"]
    data: DataConfig | None = sections["data"]
    task: TaskConfig | None = sections["task"]
    lacking = {}
    if data is not None and not data.augment.methods:
        lacking["augment_rate"] = "needs a pool of augmented rows; name data.augment.methods"
    if task is not None and task.kind != "classify":
        lacking["reweight"] = f"needs labels, and task.kind={task.kind} has none; leave it at 0"
    elif data is not None and data.slice in (None, data.target):
        lacking["reweight"] = "needs groups; name their column, another one than the label's, in data.slice"
    space = sections["space"] if isinstance(sections["space"], Mapping) else {}
    faults = []
    for name, why in lacking.items():
        if trial is not None and getattr(trial, name) > 0:
            faults.append(Fault(f"trial.{name}", why))
        if space.get(name) is not None:
            faults.append(Fault(f"space.{name}", why))
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
    "engine=trainer": ("report_seconds",),
    "engine=packed": ("report_seconds",),
    "engine=auto": ("report_seconds",),
    "executor=auto": ("workers_per_device", "silence_seconds", "retries"),
    "executor=local": ("workers_per_device", "silence_seconds", "retries"),
    "executor=ray": ("workers_per_device", "silence_seconds", "retries"),
    "verdict=holdout": ("level",),
}


def _option_faults(
    group: str,
    section: SamplerConfig | PrunerConfig | EngineConfig | ExecutorConfig | VerdictConfig | None,
) -> list[Fault]:
    """Options that this member of a group can't do without."""
    if section is None:
        return []
    member = f"{group}={section.name}"
    return [
        Fault(
            f"{group}.{name}",
            f"is needed for {member}; give a value, or leave it out and choose `{member}` for the default",
        )
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
    if task is not None and task.kind != "chat":
        faults += _prompted_faults(task, data)
    if task is not None and data.source == "docstrings":  # others tell by the form of their rows
        columns: tuple[str, ...] = ("messages",) if task.kind == "chat" else ("input", "target")
        if task.kind != "chat":
            # A prompt that names other columns needs no data.input; {input} is then the column of this name.
            columns = columns if _names(task) in ((), (INPUT,)) else columns[1:]
        faults += [
            Fault(f"data.{name}", f"is needed for task.kind={task.kind}: the name of a column")
            for name in columns
            if not getattr(data, name)
        ]
    if data.parts.column is not None:
        faults += [
            Fault(f"data.parts.{name}", "can't go together with data.parts.column; set one of them to null")
            for name in ("validation", "test")
            if getattr(data.parts, name) is not None
        ]
    if data.time is not None:
        faults += [
            Fault("data.time", f"can't go together with data.{name}; set one of them to null")
            for name in ("group", "stratify")
            if getattr(data, name) is not None
        ]
    if data.audit.spacy is not None and not data.audit.presidio:
        faults.append(Fault("data.audit.spacy", "is given, and only data.audit.presidio=true uses it"))
    return faults + _cleaning_faults(data) + _augment_faults(data)


def _cleaning_faults(data: DataConfig) -> list[Fault]:
    faults = [
        Fault("data.cleaning", f"lists `{name}` more than once")
        for name in dict.fromkeys(data.cleaning)
        if data.cleaning.count(name) > 1
    ]
    bounds = asdict(data.length)
    is_bounded = any(bound is not None for bound in bounds.values())
    if is_bounded and "length" not in data.cleaning:
        faults.append(Fault("data.length", "has bounds and data.cleaning does not list `length`"))
    if not is_bounded and "length" in data.cleaning:
        faults.append(Fault("data.length", f"has no bounds for the step `length`; set {' or '.join(bounds)}"))
    for part in ("input", "target"):
        least, most = bounds[f"min_{part}"], bounds[f"max_{part}"]
        if least is not None and most is not None and least > most:
            faults.append(Fault(f"data.length.min_{part}", f"{least} is more than max_{part}, {most}"))
    return faults


def _augment_faults(data: DataConfig) -> list[Fault]:
    options = data.augment
    faults = [
        Fault("data.augment.methods", f"lists `{name}` more than once")
        for name in dict.fromkeys(options.methods)
        if options.methods.count(name) > 1
    ]
    if "synonyms" in options.methods and options.synonyms is None:
        faults.append(Fault("data.augment.synonyms", "is needed for the method synonyms: a file"))
    if options.synonyms is not None and not {"synonyms", "insertion"} & set(options.methods):
        faults.append(Fault("data.augment.synonyms", "is given, and none of data.augment.methods uses it"))
    for name, folder in asdict(options.back_translation).items():
        where, is_used = f"data.augment.back_translation.{name}", "back_translation" in options.methods
        if is_used and folder is None:
            faults.append(Fault(where, "is needed for the method back_translation: a folder with a model"))
        if not is_used and folder is not None:
            faults.append(Fault(where, "is given, and data.augment.methods does not list back_translation"))
    return faults
