"""Parallel coordinates: a line per trial through its settings to its objective."""

import math
from collections.abc import Sequence
from typing import Any

from sweeper.events import TrialRecord
from sweeper.report.drawing import LIGHT, Chart, Drawing, label
from sweeper.report.facts import SweepFacts
from sweeper.report.figures import MOST_CURVES
from sweeper.screen import number, value

_BANDS = 8
"""Shades of a line, by rank."""


def parallel(facts: SweepFacts) -> Chart | None:
    """All trials with an objective, or the best of many; None for fewer than two."""
    ranked = [r for r in facts.ranked() if math.isfinite(r.objective or math.nan)][:MOST_CURVES]
    if len(ranked) < 2 or not facts.space:
        return None
    drawing = Drawing(height=420)
    names = [entry.name for entry in facts.space]
    axes = [_axis([record.params.get(name) for record in ranked]) for name in names]
    axes.append(_axis([record.objective for record in ranked]))
    for band in range(_BANDS):
        ranks = [rank for rank in range(len(ranked)) if _BANDS - 1 - rank * _BANDS // len(ranked) == band]
        if ranks:
            _add_band(
                drawing, [ranked[rank] for rank in ranks], [[p[r] for p, _ in axes] for r in ranks], band
            )
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
            }
            for place, text in ticks
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
    best = ranked[0]
    said = (
        f"A line per trial through its settings to {facts.metric}; the best eighth is green, worse ones are "
        f"fainter. Its best is trial {best.number}: {_settings(best)}"
    )
    return drawing.chart("parallel", "Every trial, every setting", said, 105 * len(axes))


def _add_band(
    drawing: Drawing, records: Sequence[TrialRecord], places: Sequence[Sequence[float | None]], band: int
) -> None:
    """Trials of about the same rank, as one trace with gaps."""
    x: list[int | None] = []
    y: list[float | None] = []
    text: list[str] = []
    for record, stops in zip(records, places, strict=True):
        x += [*range(len(stops)), None]
        y += [*stops, None]
        text += [f"<b>trial {record.number}</b><br>{number(record.objective, record.error)}"] * len(stops) + [
            ""
        ]
    top = band == _BANDS - 1
    drawing.add(
        x=x,
        y=y,
        text=text,
        mode="lines",
        hoverinfo="text",
        opacity=0.2 + 0.7 * band / _BANDS,
        line={"color": LIGHT["best" if top else "finished"], "width": 2.2 if top else 1.3},
    )


def _settings(record: TrialRecord) -> str:
    return ", ".join(f"{key} {value(v)}" for key, v in record.params.items()) or "the default settings"


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
