"""What stays is left out of garbage collections, and nothing else."""

import gc
import weakref

import pytest

from sweeper.garbage import Keeper, keep, reading


@pytest.fixture(autouse=True)
def as_before():
    yield
    gc.unfreeze()
    gc.enable()


class Node:
    """Garbage that only a collection finds."""

    def __init__(self):
        self.itself = self


def test_what_is_kept_is_looked_through_no_more():
    gc.unfreeze()
    ours = [[] for _ in range(1000)]
    keep()
    assert gc.get_freeze_count() > len(ours)
    assert not any(one is ours for one in gc.get_objects())


def test_garbage_is_not_kept():
    gone = weakref.ref(Node())
    keep()
    assert gone() is None


def test_nothing_is_collected_while_much_is_read():
    with reading():
        gone = weakref.ref(Node())
        assert not gc.isenabled()
        assert [[] for _ in range(100_000)], "as many as would make for a collection"
        assert gone() is not None
    assert gc.isenabled()


def test_it_is_collected_again_after_an_error():
    with pytest.raises(ValueError, match="torn"), reading():
        raise ValueError("torn")
    assert gc.isenabled()


def test_who_has_switched_collections_off_finds_them_off():
    gc.disable()
    with reading():
        pass
    assert not gc.isenabled()


def test_a_long_sweep_keeps_its_trials_now_and_then():
    gc.unfreeze()
    keeper = Keeper()
    for _ in range(99):
        keeper.ended(None)
    assert gc.get_freeze_count() == 0
    keeper.ended(None)
    assert gc.get_freeze_count() > 0
