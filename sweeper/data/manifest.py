"""What is known of frozen rows: where they came from, what was dropped, what they add up to.

Reading a manifest takes neither torch nor transformers nor datasets, so that a finished sweep answers
quickly.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sweeper.config import Config, DataConfig
from sweeper.data.augment import defining as augmentation
from sweeper.data.review import read_review
from sweeper.events import DataSetInfo
from sweeper.layout import write_atomically
from sweeper.loading import to_tree

_FORMAT = 3
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
    unlearnt: int = 0
    """Chats with turns of the assistant that carry no loss, as the template changes them."""
    tokens: int = 0
    """That the model reads of all rows: prompt and answer, of sequence-to-sequence models the prompt."""


@dataclass(frozen=True)
class StepCounts:
    """What a cleaning step did to rows."""

    changed: int
    dropped: int
    flagged: int
    """Test rows that it would have changed or dropped; they are as they were."""


@dataclass(frozen=True)
class Lengths:
    """Lengths that were taken from rows."""

    taken: Mapping[str, int] = field(default_factory=dict)
    """By the names of `TaskConfig.lengths`; empty where the configuration has numbers."""
    rows: int = 0
    """Rows that were counted."""
    percentile: int = 100
    """Of 100 of them so many need no more."""
    bound: int | None = None
    """Tokens of a row at most, where rows need more; None where they don't."""


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
    """Rows left out, by reason; those that cleaning left out are counted in `cleaned`."""
    cleaned: Mapping[str, StepCounts]
    """By cleaning step, in order."""
    splits: Mapping[str, SplitInfo]
    labels: tuple[str, ...]
    """Names of the classes, by number; empty where there are none."""
    warnings: tuple[str, ...]
    """Sentences for people."""
    reviewed: Mapping[str, int] = field(default_factory=dict)
    """Rows by what a person decided on them: keep, drop, fix."""
    augmented: SplitInfo | None = None
    """The pool of augmented training rows, if there is one."""
    lengths: Lengths = field(default_factory=Lengths)
    """Those that the configuration left to the rows."""
    first: Mapping[str, str] = field(default_factory=dict)
    """The first row that was left out, by reason: where it stands, and what in it is the matter."""

    @property
    def left_out(self) -> Mapping[str, int]:
        """Every row that no split has and that could have been taken, by reason."""
        steps = {f"cleaning step {step}": counts.dropped for step, counts in self.cleaned.items()}
        return {reason: count for reason, count in {**self.dropped, **steps}.items() if count}


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
    asked = replace(config, task=config.task.with_lengths(manifest.lengths.taken))
    return manifest if manifest.key == key(asked) else None


def read(folder: Path) -> Manifest:
    """The manifest in `folder`, whatever configuration it follows from. Raises FileNotFoundError."""
    return TypeAdapter(Manifest).validate_json((folder / _FILE).read_text(encoding="utf-8"))


def write(manifest: Manifest, folder: Path) -> None:
    write_atomically(folder / _FILE, json.dumps(to_tree(manifest), indent=1, ensure_ascii=False) + "\n")


def key(config: Config) -> str:
    """Digest of the parts of the configuration that the rows follow from."""
    task = config.task
    tree = {
        "format": _FORMAT,
        "seed": config.sweep.seed,
        "data": defining(config.data),
        "model": [config.model.name, config.model.embedded],
        "task": [
            *(task.kind, task.prompt, task.chat_template, task.max_input_tokens, task.max_answer_tokens),
            *([] if task.system_turn == "keep" else [task.system_turn]),
        ],
    }
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:32]


def defining(data: DataConfig) -> dict[str, Any]:
    """The part of `data` that rows follow from, as a plain tree.

    Files count by their content, wherever they lie: that of the rows is compared on its own, a review is
    named by its decisions. How rows are audited changes none of them; only what counts as a near-duplicate
    is asked for by cleaning and splits too. Raises DataError if the review, or what augmentation takes, can't
    be read.
    """
    tree: dict[str, Any] = to_tree(data)
    del tree["path"], tree["audit"]
    if data.parts.column is None:  # rows without it are those that have never heard of it
        del tree["parts"]["column"]
    if data.tools == "tools":  # data that don't say so are the same
        del tree["tools"]
    if data.target_format == "text":
        del tree["target_format"]
    if data.keep_together or "near_duplicates" in data.cleaning:
        tree["near_duplicates"] = data.audit.near_duplicates
    return tree | {"review": read_review(data.review).digest, "augment": augmentation(data.augment)}


def cleaning(manifest: Manifest) -> str:
    """A sentence with what a person's decisions and every step did, "" where none was asked for."""
    did = []
    if manifest.reviewed:
        decided = ", ".join(f"{count} {what}" for what, count in manifest.reviewed.items())
        did.append(f"a person's decisions {decided}")
    for step, counts in manifest.cleaned.items():
        numbers = [f"{count} {what}" for what, count in to_tree(counts).items() if count]
        did.append(f"{step} {', '.join(numbers) or 'nothing'}")
    return f"Cleaning: {'; '.join(did)}" if did else ""


def fates(manifest: Manifest) -> tuple[str, ...]:
    """What became of every row that was read, in sentences: a sum, then why rows were left out."""
    splits = ", ".join(f"{name} {split.rows:,}" for name, split in manifest.splits.items())
    left_out = manifest.left_out
    rows, out = sum(split.rows for split in manifest.splits.values()), sum(left_out.values())
    told = [f"Rows: {manifest.harvested:,} read; {splits}; {out:,} left out"]
    if (spare := manifest.harvested - rows - out) > 0:
        told[0] += f"; {spare:,} more than data.sizes asks for"
    for reason, count in sorted(left_out.items(), key=lambda item: -item[1]):
        first = manifest.first.get(reason)
        told.append(f"{count:,} left out: {reason}" + (f"; e.g. {first}" if first else ""))
    return tuple(told)


def lengths(manifest: Manifest) -> str:
    """A sentence with what was taken and how many of the prepared rows are cut; "" where nothing was."""
    names = {
        "max_input_tokens": "inputs",
        "max_answer_tokens": "answers",
        "max_new_tokens": "generated ones",
    }
    found = manifest.lengths
    taken = [f"{names[name]} {tokens:,}" for name, tokens in found.taken.items()]
    if not taken:
        return ""
    inputs, answers, rows = (
        sum(getattr(info, name) for info in manifest.splits.values())
        for name in ("cut_inputs", "cut_answers", "rows")
    )
    why = f"what {found.percentile} % of each need, by {found.rows:,} rows"
    if found.bound is not None:
        why += f", within {found.bound:,} tokens a row"
    return (
        f"Tokens at most: {', '.join(taken)} ({why}); cut are {inputs:,} inputs and {answers:,} answers of "
        f"{rows:,} rows"
    )


def describe(manifest: Manifest) -> tuple[DataSetInfo, ...]:
    """The splits as a tracker names them."""
    return tuple(
        DataSetInfo(name, split.rows, manifest.source, split.digest)
        for name, split in manifest.splits.items()
    )
