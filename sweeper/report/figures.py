"""The charts of a report: what is drawn, and the same in words for those who don't see it.

Few colours, the same everywhere: green for the best trial, orange for the default settings, violet for the
untouched base model; all other trials are context.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.config.metrics import metric_bounds
from sweeper.events import TrialRecord
from sweeper.messages import TrialState
from sweeper.report.drawing import LIGHT, Chart, Drawing, label, or_gap
from sweeper.report.facts import SweepFacts
from sweeper.report.importance import Importances
from sweeper.report.parts import Part
from sweeper.study.objectives import is_eligible
from sweeper.terminal.tables import number, value
from sweeper.verdict import VerdictFacts

MOST_CURVES = 200
"""Trials that are drawn as lines: the best ones."""
_MOST_TOLD = 500
_MOST_PARTS = 20
"""Parts of the rows that are drawn: the largest ones."""


@dataclass(frozen=True)
class Group:
    """Trials that are drawn alike."""

    name: str
    trials: tuple[TrialRecord, ...]
    colour: str
    """A name of the palette."""
    width: float
    size: float
    dash: str = "solid"
    symbol: str = "circle"
    end: str = ""
    """Written beside the end of its line; what has none is named in the legend."""


def learning_curves(facts: SweepFacts) -> Chart | None:
    """The objective by training examples seen."""
    drawing = Drawing("training examples seen", height=420)
    drawing.end_at("yaxis", metric_bounds(facts.metric))
    drawing.layout["xaxis"]["rangemode"] = "tozero"
    drawn = 0
    for group in groups(facts):
        x: list[int | None] = []
        y: list[float | None] = []
        text: list[str] = []
        for record in group.trials:
            for mark, reached in sorted(record.reports.items()):
                x.append(mark)
                y.append(or_gap(reached))
                text.append(f"{_name(record)}<br>{reached:.4g} after {mark:,} examples")
            if record.reports:
                drawn += 1
                x.append(None)
                y.append(None)
                text.append("")
        if x:
            marker = {"color": LIGHT[group.colour], "size": group.size, "symbol": group.symbol}
            _add_lines(drawing, group, x, y, text=text, mode="lines+markers", hoverinfo="text", marker=marker)
    if drawn:
        _add_base(drawing, facts)
    said = f"{drawn} learning curves of {facts.metric}"
    stopped = sum(bool(record.reports) for record in facts.of(TrialState.PRUNED))
    if stopped:
        said += f"; the dotted ones end early: {stopped} {'was' if stopped == 1 else 'were'} pruned"
    return drawing.chart("learning-curves", f"{facts.metric} while training", said)


def training_loss(facts: SweepFacts) -> Chart | None:
    """The training loss by training examples seen."""
    drawing = Drawing("training examples seen", height=340)
    curves = {curve.trial: curve for curve in facts.curves}
    drawn = 0
    for group in groups(facts):
        x: list[int | None] = []
        y: list[float | None] = []
        for record in group.trials:
            if record.number in curves:
                drawn += 1
                x += [*curves[record.number].examples, None]
                y += [*map(or_gap, curves[record.number].loss), None]
        if x:
            _add_lines(drawing, group, x, y, mode="lines", hoverinfo="x+y+name")
    said = f"Training loss of {drawn} trial{'' if drawn == 1 else 's'}"
    return drawing.chart("training-loss", "Training loss", said)


def _add_lines(
    drawing: Drawing, group: Group, x: Sequence[int | None], y: Sequence[float | None], **more: Any
) -> None:
    """Draw the curves of a group, gaps between them, and name their end if they have a name."""
    drawing.add(
        x=x,
        y=y,
        name=group.name,
        line={"color": LIGHT[group.colour], "width": group.width, "dash": group.dash},
        opacity=1 if group.end else 0.6,
        showlegend=not group.end,
        **more,
    )
    ends = [one for one in y if one is not None]
    if group.end and ends:
        drawing.name_end(ends[-1], group.end, group.colour)


def history(facts: SweepFacts) -> Chart | None:
    """The objective of every trial in order, and the best so far of those that could win."""
    drawing = Drawing("trial", height=380)
    drawing.end_at("yaxis", metric_bounds(facts.metric))
    drawing.layout["xaxis"] |= {"tickformat": "d", "range": [-0.6, len(facts.trials) - 0.4]}
    if len(facts.trials) <= 12:
        drawing.layout["xaxis"]["dtick"] = 1
    for group in groups(facts, most=None):
        known = [record for record in group.trials if record.objective is not None]
        if known:
            drawing.add(
                x=[record.number for record in known],
                y=[or_gap(record.objective) for record in known],
                error_y={"array": [or_gap(r.error) or 0 for r in known], "thickness": 1, "width": 0},
                text=[_about(record, facts) for record in known],
                name=group.end or group.name,
                mode="markers",
                hoverinfo="text",
                marker={"color": LIGHT[group.colour], "symbol": group.symbol, "size": 9},
            )
    best = _records_of_the_best(facts)
    # With several objectives the winner may be another one.
    so_far = f"best {label(facts.metric)} so far" if facts.goals.also else "best so far"
    if best:
        steps = [*best, facts.trials[-1]]
        drawing.add(
            x=[record.number for record in steps],
            y=[*(or_gap(record.objective) for record in best), or_gap(best[-1].objective)],
            mode="lines",
            hoverinfo="skip",
            line={"color": LIGHT["best"], "width": 2, "shape": "hv"},
            showlegend=False,
        )
        drawing.name_end(best[-1].objective or 0.0, so_far, "best")
    if drawing.traces:
        _add_base(drawing, facts)
    said = f"{facts.metric} of {len(facts.ranked())} trials in the order in which they were tried"
    if len(best) > 1:
        said += (
            f"; the {so_far} goes from {number(best[0].objective, best[0].error)} (trial "
            f"{best[0].number}) in {len(best) - 1} step{'' if len(best) == 2 else 's'} to "
            f"{number(best[-1].objective, best[-1].error)} (trial {best[-1].number})"
        )
    return drawing.chart("history", f"{facts.metric}, trial by trial", said)


def importance(found: Importances) -> Chart | None:
    """A point per setting with its range over resamples."""
    settings = found.settings[::-1]
    drawing = Drawing("share of the differences between trials", "", 110 + 34 * len(settings))
    if settings:
        drawing.add(
            x=[one.share for one in settings],
            y=[label(one.name) for one in settings],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [one.high - one.share for one in settings],
                "arrayminus": [one.share - one.low for one in settings],
                "color": LIGHT["faint"],
                "thickness": 2,
                "width": 0,
            },
            mode="markers+text",
            marker={"color": LIGHT["finished"], "size": 11},
            text=[f"{one.share:.0%}" for one in settings],
            textposition="top center",
            textfont={"size": 11, "color": LIGHT["ink"]},
            hovertext=[f"{one.share:.0%}, {one.low:.0%} to {one.high:.0%}" for one in settings],
            hoverinfo="y+text",
            cliponaxis=False,
        )
    drawing.layout["showlegend"] = False
    drawing.layout["xaxis"] |= {"tickformat": ".0%", "rangemode": "tozero"}
    drawing.layout["yaxis"] |= {
        "type": "category",
        "range": [-0.6, len(settings) - 0.3],
        "ticklabelstandoff": 8,
    }
    told = [f"{one.name} {one.share:.0%} ({one.low:.0%} to {one.high:.0%})" for one in found.settings]
    return drawing.chart("importance", "What matters", "; ".join(told))


def slices(facts: SweepFacts, part: Part) -> Chart | None:
    """A metric of base, default and best over parts of the validation rows."""
    rows = [line.value for line in part.lines[:_MOST_PARTS]][::-1]
    metric = part.metric
    drawing = Drawing(label(metric), height=120 + 34 * len(rows))
    drawing.end_at("xaxis", metric_bounds(metric))
    best = facts.best if facts.best is not None and not facts.best.is_default else None
    for side, record, colour, symbol in (
        ("base model", facts.base, "base", "diamond-open"),
        ("default settings", facts.default, "default", "square"),
        (f"best: trial {best.number}" if best else "", best, "best", "circle"),
    ):
        scores = {one.value: one for one in record.slices if one.by == part.by} if record else {}
        shown = [name for name in rows if name in scores and metric in scores[name].metrics]
        if shown:
            errors = [or_gap(scores[name].errors.get(metric)) or 0 for name in shown]
            drawing.add(
                x=[or_gap(scores[name].metrics[metric]) for name in shown],
                y=[rows.index(name) for name in shown],
                error_x={"array": errors, "thickness": 1, "width": 0},
                name=side,
                mode="markers",
                cliponaxis=False,
                hoverinfo="x+name",
                marker={"color": LIGHT[colour], "size": 10, "symbol": symbol},
            )
    # By place: names that begin alike may be cut to the same label.
    drawing.layout["yaxis"] |= {
        "tickvals": list(range(len(rows))),
        "ticktext": [label(name, 24) for name in rows],
        "range": [-0.6, len(rows) - 0.4],
    }
    said = f"{metric} with its standard error"
    said += f", of the {len(rows)} with most rows" if len(part.lines) + part.left_out > len(rows) else ""
    return drawing.chart(f"slices-{part.by}", f"{part.title}: {metric}", said)


def pareto(facts: SweepFacts) -> list[Chart]:
    """The objective against each further one; trials of the Pareto front stand out."""
    charts = []
    for index, other in enumerate(facts.goals.also):
        drawing = Drawing(label(other.metric), label(facts.metric), 400)
        drawing.end_at("xaxis", metric_bounds(other.metric))
        drawing.end_at("yaxis", metric_bounds(facts.metric))
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
                drawing.add(
                    x=[x for x, _, _ in shown],
                    y=[y for _, y, _ in shown],
                    text=[f"{r.number}" if on_front else "" for _, _, r in shown],
                    hovertext=[f"{_about(r, facts)}<br>{label(other.metric)} {x:.4g}" for x, _, r in shown],
                    name=name,
                    mode="markers+text",
                    cliponaxis=False,
                    textposition="top right",
                    hoverinfo="text",
                    marker={"color": LIGHT["best" if on_front else "pruned"], "size": 10 if on_front else 7},
                )
        trials = ", ".join(str(one) for one in facts.front)
        said = f"{facts.metric} ({facts.objective.direction}) against {other.metric} ({other.direction})"
        said += f"; on the Pareto front: trials {trials}" if trials else ""
        made = drawing.chart(f"pareto-{index}", f"{facts.metric} against {other.metric}", said)
        charts += [made] if made is not None else []
    return charts


def gains(verdict: VerdictFacts, metric: str) -> Chart | None:
    """Every finalist's gain over the default settings with its interval."""
    told = [one for one in verdict.candidates if all(map(math.isfinite, (one.gain, one.low, one.high)))][::-1]
    drawing = Drawing(f"gain in {label(metric)} over {label(verdict.default.name)}", "", 110 + 48 * len(told))
    colours = {"gain": "best", "tie": "faint", "worse": "failed"}
    if told:
        drawing.add(
            x=[one.gain for one in told],
            y=[label(one.name) for one in told],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [one.high - one.gain for one in told],
                "arrayminus": [one.gain - one.low for one in told],
                "thickness": 2,
                "width": 0,
                "color": LIGHT["faint"],
            },
            mode="markers+text",
            marker={"size": 12, "color": [LIGHT[colours.get(one.outcome, "faint")] for one in told]},
            text=[f"{one.gain:+.3f}" for one in told],
            textposition="top center",
            hovertext=[f"{one.gain:+.4f} ({one.low:+.4f} to {one.high:+.4f})" for one in told],
            hoverinfo="y+text",
            cliponaxis=False,
        )
    drawing.layout["shapes"].append(
        {
            "type": "line",
            "yref": "paper",
            "x0": 0,
            "x1": 0,
            "y0": 0,
            "y1": 1,
            "line": {"color": LIGHT["default"], "width": 1.5},
        }
    )
    drawing.layout["showlegend"] = False
    drawing.layout["yaxis"] |= {"type": "category", "range": [-0.6, len(told) - 0.3]}
    said = "; ".join(f"{one.name} {one.gain:+.4f} ({one.low:+.4f} to {one.high:+.4f})" for one in told[::-1])
    return drawing.chart("gains", f"Gains on the test rows with their {verdict.level:.0%} intervals", said)


