"""The charts of a report, with plotly: what is drawn, and the same in words for those who don't see it.

Colours are names of `PALETTE`; the page puts the light or the dark one in. Labels may hold anything that a
configuration or a row holds; plotly reads HTML in them, so every one goes through `label`.
"""

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from sweeper.data.findings import excerpt, printable
from sweeper.events import TrialRecord
from sweeper.messages import TrialState
from sweeper.report.facts import SweepFacts, VerdictFacts
from sweeper.report.importance import Importances
from sweeper.screen import number, value

PALETTE: Mapping[str, tuple[str, str]] = {
    "ink": ("#22272e", "#d7dde4"),
    "faint": ("#6b7480", "#98a2ae"),
    "grid": ("#e7e9ec", "#2c333c"),
    "best": ("#0b7a5f", "#3ecfa5"),
    "default": ("#c2600c", "#f0a35b"),
    "base": ("#7a5bb5", "#b9a1ea"),
    "finished": ("#2f6db3", "#74aeea"),
    "pruned": ("#a9b0b9", "#5d6773"),
    "failed": ("#b83232", "#ef7f7f"),
    "running": ("#8a7a10", "#d8c65c"),
}
"""By name: the colour on a light page and on a dark one."""

LIGHT = {name: light for name, (light, _) in PALETTE.items()}
_LONGEST_LABEL = 40
_BANDS = 8
"""Shades of a line in the parallel coordinates."""


@dataclass(frozen=True)
class Chart:
    """One drawing."""

    name: str
    """Unique on the page; letters, digits and `-`."""
    title: str
    says: str
    """What can be seen, in words."""
    figure: str
    """`{"data": ..., "layout": ...}` as JSON; colours are the light ones of `PALETTE`."""
    height: int
    """In pixels."""
    least_width: int = 0
    """In pixels; a narrower page lets it be scrolled sideways."""


def label(text: str, length: int = _LONGEST_LABEL) -> str:
    """`text` as plotly shows it letter by letter: short, nothing in it read as HTML."""
    return html.escape(printable(excerpt(text, length)), quote=False)


def learning_curves(facts: SweepFacts) -> Chart | None:
    """The objective by training examples seen."""
    figure = _figure("training examples seen", label(facts.metric))
    for name, style, records in _groups(facts):
        drawn = [record for record in records if record.reports]
        if not drawn:
            continue
        x: list[int | None] = []
        y: list[float | None] = []
        text: list[str] = []
        for record in drawn:
            for mark, reached in sorted(record.reports.items()):
                x.append(mark)
                y.append(reached)
                text.append(f"{_about(record)}<br>after {mark} examples: {reached:.4g}")
            x.append(None)
            y.append(None)
            text.append("")
        figure.add_scatter(x=x, y=y, text=text, name=name, mode="lines+markers", hoverinfo="text", **style)
    if not figure.data:
        return None
    _add_base(figure, facts)
    stopped = len(facts.of(TrialState.PRUNED))
    said = f"{len([r for r in facts.trials if r.reports])} learning curves of {facts.metric}"
    if stopped:
        said += f"; {stopped} trials were pruned, their curves are dotted and end early"
    return _chart("learning-curves", f"{facts.metric} while training", said, figure, 420)


def training_loss(facts: SweepFacts) -> Chart | None:
    """The training loss by training examples seen."""
    figure = _figure("training examples seen", "training loss")
    curves = {curve.trial: curve for curve in facts.curves}
    for name, style, records in _groups(facts):
        x: list[int | None] = []
        y: list[float | None] = []
        for record in records:
            if record.number in curves:
                x += [*curves[record.number].examples, None]
                y += [v if math.isfinite(v) else None for v in curves[record.number].loss] + [None]
        if x:
            figure.add_scatter(x=x, y=y, name=name, mode="lines", hoverinfo="x+y", line=style["line"])
    if not figure.data:
        return None
    said = f"Training loss of {len(curves)} trials"
    if facts.best is not None and facts.best.number in curves and curves[facts.best.number].loss:
        loss = curves[facts.best.number].loss
        said += f"; that of the best trial goes from {loss[0]:.3g} to {loss[-1]:.3g}"
    return _chart("training-loss", "Training loss", said, figure, 340)


