"""Dropout by hash: what a mask follows from, what it doesn't, and that it drops as it says."""

import pytest
import torch

from sweeper.engines.packed.dropout import Dropout, row_key

CPU = torch.device("cpu")


def masks(keys, rates, tokens=40, features=64, layer=0):
    return Dropout.of(keys, rates, CPU).of_adapters(torch.ones(len(keys), tokens, features), layer)


def test_a_rows_mask_knows_neither_neighbours_nor_padding():
    key = row_key(7, 3, 1)
    alone = masks([key], [0.3], tokens=10)
    among = masks([row_key(8, 3, 1), key, row_key(7, 3, 2)], [0.5, 0.3, 0.0])
    assert torch.equal(alone[0], among[1, :10])


def test_seed_step_place_and_layer_each_change_it():
    reference = masks([row_key(7, 3, 1)], [0.5])
    for other in (row_key(8, 3, 1), row_key(7, 4, 1), row_key(7, 3, 2)):
        assert not torch.equal(reference, masks([other], [0.5]))
    assert not torch.equal(reference, masks([row_key(7, 3, 1)], [0.5], layer=1))
    assert torch.equal(reference, masks([row_key(7, 3, 1)], [0.5]))


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.9])
def test_it_drops_its_share_and_keeps_the_mean(rate):
    keys = [row_key(seed, step, 0) for seed in range(20) for step in range(10)]
    found = masks(keys, [rate] * len(keys))
    assert found.unique().tolist() == pytest.approx([0.0, 1 / (1 - rate)])
    share = (found == 0).double()
    # Independent draws: standard errors of a share over all, by row, token and feature.
    for means, draws in (
        (share.mean(), share.numel()),
        (share.mean((1, 2)), 40 * 64),
        (share.mean((0, 2)), 200 * 64),
        (share.mean((0, 1)), 200 * 40),
    ):
        assert ((means - rate).abs() < 5 * (rate * (1 - rate) / draws) ** 0.5).all()


def test_neighbouring_rows_tokens_and_features_are_unrelated():
    kept = masks([row_key(7, 0, place) for place in range(200)], [0.5] * 200).bool().double() * 2 - 1
    for one, other in ((kept[1:], kept[:-1]), (kept[:, 1:], kept[:, :-1]), (kept[..., 1:], kept[..., :-1])):
        assert abs((one * other).mean()) < 5 / one.numel() ** 0.5


def test_a_rate_of_zero_changes_nothing():
    x = torch.randn(2, 5, 3)
    found = Dropout.of([1, 2], [0.0, 0.5], CPU).of_adapters(x, 0)
    assert torch.equal(found[0], x[0])
    assert not torch.equal(found[1], x[1])
    assert Dropout.of([1, 2], [0.0, 0.0], CPU).of_adapters(x, 0) is x
