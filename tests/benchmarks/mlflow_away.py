"""What a sweep costs whose MLflow server is away all the time, against one without MLflow.

    python -m tests.benchmarks.mlflow_away --repeats 3 budget.trials=4
    python -m tests.benchmarks.mlflow_away --repeats 1 engine=replay      # does it run at all?

Whole processes, each in a folder of its own, in an order that turns round with every repeat. What is given
besides goes on to every sweep.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from tests.benchmarks.scale import Cost

NONE, AWAY, THERE = "without MLflow", "its server is away", "MLflow in a file"


def sweep(overrides: Sequence[str]) -> Cost:
    """Of one sweep in a process of its own; raises CalledProcessError if it fails."""
    command = [sys.executable, "-m", "sweeper", "+experiment=summarize", "verdict=none", *overrides]
    before, began = os.times(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(command, cwd=Path(folder), check=True, stdout=subprocess.DEVNULL)
    spent, wall = os.times(), time.perf_counter() - began
    return Cost(
        wall, spent.children_user + spent.children_system - before.children_user - before.children_system
    )


def main(words: Sequence[str]) -> None:
    """Run them in turn and print medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args(words)
    with socket.socket() as unused:  # bound and not listened at: a connection is refused
        unused.bind(("127.0.0.1", 0))
        kinds: Mapping[str, Sequence[str]] = {
            NONE: ["tracking=none"],
            AWAY: [f"tracking.uri=http://127.0.0.1:{unused.getsockname()[1]}"],
            THERE: [],
        }
        costs: dict[str, list[Cost]] = {kind: [] for kind in kinds}
        for repeat in range(given.repeats):
            for kind in list(kinds)[:: -1 if repeat % 2 else 1]:
                cost = sweep([*kinds[kind], *given.overrides])
                costs[kind].append(cost)
                print(f"{kind}: {cost.wall:.1f} s, {cost.processor:.1f} s of the processor", flush=True)
    for kind in (AWAY, THERE):
        for what in ("wall", "processor"):
            ratios = [
                getattr(one, what) / getattr(other, what)
                for one, other in zip(costs[kind], costs[NONE], strict=True)
            ]
            print(f"{kind}, {what} time: {median(ratios):.3f} times that {NONE} (median of {len(ratios)})")


if __name__ == "__main__":
    main(sys.argv[1:])
