"""Many trials at once: the engine `packed` against one trial after another, and against processes.

The same trials, on the same rows, over the same random weights of a real model's shape, by

    packed K     the engine `packed` with K slots
    trainer      the engine `trainer`, warm, one trial after another
    plain        a loop of plain peft: answers alone through the output layer, fused AdamW
    N processes  N warm processes with the engine `trainer` that share the device, a share of the trials each

All are warm when the clock starts. Tokens are those of training, padding none. Each row of the table is the
median over `--repeats`; every side runs once per repeat, in alternating order. `--profile` shows where the
time of packed steps goes instead.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, set_seed

from sweeper.config import TrialSettings
from sweeper.engines.batches import Row, collate, logits, read_rows
from sweeper.engines.evaluate import free_memory
from sweeper.engines.packed.engine import PackedEngine
from sweeper.engines.trainer import TrainerEngine, workbench
from sweeper.messages import Ending, Engine
from sweeper.modeling import BaseModel
from tests import tiny

_LENGTH = 128
"""Tokens of a row; the last quarter of them is the answer."""

_BUDGET = 1 << 16
"""Tokens per pass: halved by the engine where they don't fit."""

_SHAPES: dict[str, Callable[[], Any]] = {
    "tiny": lambda: LlamaForCausalLM(
        LlamaConfig(vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                    num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)
    ),
    "135M": lambda: LlamaForCausalLM(
        LlamaConfig(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                    num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True)
    ),
    "0.5B": lambda: Qwen2ForCausalLM(
        Qwen2Config(vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
                    num_attention_heads=14, num_key_value_heads=2, tie_word_embeddings=True)
    ),
    "1.5B": lambda: Qwen2ForCausalLM(
        Qwen2Config(vocab_size=151936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28,
                    num_attention_heads=12, num_key_value_heads=2, tie_word_embeddings=True)
    ),
}  # fmt: skip
"""Those of SmolLM2-135M, Qwen2.5-0.5B and Qwen2.5-1.5B; `tiny` shows that the benchmark runs."""


