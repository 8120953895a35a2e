"""Everything that a report tells, read from the study database and the sweep's folder, and nothing else.

Reading changes nothing: the study is opened as `show` opens it and no lock is taken, so that a running sweep
goes on undisturbed. What is not there is None here, and said to be missing on the page.
"""

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sweeper import provenance
from sweeper.compose import read_config
from sweeper.config import Goals, ObjectiveConfig
from sweeper.data import manifest
from sweeper.data.audit import Audit, read_audit
from sweeper.data.manifest import Manifest
from sweeper.entry import Entry
from sweeper.events import TrialRecord
from sweeper.journal import measurements
from sweeper.layout import Layout
from sweeper.messages import BASE, TrialState
from sweeper.observations import Observation, observations
from sweeper.observations import read as read_seen
from sweeper.provenance import Provenance
from sweeper.stored import stored
from sweeper.study import objectives
from sweeper.verdict import SweepState, VerdictFacts, state

_MOST_POINTS = 20_000
"""Points of training curves on a page, over all trials."""


@dataclass(frozen=True)
class Curve:
    """Training loss of one trial, thinned out."""

    trial: int
    examples: tuple[int, ...]
    loss: tuple[float, ...]


@dataclass(frozen=True)
class SweepFacts:
    """A sweep as its report tells it; no value in it holds a secret."""

    name: str
    state: SweepState
    written: float
    """Unix time in seconds at which all this was read."""
    config: Mapping[str, Any]
    """The composed configuration as a plain tree, as it is stored."""
    goals: Goals
    space: tuple[Entry, ...]
    base: TrialRecord | None
    trials: tuple[TrialRecord, ...]
    """By number, the base model left out."""
    best: TrialRecord | None
    front: tuple[int, ...]
    """Numbers of the trials on the Pareto front; empty with one objective."""
    seed: int | None
    """Of the best trial: its order of rows and its first weights follow from it."""
    curves: tuple[Curve, ...]
    running_seconds: float
    pins: Mapping[str, Any]
    """What the study remembers of its inputs: `revision`, `dtype`, `rows`."""
    digest: str
    """Of everything that defines the sweep."""
    provenance: Provenance
    noted: bool
    """Whether `provenance` is of the sweep; else of the process that wrote the report."""
    rows: Manifest | None
    audit: Audit | None
    has_audit_page: bool
    verdict: VerdictFacts | None = None
    observations: tuple[Observation, ...] = ()
    """What the sweep sees in itself, the most important first."""
    faults: tuple[str, ...] = field(default=())
    """What could not be read, in sentences."""

    @property
    def objective(self) -> ObjectiveConfig:
        return self.goals.objective

    @property
    def metric(self) -> str:
        return self.objective.metric

    @property
    def budget(self) -> int:
        """Trials that the sweep is to have."""
        return int(self.setting("budget.trials") or 0)

    @property
    def default(self) -> TrialRecord | None:
        """Trial 0, the default settings; None in a retraining, whose trial 0 has the winner's."""
        return self.trials[0] if self.trials and self.trials[0].is_default else None

    @property
    def retrains(self) -> int | None:
        """In a retraining: the trial of the sweep whose settings are trained on all rows."""
        return self.trials[0].retrains if self.trials else None

    @cached_property
    def finished(self) -> tuple[TrialRecord, ...]:
        return self.of(TrialState.FINISHED)

    def setting(self, name: str) -> Any:
        """What the configuration has at a dotted name; None where a stored one hasn't got it."""
        node: Any = self.config
        for key in name.split("."):
            node = node.get(key) if isinstance(node, Mapping) else None
        return node

    def of(self, *states: TrialState) -> tuple[TrialRecord, ...]:
        """Trials in one of `states`."""
        return tuple(record for record in self.trials if record.state in states)

    @property
    def counts(self) -> Mapping[str, int]:
        """Trials by state, those that are over first."""
        order = ("finished", "pruned", "failed", "running", "waiting")
        found = {name: len(self.of(TrialState(name))) for name in order}
        return {name: count for name, count in found.items() if count}

    def ranked(self) -> list[TrialRecord]:
        """Trials with an objective, the best first, finished ones before others of the same value."""
        sign = -1 if self.objective.direction == "maximize" else 1
        known = [record for record in self.trials if record.objective is not None]
        return sorted(known, key=lambda r: (sign * (r.objective or 0.0), r.state is not TrialState.FINISHED))

    def value(self, record: TrialRecord, metric: str) -> float | None:
        """A metric or a cost of a trial; None if it was not measured, or is not finite."""
        found = record.objective if metric == self.metric else objectives.value(record, metric)
        return found if found is not None and math.isfinite(found) else None

    def violations(self, record: TrialRecord) -> list[str]:
        """In words, which constraints a trial misses and by how much."""
        return objectives.violations(record, self.goals)


def read_facts(
    layout: Layout, verdict: VerdictFacts | None = None, running: bool | None = None
) -> SweepFacts:
    """Read everything about a sweep; `running` None: asked of its lock.

    Raises StudyError if there is no such sweep, or its configuration or study can't be read.
    """
    config, study = stored(layout)
    records = study.records()
    trials = tuple(record for record in records if record.number != BASE)
    best = study.best()
    rows, rows_fault = _rows(layout)
    found = read_audit(layout.audit)
    noted = provenance.read(layout)
    faults = [rows_fault] if rows_fault else []
    if found is None and layout.audit.exists():
        faults.append(f"{layout.audit.name} can't be read; `python -m sweeper audit ...` writes it anew.")
    return SweepFacts(
        name=layout.name,
        state=state(study, read_config(config)[0], layout, verdict, running),
        written=time.time(),
        config=config,
        goals=study.goals,
        space=study.space.entries,
        base=next((record for record in records if record.number == BASE), None),
        trials=trials,
        best=best,
        front=tuple(record.number for record in objectives.front(trials, study.goals))
        if study.goals.also
        else (),
        seed=study.seed(best.number) if best is not None else None,
        curves=_curves(layout, trials),
        running_seconds=study.running_seconds,
        pins=study.fingerprint.get("pins", {}),
        digest=_digest(study.fingerprint),
        provenance=noted or provenance.here(),
        noted=noted is not None,
        rows=rows,
        audit=found,
        has_audit_page=layout.audit_page.exists(),
        verdict=verdict,
        observations=tuple(observations(read_seen(study, layout, _new_tokens(config)))),
        faults=tuple(faults),
    )


def _new_tokens(config: Mapping[str, Any]) -> int | None:
    return ((config.get("task") or {}).get("generation") or {}).get("max_new_tokens")


def _rows(layout: Layout) -> tuple[Manifest | None, str]:
    """What is known of the frozen rows, or why nothing is."""
    try:
        return manifest.read(layout.rows), ""
    except FileNotFoundError:
        return None, ""
    except (ValueError, OSError):  # ValueError: no JSON, no manifest, no UTF-8
        return None, f"{layout.rows.name}/ is damaged: nothing is known of the frozen rows."


def _digest(tree: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:32]


def _curves(layout: Layout, trials: Sequence[TrialRecord]) -> tuple[Curve, ...]:
    most = max(10, _MOST_POINTS // max(len(trials), 1))
    curves = []
    for record in trials:
        points: dict[int, float] = {}
        for point in measurements(layout.metrics(record.number)):
            if "train_loss" in point.metrics:
                points[point.examples] = point.metrics["train_loss"]
        if points:
            kept = sorted(points)[:: -(-len(points) // most)]
            curves.append(Curve(record.number, tuple(kept), tuple(points[x] for x in kept)))
    return tuple(curves)
