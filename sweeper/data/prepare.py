"""From a source to frozen, tokenised splits that every trial of a sweep shares."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sweeper.config import Config, DataConfig
from sweeper.config.types import AUTO
from sweeper.data import manifest as manifests
from sweeper.data import sources, splits
from sweeper.data.augmented import AUGMENTED, augment
from sweeper.data.cleaning import KEPT
from sweeper.data.encode import Architecture, Encoder
from sweeper.data.files import SPLITS
from sweeper.data.freeze import freeze, text_of, warnings
from sweeper.data.lengths import ROWS, most_tokens, take
from sweeper.data.manifest import Manifest, SplitInfo, cleaning, describe, fates, frozen, lengths
from sweeper.data.pool import Pool, counted, gather
from sweeper.data.sources import content_digest
from sweeper.data.splits import Codes
from sweeper.data.texts import Text
from sweeper.errors import DataError
from sweeper.failpoints import reach

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "Manifest",
    "Prepared",
    "cleaning",
    "content_digest",
    "describe",
    "fates",
    "frozen",
    "lengths",
    "open_rows",
    "open_test",
    "prepare",
]


@dataclass(frozen=True)
class Prepared:
    """Frozen rows, memory-mapped; the test split is not among them, and is opened by `open_test` alone.

    Columns: `id` (of the content), `slice`, `group`, `prompt` and `answer` as text, `input_ids`,
    `labels` (-100: no loss), `prompt_ids` (where generation starts), `label` (class, else -1).
    """

    train: "Dataset"
    validation: "Dataset"
    labels: tuple[str, ...]
    digest: str
    manifest: Manifest
    folder: Path
    augmented: "Dataset | None" = None
    """Augmented training rows with the same columns and two that mark them: `original`, the id of the row
    that each was made from, and `method`."""

    def open_test(self) -> "Dataset":
        """The test rows, for the verdict alone. Raises DataError if there are none."""
        return open_test(self.folder)


def prepare(
    config: Config,
    tokenizer: "PreTrainedTokenizerBase",
    architecture: Architecture,
    folder: Path,
    positions: int | None = None,
    beside: Path | None = None,
) -> Prepared:
    """Rows for `config` in `folder`, made now or taken as they were frozen there before.

    Frozen rows are taken untouched if configuration, tokenizer and file content are the same; packages
    installed since and a hub data set changed since make no difference. Otherwise they are replaced, and
    their digest tells the difference.

    `positions` is the number of tokens that the model can look at, None if there is no limit. `beside` is a
    folder of frozen rows: validation and test are the same as there, and train gets what they leave.

    Raises DataError: a source that can't be read, a missing column or split, too few rows, no labels, a
    single class, limits that leave nothing to learn, rows longer than `positions`, nothing to augment.
    """
    for left in folder.parent.glob(f".{folder.name}.*"):  # by a killed process
        shutil.rmtree(left, ignore_errors=True)
    fingerprint = _tokenizer_digest(tokenizer)
    content = content_digest(config.data)
    found = frozen(config, folder)
    if (
        found is not None
        and (found.tokenizer, found.architecture) == (fingerprint, architecture)
        and content in (None, found.content)
    ):
        return open_rows(folder)
    Encoder(config.task, tokenizer, architecture)  # what it refuses, it refuses before rows are read
    source = sources.load(config.data, config.task)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        pool = gather(source, config, Path(temporary) / "pool.arrow")
        rows = Path(temporary) / "rows"
        rows.mkdir()
        sample, most = _sample(pool, config), most_tokens(config.model)
        taken = take(config.task, tokenizer, architecture, sample, positions, most)
        config = replace(config, task=config.task.with_lengths(taken.taken))
        encoder = Encoder(config.task, tokenizer, architecture)
        candidates = _candidates(pool, config) if beside is None else _candidates_beside(pool, config, beside)
        infos, cleaned, train = freeze(pool, candidates, encoder, config, rows, positions)
        if beside is not None:
            _check_same(infos, beside)
        augmented, sparse = augment(pool, train, encoder, config, rows, positions)
        frozen_files = [*infos.values(), *([augmented] if augmented else [])]
        manifest = Manifest(
            key=manifests.key(config),
            digest=hashlib.sha256("".join(info.digest for info in frozen_files).encode()).hexdigest()[:32],
            source=source.description,
            content=content,
            tokenizer=fingerprint,
            architecture=architecture,
            harvested=pool.harvested,
            dropped=dict(pool.dropped),
            cleaned=cleaned,
            splits=infos,
            labels=pool.labels,
            warnings=(*pool.warnings, *warnings(infos, pool.labels, config.data), *sparse),
            reviewed=dict(pool.reviewed),
            augmented=augmented,
            lengths=taken,
            first=pool.first,
        )
        manifests.write(manifest, rows)
        reach("rows.frozen")
        _put(rows, folder)
        reach("rows.placed")
    return open_rows(folder)


def _sample(pool: Pool, config: Config) -> list[Text]:
    """Cleaned rows by which lengths are told, test rows that the source names not among them."""
    kept = np.flatnonzero((pool.left_out == KEPT) & (pool.parts != SPLITS.index("test")))
    if AUTO not in config.task.lengths.values() or not len(kept):
        return []
    rng = np.random.default_rng(config.sweep.seed)
    drawn = np.sort(rng.choice(kept, min(ROWS, len(kept)), replace=False))
    return [text_of(row, raw=False) for row in pool.rows.select(drawn)]


def open_rows(folder: Path) -> Prepared:
    """Frozen training and validation rows. Raises DataError if there are none in `folder`."""
    try:
        manifest = manifests.read(folder)
    except FileNotFoundError as error:
        raise DataError(f"{folder} holds no prepared rows; run the sweep to prepare them") from error
    train, validation = _open(folder / "train.arrow"), _open(folder / "validation.arrow")
    augmented = _open(folder / AUGMENTED) if manifest.augmented else None
    return Prepared(train, validation, manifest.labels, manifest.digest, manifest, folder, augmented)


def open_test(folder: Path) -> "Dataset":
    """Frozen test rows, for the verdict alone. Raises DataError if there are none in `folder`."""
    if not (folder / "test.arrow").is_file():
        raise DataError(f"{folder} has no test rows; prepare the sweep with data.sizes.test above 0")
    return _open(folder / "test.arrow")


def _open(path: Path) -> "Dataset":
    from datasets import Dataset

    return Dataset.from_file(str(path))


def _tokenizer_digest(tokenizer: "PreTrainedTokenizerBase") -> str:
    told = json.dumps([sorted(tokenizer.get_vocab().items()), tokenizer.chat_template], sort_keys=True)
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _put(rows: Path, folder: Path) -> None:
    """Move finished rows into place; older ones go first, for a folder can't be replaced by another."""
    if folder.exists():
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.old.") as old:
            os.replace(folder, Path(old) / "rows")
            reach("rows.removed")
            os.replace(rows, folder)
    else:
        os.replace(rows, folder)


