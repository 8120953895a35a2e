"""What a sweep of ten thousand trials costs its coordinator: make bench-scale

    python -m tests.benchmarks.scale --sizes 100 300 --plain 20     # does it run at all?

256 simulated workers play synthetic learning curves with ten reports a trial; study and MLflow are SQLite
files. The sweep is resumed at every size: the time to open it and to hand out the next trial is measured,
then the cost of the trials that follow, until everything is in both databases. In the same run trials of the
same kind are made with plain Optuna and MLflow's fluent API, each with its defaults.

What the sampler costs is measured on its own: it is Optuna's, grows with the trials that it models, and the
sweep itself draws at random.
"""

import argparse
import gc
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna

from sweeper.engines.replay import ReplayEngine
from sweeper.layout import Layout
from sweeper.messages import TrialSpec
from sweeper.study.samplers import make_sampler
from sweeper.tracking import make_tracker
from tests.benchmarks.plain_optuna import open_plain, plain_trials
from tests.simulated import Call, Crew, quantile
from tests.sweeps import Clock, configure, open_coordinator, open_study

OVERRIDES = (
    "sampler=random",
    # Judges every report and stops next to nobody, so that nearly every trial makes all its reports.
    "pruner=percentile",
    "pruner.percentile=99.9",
    "task.evaluation.marks_per_epoch=10",
)


@dataclass(frozen=True)
class Cost:
    """Seconds, by the clock on the wall and of the processor: all threads of the process."""

    wall: float
    processor: float

    def of(self, trials: int) -> "Cost":
        """For each of so many trials."""
        return Cost(self.wall / trials, self.processor / trials)


@dataclass(frozen=True)
class Stage:
    """A sweep from `begins` to `ends` trials."""

    begins: int
    ends: int
    resume: Cost
    """To open the study and the coordinator, and to hand out the first trial."""
    trial: Cost
    """Per trial, tracking included, until MLflow has everything."""
    calls: tuple[Call, ...]
    memory_bytes: int
    """Largest resident size of the process until then."""

    def longest(self, what: str, share: float = 1.0) -> float:
        """A quantile over the reports; the largest by default."""
        return quantile([getattr(call, what) for call in self.calls if call.verb == "report"], share)


@contextmanager
def measured() -> Iterator[list[Cost]]:
    """Yields a list that holds the cost of the block at its end."""
    wall, processor = time.perf_counter(), time.process_time()
    costs: list[Cost] = []
    yield costs
    costs.append(Cost(time.perf_counter() - wall, time.process_time() - processor))


def play(folder: Path, begins: int, ends: int, workers: int, tracking: str) -> Stage:
    """Resume the sweep in `folder` and play it up to `ends` trials."""
    overrides = (*OVERRIDES, f"budget.trials={ends}", f"tracking={tracking}")
    config, _ = configure(folder, *overrides)
    clock = Clock(time.time())
    tracker = make_tracker(config.tracking, Layout(folder, config.sweep.name))
    with measured() as resume:
        coordinator, _, recorder = open_coordinator(folder, *overrides, clock=clock, listeners=[tracker])
        first = coordinator.next_trial()
    recorder.heard = _Nothing()
    gc.collect()  # as sweeper.launch does
    gc.freeze()
    assert isinstance(first, TrialSpec)
    coordinator.lost([first.trial])
    crew = Crew(coordinator, ReplayEngine(config), clock, speedup=0.1)  # a trial takes eight minutes
    with measured() as cost:
        crew.work(workers)
        coordinator.close()
    return Stage(begins, ends, resume[0], cost[0].of(ends - begins), tuple(crew.calls), peak_memory())


class _Nothing(list[tuple[str, object]]):
    """What a recorder writes to when nobody will read it."""

    def append(self, what: tuple[str, object]) -> None:
        pass


def sampler_cost(folder: Path, name: str, proposals: int = 5) -> Cost:
    """Of one proposal by the sampler `name`, with the sweep's trials in memory."""
    config, space = configure(folder, f"sampler={name}")
    trials = open_study(folder, *OVERRIDES)._study.get_trials()
    study = optuna.create_study(direction="maximize")
    study.add_trials(trials)
    with measured() as cost:
        for number in range(len(trials), len(trials) + proposals):
            study.sampler = make_sampler(config.sampler, space, 7, number)
            space.suggest(study.ask())
    return cost[0].of(proposals)


def peak_memory() -> int:
    """Largest resident size of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def plain(folder: Path, trials: int) -> Cost:
    """Per trial with plain Optuna and MLflow's fluent API."""
    _, space = configure(folder, *OVERRIDES)
    marks = tuple(range(10, 101, 10))
    study = open_plain(folder)
    plain_trials(study, space, marks, 3)  # what only the first ones cost
    with measured() as cost:
        plain_trials(study, space, marks, trials)
    return cost[0].of(trials)


def main(words: Sequence[str]) -> None:
    """Play, print a table, and write the figures if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument(
        "--window", type=int, default=100, help="trials that the cost at a size is taken from"
    )
    parser.add_argument("--workers", type=int, default=256)
    parser.add_argument("--plain", type=int, default=100, help="trials of plain Optuna and MLflow")
    parser.add_argument("--tracking", default="mlflow", choices=["mlflow", "none"])
    parser.add_argument("--samplers", nargs="*", default=["tpe"])
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}", flush=True)
        compared = plain(folder / "plain", given.plain)
        print(f"plain Optuna and MLflow, {given.plain} trials: {_told(compared)} a trial", flush=True)
        begins = 3  # as many as before the count of the others begins: what only the first ones cost
        play(folder, 0, begins, begins, given.tracking)
        for size in given.sizes:
            if size - given.window > begins:
                _say(play(folder, begins, size - given.window, given.workers, given.tracking), compared)
                begins = size - given.window
            _say(play(folder, begins, size, given.workers, given.tracking), compared)
            begins = size
            for sampler in given.samplers:
                print(f"    one proposal of {sampler}: {_told(sampler_cost(folder, sampler))}", flush=True)


def _say(stage: Stage, compared: Cost) -> None:
    share = stage.trial.processor / compared.processor
    print(f"trials {stage.begins} to {stage.ends}: {_told(stage.trial)} a trial, {share:.2f} of plain")
    print(f"    resume {_told(stage.resume)}, memory {stage.memory_bytes / 2**20:.0f} MiB")
    for what in ("waited", "service", "processor"):
        quantiles = [1000 * stage.longest(what, share) for share in (0.5, 0.99, 1.0)]
        print(
            f"    a report's answer ({what}), ms: " + " ".join(f"{one:.1f}" for one in quantiles), flush=True
        )


def _told(cost: Cost) -> str:
    return f"{1000 * cost.wall:.1f} ms ({1000 * cost.processor:.1f} ms of the processor)"


if __name__ == "__main__":
    main(sys.argv[1:])