@dataclass(frozen=True)
class Job:
    """What all sides of one comparison share."""

    shape: str
    tokens: int
    """Of one trial's step"""
    trials: int
    steps: int
    device: str

    @property
    def settings(self) -> TrialSettings:
        return tiny.settings(batch_size=max(1, self.tokens // _LENGTH), lora_rank=16, learning_rate=1e-4)

    @property
    def length(self) -> int:
        return min(_LENGTH, self.tokens)

    @property
    def all_tokens(self) -> int:
        return self.trials * self.steps * self.settings.batch_size * self.length


@dataclass(frozen=True)
class Result:
    seconds: float
    """From the first trial's start to the last one's end."""
    tokens_per_second: float
    peak_bytes: int
    """Allocated on the GPU at most, by all processes together; 0 on other devices."""


class Side:
    """A warm model, and rows for `job`."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.job, self.folder = job, folder
        torch.manual_seed(0)
        with torch.device(job.device):
            model = _SHAPES[job.shape]()
        model = model.to(torch.bfloat16 if job.device == "cuda" else torch.float32)
        self.base = BaseModel(model, tiny.tokenizer(), "causal", (), job.shape)
        self.rows = _rows(job, model.config.vocab_size)
        config = tiny.config("task.generation.max_new_tokens=1", "task.evaluation.samples=1")
        self.bench = workbench(config, self.base, self.rows)
        self._runs = 0

    def engine(self, engine: Engine, trials: int | None = None) -> Result:
        """Let `engine` train `trials` trials, after two steps to warm up."""
        job = self.job
        self._train(engine, 1, 2)
        return self._timed(lambda: self._train(engine, trials or job.trials, job.steps))

    def plain(self) -> Result:
        from peft import LoraConfig, get_peft_model

        rows, settings, base = read_rows(self.rows.train), self.job.settings, self.base
        size = settings.batch_size

        def one(seed: int, steps: int) -> None:
            set_seed(seed)
            config = LoraConfig(
                task_type="CAUSAL_LM",
                r=settings.lora.rank,
                lora_alpha=settings.lora.alpha,
                target_modules="all-linear",
            )
            model = get_peft_model(base.model, config).train()
            trained = [weight for weight in model.parameters() if weight.requires_grad]
            optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, fused=True)
            for step in range(steps):
                _step(model, base, rows[step * size : (step + 1) * size])
                torch.nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
            base.model = model.unload().requires_grad_(False)

        one(0, 2)

        def every() -> None:
            for trial in range(self.job.trials):
                one(trial, self.job.steps)

        return self._timed(every)

    def _train(self, engine: Engine, trials: int, steps: int) -> None:
        self._runs += 1
        examples = steps * self.job.settings.batch_size
        folder = self.folder / str(self._runs)
        specs = [
            tiny.spec(folder, self.job.settings, trial=i, seed=i, marks=(len(self.rows.train),))
            for i in range(trials)
        ]
        bench_rows = self.bench.train_rows
        self.bench.train_rows = replace(bench_rows, rows=bench_rows.rows[:examples])
        channel = tiny.Script([replace(spec, marks=(examples,), examples=examples) for spec in specs])
        engine.run(channel)
        self.bench.train_rows = bench_rows
        assert all(outcome.ending is Ending.FINISHED for outcome in channel.outcomes), channel.outcomes

    def _timed(self, work: Callable[[], None]) -> Result:
        cuda = self.job.device == "cuda"
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        work()
        if cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        return Result(
            seconds, self.job.all_tokens / seconds, torch.cuda.max_memory_allocated() if cuda else 0
        )


def _rows(job: Job, vocabulary: int) -> tiny.Rows:
    generator = torch.Generator().manual_seed(0)
    prompt = 3 * job.length // 4

    def row(i: int) -> dict[str, Any]:
        ids = torch.randint(2, vocabulary, (job.length,), generator=generator).tolist()
        common = {"id": f"r{i}", "prompt": "", "answer": "", "slice": "", "group": "", "label": -1}
        labels = [-100] * prompt + ids[prompt:]
        return common | {"input_ids": ids, "labels": labels, "prompt_ids": ids[:prompt]}

    count = job.steps * job.settings.batch_size
    rows = [row(i) for i in range(max(count, 2 * job.settings.batch_size))]
    return tiny.Rows(Dataset.from_list(rows), Dataset.from_list([row(-1)]))


def _step(model: Any, base: BaseModel, rows: Sequence[Row]) -> None:
    batch = collate(rows, "causal", 0)
    batch = {name: tensor.to(base.device) for name, tensor in batch.items()}
    scores = logits(model, "causal", batch)
    torch.nn.functional.cross_entropy(scores, batch["targets"]).backward()


# Processes


def processes(job: Job, number: int) -> Result:
    """`number` warm processes that begin together; the last one's end counts."""
    arguments = [json.dumps(asdict(job)), str(-(-job.trials // number))]
    command = [sys.executable, "-m", "tests.benchmarks.packed", "--worker", *arguments]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(number)
    ]
    try:
        for worker in workers:
            if worker.stdout.readline() != "ready\n":  # type: ignore[union-attr]
                sys.exit(f"a process of {number} ended before it was ready, perhaps for want of memory")
        started = time.perf_counter()
        for worker in workers:
            worker.stdin.write("go\n")  # type: ignore[union-attr]
            worker.stdin.flush()  # type: ignore[union-attr]
        peaks = [int(worker.stdout.readline()) for worker in workers]  # type: ignore[union-attr]
        seconds = time.perf_counter() - started
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    trained = job.all_tokens / job.trials * number * -(-job.trials // number)
    return Result(seconds, trained / seconds, sum(peaks))


def _worker(told: str, trials: str) -> None:
    job = Job(**json.loads(told))
    with tempfile.TemporaryDirectory() as folder:
        side = Side(job, Path(folder))
        engine = TrainerEngine(side.bench, {})
        side._train(engine, 1, 2)
        print("ready", flush=True)
        sys.stdin.readline()
        result = side._timed(lambda: side._train(engine, int(trials), job.steps))
        print(result.peak_bytes, flush=True)


# The table


def compare(job: Job, slots: Sequence[int], numbers: Sequence[int], repeats: int) -> dict[str, Result]:
    """Medians per side."""
    found: dict[str, list[Result]] = {}
    for repeat in range(repeats):
        for name, result in _in_this_process(job, slots, backwards=repeat % 2 == 1):
            found.setdefault(name, []).append(result)
        free_memory()
        for number in numbers:
            found.setdefault(f"{number} processes", []).append(processes(job, number))
    return {
        name: Result(
            median(one.seconds for one in results),
            median(one.tokens_per_second for one in results),
            max(one.peak_bytes for one in results),
        )
        for name, results in found.items()
    }


def _in_this_process(job: Job, slots: Sequence[int], backwards: bool) -> list[tuple[str, Result]]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        side = Side(job, Path(folder))
        sides: dict[str, Callable[[], Result]] = {
            "trainer": partial(side.engine, TrainerEngine(side.bench, {})),
            "plain": side.plain,
        }
        for number in slots:
            sides[f"packed {number}"] = partial(side.engine, PackedEngine(side.bench, number, _BUDGET))
        for name in list(sides)[:: -1 if backwards else 1]:
            try:
                found.append((name, sides[name]()))
            except torch.OutOfMemoryError:
                print(f"  {name}: out of memory", flush=True)
    return found


def machine(device: str) -> str:
    """What this was measured on."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    libraries = ", ".join(f"{library} {version(library)}" for library in ("torch", "transformers", "peft"))
    return f"{name}; {libraries}"


def profile(job: Job, slots: int) -> None:
    """Print the operations that take most of the time of packed steps."""
    from torch.profiler import ProfilerActivity, profile

    cuda = job.device == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        side = Side(job, Path(folder))
        engine = PackedEngine(side.bench, slots, _BUDGET)
        side._train(engine, 1, 2)
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
        with profile(activities=activities) as seen:
            side._train(engine, slots, job.steps)
    by = "self_cuda_time_total" if cuda else "self_cpu_time_total"
    print(seen.key_averages().table(sort_by=by, row_limit=25))


def main() -> None:
    """Measure, print a table per shape and step size, and write everything as JSON if asked to."""
    if sys.argv[1:2] == ["--worker"]:
        _worker(*sys.argv[2:])
        return
    whole = partial(_numbers, int)
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.packed", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    gpu = torch.cuda.is_available()
    parser.add_argument(
        "--shapes", type=partial(_numbers, str), default=["135M", "0.5B", "1.5B"] if gpu else ["tiny"]
    )
    parser.add_argument("--tokens", type=whole, default=[256, 512, 1024, 2048, 4096, 8192] if gpu else [256])
    parser.add_argument("--slots", type=whole, default=[1, 2, 4, 8, 16, 32] if gpu else [1, 4])
    parser.add_argument("--processes", type=whole, default=[2, 4] if gpu else [2])
    parser.add_argument("--trials", type=int, default=32 if gpu else 4)
    parser.add_argument("--steps", type=int, default=8 if gpu else 3, help="of a trial")
    parser.add_argument("--repeats", type=int, default=3 if gpu else 1)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", type=Path, help="write every median to this file")
    arguments = parser.parse_args()
    device = "cuda" if gpu else "cpu"
    print(machine(device))
    tree = []
    for shape in arguments.shapes:
        for tokens in arguments.tokens:
            job = Job(shape, tokens, arguments.trials, arguments.steps, device)
            if arguments.profile:
                profile(job, max(arguments.slots))
                continue
            print(
                f"\n{shape}, {tokens} tokens per trial-step, {job.trials} trials of {job.steps} steps",
                flush=True,
            )
            results = compare(job, arguments.slots, arguments.processes, arguments.repeats)
            reference = results["trainer"].tokens_per_second
            print(f"{'':14}{'tokens/s':>12}{'x trainer':>11}{'all trials, s':>15}{'peak GB':>9}")
            for name, one in sorted(results.items(), key=lambda pair: _place(pair[0])):
                relative, gigabytes = one.tokens_per_second / reference, one.peak_bytes / 1e9
                print(
                    f"{name:14}{one.tokens_per_second:12.0f}{relative:11.2f}"
                    f"{one.seconds:15.2f}{gigabytes:9.2f}"
                )
            tree.append({**asdict(job), "results": {name: asdict(one) for name, one in results.items()}})
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(device), "jobs": tree}, indent=1) + "\n")


def _place(name: str) -> tuple[int, int]:
    """Where a side stands in the table."""
    kind, _, number = name.partition(" ") if name.startswith("packed") else (name, "", "0")
    return ["trainer", "plain", "packed"].index(kind) if kind in ("trainer", "plain", "packed") else 3, int(
        number
    )


def _numbers(kind: Callable[[str], Any], text: str) -> list[Any]:
    return [kind(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
