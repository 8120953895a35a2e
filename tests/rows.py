"""Small data sets for tests: files, a configuration over them, and a tokenizer that knows every byte."""

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sweeper.compose import compose, read_config
from sweeper.config import Config, PartsConfig, SizesConfig

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@functools.cache
def tokenizer(template: str | None = None) -> PreTrainedTokenizerFast:
    """One token per byte, besides the special ones."""
    special = ["<pad>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {
        token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    bytes_alone = Tokenizer(models.BPE(vocabulary, []))
    bytes_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_alone.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=bytes_alone, additional_special_tokens=["<|im_start|>"])
    made.add_special_tokens({"pad_token": "<pad>", "eos_token": "<|im_end|>"})
    made.chat_template = template
    return made


@functools.cache
def _base(kind: str) -> Config:
    experiment = {"generate": "summarize", "classify": "classify", "chat": "instruct"}[kind]
    inputs, answers, generated = {"generate": (40, 20, 16), "classify": (64, 1, 1), "chat": (384, 128, 48)}[
        kind
    ]
    overrides = [
        f"+experiment={experiment}",
        f"task.max_input_tokens={inputs}",
        f"task.max_answer_tokens={answers}",
        f"task.generation.max_new_tokens={generated}",
    ]
    if kind == "chat":
        overrides += ["data.messages=messages"]
    else:
        overrides += ["data=file", "data.input=text", "data.target=answer"]
    return read_config(compose([*overrides, "data.path=rows.jsonl"]))[0]


def configure(
    path: Path | None,
    kind: str = "generate",
    *,
    sizes: tuple[int | None, int, int] = (None, 2, 2),
    parts: tuple[str | None, str | None, str | None] = (None, None, None),
    seed: int = 7,
    task: Mapping[str, Any] | None = None,
    **data: Any,
) -> Config:
    """A configuration over the rows at `path`; `data` and `task` replace fields of those sections."""
    base = _base(kind)
    section = replace(base.data, path=path, sizes=SizesConfig(*sizes), parts=PartsConfig(*parts), **data)
    return replace(
        base, sweep=replace(base.sweep, seed=seed), data=section, task=replace(base.task, **task or {})
    )


def write_jsonl(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def pairs(count: int) -> list[dict[str, Any]]:
    """Rows with four groups, two uneven labels, and an answer of their own each."""
    return [
        {
            "text": f"text number {i}",
            "answer": f"answer {i}",
            "g": f"g{i % 10}",
            "label": ["a", "b"][i % 4 == 0],
        }
        for i in range(count)
    ]


def chat(*said: str) -> dict[str, Any]:
    """A conversation that begins with the user, who alternates with the assistant."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(said)]}