def _candidates(pool: Pool, config: Config) -> dict[str, Codes]:
    """For every split the rows that it may take, the first ones first.

    Where no group holds rows together, splits that were not given share one order, and each takes what the
    ones before it have left: first test, then validation.
    """
    data, seed = config.data, config.sweep.seed
    given = {name: np.flatnonzero(pool.parts == code) for code, name in enumerate(SPLITS)}
    sizes = {"train": data.sizes.train, "validation": data.sizes.validation, "test": data.sizes.test}
    carved = {
        name: size
        for name, size in sizes.items()
        if name == "train" or (not _is_given(name, data, given) and size != 0)
    }
    rows = _without_given_groups(pool, given)
    _check_enough(len(rows), {name: 1 if size is None else size for name, size in carved.items()}, pool)
    if pool.groups is None:
        shares = dict.fromkeys(carved, rows)
    else:
        shares = _by_group(rows, pool.groups, pool, carved, seed)
        _check_groups(shares, sizes, pool, data.group)
    for name in ("validation", "test"):
        if name not in carved and sizes[name] != 0:
            _check_enough(len(given[name]), {name: sizes[name] or 1}, pool)
            shares[name] = given[name]
    orders = {}
    for name, share in shares.items():
        # One generator per order and not per split: without groups all splits must see the same order.
        rng = np.random.default_rng(seed)
        size = sizes[name]
        if name == "train" or name not in carved or size is None:
            orders[name] = splits.order(share, pool.strata, rng)
        elif pool.times is not None:
            orders[name] = splits.newest_first(share, pool.times, rng)
        else:
            orders[name] = splits.crowds_last(splits.order(share, pool.strata, rng), pool.alike, size)
    return orders


