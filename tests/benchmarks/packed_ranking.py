"""Whether the engine `packed` ranks trials as `trainer` does, in a base of any type.

    python -m tests.benchmarks.packed_ranking                 # SmolLM2 in bfloat16, on a GPU if there is one
    python -m tests.benchmarks.packed_ranking --steps 4 --batch 4

Trials differ in their learning rate alone. All are trained together by `packed` and one after another by
`trainer`, and by `trainer` once more with other seeds: so far apart are losses that mean the same. In float32
both engines compute the same; in bfloat16 sums are rounded in another order.
"""

import argparse
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import torch
from datasets import Dataset

from sweeper.data.docstrings import harvest
from sweeper.engines import make_engine
from sweeper.models.modeling import BaseModel
from sweeper.models.pretrained import resolve
from tests import tiny

_CHAT = ("task=instruct", "data=chats", "data.path=none.jsonl", "task.evaluation.samples=1")
"""A task whose evaluation is losses alone."""


@dataclass(frozen=True)
class Ranking:
    """Validation losses at the end, by trial."""

    packed: Mapping[int, float]
    trainer: Mapping[int, float]
    other_seeds: Mapping[int, float]

    @property
    def noise(self) -> float:
        """How far apart two seeds are, on average."""
        return mean(abs(self.trainer[i] - self.other_seeds[i]) for i in self.trainer)

    @property
    def apart(self) -> float:
        """How far apart the engines are, on average."""
        return mean(abs(self.trainer[i] - self.packed[i]) for i in self.trainer)

    @property
    def means_apart(self) -> float:
        return abs(mean(self.packed.values()) - mean(self.trainer.values()))

    @property
    def swapped(self) -> Sequence[tuple[int, int]]:
        """Pairs of trials that are further apart than noise, and in the other order."""
        return [
            (i, j)
            for i, j in itertools.permutations(self.trainer, 2)
            if self.trainer[j] - self.trainer[i] > self.noise and self.packed[j] <= self.packed[i]
        ]


def rank(base: BaseModel, rows: tiny.Rows, trials: int, batch: int, folder: Path) -> Ranking:
    """Train `trials` trials, their learning rates from 1e-5 to 1e-2, three times."""
    rates = [1e-5 * 1000 ** (i / (trials - 1)) for i in range(trials)]
    examples = len(rows.train)
    specs = [
        tiny.spec(
            folder, tiny.settings(learning_rate=rate, batch_size=batch, lora_rank=8), trial=i, seed=11 + i,
            marks=(examples,),
        )
        for i, rate in enumerate(rates)
    ]  # fmt: skip

    def losses(name: str, shift: int, *overrides: str) -> dict[int, float]:
        channel = tiny.Script(
            [replace(s, seed=s.seed + shift, folder=folder / name / f"{s.trial}") for s in specs]
        )
        make_engine(tiny.config(*_CHAT, *overrides), base, rows).run(channel)
        assert {outcome.engine for outcome in channel.outcomes} == {overrides[0].removeprefix("engine=")}
        return {outcome.trial: outcome.best.metrics["loss"] for outcome in channel.outcomes if outcome.best}

    return Ranking(
        packed=losses("packed", 0, "engine=packed", f"engine.slots={trials}"),
        trainer=losses("trainer", 0, "engine=trainer"),
        other_seeds=losses("seeds", 1000, "engine=trainer"),
    )


def docstrings(base: BaseModel, train: int, validation: int) -> tiny.Rows:
    """Rows of a summarizing task, cut to 60 tokens."""
    words = base.tokenizer
    found = []
    for one in itertools.islice(harvest(("numpy",)), train + validation):
        prompt = words(f"Text: {one.document}")["input_ids"][:36] + words("\nSummary:")["input_ids"]
        answer = [*words(f" {one.summary}")["input_ids"][:16], words.eos_token_id]
        row = {"id": one.name, "prompt": one.document, "answer": one.summary, "slice": "", "group": ""}
        row |= {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}
        found.append(row | {"prompt_ids": prompt, "label": -1})
    return tiny.Rows(Dataset.from_list(found[:train]), Dataset.from_list(found[train:]))


def main() -> None:
    """Print every trial's losses and whether the engines agree."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.packed_ranking", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", default="bfloat16")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = tiny.config(f"model.dtype={arguments.dtype}", f"model.device={device}")
    base = BaseModel.load(config.model, resolve(config.model), config.task)
    rows = docstrings(base, arguments.steps * arguments.batch, 64)
    with tempfile.TemporaryDirectory() as folder:
        found = rank(base, rows, arguments.trials, arguments.batch, Path(folder))
    print(f"{base.name}, {base.model.dtype} on {device}: validation loss of {arguments.steps} steps")
    print(f"{'trial':>6}{'packed':>10}{'trainer':>10}{'other seed':>12}")
    for i in found.trainer:
        print(f"{i:6}{found.packed[i]:10.4f}{found.trainer[i]:10.4f}{found.other_seeds[i]:12.4f}")
    orders = (sorted(losses, key=losses.__getitem__) for losses in (found.packed, found.trainer))
    print("order: packed {}, trainer {}".format(*orders))
    print(f"further apart than noise and swapped: {found.swapped or 'none'}")
    print(
        f"apart on average: engines {found.apart:.4f}, their means {found.means_apart:.4f}, "
        f"seeds {found.noise:.4f}"
    )


if __name__ == "__main__":
    main()
