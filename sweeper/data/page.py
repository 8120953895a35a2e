"""audit.html: an audit for people, one file without scripts that asks nothing of a network.

Rows may hold anything. Every value is escaped, what steers a terminal or turns text around is shown as its
code, and a policy in the page lets a browser load and run nothing, should something slip through.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

from sweeper.data.audit import Audit
from sweeper.data.checks.lengths import Histogram
from sweeper.data.findings import printable

_MOST_SUSPECTS = 50
"""The rest is in queue.csv."""

_WIDTH, _HEIGHT = 640, 160
_MOST_RANGES = 8
"""Bars that have room for both ends of their range below them; of more, each has its lower end."""


@dataclass(frozen=True)
class _Bar:
    x: float
    y: float
    width: float
    height: float
    label: str
    says: str


def render(audit: Audit, name: str, queue: str) -> str:
    """The page of the audit of sweep `name`; `queue` is the name of the file with its review queue."""
    from jinja2 import Environment, StrictUndefined

    template = (resources.files("sweeper.data") / "audit.html.jinja").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_shown, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"count": lambda number: f"{number:,}", "brief": lambda number: f"{number:.4g}"}
    return environment.from_string(template).render(
        audit=audit,
        name=name,
        queue=queue,
        suspects=audit.queue[:_MOST_SUSPECTS],
        totals=audit.totals,
        histograms=[(what, list(_bars(histogram))) for what, histogram in audit.lengths.items()],
        width=_WIDTH,
        height=_HEIGHT,
    )


def _shown(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value


def _bars(histogram: Histogram) -> Iterator[_Bar]:
    step = _WIDTH / len(histogram.edges)
    most = max(histogram.counts)
    ends = [f"to {edge - 1:,}" for edge in histogram.edges[1:]] + ["and more"]
    labels = list(map(_short, histogram.edges))
    if len(labels) <= _MOST_RANGES:
        labels = [
            f"{_short(low)} to {_short(high - 1 if high <= 1000 else high)}"
            for low, high in zip(histogram.edges, histogram.edges[1:], strict=False)
        ] + [f"≥ {labels[-1]}"]
    for i, (edge, count) in enumerate(zip(histogram.edges, histogram.counts, strict=True)):
        height = _HEIGHT * count / most
        says = f"{edge:,} {ends[i]} characters: {count:,} rows"
        yield _Bar(i * step + 1, _HEIGHT - height, step - 2, height, labels[i], says)


def _short(edge: int) -> str:
    """E.g. 20k, so that labels fit under their bars."""
    for unit, letter in ((10**6, "M"), (10**3, "k")):
        if edge >= unit:
            return f"{edge / unit:g}{letter}"
    return str(edge)
