"""Many trials at once: the engine `packed` against one trial after another, and against processes.

The same trials, on the same rows, over the same random weights of a real model's shape, by

    packed K     the engine `packed` with K slots
    auto         the engine `auto`, its probe included
    trainer      the engine `trainer`, warm, one trial after another
    plain        a loop of plain peft: answers alone through the output layer, fused AdamW
    N processes  N warm processes with the engine `trainer` that share the device, a share of the trials each

All are warm when the clock starts. Tokens are those of training, padding none. Each row of the table is the
median over `--repeats`; every side runs once per repeat, in alternating order.

After each job everything that is known lies in `--out`: results.json, table.md, plot.svg. The same command
goes on with the jobs that are missing there. `--profile` shows where the time of packed steps goes instead.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from sweeper.engines.auto import AutoEngine
from sweeper.engines.evaluate import free_memory
from sweeper.engines.packed.engine import PackedEngine
from sweeper.engines.packed.layers import Layers
from sweeper.engines.packed.memory import memory_of
from sweeper.engines.packed.probe import TIMES, Probe
from sweeper.engines.trainer import TrainerEngine
from tests import tiny
from tests.benchmarks.packed_profile import by_kind, peaks_of, summary, work_of
from tests.benchmarks.packed_sides import Job, Result, Side, processes
from tests.benchmarks.packed_table import markdown, write


def compare(job: Job, slots: Sequence[int], numbers: Sequence[int], repeats: int) -> dict[str, Result]:
    """Medians per side; a side that runs out of memory is left out."""
    found: dict[str, list[Result]] = {}
    lost: set[str] = set()
    for repeat in range(repeats):
        for name, result in _in_this_process(job, slots, lost, backwards=repeat % 2 == 1):
            found.setdefault(name, []).append(result)
        free_memory()
        for number in numbers:
            if result := _if_it_fits(f"{number} processes", partial(processes, job, number), lost):
                found.setdefault(f"{number} processes", []).append(result)
    return {
        name: Result(
            median(one.seconds for one in results),
            median(one.tokens_per_second for one in results),
            max(one.peak_bytes for one in results),
        )
        for name, results in found.items()
        if name not in lost
    }


def _in_this_process(
    job: Job, slots: Sequence[int], lost: set[str], backwards: bool
) -> Iterator[tuple[str, Result]]:
    with tempfile.TemporaryDirectory() as folder:
        side = Side(job, Path(folder))
        trainer = TrainerEngine(side.bench, {})
        sides: dict[str, Callable[[], Result]] = {
            "trainer": partial(side.engine, trainer),
            "auto": partial(
                side.engine,
                AutoEngine(side.bench, lambda: PackedEngine(side.bench, None, job.budget), trainer),
            ),
            "plain": side.plain,
        }
        for number in slots:
            sides[f"packed {number}"] = partial(side.engine, PackedEngine(side.bench, number, job.budget))
        for name in list(sides)[:: -1 if backwards else 1]:
            if result := _if_it_fits(name, sides[name], lost):
                yield name, result


def _if_it_fits(name: str, work: Callable[[], Result], lost: set[str]) -> Result | None:
    """None, and `name` among the lost, where memory runs out."""
    if name in lost:
        return None
    try:
        return work()
    except torch.OutOfMemoryError as error:
        print(f"  {name}: {error}", flush=True)
        lost.add(name)
    free_memory()
    return None


def machine(device: str) -> str:
    """What this was measured on."""
    cores = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    name = torch.cuda.get_device_name() if device == "cuda" else cores
    libraries = ", ".join(f"{library} {version(library)}" for library in ("torch", "transformers", "peft"))
    return f"{name}; {libraries}"


def profile(job: Job, slots: int) -> None:
    """Print what packed steps take of the device, and the operations that take most of their time."""
    from torch.profiler import ProfilerActivity, profile

    cuda = job.device == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        side = Side(job, Path(folder))
    base, settings, layers = side.base, job.settings, Layers(side.base.model)
    probe = Probe(side.bench, layers, settings, job.budget, memory_of(base.device))
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with layers.on_model():
        tried = probe.run(slots)
        with profile(activities=activities) as seen:
            probe.run(slots)
    seconds = slots * settings.batch_size / tried.examples_per_second
    targets = job.length - 3 * job.length // 4
    work = work_of(base, slots, settings.batch_size, job.length, targets, settings.lora.rank, job.budget)
    print(f"\n{job.shape}, {job.tokens} tokens per trial-step, {slots} slots")
    print(summary(work, peaks_of(base.device, base.model.dtype), seconds))
    print("of its time, by what the device is at:")
    events = seen.key_averages()
    print(by_kind(events, cuda, 1 + TIMES, seconds))
    print(events.table(sort_by="self_device_time_total" if cuda else "self_cpu_time_total", row_limit=25))


def main() -> None:
    """Measure, print a table per shape and step size, and keep everything in a folder."""
    whole = partial(_numbers, int)
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.packed", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    gpu = torch.cuda.is_available()
    parser.add_argument(
        "--shapes", type=partial(_numbers, str), default=["135M", "0.5B", "1.5B"] if gpu else ["tiny"]
    )
    # What the goals are about comes first.
    parser.add_argument("--tokens", type=whole, default=[512, 256, 1024, 2048, 4096, 8192] if gpu else [256])
    parser.add_argument("--slots", type=whole, default=[1, 2, 4, 8, 16, 32] if gpu else [1, 4])
    parser.add_argument("--processes", type=whole, default=[2, 4] if gpu else [2])
    parser.add_argument("--trials", type=int, default=32 if gpu else 4)
    parser.add_argument("--steps", type=int, default=8 if gpu else 3, help="of a trial")
    parser.add_argument("--repeats", type=int, default=3 if gpu else 1)
    shipped = tiny.config("engine=packed").engine.token_budget
    parser.add_argument("--budget", type=int, default=shipped, help="tokens per pass of packed trials")
    parser.add_argument("--minutes", type=float, help="begin no other job after so many")
    parser.add_argument("--out", type=Path, default=Path("bench-packed"), help="a folder for what is found")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    began, device = time.monotonic(), "cuda" if gpu else "cpu"
    jobs = [
        Job(shape, tokens, arguments.trials, arguments.steps, device, arguments.budget)
        for tokens in arguments.tokens
        for shape in arguments.shapes
    ]
    print(machine(device))
    if arguments.profile:
        for job in jobs:
            profile(job, max(arguments.slots))
        return
    found = _known(arguments.out / "results.json", machine(device))
    for job in jobs:
        if arguments.minutes and time.monotonic() - began > 60 * arguments.minutes:
            print("no more time: the same command goes on from here")
            break
        if any(asdict(job).items() <= one.items() for one in found):
            continue
        print(f"\n{job.shape}, {job.tokens} tokens per trial-step, {job.trials} trials of {job.steps} steps")
        results = compare(job, arguments.slots, arguments.processes, arguments.repeats)
        _print(results)
        named = {name: asdict(one) for name, one in results.items()}
        found.append({**asdict(job), "repeats": arguments.repeats, "results": named})
        write(arguments.out, {"machine": machine(device), "jobs": found})
    print("\n" + markdown(machine(device), found))


def _known(path: Path, machine: str) -> list[dict[str, Any]]:
    """The jobs that were done on this machine."""
    if not path.exists():
        return []
    tree = json.loads(path.read_text())
    if tree["machine"] != machine:
        sys.exit(f"{path} is of another machine ({tree['machine']}); name another folder with --out")
    return list(tree["jobs"])


def _print(results: Mapping[str, Result]) -> None:
    reference = results["trainer"].tokens_per_second if "trainer" in results else float("nan")
    print(f"{'':14}{'tokens/s':>12}{'x trainer':>11}{'all trials, s':>15}{'peak GB':>9}")
    for name, one in sorted(results.items(), key=lambda pair: _place(pair[0])):
        relative, gigabytes = one.tokens_per_second / reference, one.peak_bytes / 1e9
        print(f"{name:14}{one.tokens_per_second:12.0f}{relative:11.2f}{one.seconds:15.2f}{gigabytes:9.2f}")


def _place(name: str) -> tuple[int, int]:
    """Where a side stands in the table."""
    kind, _, number = name.partition(" ") if name.startswith("packed") else (name, "", "0")
    kinds = ["trainer", "plain", "auto", "packed"]
    return kinds.index(kind) if kind in kinds else len(kinds), int(number)


def _numbers(kind: Callable[[str], Any], text: str) -> list[Any]:
    return [kind(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
