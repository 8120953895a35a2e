"""How a sweep looks in MLflow: a parent run, a child per trial, and everything written on them.

Every method may be repeated: runs are looked up before they are created, parameters are compared
before they are logged, and MLflow drops a metric point that it already has. So whatever was cut
short is simply done again.
"""

import csv
import io
import json
import math
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from filelock import FileLock

import sweeper
from sweeper.database import sqlite_path
from sweeper.events import DataSetInfo, Measurement, SweepInfo, TrialRecord
from sweeper.layout import Layout
from sweeper.loading import to_tree
from sweeper.messages import BASE, Sample, TrialState
from sweeper.objectives import value as value_of
from sweeper.objectives import violations

_METRICS_PER_CALL = 1000
_TAGS_PER_CALL = 100
_DIGEST_LENGTH = 36
"""Limits of MLflow's API."""

_STATUS = {
    # The UI draws KILLED and FAILED alike, as a red cross: a pruned trial is a good decision and gets
    # the green tick, with its state in the name and in a tag.
    TrialState.FINISHED: "FINISHED",
    TrialState.PRUNED: "FINISHED",
    TrialState.FAILED: "FAILED",
    TrialState.RUNNING: "RUNNING",
    TrialState.WAITING: "SCHEDULED",
}


class SweepRuns:
    """The runs of one sweep, or those that its verdict adds to them.

    Everything here may block and may raise what MLflow raises.
    """

    def __init__(self, uri: str, experiment: str, layout: Layout, sweep: SweepInfo, identity: str) -> None:
        """Nothing is contacted yet. `identity` is what the parent run is found again by."""
        self._uri = uri
        self._experiment_name = experiment
        self._layout = layout
        self._sweep = sweep
        self._identity = identity
        self._client: Any = None
        self._experiment = ""
        self._parent = ""
        self._trials: dict[int, Any] = {}
        """MLflow's run of every trial that has one."""
        self._begun: set[tuple[int, int, TrialState]] = set()

    def connect(self) -> None:
        """Import MLflow, set up its database if it is ours, find or create experiment and parent run."""
        if self._parent:
            return
        self._client, self._experiment = open_experiment(
            self._uri, self._experiment_name, self._layout.artifacts
        )
        found = next(self._search(f"tags.`sweeper.id` = '{self._identity}'"), None)
        parent = found or self._client.create_run(
            self._experiment,
            tags={"sweeper.id": self._identity, **_SOURCE},
            run_name=self._layout.sweep.name,
        )
        run_id = parent.info.run_id
        for run in self._search(f"tags.`mlflow.parentRunId` = '{run_id}'"):
            number = int(run.data.tags["sweeper.number"])
            if run.data.tags["sweeper.trial"] == self._named(number):
                self._trials.setdefault(number, run)
        if "sweeper.verdict" in parent.data.tags:
            # There will be another one, or none.
            self._client.delete_tag(run_id, "sweeper.verdict")
        if not self._sweep.is_verdict:
            # No parameters: the run table would show a column for each, empty for every trial.
            self._describe(parent, {}, _parent_tags(self._sweep), self._sweep.data)
            self._client.log_dict(run_id, dict(self._sweep.config), "config.yaml")
            self._log_audit(run_id)
        self._client.update_run(run_id, status="RUNNING")
        self._parent = run_id

    def forget(self) -> None:
        """Look everything up again at the next connect(): after an error, a run may exist unknown to us."""
        self._parent = ""
        self._trials.clear()
        self._begun.clear()

    def begin(self, trial: TrialRecord, time: float) -> None:
        """Find or create the trial's run, with its parameters, and show it as running or waiting.

        `time` (Unix seconds) is when the trial started, for a run that has to be created.
        """
        step = (trial.number, trial.attempt, trial.state)
        if step in self._begun:
            return
        run = self._trials.get(trial.number)
        if run is None:
            tags = {
                "mlflow.parentRunId": self._parent,
                "sweeper.trial": self._named(trial.number),
                "sweeper.number": str(trial.number),
                **_SOURCE,
            }
            run = self._client.create_run(
                self._experiment,
                start_time=round(time * 1000),
                tags=tags,
                run_name=_run_name(trial, self._sweep.is_verdict),
            )
            self._trials[trial.number] = run
        seen = ("train", "validation", "test") if self._sweep.is_verdict else ("train", "validation")
        data = [info for info in self._sweep.data if info.split in seen]
        params = {} if trial.number == BASE else _flat(to_tree(trial.settings))
        self._describe(run, params, _trial_tags(trial, self._sweep), data)
        if not trial.state.is_over:
            self._client.update_run(run.info.run_id, status=_STATUS[trial.state])
        self._begun.add(step)

    def log(self, number: int, points: Sequence[Measurement]) -> None:
        """Send the trial's measurements; numbers that are not finite leave a gap in the curve."""
        from mlflow.entities import Metric

        metrics = [
            Metric(key, float(value), round(point.time * 1000), point.examples)
            for point in points
            for key, value in point.metrics.items()
            if math.isfinite(value)
        ]
        for start in range(0, len(metrics), _METRICS_PER_CALL):
            self._client.log_batch(self._run_id(number), metrics=metrics[start : start + _METRICS_PER_CALL])

    def end(self, trial: TrialRecord, last: Measurement | None, time: float) -> None:
        """Write what is known only when a trial is over, and its final state.

        `last` is the trial's last measurement: its time is that of the final numbers, so that sending
        them again adds nothing. `time` (Unix seconds) is when the trial ended.
        """
        moment = last.time if last else self._trials[trial.number].info.start_time / 1000
        final = {
            **trial.cost,
            "seconds": round(trial.seconds, 3),
            "examples_seen": last.examples if last else 0,
            "examples_trained": trial.trained,
        }
        if trial.objective is not None:
            final["best_objective"] = trial.objective
            further = [name for name in self._sweep.goals.further if name in trial.metrics]
            final |= {f"best_{name}": trial.metrics[name] for name in further}
            if self._sweep.constraints and trial.number != BASE:
                final["constraint_violation"] = sum(self._sweep.goals.missed(trial.metrics).values())
        if trial.test is not None:
            final |= {f"test_{name}": value for name, value in trial.test.metrics.items()}
            final |= {"test_objective": trial.test.objective, "test_objective_error": trial.test.error}
        # The UI draws what is at step 0 alone as bars, a bar for each trial.
        self.log(trial.number, [Measurement(trial.number, trial.attempt, moment, 0, final)])
        run_id = self._run_id(trial.number)
        if trial.slices:
            self._client.log_dict(run_id, {"slices": [asdict(one) for one in trial.slices]}, "slices.json")
        self._client.update_run(run_id, name=_run_name(trial, self._sweep.is_verdict))
        self._client.set_terminated(run_id, _STATUS[trial.state], round(time * 1000))

    def close(self, trials: Sequence[TrialRecord], best: TrialRecord | None, reason: str) -> None:
        """Write the result of the sweep on the parent run: tables, samples, the best adapter, the state.

        Of a verdict it is the sentence, which is the `reason` for its end.
        """
        client, parent = self._client, self._parent
        state, status = _sweep_state(trials, best)
        if self._sweep.is_verdict:
            self._tag(parent, {"sweeper.state": state, "sweeper.verdict": reason})
            client.set_terminated(parent, status)
            return
        client.log_text(parent, _leaderboard(trials, self._sweep), "leaderboard.csv")
        tags = {
            "sweeper.state": state,
            "sweeper.reason": reason,
            "mlflow.note.content": _note(self._sweep, trials, best),
        }
        if best is not None:
            tags["sweeper.best"] = f"{self._sweep.name}/{_label(best.number)}"
            if best.samples:
                client.log_dict(parent, _table(best.samples), "samples.json")
                # What makes the UI offer the file in its table view.
                tags["mlflow.loggedArtifacts"] = json.dumps([{"path": "samples.json", "type": "table"}])
            # A fully fine-tuned model has gigabytes: it stays where it is.
            if best.adapter is not None and best.adapter.is_dir() and best.settings.method == "lora":
                client.log_artifacts(parent, str(best.adapter), "best_adapter")
        self._tag(parent, tags)
        client.set_terminated(parent, status)

    def _search(self, condition: str) -> Iterator[Any]:
        return _search(self._client, self._experiment, condition)

    def _describe(
        self, run: Any, params: Mapping[str, str], tags: Mapping[str, str], data: Sequence[DataSetInfo]
    ) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        run_id = run.info.run_id
        # A parameter can't be changed once it is logged.
        missing = [Param(key, value) for key, value in params.items() if key not in run.data.params]
        self._client.log_batch(run_id, params=missing)
        self._tag(run_id, tags)
        inputs = [
            DatasetInput(
                Dataset(
                    name=f"{self._layout.sweep.name} {info.split}",
                    digest=info.digest[:_DIGEST_LENGTH],
                    source_type="local",
                    source=json.dumps({"source": info.source}),
                    profile=json.dumps({"num_rows": info.rows}),
                ),
                [InputTag("mlflow.data.context", info.split)],
            )
            for info in data
        ]
        self._client.log_inputs(run_id, datasets=inputs)

    def _log_audit(self, run_id: str) -> None:
        """What was found in the rows: its numbers as metrics `audit/...`, and its page."""
        from mlflow.entities import Metric

        audit = self._sweep.audit
        if audit is None:
            return
        moment = round(audit.time * 1000)
        metrics = [
            Metric(f"audit/{re.sub(r'[^A-Za-z0-9_. -]', '_', name)}", float(value), moment, 0)
            for name, value in audit.numbers.items()
        ]
        self._client.log_batch(run_id, metrics=metrics[:_METRICS_PER_CALL])
        if audit.page.is_file():
            self._client.log_artifact(run_id, str(audit.page))

    def _tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        entities = [RunTag(key, value) for key, value in tags.items()]
        for start in range(0, len(entities), _TAGS_PER_CALL):
            self._client.log_batch(run_id, tags=entities[start : start + _TAGS_PER_CALL])

    def _named(self, number: int) -> str:
        """What the run of a trial is found again by: NAME/7, and NAME/verdict/7 in a verdict."""
        return f"{self._sweep.name}/{_label(number)}"

    def _run_id(self, number: int) -> str:
        return str(self._trials[number].info.run_id)


