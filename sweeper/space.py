"""The search space: which settings of a trial may vary, and how.

A space is the same tree as the trial settings with a distribution at each leaf, `{low, high, log?, step?}` or
`{choices}`, and perhaps a condition, `when`. Whether a range is of integers or floats follows from the type
of the setting; what a setting itself allows is asked of `TrialSettings`, so that it is said in one place.
"""

import functools
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from sweeper.config import TrialSettings
from sweeper.entry import Entry, Scalar, decimal
from sweeper.errors import ConfigError, Fault
from sweeper.habits import Form, from_call, from_keys, written
from sweeper.loading import read, unknown_name, wording

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

MAX_GRID = 10_000
"""Points of a grid at most: all of them are written to the study before the first trial."""


@dataclass(frozen=True)
class Space:
    """What may vary, in the order of suggestion: a setting comes after those that its condition names."""

    entries: tuple[Entry, ...]
    trial: TrialSettings
    """What every trial starts from; an inactive entry keeps its value from here."""

    @classmethod
    def parse(cls, tree: Mapping[str, Any], trial: TrialSettings) -> "Space":
        """Read the tree that stands under `space:`; raises ConfigError with every fault in it."""
        entries, faults = _parse(tree, trial)
        if faults:
            raise ConfigError(faults)
        by_name = {entry.name: entry for entry in entries}
        order = TopologicalSorter(_conditions(entries)).static_order()
        return cls(tuple(by_name[name] for name in order), trial)

    @property
    def names(self) -> tuple[str, ...]:
        """Dotted names, in the order of suggestion."""
        return tuple(entry.name for entry in self.entries)

    @property
    def is_empty(self) -> bool:
        """True if nothing varies: every trial would be the default."""
        return not self.entries

    @property
    def is_conditional(self) -> bool:
        """True if some trials vary settings that others don't."""
        return any(entry.when for entry in self.entries)

    @property
    def defaults(self) -> dict[str, Scalar]:
        """The default settings as parameters, active entries only: what to enqueue as the first trial."""
        values = _flat(self.trial)
        return {entry.name: values[entry.name] for entry in self.entries if entry.is_active(values)}

    def trial_with(self, values: Mapping[str, Any]) -> TrialSettings:
        """The default settings with `values`, in the space or not."""
        return _settings(_flat(self.trial) | dict(values))

    def values(self, name: str) -> list[Scalar]:
        """What a trial may have of a setting: the choices or both ends of its range, and the default."""
        default = _flat(self.trial)[name]
        entry = next((entry for entry in self.entries if entry.name == name), None)
        if entry is None:
            return [default]
        return list(dict.fromkeys([default, *(entry.choices or (entry.low, entry.high))]))

    def suggest(self, trial: "BaseTrial") -> TrialSettings:
        """Ask Optuna for every active entry and return the complete settings."""
        values = _flat(self.trial)
        for entry in self.entries:
            if entry.is_active(values):
                values[entry.name] = entry.suggest(trial)
        return _settings(values)

    def settings(self, params: Mapping[str, Any]) -> TrialSettings:
        """The complete settings of a trial with these parameters.

        Inactive and missing ones keep the value from `trial:`. Raises ConfigError for a name that the
        space doesn't vary and for a value that the setting can't take.
        """
        strangers = [
            Fault(name, f"is not varied; {_known(self.names)}") for name in params if name not in self.names
        ]
        if strangers:
            raise ConfigError(strangers)
        values = _flat(self.trial)
        for entry in self.entries:
            if entry.name in params and entry.is_active(values):
                values[entry.name] = _exact(entry, params[entry.name])
        return _settings(values)

    def point(self, changes: Mapping[str, Any], start: Mapping[str, Any] | None = None) -> dict[str, Scalar]:
        """Parameters as a person gives them: `changes` to those of `start`, else to the defaults.

        Raises ConfigError, with every fault, for a setting that doesn't vary (here) and a value that it
        can't take.
        """
        values, found, faults = _flat(self.trial), {}, []
        for name in changes:
            if name in _SETTINGS and name not in self.names:
                fixed = f"is fixed in this sweep: {values[name]}; {_known(self.names)}"
                faults.append(Fault(name, f"{fixed}. Another sweep can have another value: trial.{name}=..."))
            elif name not in self.names:
                faults.append(Fault(name, unknown_name(name, self.names)))
        for entry in self.entries:
            name = entry.name
            if not entry.is_active(values):
                if name in changes:
                    faults.append(Fault(name, f"has no effect: it varies only with {_conditions_of(entry)}"))
                continue
            value = changes[name] if name in changes else (start or {}).get(name, values[name])
            value, fault = _valid(name, value, name)
            if fault is None and not entry.contains(value):
                fault = Fault(name, f"must be in {entry.range} (given: {value})")
            faults += [fault] if fault else []
            values[name] = found[name] = value
        if faults:
            raise ConfigError(faults, "command")
        return found

    def grid(self) -> list[dict[str, Scalar]]:
        """Every point of a finite space once, in a fixed order.

        Raises ConfigError if a range is continuous or there are more than `MAX_GRID` points.
        """
        endless = [
            Fault(f"space.{entry.name}", f"{entry.range} is continuous; {_FINITE}")
            for entry in self.entries
            if entry.count is None
        ]
        if endless:
            raise ConfigError(endless)
        points = list(itertools.islice(self._points(_flat(self.trial), {}, self.entries), MAX_GRID + 1))
        if len(points) > MAX_GRID:
            way_out = "fewer choices, larger steps, or another sampler, e.g. sampler=random"
            raise ConfigError(
                [Fault("space", f"has more than the {MAX_GRID} points a grid may have; take {way_out}")]
            )
        return points

    def _points(
        self, values: dict[str, Scalar], point: dict[str, Scalar], rest: Sequence[Entry]
    ) -> Iterator[dict[str, Scalar]]:
        if not rest:
            yield point
            return
        entry, *others = rest
        if not entry.is_active(values):
            yield from self._points(values, point, others)
            return
        for index in range(entry.count or 0):
            value = entry.nth(index)
            yield from self._points(values | {entry.name: value}, point | {entry.name: value}, others)

    def fingerprint(self) -> dict[str, Any]:
        """A canonical plain tree: equal for equal spaces, whatever their spelling; fit for JSON."""
        return {entry.name: _plain(entry) for entry in sorted(self.entries, key=lambda entry: entry.name)}


