"""sweeper against `Trainer.hyperparameter_search` on the same trials: make bench

    python -m tests.benchmarks.trainer_search --trials 2 --rows 16     # does it run at all?
    python -m tests.benchmarks.trainer_search --repeats 3 --json bench.json

Each side runs in a process of its own, in an order that turns round with every repeat. Both are given the
same frozen rows, learning rates in the same order, settings, points of evaluation, generation and number
type, and the loss is on the answer alone. What a trial takes is the time from its start to the next one's
start, as Optuna's database has it on both sides; what is outside is that less training steps and evaluation.
"""

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import median

import optuna

from sweeper.compose import compose, read_config
from sweeper.config import Config
from sweeper.journal import measurements
from sweeper.layout import Layout
from sweeper.messages import BASE
from sweeper.study.samplers import grid_order
from sweeper.study.study import Study

LEARNING_RATES = (2e-3, 1e-3, 5e-3, 5e-4, 3e-3, 2e-4, 7e-3, 1e-4)
TRAINER, SWEEPER, EVERY_LOGIT, MLFLOW = "Trainer", "sweeper", "sweeper, every logit", "sweeper, MLflow"
MODULES = {TRAINER: "tests.benchmarks.peer", EVERY_LOGIT: "tests.benchmarks.every_logit"}


@dataclass(frozen=True)
class TrialResult:
    """One trial of one side, seconds and scores at its last mark."""

    learning_rate: float
    seconds: float
    train_seconds: float
    evaluation_seconds: float
    objective: float
    error: float
    loss: float

    @property
    def outside(self) -> float:
        return self.seconds - self.train_seconds - self.evaluation_seconds


@dataclass(frozen=True)
class Run:
    """One side, once."""

    side: str
    process_seconds: float
    """From the start of the process to its end."""
    before_seconds: float
    """From the start of the process to the first trial: imports, loading, and sweeper's base model."""
    base_seconds: float
    """sweeper measures the untouched base model, which the other side doesn't."""
    memory_bytes: int
    """Largest resident size of the process."""
    device_memory_bytes: float
    trials: tuple[TrialResult, ...]

    @property
    def seconds(self) -> float:
        """From the first trial's start to the last one's end."""
        return sum(trial.seconds for trial in self.trials)

    @property
    def outside_warm(self) -> float:
        """Median over all trials but the first."""
        return median(trial.outside for trial in self.trials[1:])


@dataclass(frozen=True)
class Bench:
    """What all runs share."""

    overrides: tuple[str, ...]
    config: Config
    rates: tuple[float, ...]
    model: Path
    root: Path
    rows: Path

    def run(self, side: str, name: str) -> Run:
        """Run one side in a process of its own."""
        layout = Layout(self.root / name, "sweep")
        layout.folder.mkdir(parents=True)
        arguments = self._peer(layout) if side == TRAINER else self._own(layout, side)
        log = self.root / f"{name}.log"
        began, clock = datetime.now(), time.perf_counter()
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", MODULES.get(side, "sweeper"), *arguments], stdout=output, stderr=output
            )
            _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - clock
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{side} failed with exit code {process.returncode}:\n{log.read_text()[-4000:]}")
        read = self._read_peer if side == TRAINER else self._read_own
        first, base, device, trials = read(layout)
        memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return Run(side, seconds, (first - began).total_seconds(), base, memory, device, trials)

    def _own(self, layout: Layout, side: str) -> list[str]:
        """Arguments for sweeper."""
        shutil.copytree(self.rows, layout.rows)
        tracking = "mlflow" if side == MLFLOW else "none"
        return [
            *self.overrides,
            f"sweep.folder={layout.root}",
            f"sweep.name={layout.name}",
            f"tracking={tracking}",
        ]

    def _peer(self, layout: Layout) -> list[str]:
        """Arguments for `tests.benchmarks.peer`: a file with the same settings in plain values."""
        trial, task = self.config.trial, self.config.task
        steps = self.config.data.sizes.train // trial.batch_size  # type: ignore[operator]
        job = {
            "folder": str(layout.root),
            "study": layout.study_url,
            "name": layout.name,
            "model": str(self.model),
            "rows": str(self.rows),
            "device": self.config.model.device,
            "dtype": self.config.model.dtype,
            "learning_rates": self.rates,
            "rank": trial.lora.rank,
            "alpha": trial.lora.alpha,
            "batch_size": trial.batch_size,
            "epochs": trial.epochs,
            "scheduler": trial.scheduler,
            "warmup": trial.warmup,
            "evaluation_steps": steps // task.evaluation.marks_per_epoch,
            "evaluation_batch_size": task.evaluation.batch_size,
            "max_new_tokens": task.generation.max_new_tokens,
            "seed": self.config.sweep.seed,
        }
        path = layout.root / "job.json"
        path.write_text(json.dumps(job), encoding="utf-8")
        return [str(path)]

    def _read_own(self, layout: Layout) -> "Read":
        begun, seconds = _times(layout.study_url, layout.name)
        base, *records = Study.read(layout.study_url, layout.name, layout.folder).records()
        assert base.number == BASE
        trials = []
        for record, took in zip(records, seconds, strict=True):
            last = [point for point in measurements(layout.metrics(record.number)) if point.mark][-1].metrics
            trials.append(
                TrialResult(
                    record.settings.learning_rate,
                    took,
                    record.cost["train_seconds"],
                    record.cost["evaluation_seconds"],
                    last["objective"],
                    last["objective_error"],
                    last["validation_loss"],
                )
            )
        device = max(record.cost["peak_memory_bytes"] for record in records)
        on_gpu = self.config.model.device == "cuda"
        return begun, base.cost["seconds"], device if on_gpu else 0.0, tuple(trials)

    def _read_peer(self, layout: Layout) -> "Read":
        begun, seconds = _times(layout.study_url, layout.name)
        told = json.loads((layout.root / "trials.json").read_text(encoding="utf-8"))
        trials = tuple(
            TrialResult(rate, took, **trial)
            for rate, took, trial in zip(self.rates, seconds, told["trials"], strict=True)
        )
        return begun, 0.0, told["device_memory_bytes"], trials


