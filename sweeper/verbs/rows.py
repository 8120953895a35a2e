"""What is trained: rows as the model sees them, with their special tokens, and what carries loss marked."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from sweeper.config import Config
from sweeper.data.findings import printable
from sweeper.data.manifest import fates, lengths
from sweeper.errors import DataError
from sweeper.layout import Layout
from sweeper.terminal.screen import Screen

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sweeper.data.prepare import Prepared

_TRAINED, _SPECIAL = "green", "cyan"
_OPENS, _CLOSES = "[[", "]]"


def show_rows(config: Config, layout: Layout, split: str, number: int, screen: Screen) -> None:
    """Print the first `number` rows of a split: those of a sweep that has begun, else as it would have them.

    Only the tokenizer of the model is needed, and nothing is left behind. Raises ModelError and DataError as
    a sweep does, DataError for a split that the rows don't have.
    """
    from sweeper.data import prepare
    from sweeper.models import pretrained

    with screen.step(f"Finding the tokenizer of {config.model.name}"):
        resolved = pretrained.resolve(config.model, weights=False)
        tokenizer = pretrained.load_tokenizer(resolved)
    if prepare.frozen(config, layout.rows) is not None:
        _show(prepare.open_rows(layout.rows), config, tokenizer, split, number, screen)
        return
    with tempfile.TemporaryDirectory() as temporary:
        with screen.step("Preparing the rows"):
            architecture = pretrained.architecture(resolved, config.task)
            limit, folder = pretrained.positions(resolved), Path(temporary) / "rows"
            prepared = prepare.prepare(config, tokenizer, architecture, folder, limit)
        _show(prepared, config, tokenizer, split, number, screen)


def _show(
    prepared: "Prepared",
    config: Config,
    tokenizer: "PreTrainedTokenizerBase",
    split: str,
    number: int,
    screen: Screen,
) -> None:
    manifest = prepared.manifest
    if split not in manifest.splits:
        raise DataError(f"there are no {split} rows; there are: {', '.join(manifest.splits)}")
    if told := lengths(manifest):
        screen.say(told)
    for line in fates(manifest):
        screen.say(line)
    for line in _stated(config, manifest.architecture):
        screen.say(line)
    rows = prepared.open_test() if split == "test" else getattr(prepared, split)
    for place, row in enumerate(rows.select(range(min(number, len(rows)))), start=1):
        screen.say("")
        screen.say(f"{split} row {place} of {len(rows)}, {row['id']}: {_lengths(row, manifest.architecture)}")
        screen.console.print(_text(row, manifest.architecture, tokenizer), soft_wrap=True)
        if row["label"] >= 0:
            screen.say(f"Class: {row['answer']}")
        screen.say(_special(row, tokenizer))


def _stated(config: Config, architecture: str) -> Iterator[str]:
    """How a row is to be read, and what is done to it that it doesn't say itself."""
    if architecture == "classifier":
        yield "The model reads the text below; what it learns to tell is the class."
    else:
        yield f"What is learned stands between {_OPENS} and {_CLOSES}."
    if config.task.kind == "generate" and architecture == "causal" and not config.task.chat_template:
        yield "A blank is put before an answer where neither it nor the end of the prompt has one."


def _lengths(row: Mapping[str, Any], architecture: str) -> str:
    learned = sum(label >= 0 for label in row["labels"])
    if architecture == "classifier":
        return f"{len(row['input_ids'])} tokens"
    asked = f"answers are generated after {len(row['prompt_ids'])}"
    if architecture == "seq2seq":
        return f"{len(row['input_ids'])} tokens, and {learned} learned"
    return f"{len(row['input_ids'])} tokens, {learned} of them learned; {asked}"


def _text(row: Mapping[str, Any], architecture: str, tokenizer: "PreTrainedTokenizerBase") -> Text:
    ids, labels = row["input_ids"], row["labels"]
    if architecture == "seq2seq":
        ids, labels = [*ids, *labels], [*[-1] * len(ids), *labels]
    text, is_open = Text(), False
    for piece, is_learned, is_special in _pieces(ids, labels, tokenizer):
        if is_learned != is_open:
            text.append(_OPENS if is_learned else _CLOSES, style="bold")
            is_open = is_learned
        style = _SPECIAL if is_special else _TRAINED if is_learned else ""
        text.append(printable(piece), style=f"bold {style}" if is_learned else style)
    return text.append(_CLOSES, style="bold") if is_open else text


def _pieces(
    ids: Sequence[int], labels: Sequence[int], tokenizer: "PreTrainedTokenizerBase"
) -> Iterator[tuple[str, bool, bool]]:
    """Runs of tokens as text, whether they are learned, whether they are special."""
    from sweeper.models.templates import special_ids

    special = special_ids(tokenizer)
    kinds = [(label >= 0, token in special) for token, label in zip(ids, labels, strict=True)]
    start, before = 0, ""
    for place in range(1, len(ids) + 1):
        if place == len(ids) or kinds[place] != kinds[start]:
            # Decoded with what comes before: some tokenizers take the first blank away.
            whole = str(tokenizer.decode(ids[:place], clean_up_tokenization_spaces=False))
            yield (whole[len(before) :], *kinds[start])
            start, before = place, whole


def _special(row: Mapping[str, Any], tokenizer: "PreTrainedTokenizerBase") -> str:
    """Which tokens are special: a text may write what looks like one."""
    from sweeper.models.templates import special_ids

    special = special_ids(tokenizer)
    ids = [*row["input_ids"], *([] if len(row["labels"]) == len(row["input_ids"]) else row["labels"])]
    found = [str(tokenizer.convert_ids_to_tokens(token)) for token in ids if token in special]
    counts = [f"{found.count(one)} {one}" for one in dict.fromkeys(found)]
    return f"Special tokens: {', '.join(counts) or 'none'}"