def setting_names() -> tuple[str, ...]:
    """Every setting of a trial that a space may vary, by dotted name."""
    return tuple(_SETTINGS)


def check(tree: Any, trial: TrialSettings) -> list[Fault]:
    """Every fault in the tree that stands under `space:`."""
    return _parse(tree, trial)[1]


ENTRY_KEYS = ("low", "high", "log", "step", "choices", "when")
_FINITE = "a grid needs `choices` or a `step`, or take another sampler, e.g. sampler=random"


def _leaves(kind: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if is_dataclass(hint):
            yield from _leaves(hint, f"{prefix}{name}.")
        else:
            yield prefix + name, hint


_SETTINGS = dict(_leaves(TrialSettings))
_GROUPS = {name.rpartition(".")[0] for name in _SETTINGS} - {""}


def _flat(settings: TrialSettings) -> dict[str, Scalar]:
    """Settings by dotted name."""
    return {name: functools.reduce(getattr, name.split("."), settings) for name in _SETTINGS}  # type: ignore[misc]


def _settings(values: Mapping[str, Scalar]) -> TrialSettings:
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *groups, last = name.split(".")
        functools.reduce(lambda node, group: node.setdefault(group, {}), groups, tree)[last] = value
    return read(TrialSettings, tree, "trial")


def _exact(entry: Entry, value: Any) -> Scalar:
    value, fault = _valid(entry.name, value, entry.name)
    if fault:
        raise ConfigError([fault])
    return entry.exact(value)


def _kind(hint: Any) -> type:
    if get_origin(hint) is Annotated:
        return _kind(get_args(hint)[0])
    if get_origin(hint) is Literal:
        return type(get_args(hint)[0])
    return hint  # type: ignore[no-any-return]


@functools.cache
def _adapter(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(_SETTINGS[name], config=ConfigDict(strict=True))


def _valid(name: str, value: Any, where: str) -> tuple[Any, Fault | None]:
    """`value` as setting `name` takes it, or the fault at `where`."""
    try:
        return _adapter(name).validate_json(json.dumps(value)), None
    except ValidationError as error:
        return value, Fault(where, wording(dict(error.errors(include_url=False)[0])))


def _known(names: Iterable[str]) -> str:
    return f"varied here: {', '.join(names) or 'nothing'}"


def _plain(entry: Entry) -> dict[str, Any]:
    condition = {name: sorted(values, key=str) for name, values in sorted(entry.when.items())}
    if entry.choices:
        return {"choices": list(entry.choices), "when": condition}
    return {"low": entry.low, "high": entry.high, "log": entry.log, "step": entry.step, "when": condition}


def _parse(tree: Any, trial: TrialSettings) -> tuple[list[Entry], list[Fault]]:
    if not isinstance(tree, Mapping):
        return [], [
            Fault("space", f"must be a tree of settings with a distribution at each (given: {tree!r})")
        ]
    entries: list[Entry] = []
    faults: list[Fault] = []
    given = dict(_distributions(tree, "", faults))
    for name in _SETTINGS:  # the order of declaration, not of the file: a merge must not change the proposals
        if name in given:
            entry = _entry(name, given[name], faults)
            entries += [entry] if entry else []
    faults += _contradictions(entries, trial)
    return entries, faults


def _distributions(tree: Mapping[Any, Any], prefix: str, faults: list[Fault]) -> Iterator[tuple[str, Any]]:
    """Leaves by dotted name; null stands for 'not varied'."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if value is None:
            continue
        if name in _GROUPS and isinstance(value, Mapping):
            yield from _distributions(value, f"{name}.", faults)
        elif name in _GROUPS:
            faults.append(Fault(f"space.{name}", f"must be a tree of settings (given: {value!r})"))
        elif name in _SETTINGS and "." not in str(key):
            yield name, value
        else:
            faults.append(Fault(f"space.{name}", _stranger(name)))


def _stranger(name: str) -> str:
    """What to say about a name that is no setting: the nearest one may stand in another branch."""
    if name in _SETTINGS:
        group, _, last = name.partition(".")
        return f"write it as a tree: {group}: {{{last}: ...}}"
    namesakes = [known for known in _SETTINGS if known.rpartition(".")[2] == name.rpartition(".")[2]]
    if namesakes:
        return f"unknown name; did you mean `{namesakes[0]}`?"
    return unknown_name(name, _SETTINGS)


def _entry(name: str, leaf: Any, faults: list[Fault]) -> Entry | None:
    where, before = f"space.{name}", len(faults)
    if (meant := _of_another_tool(leaf)) is not None:
        faults.append(Fault(where, f"is in another tool's form; here it is {written(meant)}"))
        leaf = meant
    if not isinstance(leaf, Mapping):
        forms = "{low: ..., high: ...} or {choices: [...]}"
        faults.append(
            Fault(where, f"must be {forms} (given: {leaf!r}); a fixed value belongs to trial.{name}")
        )
        return None
    before = len(faults)
    faults += [
        Fault(f"{where}.{key}", unknown_name(str(key), ENTRY_KEYS)) for key in leaf if key not in ENTRY_KEYS
    ]
    given = {
        key: leaf[key]
        for key in ENTRY_KEYS
        if leaf.get(key) is not None and (key, leaf[key]) != ("log", False)
    }
    bounds = [key for key in ("low", "high", "log", "step") if key in given]
    form: dict[str, Any] = {}
    if "choices" in given and bounds:
        nulls = ", ".join(f"{key}: null" for key in bounds)
        faults.append(
            Fault(
                where,
                f"has choices beside {', '.join(bounds)}, perhaps from a preset that your entry merges with; "
                f"write `{nulls}` to keep the choices, or `choices: null` to keep the range. On the command "
                f"line '~{where}' before it takes the preset's entry away",
            )
        )
    elif "choices" in given:
        form["choices"] = _choices(name, given["choices"], faults)
    else:
        form |= _range(name, given, faults)
    when = _when(name, given.get("when", {}), faults)
    return Entry(name, _kind(_SETTINGS[name]), **form, when=when) if len(faults) == before else None


def _of_another_tool(leaf: Any) -> Form | None:
    """What a leaf means that W&B, Optuna, Ray or Hydra would understand; None for any other."""
    if isinstance(leaf, Mapping):
        return from_keys(leaf) if set(leaf) - set(ENTRY_KEYS) else None
    return from_call(leaf) if isinstance(leaf, str) else None


def _choices(name: str, choices: Any, faults: list[Fault]) -> tuple[Any, ...]:
    where = f"space.{name}.choices"
    if not isinstance(choices, (list, tuple)) or not choices:
        faults.append(Fault(where, f"must be a list of at least one value (given: {choices!r})"))
        return ()
    found = [_valid(name, choice, where) for choice in choices]
    wrong = [fault for _, fault in found if fault]
    faults += wrong
    values = [value for value, _ in found]
    twice = sorted({str(value) for value in values if values.count(value) > 1}) if not wrong else []
    if twice:
        faults.append(Fault(where, f"contains {', '.join(twice)} more than once; leave it there once"))
    return tuple(values)


def _range(name: str, given: Mapping[str, Any], faults: list[Fault]) -> dict[str, Any]:
    where = f"space.{name}"
    kind = _kind(_SETTINGS[name])
    if kind not in (int, float):
        words = get_args(_SETTINGS[name]) if get_origin(_SETTINGS[name]) is Literal else ("...",)
        faults.append(Fault(where, f"is no number; give choices, e.g. {{choices: [{', '.join(words)}]}}"))
        return {}
    missing = [key for key in ("low", "high") if key not in given]
    if missing:
        also = "" if len(missing) == 1 else ", or choices"
        faults.append(Fault(where, f"needs {' and '.join(missing)}{also}"))
        return {}
    low, low_fault = _valid(name, given["low"], f"{where}.low")
    high, high_fault = _valid(name, given["high"], f"{where}.high")
    log, step = given.get("log", False), given.get("step")
    found = [fault for fault in (low_fault, high_fault) if fault]
    if not isinstance(log, bool):
        found.append(Fault(f"{where}.log", f"must be true or false (given: {log!r})"))
    if step is not None and (
        isinstance(step, bool) or not isinstance(step, (int, kind)) or not 0 < step < math.inf
    ):
        whole = "a whole number" if kind is int else "a number"
        found.append(Fault(f"{where}.step", f"must be {whole} above 0 (given: {step!r})"))
    if not found:
        found += _range_faults(where, low, high, log, step)
    faults += found
    return {"low": low, "high": high, "log": log, "step": step}


def _range_faults(where: str, low: Any, high: Any, log: bool, step: Any) -> Iterator[Fault]:
    if low > high:
        yield Fault(where, f"low must not be above high (given: low {low}, high {high}); exchange them")
    elif log and low <= 0:
        yield Fault(where, f"a log scale needs low above 0 (given: {low}); raise it or leave out log")
    elif log and step is not None:
        yield Fault(where, f"log and step exclude each other (given: step {step}); leave one out")
    elif step is not None and (decimal(high) - decimal(low)) % decimal(step) != 0:
        below = decimal(low) + (decimal(high) - decimal(low)) // decimal(step) * decimal(step)
        yield Fault(
            where, f"high {high} can't be reached from {low} in steps of {step}; take {below.normalize():f}"
        )


def _when(name: str, condition: Any, faults: list[Fault]) -> dict[str, tuple[Scalar, ...]]:
    where = f"space.{name}.when"
    if not isinstance(condition, Mapping):
        faults.append(Fault(where, f"must be like {{scheduler: cosine}} (given: {condition!r})"))
        return {}
    when: dict[str, tuple[Scalar, ...]] = {}
    for other, wanted in _flat_condition(condition):
        if other not in _SETTINGS:
            faults.append(Fault(f"{where}.{other}", _stranger(other)))
            continue
        options = wanted if isinstance(wanted, (list, tuple)) else [wanted]
        found = [_valid(other, option, f"{where}.{other}") for option in options]
        faults += [fault for _, fault in found if fault]
        if not options:
            faults.append(Fault(f"{where}.{other}", "must be a value or a list of values (given: [])"))
        when[other] = tuple(value for value, _ in found)
    return when


def _flat_condition(condition: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in condition.items():
        if isinstance(value, Mapping):
            yield from _flat_condition(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _conditions(entries: Iterable[Entry]) -> dict[str, list[str]]:
    """Of every entry the other entries that its condition names."""
    names = {entry.name for entry in entries}
    return {entry.name: [name for name in entry.when if name in names] for entry in entries}


def _contradictions(entries: Sequence[Entry], trial: TrialSettings) -> Iterator[Fault]:
    """Faults that show only when entries and trial settings are looked at together."""
    values = _flat(trial)
    by_name = {entry.name: entry for entry in entries}
    for entry in entries:
        where = f"space.{entry.name}"
        default = values[entry.name]
        if entry.is_active(values) and not entry.contains(default):
            yield Fault(
                where,
                f"the default trial.{entry.name}={default} is not in {entry.range}; a sweep starts there: "
                f"widen it, or set trial.{entry.name}",
            )
        if (
            entry.name.startswith("lora.")
            and values["method"] == "full"
            and not {"method"} & (by_name.keys() | entry.when)
        ):
            yield Fault(
                where,
                f"has no effect with trial.method=full; set {where}=null (space=full has none such)",
            )
        for name, wanted in entry.when.items():
            other = by_name.get(name)
            if other is None or any(other.contains(value) for value in wanted):
                continue
            if not other.when or values[name] not in wanted:  # inactive, it keeps its value from `trial:`
                yield Fault(
                    f"{where}.when.{name}", f"is never {_either(wanted)}: space.{name} has {other.range}"
                )
    try:
        TopologicalSorter(_conditions(entries)).prepare()
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        yield Fault(
            f"space.{error.args[1][0]}.when", f"conditions go in a circle: {circle}; leave one of them out"
        )


def _conditions_of(entry: Entry) -> str:
    return " and ".join(f"{name}={_either(values)}" for name, values in entry.when.items())


def _either(values: Sequence[Scalar]) -> str:
    return " or ".join(str(value) for value in values)
