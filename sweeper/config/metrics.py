"""What metrics are called, which way each is better, and which other packages bring along.

A metric's name is one of

    rougeL                   a metric of the task kind, or one that an installed package adds
    worst_slice.rougeL       the worst value over the slices of `data.slice`; worst_group, worst_length alike
    slice_gap.rougeL         the largest minus the smallest value over them; group_gap, length_gap alike
    rarest_class.recall      of the class with the fewest validation rows; precision and f1 alike

The names of METRICS are measured at every evaluation, the others where the task names them. Of a chat,
answers are generated only for a task that names a metric of CHAT_ANSWERS, and then all of these are measured.
`sweeper.metrics` computes them all; here nothing heavy is imported.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, Protocol, get_args

from sweeper.errors import ConfigError, Fault

Kind = Literal["generate", "classify", "chat"]
Direction = Literal["maximize", "minimize"]

_ANSWERS = (
    "rouge1",
    "rouge2",
    "rougeL",
    "bleu",
    "chrf",
    "exact_match",
    "token_f1",
    "empty_answers",
    "unfinished_answers",
    "length_ratio",
    "distinct_1",
    "distinct_2",
    "copied_trigrams",
)

METRICS = {
    "generate": (*_ANSWERS, "loss", "perplexity"),
    "chat": ("loss", "perplexity"),
    "classify": (
        "accuracy",
        "balanced_accuracy",
        "macro_f1",
        "macro_precision",
        "macro_recall",
        "micro_f1",
        "micro_precision",
        "micro_recall",
        "auroc",
        "calibration_error",
        "loss",
    ),
}
"""What each task kind is measured by at every evaluation."""

TOOL_CALL_MATCH = "tool_call_match"

CHAT_ANSWERS = (*_ANSWERS, TOOL_CALL_MATCH)
"""What the generated answers of a chat are measured by, for a task that names one of them."""

COSTS = ("seconds", "adapter_megabytes", "trainable_parameters", "peak_memory_bytes")
"""What a trial costs: no metrics, and further objectives all the same (`task.also`)."""

PER_CLASS = ("precision", "recall", "f1")
"""What a single class is measured by."""

_LESS_IS_BETTER = ("loss", "perplexity", "calibration_error", "empty_answers", "unfinished_answers")
_UNBOUNDED = ("loss", "perplexity", "length_ratio")
"""From 0 on; every other metric of METRICS, and of a single class, is a share."""
_NEITHER = ("length_ratio", "distinct_1", "distinct_2", "copied_trigrams")
"""Descriptive: whether more is better depends on the texts that are wanted."""

GROUP = "sweeper.metrics"
"""The entry point group in which installed packages name their metrics."""

_RAREST = "rarest_class"
_DERIVED = {
    f"{how}_{by}" if how == "worst" else f"{by}_{how}": (how, by)
    for by in ("slice", "group", "length")
    for how in ("worst", "gap")
}


class AddedMetric(Protocol):
    """What an entry point of the group `sweeper.metrics` leads to, under the metric's name."""

    @property
    def kinds(self) -> Sequence[str]:
        """Task kinds that it measures: `generate`, `classify`, `chat`."""

    @property
    def direction(self) -> Direction | None:
        """Which way is better; None if neither is by itself."""

    def measure(self, answers: Any) -> Any:
        """From `sweeper.metrics.Texts`, `Classes` or `Answers` to a `sweeper.metrics.Measured`.

        For a chat that is `Texts` where something that the task names has answers generated, else `Answers`.
        An attribute `reads_answers`, if there is one and it is true, has them generated.
        """


@dataclass(frozen=True)
class MetricName:
    """A metric's name taken apart."""

    metric: str
    """What is measured."""
    how: Literal["whole", "worst", "gap", "rarest"] = "whole"
    by: str = ""
    """For worst and gap: `slice`, `group` or `length`."""

    @classmethod
    def parse(cls, name: str) -> "MetricName":
        prefix, _, metric = name.partition(".")
        if metric and prefix == _RAREST:
            return cls(metric, "rarest")
        if metric and prefix in _DERIVED:
            how, by = _DERIVED[prefix]
            return cls(metric, how, by)  # type: ignore[arg-type]
        return cls(name)

    @property
    def column(self) -> str | None:
        """The option of `data` that has to name a column for it: `slice`, `group` or none."""
        return self.by if self.by in ("slice", "group") else None


def metric_fault(kind: str, name: str) -> str | None:
    """What is wrong with `name` as a metric of task kind `kind`, in words; None if nothing is."""
    parsed = MetricName.parse(name)
    if parsed.how == "rarest":
        if kind != "classify":
            return f"`{name}` does not fit task.kind={kind}, which has no classes"
        if parsed.metric not in PER_CLASS:
            return f"`{name}`: a single class has {', '.join(PER_CLASS)}"
        return None
    if parsed.metric not in _of_kind(kind):
        if not _is_added(parsed.metric):
            return _unknown(kind, name)
        try:
            added = added_metric(parsed.metric)
        except ConfigError as error:
            return error.faults[0].message
        if kind not in added.kinds:
            return f"`{name}` does not fit task.kind={kind}; it is there for {', '.join(added.kinds)}"
    if parsed.how == "worst" and metric_direction(parsed.metric) is None:
        return (
            f"`{name}`: more of {parsed.metric} is neither better nor worse, so that no value is the worst; "
            f"take {parsed.by}_gap.{parsed.metric}"
        )
    return None


