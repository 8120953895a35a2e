"""The pool of augmented training rows: written once, beside the rows that it was made from."""

from collections.abc import Iterator
from pathlib import Path

from sweeper.config import Config
from sweeper.data.augment import Augmenter
from sweeper.data.encode import Encoded, Encoder, Unusable
from sweeper.data.freeze import SplitFile, text_of
from sweeper.data.manifest import SplitInfo
from sweeper.data.near import digest
from sweeper.data.pool import Pool
from sweeper.data.shingles import normal
from sweeper.data.splits import Codes
from sweeper.data.texts import Form, Text
from sweeper.errors import DataError

AUGMENTED = "augmented.arrow"

_BATCH = 256
_FEW = 0.5
"""A warning is given where no larger share of the rows has a copy."""


def augment(
    pool: Pool, train: Codes, encoder: Encoder, config: Config, folder: Path, positions: int | None
) -> tuple[SplitInfo | None, tuple[str, ...]]:
    """Write augmented copies of the training rows, those with the numbers `train` in `pool`, to `folder`.

    They have the columns of a split and two more, `original` and `method`; their own id is that of the
    original with a number behind it. Copies longer than `positions` tokens are left out, and those that
    have become equal to a validation or test row, both of which lie in `folder`. Returns what is in the
    file, None without `data.augment.methods`, and what a person should know, in sentences.

    Raises DataError if not a single row can be augmented, or synonyms or models can't be read.
    """
    options = config.data.augment
    if not options.methods:
        return None, ()
    augmenter = Augmenter(options, Form.of(config.task), config.sweep.seed)
    met: set[str] = set()
    covered: set[str] = set()
    held_out, leaks = _held_out(folder), 0
    with SplitFile(folder / AUGMENTED, pool.labels, ("original", "method")) as file:
        for start in range(0, len(train), _BATCH):
            columns = pool.rows[train[start : start + _BATCH]]
            rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
            by_id = {row["id"]: row for row in rows if row["id"] not in met}  # equal rows have one id
            met |= by_id.keys()
            # What the limit cuts off need not be changed, and a copy that differs only there is none.
            seen = {name: encoder.visible(text_of(row, raw=False)) for name, row in by_id.items()}
            for copy in augmenter.copies(list(seen.items())):
                encoded = _encoded(copy.text, seen[copy.original], encoder)
                if encoded is None or (positions is not None and len(encoded.input_ids) > positions):
                    continue
                if digest(normal(encoded.prompt)) in held_out:
                    leaks += 1
                    continue
                covered.add(copy.original)
                marks = {"original": copy.original, "method": copy.method}
                file.add(by_id[copy.original] | marks | {"id": f"{copy.original}+{copy.number + 1}"}, encoded)
    if not file.rows:
        equal = f" into anything but {leaks} copies of validation and test rows" if leaks else ""
        raise DataError(
            f"data.augment.methods: none of {len(train)} training rows could be changed by "
            f"{', '.join(options.methods)}{equal}; take other methods or synonyms, or none: "
            "data.augment.methods=[]"
        )
    return file.info(), tuple(_told(len(covered), len(train), leaks))


def _held_out(folder: Path) -> frozenset[int]:
    """Digests of what a model is asked in validation and test."""
    from datasets import Dataset

    files = [folder / f"{split}.arrow" for split in ("validation", "test")]
    return frozenset(
        digest(normal(prompt))
        for file in files
        if file.exists()
        for prompt in Dataset.from_file(str(file))["prompt"]
    )


def _told(covered: int, rows: int, leaks: int) -> Iterator[str]:
    if covered <= _FEW * rows:
        yield (
            f"{covered} of {rows} training rows have an augmented copy; the others are trained on as they "
            "are, whatever trial.augment_rate says"
        )
    if leaks:
        yield f"{leaks} augmented copies were left out: they are equal to a validation or test row"


def _encoded(text: Text, original: Text, encoder: Encoder) -> Encoded | None:
    """None where the copy can't be used, or is cut to what the original is."""
    try:
        encoded = encoder.encode(text)
    except Unusable:
        return None
    if encoded.input_cut and encoded.prompt == encoder.encode(original).prompt:
        return None
    return encoded