def history(facts: SweepFacts) -> Chart | None:
    """The objective of every trial in order, and the best of the finished ones so far."""
    figure = _figure("trial", label(facts.metric))
    for name, style, records in _groups(facts):
        known = [record for record in records if record.objective is not None]
        if known:
            errors = {"array": [r.error or 0 for r in known], "thickness": 1, "width": 0, "visible": True}
            figure.add_scatter(
                x=[record.number for record in known],
                y=[record.objective for record in known],
                error_y=errors,
                text=[_about(record) for record in known],
                name=name,
                mode="markers",
                hoverinfo="text",
                marker=style["marker"] | {"size": 9},
            )
    if not figure.data:
        return None
    best: list[TrialRecord] = []
    for record in facts.finished:
        if record.objective is not None and (
            not best or facts.objective.better(record.objective, best[-1].objective or 0.0)
        ):
            best.append(record)
    if best:
        steps = [*best, facts.trials[-1]]
        figure.add_scatter(
            x=[record.number for record in steps],
            y=[*(record.objective for record in best), best[-1].objective],
            name="best so far",
            mode="lines",
            hoverinfo="skip",
            line={"color": LIGHT["best"], "width": 2, "shape": "hv"},
        )
    _add_base(figure, facts)
    said = f"{facts.metric} of {len(facts.ranked())} trials in the order in which they were tried"
    if len(best) > 1:
        said += (
            f"; the best so far goes from {number(best[0].objective, best[0].error)} (trial "
            f"{best[0].number}) in {len(best) - 1} steps to {number(best[-1].objective, best[-1].error)} "
            f"(trial {best[-1].number})"
        )
    return _chart("history", "Trial by trial", said, figure, 380)


def importance(found: Importances) -> Chart | None:
    """A bar per setting with the range over resamples."""
    if not found.settings:
        return None
    settings = found.settings[::-1]
    figure = _figure("share of the differences between trials", "", tickformat=".0%")
    figure.add_bar(
        x=[one.share for one in settings],
        y=[label(one.name) for one in settings],
        orientation="h",
        marker={"color": LIGHT["finished"]},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [one.high - one.share for one in settings],
            "arrayminus": [one.share - one.low for one in settings],
            "color": LIGHT["ink"],
            "thickness": 1.5,
            "width": 4,
        },
        text=[f"{one.share:.0%}, {one.low:.0%} to {one.high:.0%}" for one in settings],
        textposition="none",
        hoverinfo="y+text",
    )
    figure.update_layout(showlegend=False, bargap=0.45)
    figure.update_xaxes(range=[0, min(1.0, 1.05 * max(one.high for one in settings))])
    said = "; ".join(
        f"{one.name} {one.share:.0%} ({one.low:.0%} to {one.high:.0%})" for one in found.settings
    )
    return _chart("importance", "What matters", said, figure, 110 + 34 * len(settings))


def slices(facts: SweepFacts, by: str, metric: str, names: Sequence[str]) -> Chart | None:
    """A metric of base, default and best over parts of the validation rows."""
    figure = _figure(label(metric), "")
    rows = list(names)[::-1]
    for side, record, colour, symbol in (
        ("base model", facts.base, "base", "diamond-open"),
        ("default settings", facts.default, "default", "square"),
        (f"best, trial {facts.best.number}" if facts.best else "", facts.best, "best", "circle"),
    ):
        if record is None or (side.startswith("best") and record.number == 0):
            continue
        scores = {one.value: one for one in record.slices if one.by == by and metric in one.metrics}
        shown = [name for name in rows if name in scores]
        if shown:
            errors = [scores[name].errors.get(metric, 0.0) for name in shown]
            figure.add_scatter(
                x=[scores[name].metrics[metric] for name in shown],
                y=[label(name) for name in shown],
                error_x={"array": [e if math.isfinite(e) else 0 for e in errors], "thickness": 1, "width": 3},
                name=side,
                mode="markers",
                marker={"color": LIGHT[colour], "size": 10, "symbol": symbol},
            )
    if not figure.data:
        return None
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=[label(name) for name in rows])
    said = f"{metric} by {by}, over {len(rows)} values; the numbers are in the table below it"
    return _chart(f"slices-{by}", f"By {by}", said, figure, 150 + 34 * len(rows))