def groups(facts: SweepFacts, most: int | None = MOST_CURVES) -> Iterator[Group]:
    """All trials, or the best `most`, drawn alike; what matters most comes last, on top."""
    best = facts.best.number if facts.best else None
    kept = {record.number for record in facts.ranked()[:most]} if most else None
    apart = {record.number for record in (facts.default, facts.best) if record}
    rest = [r for r in facts.trials if r.number not in apart and (kept is None or r.number in kept)]

    def of(*states: TrialState) -> tuple[TrialRecord, ...]:
        return tuple(record for record in rest if record.state in states)

    yield Group("pruned", of(TrialState.PRUNED), "pruned", 1.4, 5, "dot", "x-thin-open")
    yield Group("failed", of(TrialState.FAILED), "failed", 1.4, 6, "dot", "x")
    yield Group("unfinished", of(TrialState.RUNNING, TrialState.WAITING), "faint", 1.4, 5)
    yield Group("finished", of(TrialState.FINISHED), "finished", 1, 4)
    if facts.default is not None and facts.default.number != best:
        dash = "dot" if facts.default.state is TrialState.PRUNED else "solid"
        yield Group("default settings", (facts.default,), "default", 2.5, 7, dash, "square", "defaults")
    if facts.best is not None:
        name = "best: defaults" if facts.best.is_default else f"best: trial {best}"
        yield Group(name, (facts.best,), "best", 3, 8, end=name)


