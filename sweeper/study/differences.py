"""In what a configuration differs from the one that a study was made with."""

import json
import math
from collections.abc import Mapping
from typing import Any

import yaml

from sweeper.loading import dotted


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Where two trees differ: dotted name, and both values in YAML. What is empty counts as not set."""
    old, new = dotted(_without_empty(before)), dotted(_without_empty(now))
    return [
        (name, _in_yaml(old.get(name)), _in_yaml(new.get(name)))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _without_empty(value: Any) -> Any:
    if isinstance(value, Mapping):
        kept = {key: _without_empty(inner) for key, inner in value.items()}
        return {key: inner for key, inner in kept.items() if inner not in (None, "", [], {})}
    return [_without_empty(one) for one in value] if isinstance(value, list) else value


def _in_yaml(value: Any) -> str:
    if value is None:
        return "(not set)"
    # In a list: a scalar by itself would end with a line of its own.
    text = yaml.safe_dump(
        [value], default_flow_style=True, width=math.inf, sort_keys=False, allow_unicode=True
    ).strip()
    if "\n" in text:
        text = json.dumps([value], ensure_ascii=False)
    return text[1:-1]
