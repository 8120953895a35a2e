"""How a sweep looks in MLflow: a parent run, a child per trial, and everything written on them.

Every method may be repeated: runs are looked up before they are created, parameters are compared
before they are logged, and MLflow drops a metric point that it already has. So whatever was cut
short is simply done again.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

from sweeper.events import DataSetInfo, Measurement, SweepInfo, TrialRecord
from sweeper.failpoints import reach
from sweeper.layout import Layout
from sweeper.loading import dotted, to_tree
from sweeper.messages import BASE, TrialState
from sweeper.study.objectives import value as value_of
from sweeper.tracking.store import open_experiment, search_runs
from sweeper.tracking.words import (
    label,
    leaderboard,
    note,
    parent_tags,
    run_name,
    samples_table,
    sweep_state,
    trial_tags,
)

_METRICS_PER_CALL = 800
"""Of 1,000 entities in all, so that parameters and tags find room beside them."""
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


@dataclass
class _Run:
    """A trial's run, as far as it is known here."""

    run: Any
    """As MLflow gave it when it was found or created."""
    tags: dict[str, str]
    """Those that it has."""
    wanted: Mapping[str, str] = field(default_factory=dict)
    """Those that it gets with the trial's next measurements."""
    params: Mapping[str, str] = field(default_factory=dict)
    """The same of parameters."""
    begun: set[tuple[int, TrialState]] = field(default_factory=set)
    """Attempts and states that it was begun with."""

    @property
    def id(self) -> str:
        return str(self.run.info.run_id)