Read = tuple[datetime, float, float, tuple[TrialResult, ...]]
"""Start of the first trial, seconds for the base model, peak bytes on the device, the trials."""


def _times(url: str, name: str) -> tuple[datetime, list[float]]:
    """When the first trial began, and what each took: to the next one's start, the last to its end."""
    trials = optuna.load_study(storage=url, study_name=name).get_trials(deepcopy=False)
    moments = [trial.datetime_start for trial in trials] + [trials[-1].datetime_complete]
    known = [moment for moment in moments if moment is not None]
    return known[0], [(after - before).total_seconds() for before, after in pairwise(known)]


def prepare(arguments: argparse.Namespace, root: Path) -> Bench:
    """Find the model and freeze the rows, once for everybody."""
    from sweeper.data.prepare import prepare as freeze
    from sweeper.models import pretrained

    rates = LEARNING_RATES[: arguments.trials]
    overrides = [
        "engine=trainer",
        "+experiment=summarize",
        "space=empty",
        f"+space.learning_rate={{choices: [{', '.join(map(str, rates))}]}}",
        f"trial.learning_rate={rates[0]}",
        "sampler=grid",
        "pruner=none",
        "verdict=none",
        f"budget.trials={len(rates)}",
        f"data.sizes={{train: {arguments.rows}, validation: {arguments.rows // 2}, test: 0}}",
        f"model.device={arguments.device}",
        f"model.dtype={arguments.dtype}",
        *arguments.overrides,
    ]
    config, space = read_config(compose(overrides))
    device = pretrained.choose_device(config.model)
    dtype = str(pretrained.choose_dtype(config.model, device)).removeprefix("torch.")
    overrides += [f"model.device={device.type}", f"model.dtype={dtype}"]
    config, space = read_config(compose(overrides))
    resolved = pretrained.resolve(config.model)
    tokenizer, kind = pretrained.load_tokenizer(resolved), pretrained.architecture(resolved, config.task)
    rows = root / "rows"
    freeze(config, tokenizer, kind, rows)
    # The order in which sweeper's grid takes them: the default settings, then the shuffled rest.
    points = grid_order(space.grid(), config.sweep.seed)
    ordered = [rates[0], *(rate for point in points if (rate := float(point["learning_rate"])) != rates[0])]
    return Bench(tuple(overrides), config, tuple(ordered), resolved.path, root, rows)


def machine(config: Config) -> str:
    """What this was measured on, in one line."""
    import torch

    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    gpu = f", {torch.cuda.get_device_name()}" if config.model.device == "cuda" else ""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "optuna"))
    return f"{cpu}, {os.cpu_count()} cores{gpu}; {config.model.dtype} on {config.model.device}; {libraries}"


def measure(bench: Bench, sides: Sequence[str], repeats: int) -> list[dict[str, Run]]:
    """All runs: per repeat, one of each side; every second repeat goes through the sides backwards."""
    found = []
    for repeat in range(repeats):
        runs = {}
        for number, side in enumerate(sides if repeat % 2 == 0 else sides[::-1]):
            print(f"repeat {repeat + 1} of {repeats}: {side} ...", flush=True)
            runs[side] = bench.run(side, f"run_{repeat}_{number}")
        found.append(runs)
    return found


