"""Parallel coordinates: a line per trial through its settings to its objective."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sweeper.events import TrialRecord
from sweeper.report.drawing import LIGHT, Chart, Drawing, label, spread
from sweeper.report.facts import SweepFacts
from sweeper.report.figures import MOST_CURVES, Group, groups
from sweeper.terminal.tables import number, value

_LEAST_APART = 0.045
"""Between two labels of an axis, as a share of its height."""


def parallel(facts: SweepFacts) -> Chart | None:
    """All trials with an objective, or the best of many; None for fewer than two."""
    ranked = [r for r in facts.ranked() if math.isfinite(r.objective or math.nan)][:MOST_CURVES]
    if len(ranked) < 2 or not facts.space:
        return None
    drawing = Drawing(height=420)
    names = [entry.name for entry in facts.space]
    axes = [_axis([record.params.get(name) for record in ranked]) for name in names]
    axes.append(_axis([record.objective for record in ranked]))
    stops = {r.number: [places[i] for places, _ in axes] for i, r in enumerate(ranked)}
    for group in groups(facts):
        shown = [record for record in facts.ranked() if record in group.trials and record.number in stops]
        best = shown[: -(-len(shown) // 4)]
        for records, opacity in ((shown[len(best) :], 0.35), (best, 1 if group.end else 0.9)):
            if records:
                _add_lines(drawing, group, records, stops, opacity)
    for position, (_, ticks) in enumerate(axes):
        drawing.layout["shapes"].append(
            {
                "type": "line",
                "x0": position,
                "x1": position,
                "y0": 0,
                "y1": 1,
                "line": {"color": LIGHT["faint"], "width": 1},
            }
        )
        drawing.layout["annotations"] += [
            {
                "x": position,
                "y": place,
                "text": text,
                "showarrow": False,
                "xanchor": "left",
                "xshift": 4,
                "font": {"size": 11},
                "bgcolor": LIGHT["paper"],
            }
            for place, (_, text) in zip(spread([p for p, _ in ticks], _LEAST_APART), ticks, strict=True)
        ]
    titles = [label(name, 20) for name in [*names, facts.metric]]
    drawing.layout |= {"showlegend": False, "margin": {"l": 10, "r": 10, "t": 30, "b": 10}}
    drawing.layout["xaxis"] |= {
        "side": "top",
        "tickvals": list(range(len(axes))),
        "ticktext": titles,
        "tickangle": 0,
        "showgrid": False,
        "showline": False,
        "range": [-0.25, len(axes) - 0.6],
    }
    drawing.layout["yaxis"] |= {"visible": False, "range": [-0.06, 1.06]}
    said = f"A line per trial through its settings to {facts.metric}; the best quarter is drawn stronger"
    return drawing.chart("parallel", "Every trial, every setting", said, 105 * len(axes))


def _add_lines(
    drawing: Drawing,
    group: Group,
    records: Sequence[TrialRecord],
    stops: Mapping[int, Sequence[float | None]],
    opacity: float,
) -> None:
    """Trials as one trace with gaps; `stops` are the places on the axes by trial."""
    x: list[int | None] = []
    y: list[float | None] = []
    text: list[str] = []
    for record in records:
        places = stops[record.number]
        x += [*range(len(places)), None]
        y += [*places, None]
        reached = number(record.objective, record.error)
        text += [f"<b>trial {record.number}</b> ({record.state.value})<br>{reached}"] * len(places) + [""]
    line = {"color": LIGHT[group.colour], "width": 1.3 * group.width, "dash": group.dash}
    drawing.add(x=x, y=y, text=text, mode="lines", hoverinfo="text", opacity=opacity, line=line)


def _axis(values: Sequence[Any]) -> tuple[list[float | None], list[tuple[float, str]]]:
    """Where values stand between 0 and 1, and what is written beside the axis; None where one is inactive."""
    known = [v for v in values if v is not None]
    if not known:
        return [None] * len(values), []
    if any(isinstance(v, (bool, str)) for v in known):
        order = sorted({str(v) for v in known})
        step = 1 / max(len(order) - 1, 1)
        places = {name: position * step for position, name in enumerate(order)}
        return [None if v is None else places[str(v)] for v in values], [
            (place, label(name, 16)) for name, place in places.items()
        ]
    low, high = min(known), max(known)
    if low == high:
        return [None if v is None else 0.5 for v in values], [(0.5, value(low))]
    log = low > 0 and high / low > 20
    scale = math.log if log else float
    start, width = scale(low), scale(high) - scale(low)

    def place(v: float) -> float:
        return (scale(v) - start) / width

    marked = sorted(set(known))
    if len(marked) > 5:
        middle = math.exp(start + width / 2) if log else start + width / 2
        marked = [low, float(f"{middle:.2g}"), high]
    return [None if v is None else place(v) for v in values], [(place(v), value(v)) for v in marked]
