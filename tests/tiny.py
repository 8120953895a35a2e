"""Models of a few thousand weights, rows to match, and a channel that answers as it is told."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from sweeper.compose import compose, read_config
from sweeper.config import Config, ModelConfig, TrialSettings
from sweeper.engines import make_engine
from sweeper.messages import Decision, Done, Evaluation, Outcome, Progress, TrialSpec, Wait
from sweeper.models.heads import Head, Lacking, find_head
from sweeper.models.modeling import BaseModel

WORDS = ["red", "green", "blue", "one", "two", "three", "cat", "dog", "bird", "sees", "hears", "says"]
LABELS = ("cat", "dog", "bird")
CHAT = (
    "{% for m in messages %}{{ m['role'] + ' : ' + m['content'] + ' <eos> ' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)


@dataclass(frozen=True)
class Rows:
    """What `sweeper.data.prepare.Prepared` looks like to an engine."""

    train: Dataset
    validation: Dataset
    labels: tuple[str, ...] = ()
    digest: str = "tiny"
    augmented: Dataset | None = None
    test: Dataset | None = None

    def open_test(self) -> Dataset:
        assert self.test is not None, "these rows have no test rows that anybody may open"
        return self.test


def tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<eos>", "<unk>", "user", "assistant", ":", *WORDS]
    numbers = {word: i for i, word in enumerate(words)}
    model = Tokenizer(WordLevel(numbers, unk_token="<unk>"))  # noqa: S106 - of a tokenizer
    model.pre_tokenizer = Whitespace()
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    made = PreTrainedTokenizerFast(tokenizer_object=model, **special)
    made.chat_template = CHAT
    return made


def llama(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer()),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
        )
    )


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer()), n_positions=64, n_embd=32, n_layer=2, n_head=4,
        pad_token_id=0, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def t5(dropout: float = 0.1) -> T5ForConditionalGeneration:
    """By default with the dropout of its own that T5 is published with."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer()), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        dropout_rate=dropout, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    return T5ForConditionalGeneration(config)


def classifier() -> Any:
    torch.manual_seed(0)
    shape = llama().config
    shape.num_labels = len(LABELS)
    return AutoModelForSequenceClassification.from_config(shape)


def new_head(model: Any, *modules: str) -> Head:
    """The head of a model whose files lack `modules`, as those of a base model do."""
    missing = (f"{one}.{name}" for one in modules for name, _ in model.get_submodule(one).named_parameters())
    return find_head(model, Lacking(frozenset(missing)), (), LABELS)


def save(model: Any, folder: Path) -> Path:
    """A model folder in Hugging Face's format."""
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@cache
def _base(kind: str) -> BaseModel:
    if kind == "classifier":
        model = classifier()
        return BaseModel(model, tokenizer(), "classifier", new_head(model, "score"), "tiny")
    made = {"causal": llama, "gpt2": gpt2, "seq2seq": t5}[kind]()
    return BaseModel(made, tokenizer(), "seq2seq" if kind == "seq2seq" else "causal", name="tiny")


def base(kind: str = "causal") -> BaseModel:
    """A tiny base model, made once per kind; trials leave it as it was."""
    return _base(kind)


def rows(
    kind: str = "causal", train: int = 24, validation: int = 10, pool: bool = False, test: int = 0
) -> Rows:
    """Copying tasks with a pattern: the answer is the last two words of the prompt.

    `pool`: each training row but every fourth has an augmented copy, with another first word.
    """
    words = tokenizer()

    def row(i: int) -> dict[str, Any]:
        chosen = [WORDS[(i * 5 + j * (1 + i % 3)) % len(WORDS)] for j in range(3 + i % 4)]
        prompt, answer = f"{' '.join(chosen)} :", " ".join(chosen[-2:])
        prompt_ids = words(prompt)["input_ids"]
        answer_ids = [*words(answer)["input_ids"], words.eos_token_id]
        common = {"id": f"r{i}", "slice": "ab"[i % 3 == 1 or i % 4 == 0], "group": f"g{i % 4}"}
        common |= {"prompt": prompt, "answer": answer, "prompt_ids": prompt_ids}
        if kind == "classifier":
            label = i % len(LABELS)
            return common | {"answer": LABELS[label], "input_ids": prompt_ids, "labels": [], "label": label}
        if kind == "seq2seq":
            return common | {"input_ids": prompt_ids, "labels": answer_ids, "label": -1}
        labels = [-100] * len(prompt_ids) + answer_ids
        return common | {"input_ids": prompt_ids + answer_ids, "labels": labels, "label": -1}

    every = [row(i) for i in range(train + validation + test)]
    other = words.convert_tokens_to_ids("says")
    copies = [
        one | {"id": f"{one['id']}+1", "original": one["id"], "input_ids": [other, *one["input_ids"][1:]]}
        for i, one in enumerate(every[:train])
        if i % 4
    ]
    return Rows(
        Dataset.from_list(every[:train]),
        Dataset.from_list(every[train : train + validation]),
        LABELS if kind == "classifier" else (),
        augmented=Dataset.from_list(copies) if pool else None,
        test=Dataset.from_list(every[train + validation :]) if test else None,
    )