def _records_of_the_best(facts: SweepFacts) -> list[TrialRecord]:
    """Trials that could be best and were better in the objective than all before them."""
    best: list[TrialRecord] = []
    for record in facts.trials:
        if (
            is_eligible(record, facts.goals)
            and record.objective is not None
            and (not best or facts.objective.better(record.objective, best[-1].objective or 0.0))
        ):
            best.append(record)
    return best


def _add_base(drawing: Drawing, facts: SweepFacts) -> None:
    """A line at the objective of the untouched base model, as far as the chart reaches."""
    if facts.base is None or facts.base.objective is None or not math.isfinite(facts.base.objective):
        return
    drawing.add(
        x=[0, max(x for trace in drawing.traces for x in trace["x"] if x is not None)],
        y=[facts.base.objective] * 2,
        mode="lines",
        text=[f"base model: {number(facts.base.objective, facts.base.error)}"] * 2,
        hoverinfo="text",
        line={"color": LIGHT["base"], "width": 1.5, "dash": "dash"},
        showlegend=False,
    )
    drawing.name_end(facts.base.objective, "base model", "base")


def _name(record: TrialRecord) -> str:
    return f"<b>trial {record.number}</b> ({record.state.value})"


def _about(record: TrialRecord, facts: SweepFacts) -> str:
    """What is shown of a trial under the pointer; without its settings where there are very many trials."""
    told = record.params if len(facts.trials) <= _MOST_TOLD else {}
    settings = [f"{label(key)} {label(value(v))}" for key, v in told.items()]
    return "<br>".join([_name(record), number(record.objective, record.error), *settings])
