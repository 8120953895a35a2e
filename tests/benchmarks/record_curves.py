"""Record the learning curves of a finished sweep, for the replay engine and the benchmark of pruners.

    python -m sweeper +experiment=summarize sweep.name=recorded pruner=none sampler=quasi_random \\
        budget.trials=18 task.evaluation.marks_per_epoch=4 verdict=none
    python -m tests.benchmarks.record_curves recorded tests/data/curves.jsonl
"""

import json
import sys
from pathlib import Path

from sweeper.layout import Layout
from sweeper.loading import dotted, to_tree
from sweeper.messages import BASE, TrialState
from sweeper.study.study import Study


def main(name: str, target: str) -> None:
    """Write one line per finished trial; the base model is every curve's first point."""
    layout = Layout(Path("sweeps"), name)
    records = Study.read(layout.study_url, name, layout.folder).records()
    base = next(record for record in records if record.number == BASE)
    lines = []
    for record in records:
        if record.number == BASE or record.state is not TrialState.FINISHED:
            continue
        settings = dotted(to_tree(record.settings))
        curve = {
            "settings": {key: value for key, value in settings.items() if key in record.params},
            "examples": record.examples,
            "seconds": round(record.cost["train_seconds"] + record.cost["evaluation_seconds"], 2),
            "error": record.error,
            "reports": [[0, base.objective], *sorted(record.reports.items())],
        }
        lines.append(json.dumps(curve))
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} curves in {target}")


if __name__ == "__main__":
    main(*sys.argv[1:])