def parallel(facts: SweepFacts) -> Chart | None:
    """A line per trial through its settings to its objective."""
    ranked = [r for r in facts.ranked() if math.isfinite(r.objective or math.nan)]
    if len(ranked) < 2 or not facts.space:
        return None
    figure = _figure("", "")
    names = [entry.name for entry in facts.space]
    axes = [_axis([record.params.get(name) for record in ranked]) for name in names]
    axes.append(_axis([record.objective for record in ranked]))
    lines: dict[int, list[int]] = {}
    for rank in range(len(ranked)):
        lines.setdefault(_BANDS - 1 - rank * _BANDS // len(ranked), []).append(rank)
    for band, ranks in sorted(lines.items()):
        x: list[int | None] = []
        y: list[float | None] = []
        text: list[str] = []
        for rank in ranks:
            for position, (places, _) in enumerate(axes):
                x.append(position)
                y.append(places[rank])
                text.append(_about(ranked[rank]))
            x.append(None)
            y.append(None)
            text.append("")
        top = facts.best is not None and ranks[0] == 0
        figure.add_scatter(
            x=x,
            y=y,
            text=text,
            mode="lines",
            hoverinfo="text",
            opacity=0.2 + 0.7 * band / _BANDS,
            line={"color": LIGHT["best" if top else "finished"], "width": 2 if top else 1.3},
        )
    for position, (_, ticks) in enumerate(axes):
        figure.add_shape(
            type="line", x0=position, x1=position, y0=0, y1=1, line={"color": LIGHT["faint"], "width": 1}
        )
        for place, text_ in ticks:
            figure.add_annotation(
                x=position, y=place, text=text_, showarrow=False, xanchor="left", xshift=4, font={"size": 11}
            )
    figure.update_layout(showlegend=False, margin={"l": 20, "r": 60, "t": 10, "b": 60})
    titles = [label(name, 20) for name in [*names, facts.metric]]
    figure.update_xaxes(
        tickvals=list(range(len(axes))), ticktext=titles, showgrid=False, range=[-0.1, len(axes) - 0.4]
    )
    figure.update_yaxes(visible=False, range=[-0.06, 1.06])
    said = f"A line per trial through its settings to {facts.metric}; the best eighth is green"
    best = ranked[0]
    said += f", its best is trial {best.number}: {_plain_settings(best)}"
    return _chart("parallel", "Every trial, every setting", said, figure, 420, 95 * len(axes))


def pareto(facts: SweepFacts) -> list[Chart]:
    """The objective against each further one; trials of the Pareto front stand out."""
    charts = []
    for index, other in enumerate(facts.also):
        figure = _figure(label(other.metric), label(facts.metric))
        for name, on_front in (("other finished trials", False), ("Pareto front", True)):
            shown = [
                (x, record.objective, record)
                for record in facts.finished
                if (record.number in facts.front) is on_front
                and (x := facts.value(record, other.metric)) is not None
                and record.objective is not None
            ]
            shown.sort(key=lambda point: point[:2])
            if shown:
                figure.add_scatter(
                    x=[x for x, _, _ in shown],
                    y=[y for _, y, _ in shown],
                    text=[f"{_about(r)}<br>{label(other.metric)} {x:.4g}" for x, _, r in shown],
                    name=name,
                    mode="markers",
                    hoverinfo="text",
                    marker={
                        "color": LIGHT["best" if on_front else "pruned"],
                        "size": 10 if on_front else 7,
                    },
                )
        if figure.data:
            trials = ", ".join(str(one) for one in facts.front)
            said = f"{facts.metric} ({facts.objective.direction}) against {other.metric} ({other.direction})"
            said += f"; on the Pareto front: trials {trials}" if trials else ""
            charts.append(
                _chart(f"pareto-{index}", f"{facts.metric} against {other.metric}", said, figure, 400)
            )
    return charts


def gains(verdict: VerdictFacts, metric: str) -> Chart | None:
    """Every finalist's gain over the default settings with its interval."""
    told = [one for one in verdict.candidates if math.isfinite(one.low) and math.isfinite(one.gain)][::-1]
    if not told:
        return None
    figure = _figure(f"gain in {label(metric)} over {label(verdict.default.name)}, test rows", "")
    colours = {"gain": "best", "tie": "faint", "worse": "failed"}
    figure.add_scatter(
        x=[one.gain for one in told],
        y=[label(one.name) for one in told],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [one.high - one.gain for one in told],
            "arrayminus": [one.gain - one.low for one in told],
            "thickness": 2,
            "width": 6,
            "color": LIGHT["faint"],
        },
        mode="markers",
        marker={"size": 12, "color": [LIGHT[colours.get(one.outcome, "faint")] for one in told]},
        text=[f"{one.gain:+.4f} ({one.low:+.4f} to {one.high:+.4f})" for one in told],
        hoverinfo="y+text",
    )
    figure.add_vline(x=0, line={"color": LIGHT["default"], "width": 1.5, "dash": "dash"})
    figure.update_layout(showlegend=False)
    figure.update_yaxes(type="category")
    said = "; ".join(f"{one.name} {one.gain:+.4f} ({one.low:+.4f} to {one.high:+.4f})" for one in told[::-1])
    title = f"Gains with their {verdict.level:.0%} intervals"
    return _chart("gains", title, said, figure, 130 + 44 * len(told))