class SweepRuns:
    """The runs of one sweep, or those that its verdict adds to them.

    Everything here may block and may raise what MLflow raises.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        layout: Layout,
        sweep: SweepInfo,
        identity: str,
        known: Iterable[int] = (),
    ) -> None:
        """Nothing is contacted yet.

        `identity` is what the parent run is found again by, `known` the trials that may have runs already.
        """
        self._uri = uri
        self._experiment_name = experiment
        self._layout = layout
        self._sweep = sweep
        self._identity = identity
        self._known = {BASE, *known}
        self._client: Any = None
        self._experiment = ""
        self._parent = ""
        self._trials: dict[int, _Run] = {}
        """Those that were begun and are not over."""

    def connect(self) -> bool:
        """Import MLflow, set up its database if it is ours, find or create experiment and parent run.

        False if that was done before.
        """
        if self._parent:
            return False
        self._client, self._experiment = open_experiment(
            self._uri, self._experiment_name, self._layout.artifacts
        )
        found = next(self._search(f"tags.`sweeper.id` = '{self._identity}'"), None)
        parent = found or self._client.create_run(
            self._experiment,
            tags={"sweeper.id": self._identity, **_SOURCE},
            run_name=self._layout.sweep.name,
        )
        reach("tracking.parent")
        run_id = parent.info.run_id
        if "sweeper.verdict" in parent.data.tags:
            # There will be another one, or none.
            self._client.delete_tag(run_id, "sweeper.verdict")
        if not self._sweep.is_verdict:
            # No parameters: the run table would show a column for each, empty for every trial.
            self._write(run_id, parent_tags(self._sweep))
            self._log_inputs(run_id, self._sweep.data)
            self._client.log_dict(run_id, dict(self._sweep.config), "config.yaml")
            self._log_audit(run_id)
        self._client.update_run(run_id, status="RUNNING")
        reach("tracking.described")
        self._parent = run_id
        return True

    def forget(self) -> None:
        """Look everything up again at the next connect(): after an error, a run may exist unknown to us."""
        self._parent = ""
        self._trials.clear()

    def begin(self, trial: TrialRecord, time: float) -> None:
        """Find or create the trial's run, and show it as running or waiting.

        Its parameters, and the tags of a run that is there already, go with what is logged next: MLflow takes
        as long for either alone. `time` (Unix seconds) is when the trial started, for a run that has to be
        created.
        """
        step = (trial.attempt, trial.state)
        ours = self._trials.get(trial.number)
        if ours is not None and step in ours.begun:
            return
        wanted = trial_tags(trial, self._sweep)
        run = ours.run if ours is not None else self._find(trial.number)
        is_new = run is None
        if run is None:
            self._known.add(trial.number)  # from here on it may be there, whatever becomes of the call
            tags = {
                "mlflow.parentRunId": self._parent,
                "sweeper.trial": self._named(trial.number),
                "sweeper.number": str(trial.number),
                **_SOURCE,
                **wanted,
            }
            run = self._client.create_run(
                self._experiment,
                start_time=round(time * 1000),
                tags=tags,
                run_name=run_name(trial, self._sweep.is_verdict),
            )
            reach("tracking.created")
        if ours is None:
            ours = self._trials[trial.number] = _Run(run, dict(run.data.tags))
        seen = ("train", "validation", "test") if self._sweep.is_verdict else ("train", "validation")
        data = [info for info in self._sweep.data if info.split in seen]
        params = {} if trial.number == BASE else dotted(to_tree(trial.settings))
        ours.wanted = wanted
        # A parameter can't be changed once it is logged.
        ours.params = {key: str(value) for key, value in params.items() if key not in run.data.params}
        self._log_inputs(run.info.run_id, data)
        if not trial.state.is_over and not (is_new and trial.state is TrialState.RUNNING):
            self._client.update_run(run.info.run_id, status=_STATUS[trial.state])
        reach("tracking.begun")
        ours.begun.add(step)

    def log(self, number: int, points: Sequence[Measurement]) -> None:
        """Send the trial's measurements, and what begin() left; numbers that are not finite leave a gap."""
        from mlflow.entities import Metric

        metrics = [
            Metric(key, float(value), round(point.time * 1000), point.examples)
            for point in points
            for key, value in point.metrics.items()
            if math.isfinite(value)
        ]
        ours = self._trials[number]
        changed = {key: value for key, value in ours.wanted.items() if ours.tags.get(key) != value}
        self._write(ours.id, changed, ours.params, metrics)
        ours.tags |= changed
        ours.params = {}
        reach("tracking.logged")

    def end(
        self, trial: TrialRecord, points: Sequence[Measurement], last: Measurement | None, time: float
    ) -> None:
        """Write what is known only when a trial is over, and its final state.

        `points` are its measurements that were not sent yet. `last` is the trial's last measurement: its time
        is that of the final numbers, so that sending them again adds nothing. `time` (Unix seconds) is when
        the trial ended.
        """
        ours = self._trials[trial.number]
        started = ours.run.info.start_time / 1000
        moment = last.time if last else started
        final = {
            **trial.cost,
            "seconds": round(value_of(trial, "seconds") or 0.0, 3),
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
        self.log(trial.number, [*points, Measurement(trial.number, trial.attempt, moment, 0, final)])
        reach("tracking.scored")
        if trial.slices:
            self._client.log_dict(ours.id, {"slices": [asdict(one) for one in trial.slices]}, "slices.json")
        name = run_name(trial, self._sweep.is_verdict)
        if name != ours.run.info.run_name:
            self._client.update_run(ours.id, name=name)
        self._client.set_terminated(ours.id, _STATUS[trial.state], round(max(time, started) * 1000))
        reach("tracking.ended")
        del self._trials[trial.number]

    def close(self, trials: Sequence[TrialRecord], best: TrialRecord | None, reason: str) -> None:
        """Write the result of the sweep on the parent run: tables, samples, the best adapter, the state.

        Of a verdict it is the sentence, which is the `reason` for its end, unless it was interrupted. An
        empty `reason` leaves the one that is there.
        """
        client, parent = self._client, self._parent
        if self._sweep.is_verdict:
            wanted = [trial for trial in trials if trial.repeat or trial.number == BASE]
            state, status = sweep_state(wanted, best)
            reached = {"sweeper.verdict": reason} if all(trial.state.is_over for trial in wanted) else {}
            self._write(parent, {"sweeper.state": state, **reached})
            reach("tracking.summed_up")
            client.set_terminated(parent, status)
            reach("tracking.terminated")
            return
        state, status = sweep_state(trials, best)
        goals, varied = self._sweep.goals, self._sweep.varied
        scores = [name for name in goals.further if name != "seconds"]  # a column of its own
        client.log_text(parent, leaderboard(trials, goals, scores, varied), "leaderboard.csv")
        tags = {
            "sweeper.state": state,
            **({"sweeper.reason": reason} if reason else {}),
            "mlflow.note.content": note(self._sweep, trials, best),
        }
        if best is not None:
            tags["sweeper.best"] = f"{self._sweep.name}/{label(best.number)}"
            if best.samples:
                client.log_dict(parent, samples_table(best.samples), "samples.json")
                # What makes the UI offer the file in its table view.
                tags["mlflow.loggedArtifacts"] = json.dumps([{"path": "samples.json", "type": "table"}])
            # A fully fine-tuned model has gigabytes: it stays where it is.
            if best.adapter is not None and best.adapter.is_dir() and best.settings.method == "lora":
                client.log_artifacts(parent, str(best.adapter), "best_adapter")
        self._write(parent, tags)
        reach("tracking.summed_up")
        client.set_terminated(parent, status)
        reach("tracking.terminated")

    def _find(self, number: int) -> Any:
        """The run that a trial has already, or None; nobody is asked where there can be none.

        All runs at once take MLflow minutes in a sweep of thousands.
        """
        if number not in self._known:
            return None
        named = f"tags.`sweeper.trial` = '{self._named(number)}'"
        return next(self._search(f"tags.`mlflow.parentRunId` = '{self._parent}' and {named}"), None)

    def _search(self, condition: str) -> Iterator[Any]:
        return search_runs(self._client, self._experiment, condition)

    def _write(
        self,
        run_id: str,
        tags: Mapping[str, str],
        params: Mapping[str, str] = MappingProxyType({}),
        metrics: Sequence[Any] = (),
    ) -> None:
        """Log it all, in as few calls as MLflow allows."""
        from mlflow.entities import Param, RunTag

        entities = [RunTag(key, value) for key, value in tags.items()]
        new = [Param(key, value) for key, value in params.items()]
        calls = max(math.ceil(len(metrics) / _METRICS_PER_CALL), math.ceil(len(tags) / _TAGS_PER_CALL), 1)
        for call in range(calls):
            self._client.log_batch(
                run_id,
                metrics=metrics[call * _METRICS_PER_CALL : (call + 1) * _METRICS_PER_CALL],
                params=[] if call else new,
                tags=entities[call * _TAGS_PER_CALL : (call + 1) * _TAGS_PER_CALL],
            )

    def _log_inputs(self, run_id: str, data: Sequence[DataSetInfo]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

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
        if inputs:
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

    def _named(self, number: int) -> str:
        """What the run of a trial is found again by: NAME/7, and NAME/verdict/7 in a verdict."""
        return f"{self._sweep.name}/{label(number)}"


_SOURCE = {"mlflow.source.name": "sweeper", "mlflow.source.type": "LOCAL"}
