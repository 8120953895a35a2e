"""How the end of a trial stands in the study database: as a plain tree, and read back from it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sweeper.events import TrialRecord
from sweeper.messages import Confusion, Evaluation, HeldOutScores, Outcome, Sample, SliceScores


def outcome_tree(outcome: Outcome, folder: Path) -> dict[str, Any]:
    """An outcome as plain values; paths relative to the sweep's folder, so that it can be moved."""
    tree = asdict(outcome)
    tree["ending"] = outcome.ending.value
    tree["adapter"] = str(outcome.adapter.relative_to(folder)) if outcome.adapter else None
    return tree


def with_outcome(record: TrialRecord, tree: Mapping[str, Any] | None, folder: Path) -> TrialRecord:
    """`record` with what `tree` tells; as it is if there is none."""
    if not tree:
        return record
    record = replace(
        record,
        engine=tree["engine"],
        reason=tree["reason"],
        cost=tree["cost"],
        warnings=tuple(tree["warnings"]),
        adapter=folder / tree["adapter"] if tree["adapter"] else None,
        samples=_read_samples(tree),
        test=_read_test(tree.get("test")),
        diverged=tree.get("diverged", False),
    )
    if tree["best"] is None:
        return record
    best = Evaluation(**tree["best"] | _read_parts(tree["best"]))
    return replace(
        record,
        objective=best.objective,
        error=None if math.isnan(best.error) else best.error,
        best_mark=best.mark,
        metrics=best.metrics,
        slices=best.slices,
        errors=best.errors,
        confusion=best.confusion,
        rows=best.rows,
    )


def _read_test(tree: Mapping[str, Any] | None) -> HeldOutScores | None:
    if tree is None:
        return None
    return HeldOutScores(**dict(tree) | _read_parts(tree) | {"samples": _read_samples(tree)})


def _read_samples(tree: Mapping[str, Any]) -> tuple[Sample, ...]:
    return tuple(Sample(**sample) for sample in tree["samples"])


def _read_parts(tree: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of parts of the rows, as it was before it was stored."""
    confusion = tree.get("confusion")
    if confusion is not None:
        counts = tuple(tuple(row) for row in confusion["counts"])
        confusion = Confusion(tuple(confusion["labels"]), counts)
    return {
        "slices": tuple(SliceScores(**one) for one in tree.get("slices", ())),
        "confusion": confusion,
        "rows": tuple(tree.get("rows", ())),
    }