def _figure(x: str, y: str, **axis: Any) -> go.Figure:
    """An empty drawing in the page's look."""
    lines = {"gridcolor": LIGHT["grid"], "zeroline": False, "linecolor": LIGHT["grid"], "automargin": True}
    figure = go.Figure()
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": LIGHT["ink"]},
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom"},
        hovermode="closest",
        xaxis={"title": {"text": x, "standoff": 8}, **lines, **axis},
        yaxis={"title": {"text": y, "standoff": 8}, **lines},
    )
    return figure


def _chart(name: str, title: str, says: str, figure: go.Figure, height: int, least_width: int = 0) -> Chart:
    tree = figure.to_plotly_json()
    figure_json = json.dumps(
        {"data": list(tree["data"]), "layout": tree["layout"]}, default=_plain, allow_nan=False
    )
    return Chart(name, printable(title), f"{printable(says)}.", figure_json, height, least_width)


def _plain(thing: Any) -> Any:
    return thing.to_plotly_json() if hasattr(thing, "to_plotly_json") else list(thing)


def _groups(facts: SweepFacts) -> Iterable[tuple[str, dict[str, Any], list[TrialRecord]]]:
    """Name in the legend, look and trials of every group; what matters most is drawn last, on top."""
    best = facts.best.number if facts.best else None
    apart = {0, best}
    rest = [record for record in facts.trials if record.number not in apart]
    states = (TrialState.PRUNED, TrialState.FAILED, TrialState.RUNNING, TrialState.FINISHED)
    for state in states:
        waiting = (state, TrialState.WAITING) if state is TrialState.RUNNING else (state,)
        name = "unfinished" if state is TrialState.RUNNING else state.value
        dash = "dot" if state is TrialState.PRUNED else "solid"
        symbol = "x" if state in (TrialState.PRUNED, TrialState.FAILED) else "circle"
        records = [record for record in rest if record.state in waiting]
        yield name, _style(LIGHT[state.value], 1.3, dash, symbol, 5), records
    if best != 0 and facts.default is not None:
        state = facts.default.state
        name = "default settings" + ("" if state is TrialState.FINISHED else f" ({state.value})")
        dash = "dot" if state is TrialState.PRUNED else "solid"
        yield name, _style(LIGHT["default"], 2.5, dash, "square", 7), [facts.default]
    if facts.best is not None:
        name = f"best: trial {best}" + (", the default settings" if best == 0 else "")
        yield name, _style(LIGHT["best"], 3, "solid", "circle", 8), [facts.best]


def _style(colour: str, width: float, dash: str, symbol: str, size: int) -> dict[str, Any]:
    return {
        "line": {"color": colour, "width": width, "dash": dash},
        "marker": {"color": colour, "symbol": symbol, "size": size},
    }


def _add_base(figure: go.Figure, facts: SweepFacts) -> None:
    """A line at the objective of the untouched base model."""
    if facts.base is None or facts.base.objective is None:
        return
    places = [x for trace in figure.data for x in trace.x if x is not None]
    figure.add_scatter(
        x=[min(places), max(places)],
        y=[facts.base.objective] * 2,
        name="base model",
        mode="lines",
        text=[f"base model: {number(facts.base.objective, facts.base.error)}"] * 2,
        hoverinfo="text",
        line={"color": LIGHT["base"], "width": 1.5, "dash": "dash"},
    )


def _about(record: TrialRecord) -> str:
    """What is shown of a trial under the pointer."""
    name = f"<b>trial {record.number}</b> ({record.state.value})"
    settings = [f"{label(key)} {label(value(v))}" for key, v in record.params.items()]
    return "<br>".join([name, number(record.objective, record.error), *settings])


def _plain_settings(record: TrialRecord) -> str:
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
    middle = math.exp(start + width / 2) if log else start + width / 2
    ticks = [(0.0, value(low)), (0.5, value(float(f"{middle:.2g}"))), (1.0, value(high))]
    distinct = sorted(set(known))
    if len(distinct) <= 5:
        ticks = [((scale(v) - start) / width, value(v)) for v in distinct]
    return [None if v is None else (scale(v) - start) / width for v in values], ticks