def summary(repeats: Sequence[Mapping[str, Run]], sides: Sequence[str]) -> dict[str, dict[str, float]]:
    """Medians over the repeats for every side; ratios are taken within a repeat."""
    table: dict[str, dict[str, float]] = {}
    for side in sides:
        runs = [runs[side] for runs in repeats]
        table[side] = {
            "all trials, s": median(run.seconds for run in runs),
            "times as fast as Trainer": median(
                runs[TRAINER].seconds / runs[side].seconds for runs in repeats
            ),
            "training a trial, s": median(trial.train_seconds for run in runs for trial in run.trials),
            "evaluating a trial, s": median(trial.evaluation_seconds for run in runs for trial in run.trials),
            "outside, warm trial, s": median(run.outside_warm for run in runs),
            "outside, first trial, s": median(run.trials[0].outside for run in runs),
            "before the first trial, s": median(run.before_seconds - run.base_seconds for run in runs),
            "base model, s": median(run.base_seconds for run in runs),
            "whole process, s": median(run.process_seconds for run in runs),
            "peak resident memory, GB": median(run.memory_bytes for run in runs) / 1e9,
            "peak device memory, GB": median(run.device_memory_bytes for run in runs) / 1e9,
        }
    return table


def scores(repeats: Sequence[Mapping[str, Run]], sides: Sequence[str]) -> list[str]:
    """Objectives of the first repeat side by side, and how far apart they are in standard errors."""
    first = repeats[0]
    lines = ["", "ROUGE-L at the last mark (standard error), validation loss"]
    lines.append(f"{'learning rate':>13}  " + "  ".join(f"{side:>24}" for side in sides))
    for trials in zip(*(first[side].trials for side in sides), strict=True):
        cells = (f"{t.objective:.3f} ({t.error:.3f})  {t.loss:.3f}" for t in trials)
        lines.append(f"{trials[0].learning_rate:>13g}  " + "  ".join(f"{cell:>24}" for cell in cells))
    for side in sides[1:]:
        apart = max(map(_apart, first[side].trials, first[TRAINER].trials))
        lines.append(f"{side}: at most {apart:.1f} standard errors of the difference from Trainer's")
    return lines


def _apart(a: TrialResult, b: TrialResult) -> float:
    """How far two objectives are apart, in standard errors of their difference."""
    difference, error = abs(a.objective - b.objective), math.hypot(a.error, b.error)
    return difference / error if error else math.inf if difference else 0.0


def main() -> None:
    """Measure, print the tables, and write everything as JSON if asked to."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.trainer_search", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--trials", type=int, default=4, choices=range(2, len(LEARNING_RATES) + 1))
    parser.add_argument("--rows", type=int, default=96, help="training rows, in steps of 16 (96)")
    parser.add_argument("--repeats", type=int, default=1, help="how often each side runs (1)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--mlflow", action="store_true", help="run sweeper with MLflow, too")
    parser.add_argument("--json", type=Path, help="write every measurement to this file")
    parser.add_argument("overrides", nargs="*", help="more of the configuration, e.g. model=qwen3_0_6b")
    arguments = parser.parse_args()
    if arguments.rows < 16 or arguments.rows % 16:
        parser.error(f"--rows {arguments.rows}: two marks of whole batches of 8 need a multiple of 16")
    sides = [TRAINER, SWEEPER, EVERY_LOGIT, *([MLFLOW] if arguments.mlflow else [])]
    with tempfile.TemporaryDirectory(prefix="sweeper-bench-") as folder:
        bench = prepare(arguments, Path(folder))
        where = machine(bench.config)
        what = (
            f"{arguments.trials} trials, {arguments.rows} training and {arguments.rows // 2} validation rows"
        )
        print(f"{where}\n{what}, medians over {arguments.repeats} repeat(s)", flush=True)
        repeats = measure(bench, sides, arguments.repeats)
    table = summary(repeats, sides)
    print(f"\n{'':26}" + "".join(f"{side:>24}" for side in sides))
    for name in table[TRAINER]:
        print(f"{name:26}" + "".join(f"{table[side][name]:24.2f}" for side in sides))
    print("\n".join(scores(repeats, sides)))
    if arguments.json:
        runs = [asdict(run) for one in repeats for run in one.values()]
        tree = {"machine": where, "what": what, "summary": table, "runs": runs}
        arguments.json.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
