"""Candidate rows, encoded and written down as splits."""

import hashlib
import statistics
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sweeper.advice import either, equal_shares
from sweeper.config import Config, DataConfig, TaskConfig
from sweeper.data.cleaning import KEPT, count
from sweeper.data.encode import Encoded, Encoder, Unusable
from sweeper.data.files import SPLITS
from sweeper.data.manifest import SplitInfo, StepCounts
from sweeper.data.pool import Pool
from sweeper.data.splits import Codes
from sweeper.data.texts import Text
from sweeper.errors import DataError

_BATCH = 256
_NONE, _USELESS = -1, -2
"""In the place of a split's number: not looked at; of no use to any split."""


def freeze(
    pool: Pool,
    candidates: Mapping[str, Codes],
    encoder: Encoder,
    config: Config,
    folder: Path,
    positions: int | None,
) -> tuple[dict[str, SplitInfo], dict[str, StepCounts], Codes]:
    """Write `folder`/SPLIT.arrow for every split; tell what is in them, what cleaning has done, and which
    rows of the pool are training rows.

    Test chooses first and takes rows as they are; validation and train take cleaned rows that are like none
    in the splits before them. Rows that can't be used are counted in `pool.dropped`. Raises DataError if a
    split stays too small, every answer is cut, or a row is longer than `positions` tokens.
    """
    steps = config.data.cleaning
    split_of = np.full(len(pool.rows), _NONE)
    alike_in = np.full(len(pool.rows), _NONE)  # by the numbers in pool.alike
    infos: dict[str, SplitInfo] = {}
    for name in reversed(SPLITS):
        if name not in candidates:
            continue
        code, size = SPLITS.index(name), getattr(config.data.sizes, name)
        rows = candidates[name][split_of[candidates[name]] == _NONE]
        if name != "test":
            rows = rows[pool.left_out[rows] == KEPT]
            is_like = _count_likenesses(rows, alike_in, pool, config)
            split_of[rows[is_like]] = _USELESS
            rows = rows[~is_like]
        with SplitFile(folder / f"{name}.arrow", pool.labels) as file:
            for number, row, encoded in _encode(pool, rows, encoder, raw=name == "test"):
                split_of[number] = _USELESS
                if encoded is not None:
                    split_of[number] = alike_in[pool.alike[number]] = code
                    file.add(row, encoded)
                if file.rows == size:
                    break
        if file.rows < (size or 1):
            raise DataError(_too_few(name, file.rows, pool, config, positions))
        infos[name] = file.info()
    _check(config.task, config.data, infos, positions)
    is_test = (split_of == SPLITS.index("test")) | (pool.parts == SPLITS.index("test"))
    cleaned = count(steps, pool.changed, pool.left_out, is_test)
    train = np.flatnonzero(split_of == SPLITS.index("train"))
    return {name: infos[name] for name in SPLITS if name in infos}, cleaned, train


def warnings(infos: Mapping[str, SplitInfo], labels: Sequence[str], data: DataConfig) -> tuple[str, ...]:
    """What a person should know about the frozen rows, in sentences; the audit tells what is cut off."""
    told = []
    missing = [name for code, name in enumerate(labels) if code not in infos["train"].labels]
    if missing:
        told.append(f"no training row has the label {', '.join(missing)}; {_more_labels(data)}")
    train, validation = infos["train"].rows, infos["validation"].rows
    if train < validation:
        sizes = data.sizes
        ways = [] if sizes.train is None else [f"raise data.sizes.train ({sizes.train})"]
        held_out = [f"data.sizes.{name}" for name in ("validation", "test") if getattr(sizes, name)]
        ways += [f"lower {' and '.join(held_out)}", "give more rows"]
        told.append(
            f"ONLY {train} TRAINING ROWS, fewer than the {validation} that are measured on: {either(ways)}"
        )
    if unlearnt := sum(info.unlearnt for info in infos.values()):
        told.append(
            f"in {unlearnt} chats the chat template changes or leaves out what the assistant said earlier; "
            "those turns are context alone, and the loss is on the others"
        )
    return tuple(told)


def _count_likenesses(rows: Codes, alike_in: Codes, pool: Pool, config: Config) -> NDArray[np.bool_]:
    """[rows] whether a row is like one in a split written before; counted in `pool.dropped`."""
    found = alike_in[pool.alike[rows]]
    what = "near-duplicate" if config.data.keep_together else "copy"
    for code in np.unique(found[found != _NONE]):
        reason, like = f"{what} of a {SPLITS[code]} row", rows[found == code]
        pool.drop(reason, like[0])
        pool.dropped[reason] += len(like) - 1
    is_like: NDArray[np.bool_] = found != _NONE
    return is_like


def _too_few(name: str, rows: int, pool: Pool, config: Config, positions: int | None) -> str:
    needed, left_out = getattr(config.data.sizes, name) or 1, pool.without(config.data.cleaning) or "none"
    hints = ["lower data.sizes", "give more rows"]
    refusals = {reason: n for reason, n in pool.dropped.items() if reason.startswith("the chat template")}
    if sum(refusals.values()) > rows:
        hints = ["take a model whose chat template has a place for what these rows hold"]
        if any("system" in reason.lower() for reason in refusals) and config.task.system_turn == "keep":
            fold = "set task.system_turn=fold (what the system says then begins the user's next turn)"
            hints.insert(0, fold)
    if any(reason.endswith("within the length limit") for reason in pool.dropped):
        task, longer = config.task, "take a model that looks at more tokens, or shorten the rows"
        if positions is None or task.max_input_tokens + task.max_answer_tokens < positions:
            longer = f"raise task.max_input_tokens (now {task.max_input_tokens})"
        hints.insert(0, longer)
    if sum(n for reason, n in pool.dropped.items() if reason.startswith("near-duplicate of")) > rows:
        hints.append("set data.keep_together=false if your rows are alike by nature")
    advice = either(hints)
    reason = max(pool.first, key=lambda reason: pool.dropped[reason], default="")
    first = f" (e.g. {pool.first[reason]})" if reason else ""
    return (
        f"data.sizes.{name}: {rows} usable rows, {needed} needed; left out: {left_out}{first}. "
        f"{advice[0].upper()}{advice[1:]}"
    )


