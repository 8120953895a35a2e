"""Distributions as other tools write them, in the form that a space has here.

Known are keys like those of W&B's sweeps (`min`, `max`, `values`, `distribution`) and calls like those of
Hydra, Optuna and Ray Tune (`interval(1e-4, 1e-2)`, `tune.loguniform(1e-4, 1e-2)`, `choice(8, 16)`). Nothing
is run: the text is read.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

Form = dict[str, Any]
"""An entry of a space: `low` and `high`, perhaps `log` and `step`, or `choices`."""

_LOW = ("low", "min", "minimum", "lower", "start")
_HIGH = ("high", "max", "maximum", "upper", "end", "stop")
_CHOICES = ("choices", "values", "options", "categories", "choice", "grid_search")
_STEP = ("step", "q")
_KIND = ("type", "distribution", "dist", "sampling", "scale", "log", "name")
_NO_RANGE = re.compile(r"normal|beta|gamma|constant")

_CALL = re.compile(r"(?:\w+\.)*(\w+)\s*\((.*)\)", re.DOTALL)
_RANGES = ("uniform", "randint", "interval", "suggest", "float", "int")


def from_keys(entry: Mapping[Any, Any]) -> Form | None:
    """An entry with another tool's keys in our form; None where that can't be told."""
    given = {str(key).lower(): value for key, value in entry.items() if value is not None}
    if set(given) - {*_LOW, *_HIGH, *_CHOICES, *_STEP, *_KIND}:
        return None
    kinds = " ".join(str(given[key]).lower() for key in _KIND if key in given and key != "log")
    if _NO_RANGE.search(kinds):
        return None
    choices = _first(given, _CHOICES)
    if isinstance(choices, (list, tuple)) and choices:
        return {"choices": list(choices)}
    low, high, step = (_first(given, names) for names in (_LOW, _HIGH, _STEP))
    if not _is_range(low, high):
        return None
    # W&B's log_uniform takes exponents of e, and log_uniform_values the ends themselves.
    if re.search(r"log_uniform(?!_values)", kinds) and low < 0:
        low, high = (float(f"{math.exp(end):.3g}") for end in (low, high))
    return _range(low, high, "log" in kinds or bool(given.get("log")), step)


def from_call(text: str) -> Form | None:
    """A call of another tool in our form; None for what is no such call."""
    call = _CALL.fullmatch(text.strip())
    if call is None:
        return None
    name, inner = call[1].lower(), split(call[2])
    if name in ("tag", "shuffle", "sort", "int", "float") and inner:
        found = from_call(inner[-1])
        if found is not None and "low" in found and any("log" in one for one in inner[:-1]):
            found["log"] = True
        if found is not None or name == "tag":
            return found
    named = {
        key.strip(): read(value) for key, is_pair, value in (one.partition("=") for one in inner) if is_pair
    }
    values = [read(one) for one in inner if "=" not in one]
    if name in ("choice", "choices", "grid_search", "categorical", "suggest_categorical", "shuffle", "sort"):
        choices = next((one for one in values if isinstance(one, list)), values)
        return {"choices": choices} if choices else None
    values = [one for one in values if isinstance(one, (int, float))] + [
        named[key] for key in (*_LOW, *_HIGH, *_STEP) if key in named
    ]
    if len(values) < 2 or not _is_range(*values[:2]):
        return None
    low, high, *rest = values
    if name == "range":
        step = rest[0] if rest else 1
        return _range(low, _last_below(low, high, step), False, None if step == 1 else step)
    if not any(one in name for one in _RANGES):
        return None
    step = rest[0] if rest and ("q" in name or "step" in named) else None
    return _range(low, high, "log" in name or named.get("log") is True, step)


def split(text: str) -> list[str]:
    """The parts of a text between its commas, those inside brackets and quotes left alone."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        depth += (letter in "([{") - (letter in ")]}") if not quote else 0
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def read(text: str) -> Any:
    """A value as it is written: a number, true or false, a list of such, or else the word itself."""
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        return [read(one) for one in split(text[1:-1])]
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip("\"'")


def written(value: Any) -> str:
    """A form, or a value in one, in Hydra's grammar and YAML's: `{low: 0.0001, high: 0.01, log: true}`."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {written(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(written(one) for one in value) + "]"
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w.-]*", value):
        return value
    return json.dumps(value)


def _first(given: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((given[name] for name in names if name in given), None)


def _is_range(low: Any, high: Any) -> bool:
    return (
        all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in (low, high))
        and low <= high
    )


def _range(low: Any, high: Any, log: bool, step: Any) -> Form:
    form: Form = {"low": low, "high": high}
    if log and low > 0:
        form["log"] = True
    elif isinstance(step, (int, float)) and step != 1:
        form["step"] = step
    return form


def _last_below(low: Any, stop: Any, step: Any) -> Any:
    """The last value of a range that leaves out its end, as Python's and Hydra's do."""
    if all(isinstance(one, int) for one in (low, stop, step)) and step > 0:
        return max(low, low + (stop - 1 - low) // step * step)
    return stop