_SOURCE = {"mlflow.source.name": "sweeper", "mlflow.source.type": "LOCAL"}


def open_experiment(uri: str, name: str, artifacts: Path) -> tuple[Any, str]:
    """A client of MLflow, and the id of the experiment `name`; a database of ours is set up if need be."""
    if uri.startswith("sqlite:"):
        _set_up_database(uri, artifacts)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    found = client.get_experiment_by_name(name)
    if found is None:
        # A server knows best where its artifacts go; a database doesn't.
        served = uri.startswith(("http:", "https:"))
        location = None if served else artifacts.resolve().as_uri()
        # The kind spares the user MLflow's question whether this is about prompts or about training.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return client, str(client.create_experiment(name, location, tags=kind))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return client, str(found.experiment_id)


def attach_page(uri: str, experiment: str, identity: str, page: Path) -> None:
    """Put an HTML page on the parent run found by `identity`: an artifact, linked from its description."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return
    for parent in _search(client, found.experiment_id, f"tags.`sweeper.id` = '{identity}'"):
        run_id, note = parent.info.run_id, parent.data.tags.get("mlflow.note.content", "")
        client.log_artifact(run_id, str(page))
        client.set_tag(run_id, f"sweeper.{page.stem}", str(page.resolve()))
        link = f"[{page.name}](#/experiments/{found.experiment_id}/runs/{run_id}/artifacts/{page.name})"
        if link not in note:
            client.set_tag(run_id, "mlflow.note.content", f"{note}\n\n{link}".strip())


def delete_runs(uri: str, experiment: str, identity: str) -> None:
    """Delete the parent run found by `identity` and its trials; `mlflow gc` then frees the space."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return
    for parent in _search(client, found.experiment_id, f"tags.`sweeper.id` = '{identity}'"):
        condition = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
        # Children first: cut short, they are still found through their parent.
        for run in [*_search(client, found.experiment_id, condition), parent]:
            client.delete_run(run.info.run_id)