def _encode(
    pool: Pool, numbers: Codes, encoder: Encoder, raw: bool
) -> Iterator[tuple[int, Mapping[str, str], Encoded | None]]:
    """The rows of these numbers, encoded as they were or as they were cleaned; None if one can't be."""
    for start in range(0, len(numbers), _BATCH):
        some = numbers[start : start + _BATCH]
        columns = pool.rows[some]
        for place, number in enumerate(some):
            row = {name: values[place] for name, values in columns.items()}
            text = text_of(row, raw)
            try:
                yield int(number), row, encoder.encode(text)
            except Unusable as reason:
                is_known = str(reason) in pool.first
                pool.drop(str(reason), number, "" if is_known else encoder.refused_at(text))
                pool.left_out[number] = KEPT  # counted once
                yield int(number), row, None


def text_of(row: Mapping[str, str | None], raw: bool) -> Text:
    """A row of the pool as it was, or as it was cleaned."""
    text, target = (
        row[name] if raw or row[f"clean_{name}"] is None else row[f"clean_{name}"]
        for name in ("input", "target")
    )
    return Text(text or "", target or "")


def _more_labels(data: DataConfig) -> str:
    """How rows of every label get into train."""
    ways = ["give more rows of the labels that are rare"]
    if data.sizes.train is not None:
        ways.insert(0, f"raise data.sizes.train ({data.sizes.train})")
    if stratified := equal_shares(data):
        ways.insert(0, f"set {stratified}")
    return either(ways)


def _check(task: TaskConfig, data: DataConfig, infos: Mapping[str, SplitInfo], positions: int | None) -> None:
    rows = sum(info.rows for info in infos.values())
    median = round(statistics.median(info.answer_tokens for info in infos.values()))
    if task.kind == "generate" and sum(info.cut_answers for info in infos.values()) == rows:
        raise DataError(
            f"task.max_answer_tokens={task.max_answer_tokens} cuts off every answer: their median length is "
            f"{median} tokens. Set task.max_answer_tokens={median} or more"
        )
    if len(infos["train"].labels) == 1:
        raise DataError(f"data.target: the training rows have a single class; {_more_labels(data)}")
    longest = max(info.longest for info in infos.values())
    if positions is not None and longest > positions:
        raise DataError(
            f"the longest row has {longest} tokens and the model looks at {positions}; lower "
            f"task.max_input_tokens ({task.max_input_tokens}) or "
            f"task.max_answer_tokens ({task.max_answer_tokens})"
        )


class SplitFile:
    """An Arrow stream of one split, with what is to be known of it."""

    def __init__(self, path: Path, labels: Sequence[str], marks: Sequence[str] = ()) -> None:
        """`marks` are columns of text more, taken from a row as they are."""
        import pyarrow as pa

        tokens = pa.list_(pa.int32())
        text = pa.large_string()
        self._schema = pa.schema(
            [(name, text) for name in (*marks, "id", "slice", "group", "prompt", "answer")]
            + [(name, tokens) for name in ("input_ids", "labels", "prompt_ids")]
            + [("label", pa.int32())]
        )
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_stream(self._file, self._schema)
        self._numbers = {name: code for code, name in enumerate(labels)}
        self._marks = marks
        self._digest = hashlib.sha256()
        self._batch: list[dict[str, object]] = []
        self._longest = self._cut_inputs = self._cut_answers = self._tokens = self._unlearnt = 0
        self._answer_tokens = array("q")
        self._labels: set[int] = set()
        self.rows = 0

    def __enter__(self) -> "SplitFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._writer.close()
        self._file.close()

    def add(self, row: Mapping[str, str], encoded: Encoded) -> None:
        """Append a row, and take it into account in what `info` tells."""
        label = self._numbers.get(encoded.answer, -1)
        self._digest.update(f"{row['id']} {encoded.input_ids} {encoded.labels} {label}\n".encode())
        self._batch.append(
            {name: row[name] for name in self._marks}
            | {
                "id": row["id"],
                "slice": row["slice"],
                "group": row["group"],
                "prompt": encoded.prompt,
                "answer": encoded.answer,
                "input_ids": encoded.input_ids,
                "labels": encoded.labels,
                "prompt_ids": encoded.prompt_ids,
                "label": label,
            }
        )
        self.rows += 1
        self._longest = max(self._longest, len(encoded.input_ids), len(encoded.labels))
        self._tokens += len(encoded.input_ids)
        self._cut_inputs += encoded.input_cut
        self._cut_answers += encoded.answer_cut
        self._unlearnt += encoded.unlearnt > 0
        self._answer_tokens.append(encoded.answer_tokens)
        if label >= 0:
            self._labels.add(label)
        if len(self._batch) == _BATCH:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._batch:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._batch, schema=self._schema))
        self._batch = []

    def info(self) -> SplitInfo:
        return SplitInfo(
            self.rows,
            self._digest.hexdigest()[:32],
            self._longest,
            self._cut_inputs,
            self._cut_answers,
            round(statistics.median(self._answer_tokens)),
            tuple(sorted(self._labels)),
            unlearnt=self._unlearnt,
            tokens=self._tokens,
        )
