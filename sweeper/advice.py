"""Ways out that messages name, each only where the configuration has not taken it yet.

An override that is written out here is one that can be typed as it stands.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from sweeper.config import Config, DataConfig, TrialSettings
from sweeper.config.data import CleaningStep
from sweeper.space import Space


def less_memory(config: Config, settings: TrialSettings, dtype: str = "") -> str:
    """What needs less memory than these settings, as a part of a sentence.

    `dtype` is the type that the base model has, where it is known better than by the configuration.
    """
    ways = []
    if not config.model.gradient_checkpointing:
        ways.append("set model.gradient_checkpointing=true")
    if "bfloat16" not in (dtype or config.model.dtype):
        ways.append("set model.dtype=bfloat16")
    # Of a class there is nothing but the label, and of a chat both lengths together are the row's.
    lengths = ["task.max_input_tokens"] + ["task.max_answer_tokens"] * (config.task.kind != "classify")
    ways.append(f"lower {' or '.join(lengths)}")
    if settings.method == "full":
        ways.append(f"train adapters alone: {fixed(Space.parse(config.space, config.trial), method='lora')}")
    elif settings.lora.rank > 1:
        ways.append("take a smaller rank")
    return either([*ways, "take a smaller model"])


def less_to_load(config: Config) -> str:
    """What may help where the base model itself finds no memory, in a sentence."""
    ways = ["take a smaller model"]
    if config.model.dtype != "bfloat16":
        ways.append("set model.dtype=bfloat16")
    if (each := config.executor.workers_per_device or 1) > 1:
        ways.append(f"set executor.workers_per_device={each - 1}")
    ways.append("take a device that nobody else uses")
    told = either(ways)
    return told[0].upper() + told[1:]


def fixed(space: Space, **wanted: Any) -> str:
    """The overrides by which every trial has these settings; `lora__dropout` is lora.dropout.

    E.g. `'~space.epochs' trial.epochs=2`, where epochs vary and begin at another number.
    """
    overrides = []
    for name, value in wanted.items():
        name = name.replace("__", ".")
        if name in space.names:
            overrides.append(f"'~space.{name}'")
        if space.values(name)[0] != value:
            overrides.append(f"trial.{name}={value}")
    return " ".join(overrides)


def either(ways: Iterable[str]) -> str:
    """Ways out as a part of a sentence.

    >>> either(["a"]), either(["a", "b"]), either(["a", "b", "c"])
    ('a', 'a, or b', 'a, b, or c')
    """
    *others, last = ways
    return f"{', '.join(others)}, or {last}" if others else last


def cleaning_with(config: Config, *steps: str) -> str:
    """The override that adds these steps to the cleaning; "" where they are on."""
    there: list[str] = list(config.data.cleaning)
    if not (missing := [step for step in steps if step not in there]):
        return ""
    usual = list(get_args(CleaningStep))
    every = [*there, *missing]
    if there == sorted(there, key=usual.index):
        every.sort(key=usual.index)
    return f"'data.cleaning=[{','.join(every)}]'"


def equal_shares(data: DataConfig) -> str:
    """The override that gives every split the same shares of labels; "" where it is on, or can't be."""
    return f"data.stratify={data.target}" if data.stratify != data.target and data.time is None else ""


@dataclass(frozen=True)
class Way:
    """What can be done about a finding of an audit by a setting."""

    advice: str
    """A sentence with {} in the place of the overrides."""
    overrides: Callable[[Config], str]
    """That are still missing; "" where there are none, or where they are of no use."""
    taken: str = ""
    """The sentence where there are none."""

    def told(self, config: Config) -> str:
        overrides = self.overrides(config)
        return self.advice.format(overrides) if overrides else self.taken


def _cleaned(does: str, *steps: CleaningStep) -> Way:
    named = " and ".join(f"`{step}`" for step in steps)
    what = "cleaning step" if len(steps) == 1 else "cleaning steps"
    on = "is" if len(steps) == 1 else "are"
    does_each = does if len(steps) == 1 else does.replace("s ", " ", 1)
    return Way(
        f"The {what} {named} {does_each}: {{}}.",
        lambda config: cleaning_with(config, *steps),
        f"The {what} {named}, which {on} on, {does_each} in training and validation rows.",
    )


def _macro(config: Config) -> str:
    return "task.objective.metric=macro_f1" if config.task.objective.metric == "accuracy" else ""


def _reweighted(config: Config) -> str:
    data, varied = config.data, config.space.get("reweight") is not None
    if config.task.kind != "classify" or varied or config.trial.reweight:
        return ""
    column = data.slice or data.audit.groups
    if column is None or column == data.target:
        return ""
    return " ".join([*([] if data.slice else [f"data.slice={column}"]), "trial.reweight=1"])


def _augmented(config: Config) -> str:
    return "" if config.data.augment.methods else "'data.augment.methods=[swap]' trial.augment_rate=0.5"


def _bounded(config: Config) -> str:
    if "length" in config.data.cleaning:
        return ""
    return f"{cleaning_with(config, 'length')} data.length.max_input=..."


WAYS: Mapping[str, Way] = {
    "encoding": _cleaned("repairs mojibake", "encoding"),
    "invisible": _cleaned("removes most of them", "encoding", "whitespace"),
    "missing": _cleaned("drops placeholders", "missing"),
    "exact_duplicates": _cleaned("drops them", "exact_duplicates"),
    "near_duplicates": _cleaned("keeps one of each group", "near_duplicates"),
    "personal": _cleaned("masks it", "personal"),
    "length": Way("Rows beyond bounds in characters are dropped by {}.", _bounded),
    "stratify": Way("Equal shares in every split: {}.", lambda config: equal_shares(config.data)),
    "macro_f1": Way("Judge by macro_f1 rather than accuracy: {}.", _macro),
    "reweight": Way("Labels are evened out over groups by {}.", _reweighted),
    "augment": Way("More rows can be made of these: {}.", _augmented),
}
"""By the names that findings call them (`Finding.ways`)."""


def of_finding(advice: str, ways: Iterable[str], config: Config) -> str:
    """The advice of a finding with the ways out that the configuration leaves open."""
    return " ".join(filter(None, [advice, *(WAYS[way].told(config) for way in ways)]))
