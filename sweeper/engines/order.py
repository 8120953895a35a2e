"""What a trial is trained on, and in which order: weights, copies in the place of rows, batches."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sweeper.config import TrialSettings
from sweeper.engines.batches import Row, read_rows
from sweeper.errors import TrialError

_COPYING = 0x5EED
"""Added to a trial's seed, so that the order of rows is the same whatever is copied."""


@dataclass(frozen=True)
class TrainingRows:
    """Training rows, and the pool of their augmented copies."""

    rows: Sequence[Row]
    copies: Sequence[Sequence[Row]] = ()
    """[rows] the copies of each row, perhaps none; empty without a pool."""

    def of_trial(
        self, settings: TrialSettings, seed: int, micro_batch: int
    ) -> tuple[Sequence[Row], "EffectiveBatches"]:
        """Every row that a trial may see, with its weight, and the order in which it sees them.

        Raises TrialError if augmented rows are asked for and there is no pool.
        """
        order = epochs(len(self.rows), settings.epochs, seed)
        rows = reweighted(self.rows, settings.reweight)
        if settings.augment_rate:
            if not self.copies:
                raise TrialError(
                    f"augment_rate={settings.augment_rate} and no augmented rows; name data.augment.methods"
                )
            pool = [
                replace(copy, weight=row.weight)
                for row, copies in zip(rows, self.copies, strict=True)
                for copy in copies
            ]
            order = augmented(order, list(map(len, self.copies)), settings.augment_rate, seed)
            rows = [*rows, *pool]
        return rows, EffectiveBatches(order, settings.batch_size, micro_batch)


def read_training_rows(train: Any, pool: Any = None, outputs: Sequence[int] = ()) -> TrainingRows:
    """The rows of the `datasets.Dataset` `train`, and their copies in that of the pool, if there is one.

    `outputs` as in `read_rows`.
    """
    rows = read_rows(train, outputs)
    if pool is None:
        return TrainingRows(rows)
    copies: dict[str, list[Row]] = defaultdict(list)
    for original, copy in zip(pool["original"], read_rows(pool, outputs), strict=True):
        copies[original].append(copy)
    return TrainingRows(rows, [copies[row.id] for row in rows])


def reweighted(rows: Sequence[Row], strength: float) -> Sequence[Row]:
    """Rows with weights under which label and group (`slice`) are independent, 1 on average.

    A row weighs (P(group) P(label) / P(group, label)) ** strength, shares of `rows` (Kamiran and Calders,
    "Data preprocessing techniques for classification without discrimination", 2012).
    """
    if not strength:
        return rows
    groups = Counter(row.slice for row in rows)
    labels = Counter(row.label for row in rows)
    both = Counter((row.slice, row.label) for row in rows)
    weights = [
        (groups[row.slice] * labels[row.label] / (len(rows) * both[row.slice, row.label])) ** strength
        for row in rows
    ]
    mean = sum(weights) / len(weights)
    return [replace(row, weight=weight / mean) for row, weight in zip(rows, weights, strict=True)]


def epochs(rows: int, count: int, seed: int) -> list[list[int]]:
    """The order of row numbers in each of `count` passes: fresh permutations, drawn from `seed` alone."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(rows, generator=generator).tolist() for _ in range(count)]


def augmented(
    order: Sequence[Sequence[int]], copies: Sequence[int], rate: float, seed: int
) -> list[list[int]]:
    """The same passes with copies in the place of some rows.

    In each pass `rate` of all rows is drawn anew, and one copy of each; a row without copies stays. Row i has
    `copies[i]` of them, numbered after the rows, those of row 0 first. What is drawn follows from `seed`, and
    a larger rate draws the same rows and some more.
    """
    generator = torch.Generator().manual_seed(seed + _COPYING)
    rows = len(copies)
    first = torch.tensor([rows, *copies]).cumsum(0)[:-1].tolist()
    found = []
    for one in order:
        drawn = torch.randperm(rows, generator=generator)[: round(rate * rows)].tolist()
        which = torch.rand(rows, generator=generator).tolist()
        places = {row: first[row] + int(which[row] * copies[row]) for row in drawn if copies[row]}
        found.append([places.get(row, row) for row in one])
    return found


class EffectiveBatches:
    """A batch sampler over row numbers: the training order of one trial, cut into micro-batches.

    The passes follow one another without a gap, so that every optimizer step but the last sees `batch_size`
    rows. Each step is made of `per_step` micro-batches.
    """

    def __init__(self, order: Sequence[Sequence[int]], batch_size: int, micro_batch: int) -> None:
        whole = [number for one in order for number in one]
        self.micro_batches: list[list[int]] = []
        for start in range(0, len(whole), batch_size):
            step = whole[start : start + batch_size]
            self.micro_batches += [step[i : i + micro_batch] for i in range(0, len(step), micro_batch)]
        self.per_step = -(-batch_size // micro_batch)

    def __len__(self) -> int:
        return len(self.micro_batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.micro_batches)