def needs_answers(kind: str, names: Iterable[str]) -> bool:
    """Whether answers are generated for a task of this kind that names these metrics, all without fault.

    >>> needs_answers("chat", ["loss"]), needs_answers("chat", ["loss", "worst_length.rougeL"])
    (False, True)
    """
    if kind != "chat":
        return kind == "generate"
    wanted = {MetricName.parse(name).metric for name in names}
    added = [added_metric(name) for name in wanted if _is_added(name)]
    return bool(wanted & set(CHAT_ANSWERS)) or any(getattr(one, "reads_answers", False) for one in added)


def metric_direction(name: str) -> Direction | None:
    """Which way a cost, or a metric without fault, is better; None if neither is by itself."""
    if name in COSTS:
        return "minimize"
    parsed = MetricName.parse(name)
    if parsed.how == "gap":
        return "minimize"
    if parsed.metric in _NEITHER:
        return None
    if parsed.metric in _LESS_IS_BETTER:
        return "minimize"
    if parsed.how != "rarest" and _is_added(parsed.metric):
        return added_metric(parsed.metric).direction
    return "maximize"


def metric_bounds(name: str) -> tuple[float | None, float | None]:
    """The least and the largest value that a metric or a cost can have, None where there is no such bound."""
    parsed = MetricName.parse(name)
    known = {*PER_CLASS, *_OWN}
    if name in COSTS or parsed.metric in _UNBOUNDED:
        return 0.0, None
    return (0.0, 1.0) if parsed.metric in known else (None, None)


def added_metric(name: str) -> AddedMetric:
    """The metric that an installed package adds under this name.

    Raises ConfigError if there is none, if it can't be loaded, or if it is not an `AddedMetric`.
    """
    found = [point for point in entry_points(group=GROUP) if point.name == name]
    if not found:
        raise ConfigError([Fault(name, f"no installed package adds a metric `{name}` ({GROUP})")])
    if len(found) > 1:
        packages = " and ".join(sorted(_package(point) for point in found))
        raise ConfigError([Fault(name, f"`{name}` is added by {packages}; uninstall one of them")])
    (point,) = found
    remedy = f"mend {_package(point)}, or name another metric"
    try:
        added: AddedMetric = point.load()
    except Exception as error:
        why = f"`{name}` of {_package(point)} can't be loaded ({type(error).__name__}: {error}); {remedy}"
        raise ConfigError([Fault(name, why)]) from error
    if wrong := _wrong(added):
        raise ConfigError([Fault(name, f"`{name}` of {_package(point)} is no metric: {wrong}; {remedy}")])
    return added


def _wrong(added: Any) -> str:
    """What an added metric lacks of the protocol, "" if nothing."""
    kinds = getattr(added, "kinds", None)
    if not isinstance(kinds, list | tuple) or not kinds or not set(kinds) <= set(METRICS):
        return f"its kinds must be some of {', '.join(METRICS)} (found: {kinds!r})"
    direction = getattr(added, "direction", "")
    if direction is not None and direction not in get_args(Direction):
        return f"its direction must be maximize, minimize or None (found: {direction!r})"
    return "" if callable(getattr(added, "measure", None)) else "it has no method `measure`"


def _added_names() -> list[str]:
    """Names that installed packages add; one that would hide ours, or that is no word, is passed over."""
    return sorted(
        {
            point.name
            for point in entry_points(group=GROUP)
            if re.fullmatch(r"[A-Za-z]\w{0,99}", point.name, re.ASCII) and point.name not in _OWN
        }
    )


def _is_added(name: str) -> bool:
    return name not in _OWN and name in _added_names()


def _of_kind(kind: str) -> tuple[str, ...]:
    """Every metric of ours that a task of this kind may name."""
    return METRICS[kind] + (CHAT_ANSWERS if kind == "chat" else ())


_OWN = {name for kind in METRICS for name in _of_kind(kind)}


def _package(point: EntryPoint) -> str:
    return f"the package {point.dist.name}" if point.dist is not None else f"the module {point.module}"


def _unknown(kind: str, name: str) -> str:
    known = [*_of_kind(kind), *_added_names()]
    derived = [f"{prefix}.{metric}" for prefix in _DERIVED for metric in known]
    near = difflib.get_close_matches(name, derived, n=1, cutoff=0.8) if "." in name else []
    hint = f"did you mean `{near[0]}`? " if near else ""
    prefixes = ", ".join(f"{prefix}.NAME" for prefix in _DERIVED)
    return (
        f"`{name}` does not fit task.kind={kind}; {hint}allowed: {', '.join(known)}; of each {prefixes}"
        + (f"; {_RAREST}.{'|'.join(PER_CLASS)}" if kind == "classify" else "")
    )
