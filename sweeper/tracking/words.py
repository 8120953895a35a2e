"""What runs are called, tagged and described as in MLflow."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import sweeper
from sweeper.config import Goals
from sweeper.events import SweepInfo, TrialRecord
from sweeper.loading import dotted, to_tree
from sweeper.messages import BASE, Sample, TrialState
from sweeper.study.objectives import value as value_of
from sweeper.study.objectives import violations


def label(number: int) -> str:
    """A trial's number, or `base`."""
    return "base" if number == BASE else str(number)


def run_name(trial: TrialRecord, is_verdict: bool = False) -> str:
    """The run's name in the UI's lists."""
    if trial.number == BASE:
        return "base model on test rows" if is_verdict else "base model"
    if is_verdict:
        side = f"trial {trial.retrains}" if trial.retrains else "defaults"
        remark = f"{side}, seed {trial.repeat}" if trial.repeat else "withdrawn"
        return f"verdict {trial.number} ({remark})"
    remarks = ["defaults"] if trial.is_default else []
    if trial.retrains is not None:
        remarks.append(f"the settings of trial {trial.retrains}")
    if trial.state is TrialState.PRUNED:
        remarks.append("pruned")
    return f"trial {trial.number}" + (f" ({', '.join(remarks)})" if remarks else "")


def parent_tags(sweep: SweepInfo) -> dict[str, str]:
    """Tags of the sweep's own run."""
    return {
        "sweeper.sweep": sweep.name,
        "sweeper.study": sweep.study,
        "sweeper.state": "running",
        "sweeper.version": sweeper.__version__,
        "sweeper.model": sweep.model,
        "sweeper.objective": sweep.objective.metric,
        "sweeper.direction": sweep.objective.direction,
        **_goal_tags(sweep),
        "sweeper.budget": str(sweep.budget),
        "sweeper.varied": ", ".join(sweep.varied),
        "mlflow.note.content": note(sweep, (), None),
    }


def _goal_tags(sweep: SweepInfo) -> dict[str, str]:
    """Tags of several objectives and of constraints, for sweeps that have them."""
    tags = {
        "sweeper.also": ", ".join(f"{one.direction} {one.metric}" for one in sweep.also),
        "sweeper.constraints": ", ".join(map(str, sweep.constraints)),
    }
    return {key: text for key, text in tags.items() if text}


def trial_tags(trial: TrialRecord, sweep: SweepInfo) -> dict[str, str]:
    """Tags of a trial's run; empty ones are left out."""
    # Only what is final: a tag that was written once would outlive its cause.
    reason, warnings = (trial.reason, trial.warnings) if trial.state.is_over else ("", ())
    tags = {
        "sweeper.state": trial.state.value,
        "sweeper.attempt": str(trial.attempt),
        "sweeper.study": sweep.study,
        "sweeper.engine": trial.engine,
        "sweeper.origin": trial.origin,
        "sweeper.reason": reason,
        "sweeper.warnings": "\n".join(warnings),
        "sweeper.retrains": ""
        if trial.retrains is None
        else f"{sweep.name.partition('/')[0]}/{trial.retrains}",
        "sweeper.repeat": str(trial.repeat or ""),
        "sweeper.violates": "\n".join(violations(trial, sweep.goals)) if trial.state.is_over else "",
        "mlflow.note.content": "\n\n".join([reason, *warnings]).strip(),
    }
    return {key: value for key, value in tags.items() if value}


def sweep_state(trials: Sequence[TrialRecord], best: TrialRecord | None) -> tuple[str, str]:
    if any(not trial.state.is_over for trial in trials):
        return "interrupted", "KILLED"
    if best is None and any(trial.state is TrialState.FAILED for trial in trials):
        return "failed", "FAILED"
    return "finished", "FINISHED"


def note(sweep: SweepInfo, trials: Sequence[TrialRecord], best: TrialRecord | None) -> str:
    """What the UI shows as the parent's description, in Markdown."""
    data = ", ".join(f"{info.rows} {info.split}" for info in sweep.data)
    lines = [
        f"**{sweep.model}**, {sweep.objective.metric} ({sweep.objective.direction}), rows: {data}",
        f"Varied: {', '.join(sweep.varied) or 'nothing'}",
        *(f"{key.removeprefix('sweeper.').capitalize()}: {text}" for key, text in _goal_tags(sweep).items()),
    ]
    default = next((trial for trial in trials if trial.is_default), None)
    base = next((trial for trial in trials if trial.number == BASE), None)
    named = [("Best", best), ("Defaults", default), ("Base model", base)]
    lines += [
        f"{name}: **{trial.objective:.4g}**{_margin(trial)} ({run_name(trial)})"
        for name, trial in named
        if trial is not None and trial.objective is not None
    ]
    return "\n\n".join(lines)


def _margin(trial: TrialRecord) -> str:
    return f" ± {trial.error:.2g}" if trial.error is not None and math.isfinite(trial.error) else ""


def leaderboard(
    trials: Sequence[TrialRecord], goals: Goals, scores: Sequence[str], settings: Sequence[str]
) -> str:
    """The trials as CSV, the best first and those without an objective last.

    `scores` are the metrics and costs shown beside the objective, `settings` the dotted names of settings.
    """
    sign = -1 if goals.objective.direction == "maximize" else 1
    ranked = sorted(trials, key=lambda t: math.inf if t.objective is None else sign * t.objective)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    violates = ["violates"] if goals.constraints else []
    columns = ["trial", "state", "objective", "error", *scores, *violates, "examples", "seconds"]
    writer.writerow([*columns, *settings])
    for trial in ranked:
        known = {} if trial.number == BASE else dotted(to_tree(trial.settings))
        writer.writerow(
            [
                label(trial.number),
                trial.state.value,
                trial.objective,
                trial.error,
                *(value_of(trial, name) for name in scores),
                *("; ".join(violations(trial, goals)) for _ in violates),
                trial.trained,
                round(value_of(trial, "seconds") or 0.0, 1),
                *(known.get(name, "") for name in settings),
            ]
        )
    return table.getvalue()


def samples_table(samples: Sequence[Sample]) -> dict[str, Any]:
    """Samples in the form that MLflow shows as a table (pandas' `split`)."""
    return {
        "columns": [field.name for field in fields(Sample)],
        "data": [list(asdict(sample).values()) for sample in samples],
    }