def _search(client: Any, experiment: str, condition: str) -> Iterator[Any]:
    """Every run that fulfils `condition`, the oldest first."""
    token = None
    while True:
        page = client.search_runs(
            [experiment],
            condition,
            max_results=1000,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def _set_up_database(uri: str, artifacts: Path) -> None:
    """Create MLflow's SQLite database whole or not at all, however many processes try at once.

    MLflow's own set-up leaves a database that can't be used when it is killed or done twice at once.
    """
    path = sqlite_path(uri)
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists():
            return
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        unfinished = path.with_name(f".{path.name}.unfinished")
        unfinished.unlink(missing_ok=True)
        SqlAlchemyStore(f"sqlite:///{unfinished}", artifacts.resolve().as_uri()).engine.dispose()
        with closing(sqlite3.connect(unfinished)) as connection:
            # The UI reads while the sweep writes; persistent in the file.
            connection.execute("PRAGMA journal_mode=WAL")
        os.replace(unfinished, path)


def _label(number: int) -> str:
    return "base" if number == BASE else str(number)


def _run_name(trial: TrialRecord, is_verdict: bool = False) -> str:
    if trial.number == BASE:
        return "base model on test rows" if is_verdict else "base model"
    if is_verdict:
        side = f"trial {trial.retrains}" if trial.retrains else "defaults"
        remark = f"{side}, seed {trial.repeat}" if trial.repeat else "withdrawn"
        return f"verdict {trial.number} ({remark})"
    remarks = ["defaults"] if trial.number == 0 else []
    if trial.state is TrialState.PRUNED:
        remarks.append("pruned")
    return f"trial {trial.number}" + (f" ({', '.join(remarks)})" if remarks else "")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def _parent_tags(sweep: SweepInfo) -> dict[str, str]:
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
        "mlflow.note.content": _note(sweep, (), None),
    }


