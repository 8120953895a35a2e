"""The sides of the comparison in `packed`: a warm model each, and rows for one job."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, set_seed

from sweeper.config import TrialSettings
from sweeper.engines.batches import Row, collate, logits, read_rows
from sweeper.engines.trainer import TrainerEngine, workbench
from sweeper.messages import Ending, Engine
from sweeper.models.modeling import BaseModel
from tests import tiny

_LENGTH = 128
"""Tokens of a row; the last quarter of them is the answer."""

SHAPES: dict[str, Callable[[], Any]] = {
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
    budget: int
    """Tokens per pass of packed trials at most."""

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
            model = SHAPES[job.shape]()
        model = model.to(torch.bfloat16 if job.device == "cuda" else torch.float32)
        self.base = BaseModel(model, tiny.tokenizer(), "causal", name=job.shape)
        self.rows = _rows(job, model.config.vocab_size)
        config = tiny.config("task.generation.max_new_tokens=1", "task.evaluation.samples=1")
        self.bench = workbench(config, self.base, self.rows)
        self._runs = 0

    def engine(self, engine: Engine, trials: int | None = None) -> Result:
        """Let `engine` train `trials` trials, after two steps to warm up."""
        job = self.job
        self.train(engine, 1, 2)
        return self.timed(lambda: self.train(engine, trials or job.trials, job.steps))

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

        return self.timed(every)

    def train(self, engine: Engine, trials: int, steps: int) -> None:
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

    def timed(self, work: Callable[[], None]) -> Result:
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
    command = [sys.executable, "-m", "tests.benchmarks.packed_sides", *arguments]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(number)
    ]
    try:
        for worker in workers:
            if worker.stdout.readline() != "ready\n":  # type: ignore[union-attr]
                raise torch.OutOfMemoryError(f"one of {number} processes ended before it was ready")
        started = time.perf_counter()
        for worker in workers:
            worker.stdin.write("go\n")  # type: ignore[union-attr]
            worker.stdin.flush()  # type: ignore[union-attr]
        told = [worker.stdout.readline() for worker in workers]  # type: ignore[union-attr]
        if not all(told):
            raise torch.OutOfMemoryError(f"one of {number} processes ended while it trained")
        peaks = [int(one) for one in told]
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
        side.train(engine, 1, 2)
        print("ready", flush=True)
        sys.stdin.readline()
        result = side.timed(lambda: side.train(engine, int(trials), job.steps))
        print(result.peak_bytes, flush=True)


if __name__ == "__main__":
    _worker(*sys.argv[1:])
