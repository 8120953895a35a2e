"""A sweep as its report sees it, with everything that a report can tell, made without a database."""

import functools
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweeper.config import Config, ConstraintConfig, Goals, ObjectiveConfig
from sweeper.data.audit import Audit
from sweeper.data.findings import Example, Finding
from sweeper.data.manifest import Manifest, SplitInfo, StepCounts
from sweeper.events import TrialRecord
from sweeper.messages import BASE, Confusion, Sample, SliceScores, TrialState
from sweeper.provenance import Provenance
from sweeper.report.facts import Curve, SweepFacts
from sweeper.space import Space
from sweeper.stored import public
from sweeper.verdict import CandidateFacts, SideFacts, VerdictFacts
from tests.sweeps import configure

ALSO = ObjectiveConfig("seconds", "minimize")


@functools.cache
def _configured() -> tuple[Config, Space]:
    return configure(Path("sweeps"))


def told(text: str = "plain", trials: int = 12, **changes: Any) -> SweepFacts:
    """A finished sweep; `text` stands wherever a row or a configuration may have put anything."""
    config, space = _configured()
    rng = random.Random(0)
    records = tuple(_trial(number, text, rng, space, config) for number in range(trials))
    finished = [record for record in records if record.state is TrialState.FINISHED]
    best = max(finished, key=lambda record: record.objective or 0.0, default=None)
    base = replace(
        _scored(TrialRecord(BASE, TrialState.FINISHED, 1, {}, config.trial), 0.145, text),
        cost={"seconds": 12.0},
    )
    facts = SweepFacts(
        name="summarize",
        state="complete",
        written=1_800_000_000.0,
        config=public(config) | {"engine": {"name": "trainer"}},
        goals=Goals(config.task.objective, (ALSO,), (ConstraintConfig("loss", at_most=2.95),)),
        space=space.entries,
        base=base,
        trials=records,
        best=best,
        front=tuple(record.number for record in finished[:3]),
        seed=105,
        curves=tuple(Curve(r.number, (16, 32, 48), (3.0, 2.5, 2.2)) for r in records if r.reports),
        running_seconds=400.0,
        pins={"revision": "abc", "dtype": "float32", "rows": "d" * 32},
        digest="e" * 32,
        provenance=Provenance(
            f"python -m sweeper {text}", 1_800_000_000.0, "3.11.9", "Linux", {"torch": "2"}
        ),
        noted=True,
        rows=_rows(text),
        audit=_audit(text),
        has_audit_page=True,
        verdict=verdict(text),
    )
    return replace(facts, **changes)


def verdict(text: str = "plain", outcome: str = "gain") -> VerdictFacts:
    """A verdict over two finalists and three seeds."""
    candidates = tuple(
        CandidateFacts(
            name=f"trial {number}", scores=(0.24, 0.25, 0.23), seconds=30.0, trial=number, outcome=one,
            gain=gain, low=gain - 0.04, high=gain + 0.04, p=0.01, optimism=0.02,
        )
        for number, gain, one in ((5, 0.09, outcome), (7, 0.01, "tie"))
    )  # fmt: skip
    return VerdictFacts(
        sentence=f"Better by 0.09: {text}",
        outcome=outcome,
        level=0.95,
        rows=96,
        default=SideFacts(name="the default settings", scores=(0.14, 0.15, 0.13), seconds=20.0),
        candidates=candidates,
        seeds=(1, 2, 3),
    )


def _trial(number: int, text: str, rng: random.Random, space: Space, config: Config) -> TrialRecord:
    states = {3: TrialState.PRUNED, 4: TrialState.FAILED, 6: TrialState.PRUNED}
    state = states.get(number % 12, TrialState.FINISHED)
    params = dict(space.defaults) if number == 0 else {e.name: e.at(rng.random()) for e in space.entries}
    record = TrialRecord(
        number, state, 1 + (number == 2), params, space.settings(params), 96, seconds=20.0 + number,
        trained=48 if state is TrialState.PRUNED else 96, engine="trainer",
        cost={"train_seconds": 9.0, "evaluation_seconds": 11.0},
    )  # fmt: skip
    if state is TrialState.FAILED:
        return replace(record, reason=text, warnings=(text,))
    objective = 0.12 + 0.02 * math.log2(float(params["lora.rank"])) + 0.02 * rng.random()
    reports = {24: 0.15, 48: objective - 0.01} | ({96: objective} if state is TrialState.FINISHED else {})
    return replace(_scored(record, objective, text), reports=reports)


def _scored(record: TrialRecord, objective: float, text: str) -> TrialRecord:
    metrics = {"rougeL": objective, "loss": 3 - objective}
    errors = {"rougeL": 0.02}
    return replace(
        record,
        objective=objective,
        error=0.02,
        best_mark=96,
        metrics=metrics,
        errors=errors,
        slices=tuple(
            SliceScores(by, value, 20 + len(value), {"rougeL": objective - 0.01}, {"rougeL": 0.03})
            for by, value in (("slice", text), ("slice", "torch"), ("length", "0 to 48 tokens"))
        ),
        confusion=Confusion((text, "other"), ((7, 1), (2, 5))),
        samples=(Sample("row1", text, text, text), Sample("row2", "Summarize", "A cat", f"Trial {text}")),
    )


def _rows(text: str) -> Manifest:
    split = SplitInfo(96, "f" * 32, 120, 71, 8, 12, ())
    return Manifest(
        key="k", digest="a" * 32, source=text, content=None, tokenizer="t", architecture="causal",
        harvested=200, dropped={"empty": 3}, cleaned={"encoding": StepCounts(9, 0, 0)},
        splits={"train": split, "validation": split, "test": split}, labels=(), warnings=(text,),
    )  # fmt: skip


def _audit(text: str) -> Audit:
    finding = Finding(text, "warning", text, text, 3, 1200, (Example("r1", "train", text),))
    return Audit("k", "b" * 32, None, text, {"train": 1000}, (finding,), {}, (), 0)