def _is_given(name: str, data: DataConfig, given: Mapping[str, Codes]) -> bool:
    """Whether the source has the split, so that none is split off from train."""
    return getattr(data.parts, name) is not None or (data.parts.column is not None and len(given[name]) > 0)


def _candidates_beside(pool: Pool, config: Config, folder: Path) -> dict[str, Codes]:
    """As `_candidates`, with the validation and test rows that are frozen in `folder`."""
    numbers: dict[str, int] = {}
    for number, row in enumerate(pool.rows["id"]):
        if row not in numbers or pool.left_out[numbers[row]] != KEPT:
            numbers[row] = number
    orders: dict[str, Codes] = {}
    for name in manifests.read(folder).splits:
        if name != "train":
            ids = _open(folder / f"{name}.arrow")["id"]
            lost = [row for row in ids if row not in numbers]
            if lost:
                raise DataError(
                    f"{len(lost)} of {len(ids)} {name} rows of the sweep are not in its source any more; put "
                    "the old rows, or the old versions of the packages, back"
                )
            orders[name] = np.array([numbers[row] for row in ids], dtype=np.int64)
    taken = np.concatenate(list(orders.values()))
    rest = np.setdiff1d(np.flatnonzero(pool.parts == SPLITS.index("train")), taken)
    if pool.groups is not None:
        rest = rest[~np.isin(pool.groups[rest], pool.groups[taken])]
    return orders | {"train": splits.order(rest, pool.strata, np.random.default_rng(config.sweep.seed))}


def _check_same(infos: Mapping[str, SplitInfo], folder: Path) -> None:
    """Raise DataError if validation or test rows are not those that are frozen in `folder`."""
    for name, before in manifests.read(folder).splits.items():
        if name != "train" and infos[name].digest != before.digest:
            raise DataError(
                f"the {name} rows would not be those of the sweep any more, so scores could not be compared; "
                "take the versions of sweeper and its libraries that the sweep was begun with"
            )


def _by_group(
    rows: Codes, groups: Codes, pool: Pool, carved: Mapping[str, int | None], seed: int
) -> dict[str, Codes]:
    """Groups shared out by the rows that cleaning leaves; test gets those that it would have left out too."""
    is_kept = pool.left_out[rows] == KEPT
    shares = splits.by_group(rows[is_kept], groups, pool.strata, carved, seed)
    if "test" in shares:
        others = rows[~is_kept]
        mine = others[np.isin(groups[others], groups[shares["test"]])]
        shares["test"] = np.concatenate([shares["test"], mine])
    return shares


def _without_given_groups(pool: Pool, given: Mapping[str, Codes]) -> Codes:
    """Rows of the train part, less those whose group is also in a given validation or test part."""
    rows = given["train"]
    if pool.groups is None:
        return rows
    elsewhere = pool.groups[np.concatenate([given["validation"], given["test"]])]
    straddling = np.isin(pool.groups[rows], elsewhere)
    # Cleaning has counted the others.
    if count := int(np.count_nonzero(straddling & (pool.left_out[rows] == KEPT))):
        pool.dropped["group also in a given split"] += count
    return rows[~straddling]


def _check_enough(rows: int, need: Mapping[str, int], pool: Pool) -> None:
    if rows < sum(need.values()):
        wanted = ", ".join(f"{size} for {name}" for name, size in need.items())
        left_out = f" ({counted(pool.dropped)} left out)" if pool.dropped else ""
        raise DataError(
            f"data.sizes: {rows} usable rows{left_out} are too few; needed: {wanted}. "
            "Lower data.sizes, or give more rows"
        )


def _check_groups(
    shares: Mapping[str, Codes], sizes: Mapping[str, int | None], pool: Pool, column: str | None
) -> None:
    short = [name for name, rows in shares.items() if len(rows) < (sizes[name] or 1)]
    if short and pool.groups is not None:
        found = ", ".join(f"{len(rows)} rows for {name}" for name, rows in shares.items())
        raise DataError(
            f"data.group: the {len(np.unique(pool.groups))} groups of `{column}` can't be shared out: "
            f"{found}, too few for {' and '.join(short)}. Lower data.sizes, or set data.group=null"
        )
