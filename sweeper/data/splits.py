"""Which row goes into which split.

A split is an order of candidate rows: its first `size` usable rows are taken. With strata the order
interleaves them in proportion, so that every beginning of it has the strata's shares.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int64]
"""[rows] integers that stand for a column's values."""

_GROUPS_PER_SPLIT = 3
"""One group may fill at most this fraction of a split while there are others."""

_ATTEMPTS = 20


def order(rows: Codes, strata: Codes | None, rng: np.random.Generator) -> Codes:
    """`rows` in random order, strata interleaved in proportion to their size.

    `strata` has one code per row of the whole data set, not only of `rows`: shares are those of all.
    """
    shuffled: Codes = rng.permutation(rows)
    if strata is None or len(shuffled) == 0:
        return shuffled
    totals = np.bincount(strata)
    mine = strata[shuffled]
    by_stratum = np.argsort(mine, kind="stable")
    counts = np.bincount(mine, minlength=len(totals))
    starts = np.cumsum(counts) - counts
    rank = np.empty(len(mine))
    rank[by_stratum] = np.arange(len(mine)) - starts[mine[by_stratum]]
    jitter = rng.random(len(totals))  # one per stratum: no stratum is always the last to come
    chosen: Codes = shuffled[np.argsort((rank + jitter[mine]) / totals[mine], kind="stable")]
    return chosen


def newest_first(rows: Codes, times: NDArray[np.float64], rng: np.random.Generator) -> Codes:
    """`rows`, the latest first; those of the same time in random order."""
    shuffled: Codes = rng.permutation(rows)
    newest: Codes = shuffled[np.argsort(-times[shuffled], kind="stable")]
    return newest


def crowds_last(rows: Codes, alike: Codes, size: int) -> Codes:
    """`rows` with those last that are alike so many others that they could fill a split of `size` rows.

    All rows that are like a row of one split are lost for the others.
    """
    crowded = np.bincount(alike)[alike[rows]] > max(1, size // _GROUPS_PER_SPLIT)
    return np.concatenate([rows[~crowded], rows[crowded]])


def by_group(
    rows: Codes, groups: Codes, strata: Codes | None, need: Mapping[str, int | None], seed: int
) -> dict[str, Codes]:
    """Share `rows` out among the splits in `need`, groups undivided, several groups to each split.

    `need` is the number of rows wanted; None: all that the others leave. Groups are taken in a random
    order, each by the split that is furthest from its need. With strata that is done within each stratum
    (a group belongs to the stratum of most of its rows). A split may end up with less than its need.
    """
    found, inverse, sizes = np.unique(groups[rows], return_inverse=True, return_counts=True)
    of_group = np.zeros(len(found), dtype=np.int64)
    if strata is not None:
        votes, counts = np.unique(np.stack([inverse, strata[rows]]), axis=1, return_counts=True)
        for group, stratum in votes[:, np.argsort(counts, kind="stable")].T:
            of_group[group] = stratum
    names = list(need)
    split_of = np.zeros(len(found), dtype=np.int64)
    for stratum in np.unique(of_group):
        members = np.flatnonzero(of_group == stratum)
        share = sizes[members].sum() / sizes.sum()
        wanted = [None if size is None else int(np.ceil(size * share)) for size in need.values()]
        split_of[members] = _share_out(sizes[members], wanted, [seed, int(stratum)])
    return {name: rows[split_of[inverse] == code] for code, name in enumerate(names)}


def _share_out(sizes: Codes, need: list[int | None], seed: list[int]) -> Codes:
    """A split's number for every group; the first of several random tries that fills every need."""
    rest = max(1, int(sizes.sum()) - sum(size or 0 for size in need))
    wanted = np.array([rest if size is None else max(1, size) for size in need], dtype=float)
    most = np.ceil(wanted / _GROUPS_PER_SPLIT)
    open_ended = [code for code, size in enumerate(need) if size is None]
    chosen = np.zeros(len(sizes), dtype=np.int64)
    for attempt in range(_ATTEMPTS):
        turn = np.random.default_rng([*seed, attempt]).permutation(len(sizes))
        if attempt == _ATTEMPTS - 1:
            turn = np.argsort(-sizes, kind="stable")
        filled, rows = np.zeros(len(wanted)), np.zeros(len(wanted))
        for group in turn:
            hungry = filled < wanted
            if hungry.any():
                code = int(np.argmin(np.where(hungry, filled / wanted, np.inf)))
            else:
                code = open_ended[0] if open_ended else int(np.argmin(rows / wanted))
            chosen[group] = code
            filled[code] += min(sizes[group], most[code])
            rows[code] += sizes[group]
        if all(have >= (1 if size is None else size) for have, size in zip(rows, need, strict=True)):
            break
    return chosen