def _goal_tags(sweep: SweepInfo) -> dict[str, str]:
    """Tags of several objectives and of constraints, for sweeps that have them."""
    tags = {
        "sweeper.also": ", ".join(f"{one.direction} {one.metric}" for one in sweep.also),
        "sweeper.constraints": ", ".join(map(str, sweep.constraints)),
    }
    return {key: text for key, text in tags.items() if text}


def _trial_tags(trial: TrialRecord, sweep: SweepInfo) -> dict[str, str]:
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
        "sweeper.retrains": f"{sweep.name.partition('/')[0]}/{trial.retrains}" if trial.repeat else "",
        "sweeper.repeat": str(trial.repeat or ""),
        "sweeper.violates": "\n".join(violations(trial, sweep.goals)) if trial.state.is_over else "",
        "mlflow.note.content": "\n\n".join([reason, *warnings]).strip(),
    }
    return {key: value for key, value in tags.items() if value}


def _sweep_state(trials: Sequence[TrialRecord], best: TrialRecord | None) -> tuple[str, str]:
    if any(not trial.state.is_over for trial in trials):
        return "interrupted", "KILLED"
    if best is None and any(trial.state is TrialState.FAILED for trial in trials):
        return "failed", "FAILED"
    return "finished", "FINISHED"


def _note(sweep: SweepInfo, trials: Sequence[TrialRecord], best: TrialRecord | None) -> str:
    """What the UI shows as the parent's description, in Markdown."""
    data = ", ".join(f"{info.rows} {info.split}" for info in sweep.data)
    lines = [
        f"**{sweep.model}**, {sweep.objective.metric} ({sweep.objective.direction}), rows: {data}",
        f"Varied: {', '.join(sweep.varied) or 'nothing'}",
        *(f"{key.removeprefix('sweeper.').capitalize()}: {text}" for key, text in _goal_tags(sweep).items()),
    ]
    by_number = {trial.number: trial for trial in trials}
    named = [("Best", best), ("Defaults", by_number.get(0)), ("Base model", by_number.get(BASE))]
    lines += [
        f"{name}: **{trial.objective:.4g}**{_margin(trial)} ({_run_name(trial)})"
        for name, trial in named
        if trial is not None and trial.objective is not None
    ]
    return "\n\n".join(lines)


def _margin(trial: TrialRecord) -> str:
    return f" ± {trial.error:.2g}" if trial.error is not None and math.isfinite(trial.error) else ""


def _leaderboard(trials: Sequence[TrialRecord], sweep: SweepInfo) -> str:
    """The trials as CSV, the best first and those without an objective last."""
    sign = -1 if sweep.objective.direction == "maximize" else 1
    ranked = sorted(trials, key=lambda t: math.inf if t.objective is None else sign * t.objective)
    table = io.StringIO()
    writer = csv.writer(table)
    further = [name for name in sweep.goals.further if name != "seconds"]
    violates = ["violates"] if sweep.constraints else []
    columns = ["trial", "state", "objective", "error", *further, *violates, "examples", "seconds"]
    writer.writerow([*columns, *sweep.varied])
    for trial in ranked:
        settings = {} if trial.number == BASE else _flat(to_tree(trial.settings))
        writer.writerow(
            [
                _label(trial.number),
                trial.state.value,
                trial.objective,
                trial.error,
                *(value_of(trial, name) for name in further),
                *("; ".join(violations(trial, sweep.goals)) for _ in violates),
                trial.trained,
                round(trial.seconds, 1),
                *(settings.get(name, "") for name in sweep.varied),
            ]
        )
    return table.getvalue()


def _table(samples: Sequence[Sample]) -> dict[str, Any]:
    """Samples in the form that MLflow shows as a table (pandas' `split`)."""
    return {
        "columns": [field.name for field in fields(Sample)],
        "data": [list(asdict(sample).values()) for sample in samples],
    }
