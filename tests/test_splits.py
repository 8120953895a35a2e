import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.data.splits import by_group, crowds_last, newest_first, order


def rng():
    return np.random.default_rng(3)


def test_an_order_is_a_permutation_that_follows_the_generator():
    rows = np.arange(10, 60)
    first = order(rows, None, rng())
    assert sorted(first) == list(rows)
    assert list(first) != list(rows)
    assert list(first) == list(order(rows, None, rng()))
    assert list(order(np.array([], dtype=np.int64), np.zeros(5, dtype=np.int64), rng())) == []


@pytest.mark.parametrize("start", [0, 37, 500])
def test_every_stretch_of_a_stratified_order_has_the_strata_in_proportion(start):
    strata = np.repeat([0, 1, 2], [700, 200, 100])
    found = order(np.arange(1000), strata, rng())
    counts = np.bincount(strata[found[start : start + 100]])
    assert np.abs(counts - [70, 20, 10]).max() <= 1


def test_groups_stay_whole_and_every_split_gets_several():
    groups = np.repeat(np.arange(12), [4000, 3000, 2000, 1000, 900, 500, 500, 400, 300, 200, 100, 100])
    rows = np.arange(len(groups))
    shares = by_group(rows, groups, None, {"train": 96, "validation": 48, "test": 96}, 7)
    assert sorted(np.concatenate(list(shares.values()))) == list(rows)
    of_split = {name: set(groups[rows]) for name, rows in shares.items()}
    assert all(len(found) >= 3 for found in of_split.values())
    assert sum(len(found) for found in of_split.values()) == 12
    again = by_group(rows, groups, None, {"train": 96, "validation": 48, "test": 96}, 8)
    assert {name: set(groups[rows]) for name, rows in again.items()} != of_split


def test_what_the_others_leave_goes_to_the_open_split():
    groups = np.arange(1000) // 5
    shares = by_group(np.arange(1000), groups, None, {"train": None, "validation": 20, "test": 30}, 7)
    assert 20 <= len(shares["validation"]) <= 40
    assert 30 <= len(shares["test"]) <= 50
    assert len(shares["train"]) >= 900


@given(
    st.lists(st.integers(1, 60), min_size=3, max_size=40),
    st.one_of(st.none(), st.integers(1, 10)),
    st.integers(0, 2**31 - 1),
)
@settings(max_examples=60, deadline=None)
def test_no_group_straddles_and_no_row_is_lost(sizes, train, seed):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    rows = np.arange(len(groups))
    shares = by_group(rows, groups, rows % 2, {"train": train, "validation": 2, "test": 2}, seed)
    assert sorted(np.concatenate(list(shares.values()))) == list(rows)
    seen = [set(groups[found]) for found in shares.values()]
    assert sum(map(len, seen)) == len(set().union(*seen))


def test_one_giant_group_does_not_spoil_a_possible_split():
    groups = np.repeat(np.arange(4), [10_000, 60, 60, 120])
    for seed in range(10):
        shares = by_group(
            np.arange(len(groups)), groups, None, {"train": 100, "validation": 50, "test": 100}, seed
        )
        assert len(shares["train"]) >= 100
        assert len(shares["validation"]) >= 50
        assert len(shares["test"]) >= 100


def test_strata_keep_their_shares_over_groups():
    strata = np.repeat([0, 1], [800, 200])
    groups = np.arange(1000) // 4
    shares = by_group(np.arange(1000), groups, strata, {"train": None, "validation": 100, "test": 100}, 7)
    for name in ("validation", "test"):
        first = order(shares[name], strata, rng())[:100]
        assert abs(np.bincount(strata[first])[1] - 20) <= 1


def test_the_newest_come_first_and_those_of_the_same_time_in_random_order():
    times = np.repeat([3.0, 1.0, 2.0], 20)
    found = newest_first(np.arange(60), times, rng())
    assert list(times[found]) == [3.0] * 20 + [2.0] * 20 + [1.0] * 20
    assert sorted(found[:20]) == list(range(20))
    assert list(found[:20]) != list(range(20))


def test_rows_that_are_like_many_others_come_last():
    alike = np.array([0, 1, 1, 2, 2, 2, 2, 3])
    assert list(crowds_last(np.arange(8)[::-1], alike, 9)) == [7, 2, 1, 0, 6, 5, 4, 3]
    assert list(crowds_last(np.arange(8), alike, 12)) == list(range(8))
