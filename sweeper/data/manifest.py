"""What is known of frozen rows: where they came from, what was dropped, what they add up to.

Reading a manifest takes neither torch nor transformers nor datasets, so that a finished sweep answers
quickly.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from sweeper.config import Config
from sweeper.events import DataSetInfo
from sweeper.layout import write_atomically
from sweeper.loading import to_tree

_FORMAT = 1
"""Changes whenever the same configuration would be prepared differently."""

_FILE = "manifest.json"


@dataclass(frozen=True)
class SplitInfo:
    """One frozen split."""

    rows: int
    digest: str
    """Of every row's id and tokens, in order."""
    longest: int
    """Tokens of the longest row, prompt and answer together."""
    cut_inputs: int
    """Rows whose input was cut to the limit."""
    cut_answers: int
    """Rows whose answer was; of a chat, those that lost an assistant turn."""
    answer_tokens: int
    """Median length of an answer before it was cut; of a chat, of the whole conversation."""
    labels: tuple[int, ...]
    """Classes that occur."""


@dataclass(frozen=True)
class Manifest:
    """Everything about the rows but the rows."""

    key: str
    """Of the configuration that they follow from."""
    digest: str
    """Of all frozen rows."""
    source: str
    """In words."""
    content: str | None
    """SHA-256 of the source's files, where it has any (`sources.content_digest`)."""
    tokenizer: str
    """Digest of its vocabulary and chat template."""
    architecture: str
    harvested: int
    """Rows that the source had."""
    dropped: Mapping[str, int]
    """Rows left out, by reason."""
    splits: Mapping[str, SplitInfo]
    labels: tuple[str, ...]
    """Names of the classes, by number; empty where there are none."""
    warnings: tuple[str, ...]
    """Sentences for people."""


def frozen(config: Config, folder: Path) -> Manifest | None:
    """The manifest of the rows in `folder`, if they follow from this configuration.

    What counts is data, task (prompt, template, limits), model name and seed. The model's revision and
    the content of files do not: whoever resumes a sweep compares `Manifest.content` with
    `sources.content_digest` itself.
    """
    try:
        text = (folder / _FILE).read_text(encoding="utf-8")
        manifest = TypeAdapter(Manifest).validate_json(text)
    except (FileNotFoundError, ValidationError):
        return None
    return manifest if manifest.key == key(config) else None


def read(folder: Path) -> Manifest:
    """The manifest in `folder`, whatever configuration it follows from. Raises FileNotFoundError."""
    return TypeAdapter(Manifest).validate_json((folder / _FILE).read_text(encoding="utf-8"))


def write(manifest: Manifest, folder: Path) -> None:
    write_atomically(folder / _FILE, json.dumps(to_tree(manifest), indent=1, ensure_ascii=False) + "\n")


def key(config: Config) -> str:
    """Digest of the parts of the configuration that the rows follow from."""
    task, data = config.task, to_tree(config.data)
    del data["path"]  # the content of files is compared on its own, wherever they lie
    tree = {
        "format": _FORMAT,
        "seed": config.sweep.seed,
        "data": data,
        "model": [config.model.name, config.model.embedded],
        "task": [task.kind, task.prompt, task.chat_template, task.max_input_tokens, task.max_answer_tokens],
    }
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:32]


def describe(manifest: Manifest) -> tuple[DataSetInfo, ...]:
    """The splits as a tracker names them."""
    return tuple(
        DataSetInfo(name, split.rows, manifest.source, split.digest)
        for name, split in manifest.splits.items()
    )
