"""How every chart of a report looks: colours, axes, labels.

Charts are trees for plotly's script. Labels may hold anything that a configuration or a row holds; plotly
reads HTML in them, so every one goes through `label`.
"""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

from sweeper.data.findings import excerpt, printable

PALETTE: Mapping[str, tuple[str, str]] = {
    "paper": ("#ffffff", "#14181d"),
    "ink": ("#22272e", "#d7dde4"),
    "faint": ("#6b7480", "#98a2ae"),
    "grid": ("#e7e9ec", "#2c333c"),
    "best": ("#0b7a5f", "#3ecfa5"),
    "default": ("#c2600c", "#f0a35b"),
    "base": ("#7a5bb5", "#b9a1ea"),
    "finished": ("#2f6db3", "#74aeea"),
    "pruned": ("#a1a9b3", "#65707d"),
    "failed": ("#b83232", "#ef7f7f"),
}
"""By name: the colour on a light page and on a dark one."""

LIGHT = {name: light for name, (light, _) in PALETTE.items()}
"""What charts are drawn in; the page's script puts the dark ones in their place."""

_LONGEST_LABEL = 40
_LABEL_PIXELS = 17
"""Between two labels at the ends of lines."""
_FRAME_PIXELS = 70
"""Of a chart's height, taken by its axis and legend."""
_FAR_OUT = 3.0
"""Interquartile ranges beyond the quartiles (Tukey, Exploratory Data Analysis, 1977)."""
_ROOM = 0.06
"""Left free above and below what is drawn, as a share of its height."""


@dataclass(frozen=True)
class Chart:
    """One drawing."""

    name: str
    """Unique on the page; letters, digits and `-`."""
    title: str
    says: str
    """What can be seen, in words."""
    figure: Mapping[str, Any]
    """`data` and `layout` for plotly; colours are those of `LIGHT`."""
    height: int
    """In pixels."""
    least_width: int = 0
    """In pixels; a narrower page lets it be scrolled sideways."""


def label(text: str, length: int = _LONGEST_LABEL) -> str:
    """`text` as plotly shows it letter by letter: short, nothing in it read as HTML."""
    return html.escape(printable(excerpt(text, length)), quote=False)


class Drawing:
    """A chart while it is made."""

    def __init__(self, x: str = "", y: str = "", height: int = 400) -> None:
        """Titles of the axes, as they are shown; height in pixels."""
        self.traces: list[dict[str, Any]] = []
        self._height = height
        self._ends: list[tuple[float, str, str]] = []
        self._bounds: tuple[float | None, float | None] = (None, None)
        axis = {"gridcolor": LIGHT["grid"], "zeroline": False, "linecolor": LIGHT["grid"], "automargin": True}
        self.layout: dict[str, Any] = {
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": LIGHT["ink"]},
            "margin": {"l": 10, "r": 10, "t": 10, "b": 10},
            "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom"},
            "hovermode": "closest",
            "xaxis": {"title": _title(x), **axis},
            "yaxis": {"title": _title(y), **axis},
            "annotations": [],
            "shapes": [],
        }

    def add(self, **trace: Any) -> None:
        """Draw points, or lines through them: a trace of plotly's type `scatter`."""
        self.traces.append({"type": "scatter", **trace})

    def end_at(self, axis: str, bounds: tuple[float | None, float | None]) -> None:
        """Let `xaxis` or `yaxis` reach no further than a metric's values can; None: as far as need be."""
        least, most = bounds
        wanted = {"minallowed": least, "maxallowed": most}
        self.layout[axis]["autorangeoptions"] = {name: v for name, v in wanted.items() if v is not None}
        if axis == "yaxis":
            self._bounds = bounds

    def name_end(self, y: float, text: str, colour: str) -> None:
        """Write `text` beside the right edge, where a line ends at `y`; `colour` is a name of the palette."""
        self._ends.append((y, text, colour))

    def chart(self, name: str, title: str, says: str, least_width: int = 0) -> Chart | None:
        """The finished drawing; None if nothing was drawn."""
        if not self.traces:
            return None
        if self._ends:
            self._write_ends()
        figure = {"data": self.traces, "layout": self.layout}
        return Chart(name, printable(title), f"{printable(says)}.", figure, self._height, least_width)

    def _write_ends(self) -> None:
        low, high = extent(self.traces, [y for y, _, _ in self._ends])
        least, most = self._bounds
        low, high = low if least is None else max(low, least), high if most is None else min(high, most)
        self.layout["yaxis"]["range"] = [low, high]
        self.layout["margin"]["r"] = 96
        step = (high - low) * _LABEL_PIXELS / (self._height - _FRAME_PIXELS)
        places = spread([y for y, _, _ in self._ends], step)
        for (_, text, colour), y in zip(self._ends, places, strict=True):
            self.layout["annotations"].append(
                {
                    "xref": "paper",
                    "x": 1,
                    "xanchor": "left",
                    "xshift": 6,
                    "y": y,
                    "text": text,
                    "showarrow": False,
                    "font": {"color": LIGHT[colour], "size": 12},
                }
            )


def _title(text: str) -> dict[str, Any]:
    return {"text": text, "standoff": 8, "font": {"size": 12, "color": LIGHT["faint"]}}


def extent(traces: Sequence[Mapping[str, Any]], values: Sequence[float]) -> tuple[float, float]:
    """From the lowest to the highest of the points of `traces` and their errors, and some room.

    Points far outside of the others, such as those of a trial that diverged, don't count: they would press
    the others flat. `values` always do.
    """
    points, ends = list(values), list(values)
    for trace in traces:
        errors = trace.get("error_y", {}).get("array") or [0.0] * len(trace["y"])
        for y, error in zip(trace["y"], errors, strict=True):
            if y is not None:
                points.append(y)
                ends += [y - error, y + error]
    first, _, third = quantiles(points, n=4, method="inclusive")
    reach = _FAR_OUT * (third - first) or math.inf
    near = [end for end in ends if first - reach <= end <= third + reach]
    low, high = min([*near, *values]), max([*near, *values])
    room = _ROOM * (high - low) or 0.5 * abs(high) or 1.0
    return low - room, high + room


def spread(places: Sequence[float], step: float) -> list[float]:
    """`places` moved apart, as little as it takes, so that no two are closer than `step`."""
    order = sorted(range(len(places)), key=places.__getitem__)
    clusters: list[list[int]] = []
    for index in order:
        clusters.append([index])
        while len(clusters) > 1 and _overlap(clusters[-2], clusters[-1], places, step):
            last = clusters.pop()
            clusters[-1] += last
    moved = list(places)
    for cluster in clusters:
        for index, place in zip(cluster, _stacked(cluster, places, step), strict=True):
            moved[index] = place
    return moved


def _stacked(cluster: Sequence[int], places: Sequence[float], step: float) -> list[float]:
    middle = sum(places[index] for index in cluster) / len(cluster)
    return [middle + step * (position - (len(cluster) - 1) / 2) for position in range(len(cluster))]


def _overlap(below: Sequence[int], above: Sequence[int], places: Sequence[float], step: float) -> bool:
    # A hair's breadth less, so that rounding doesn't move what stands right.
    return _stacked(above, places, step)[0] - _stacked(below, places, step)[-1] < step * (1 - 1e-9)


def or_gap(value: float | None) -> float | None:
    """A number as JSON has it; None, a gap in a line, for one that is not finite."""
    return value if value is not None and math.isfinite(value) else None
