"""What a sweep of ten thousand trials costs its coordinator: make bench-scale

    python -m tests.benchmarks.scale --sizes 100 300 --plain 20     # does it run at all?

256 simulated workers play synthetic learning curves with ten reports a trial; study and MLflow are SQLite
files. The sweep is resumed at every size: the time to open it and to hand out the next trial is measured,
then the cost of the trials that follow, until everything is in both databases. What it costs to close a sweep
without news, with a table of all its trials, is taken off and shown beside it. Before and after, trials of
the same kind are made with plain Optuna and MLflow's fluent API, each with its defaults.

What the sampler costs is measured on its own: it is Optuna's, grows with the trials that it models, and the
sweep itself draws at random.
"""

import argparse
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
from sweeper.garbage import Keeper, keep, reading
from sweeper.layout import Layout
from sweeper.messages import TrialSpec
from sweeper.study.samplers import make_sampler
from sweeper.tracking.sending import make_tracker
from tests.benchmarks.plain_optuna import open_plain, plain_trials
from tests.simulated import Call, Crew, quantile
from tests.sweeps import Clock, configure, open_coordinator, open_study

MARKS = tuple(range(10, 101, 10))
"""Of a trial with plain Optuna: as many as one of ours has."""
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

    def less(self, other: "Cost") -> "Cost":
        """Without the other."""
        return Cost(self.wall - other.wall, self.processor - other.processor)

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
    """Per trial, tracking included, until MLflow has everything; without `close`."""
    close: Cost
    """To close the sweep when nothing has happened since it was opened."""
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
    """Resume the sweep in `folder`, play it up to `ends` trials, and resume and close it once more."""
    sweep = _Sweep(folder, ends, tracking)
    crew = Crew(sweep.coordinator, sweep.engine, sweep.clock, speedup=0.1)  # a trial takes eight minutes
    with measured() as cost:
        crew.work(workers)
        sweep.close()
    again = _Sweep(folder, ends, tracking)
    with measured() as close:
        again.close()
    trial = cost[0].less(close[0]).of(ends - begins)
    return Stage(begins, ends, sweep.opening, trial, close[0], tuple(crew.calls), peak_memory())


class _Sweep:
    """The sweep in a folder, resumed."""

    def __init__(self, folder: Path, budget: int, tracking: str) -> None:
        overrides = (*OVERRIDES, f"budget.trials={budget}", f"tracking={tracking}")
        config, _ = configure(folder, *overrides)
        self.engine, self.clock = ReplayEngine(config), Clock(time.time())
        self._tracker = make_tracker(config.tracking, Layout(folder, config.sweep.name))
        listeners = [self._tracker, Keeper()]
        with measured() as opening:
            with reading():  # as sweeper.launch does
                self.coordinator, _, recorder = open_coordinator(
                    folder, *overrides, clock=self.clock, listeners=listeners
                )
            keep()
            first = self.coordinator.next_trial()
        self.opening = opening[0]
        recorder.heard = _Nothing()
        if isinstance(first, TrialSpec):
            self.coordinator.lost([first.trial])

    def close(self) -> None:
        """Returns when MLflow has everything."""
        self.coordinator.close()
        deadline = time.monotonic() + 1800
        while not self._tracker.has_all(()):  # a sweep waits for three minutes at most
            if time.monotonic() > deadline:
                raise TimeoutError("MLflow doesn't get everything")
            time.sleep(0.05)


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


class Plain:
    """Trials with plain Optuna and MLflow's fluent API, in between: the machine's speed drifts."""

    def __init__(self, folder: Path, trials: int) -> None:
        self._space = configure(folder, *OVERRIDES)[1]
        self._study = open_plain(folder)
        self._trials = trials
        self.costs: list[Cost] = []
        """Per trial, by and by."""
        plain_trials(self._study, self._space, MARKS, 3)  # what only the first ones cost

    def play(self) -> None:
        """Some more of them."""
        with measured() as cost:
            plain_trials(self._study, self._space, MARKS, self._trials)
        self.costs.append(cost[0].of(self._trials))
        print(f"plain Optuna and MLflow, {self._trials} trials: {_told(self.costs[-1])} a trial", flush=True)

    def around(self) -> float:
        """Processor time per trial, in seconds: the mean of the last two."""
        return (self.costs[-2].processor + self.costs[-1].processor) / 2


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
    parser.add_argument(
        "--plain", type=int, default=20, help="trials of plain Optuna and MLflow before and after each"
    )
    parser.add_argument("--tracking", default="mlflow", choices=["mlflow", "none"])
    parser.add_argument("--samplers", nargs="*", default=["tpe"])
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}", flush=True)
        begins = 3  # as many as before the count of the others begins: what only the first ones cost
        play(folder, 0, begins, begins, given.tracking)
        plain = Plain(folder / "plain", given.plain)
        plain.play()
        for size in given.sizes:
            for ends in (size - given.window, size):
                if ends > begins:
                    stage = play(folder, begins, ends, given.workers, given.tracking)
                    plain.play()
                    _say(stage, plain.around())
                    begins = ends
            for sampler in given.samplers:
                print(f"    one proposal of {sampler}: {_told(sampler_cost(folder, sampler))}", flush=True)


def _say(stage: Stage, compared: float) -> None:
    share = stage.trial.processor / compared
    print(f"trials {stage.begins} to {stage.ends}: {_told(stage.trial)} a trial, {share:.2f} of plain")
    print(f"    to open {_told(stage.resume)}, to close {_told(stage.close)}")
    print(f"    memory {stage.memory_bytes / 2**20:.0f} MiB")
    for what in ("waited", "service", "processor"):
        quantiles = [1000 * stage.longest(what, share) for share in (0.5, 0.99, 1.0)]
        print(
            f"    a report's answer ({what}), ms: " + " ".join(f"{one:.1f}" for one in quantiles), flush=True
        )


def _told(cost: Cost) -> str:
    return f"{1000 * cost.wall:.1f} ms ({1000 * cost.processor:.1f} ms of the processor)"


if __name__ == "__main__":
    main(sys.argv[1:])