def chats(train: int = 24, validation: int = 10, test: int = 0) -> Rows:
    """Conversations of two turns each, where the assistant says the last of two words."""
    words = tokenizer()

    def row(i: int) -> dict[str, Any]:
        said = [[WORDS[(i * 5 + j * (1 + i % 3) + k) % len(WORDS)] for j in range(2 + k)] for k in (0, i % 3)]
        ids: list[int] = []
        labels: list[int] = []
        begin = 0
        for turn in said:
            ids += words(f"user : {' '.join(turn)} <eos> assistant :")["input_ids"]
            begin, answer = len(ids), words(f"{turn[-1]} <eos>")["input_ids"]
            labels += [-100] * (begin - len(labels)) + answer
            ids += answer
        prompt = words.decode(ids[:begin])
        common = {"id": f"r{i}", "slice": "ab"[i % 2], "group": f"g{i % 4}", "label": -1}
        return common | {
            "prompt": prompt, "answer": said[-1][-1], "prompt_ids": ids[:begin],
            "input_ids": ids, "labels": labels,
        }  # fmt: skip

    every = [row(i) for i in range(train + validation + test)]
    parts = every[:train], every[train : train + validation], every[train + validation :]
    trained, validated, tested = (Dataset.from_list(part) if part else None for part in parts)
    assert trained is not None
    assert validated is not None
    return Rows(trained, validated, test=tested)


CHATS = ("task=instruct", "data=chats", "data.path=none.jsonl")
"""Overrides for `config` that go with `chats`."""


@cache
def _composed(experiment: str, overrides: tuple[str, ...]) -> Config:
    return read_config(compose([f"+experiment={experiment}", *overrides]))[0]


def config(*overrides: str, kind: str = "causal") -> Config:
    """The shipped configuration for `kind` of model, made small."""
    experiment = "classify" if kind == "classifier" else "summarize"
    small = ["task.evaluation.batch_size=4", "task.evaluation.samples=2", "task.generation.max_new_tokens=4"]
    return _composed(experiment, (*small, *overrides))


def model_config(**changes: Any) -> ModelConfig:
    return replace(config().model, **changes)


def local(folder: Path, **changes: Any) -> ModelConfig:
    """A model folder as the configuration names it."""
    return model_config(
        name=str(folder), **{"embedded": False, "device": "cpu", "dtype": "float32", **changes}
    )


def settings(like: Config | None = None, **changes: Any) -> TrialSettings:
    """Settings for tiny models; `lora_rank=4` changes lora.rank."""
    start = (like or config()).trial
    lora = {
        name.removeprefix("lora_"): changes.pop(name) for name in list(changes) if name.startswith("lora_")
    }
    lora = {"rank": 4, "alpha": 8.0} | lora
    return replace(
        start, **{"learning_rate": 1e-2, "batch_size": 4, **changes}, lora=replace(start.lora, **lora)
    )


def spec(
    folder: Path,
    settings: TrialSettings,
    trial: int = 0,
    attempt: int = 1,
    marks: Sequence[int] = (12, 24),
    seed: int = 11,
    held_out: bool = False,
) -> TrialSpec:
    folder = folder / f"{trial:04d}"
    return TrialSpec(trial, attempt, seed, settings, tuple(marks), marks[-1], folder, held_out)


@dataclass
class Script:
    """A channel that hands out `specs` and answers reports with `decide`."""

    specs: Iterable[TrialSpec | Wait]
    decide: Callable[[Progress], Decision] = lambda _: Decision.CONTINUE
    reports: list[Progress] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._waiting = list(self.specs)

    def next_trial(self) -> TrialSpec | Wait | Done:
        return self._waiting.pop(0) if self._waiting else Done()

    def report(self, progress: Progress) -> Decision:
        self.reports.append(progress)
        return self.decide(progress)

    def finish(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    @property
    def evaluations(self) -> list[Evaluation]:
        return [report.evaluation for report in self.reports if report.evaluation is not None]

    @property
    def train_losses(self) -> dict[int, float]:
        """Training loss by examples seen."""
        return {r.examples: r.metrics["train_loss"] for r in self.reports if "train_loss" in r.metrics}


def run(
    *specs: TrialSpec | Wait,
    kind: str = "causal",
    decide: Callable[[Progress], Decision] = lambda _: Decision.CONTINUE,
    overrides: Sequence[str] = ("engine=trainer", "engine.report_seconds=1e-9"),
    data: Rows | None = None,
) -> Script:
    """Run `specs` on the engine `trainer`, or that of `overrides`; every step is reported by default."""
    channel = Script(specs, decide)
    chosen = config(*overrides, kind="classifier" if kind == "classifier" else "causal")
    with one_thread():
        make_engine(chosen, base(kind), data or rows(kind)).run(channel)
    return channel


@contextmanager
def one_thread() -> Iterator[None]:
    """Tiny models gain nothing from threads, and lose much to them on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def shortage(
    rows_that_fit: int, training: bool | None = None, after_passes: int = 0, model: Any = None
) -> Iterator[list[bool]]:
    """Memory runs out with more than so many rows per pass, as on a GPU; gives what became of every pass.

    `training` tells which passes it is about (None: all), `after_passes` how many go well before; `model` is
    the causal base by default. A test that looks at what happens then has to see True among the passes.
    """
    passes: list[bool] = []

    def ask(module: Any, args: Any, kwargs: Any) -> None:
        concerned = training is None or module.training == training
        passes.append(concerned and rows_in(kwargs) > rows_that_fit and len(passes) >= after_passes)
        if passes[-1]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    handle = (model or base().model).register_forward_pre_hook(ask, with_kwargs=True)
    try:
        yield passes
    finally:
        handle.remove()


def rows_in(kwargs: Any) -> int:
    """Rows of a forward pass, which lie beside each other, or end to end with positions that start anew."""
    places = kwargs.get("position_ids")
    if places is None or len(places) > 1:
        return len(kwargs["input_ids"])
    return int((places == 0).sum()) or 1
