"""How many slots are chosen."""

from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
import torch

from sweeper.engines.order import TrainingRows
from sweeper.engines.packed.layers import Layers
from sweeper.engines.packed.memory import Memory, NoLimit
from sweeper.engines.packed.probe import MOST, TIMES, Probe, Tried, longest, speed_alone
from sweeper.engines.trainer import workbench
from sweeper.engines.training import wait_for
from tests import tiny

SETTINGS = tiny.settings(batch_size=4, lora_dropout=0.1)


@pytest.fixture
def bench():
    return workbench(tiny.config(), tiny.base(), tiny.rows())


@pytest.fixture
def layers(bench):
    layers = Layers(bench.base.model)
    with layers.on_model(), tiny.one_thread():
        yield layers


def probe(bench, layers, token_budget=1 << 20, memory: Memory | None = None) -> Probe:
    return Probe(bench, layers, SETTINGS, token_budget, memory or NoLimit())


def test_trying_times_a_step_and_leaves_the_model_as_it_was(bench, layers):
    before = {name: weight.clone() for name, weight in bench.base.model.state_dict().items()}
    tried = probe(bench, layers, 1000).run(3)
    assert (tried.slots, tried.taken.slots, tried.taken.peak) == (3, 3, 0)
    assert tried.examples_per_second > 0
    assert speed_alone(bench, SETTINGS) > 0
    assert all(torch.equal(w, before[name]) for name, w in bench.base.model.state_dict().items())


def test_slots_double_while_they_fit(bench, layers):
    found = probe(bench, layers).choose()
    assert found.slots in (1, 2, 4, 8, 16, MOST)
    assert found.examples_per_second > 0


@contextmanager
def shortage(bench, rows_that_fit):
    """Memory runs out with more than so many rows; gives the numbers of rows that were tried."""
    asked = []

    def hungry(module, args, kwargs):
        asked.append(len(kwargs["input_ids"]))
        if asked[-1] > rows_that_fit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    handle = bench.base.model.register_forward_pre_hook(hungry, with_kwargs=True)
    try:
        yield asked
    finally:
        handle.remove()


@pytest.mark.parametrize(("rows_that_fit", "slots"), [(8, 2), (4, 1), (3, 1)])
def test_slots_that_ran_out_of_memory_are_not_chosen(bench, layers, rows_that_fit, slots):
    with shortage(bench, rows_that_fit):
        assert probe(bench, layers).choose().slots <= slots


def test_before_each_number_is_tried_others_may_speak(bench, layers):
    heard = []
    with shortage(bench, 4) as asked:
        replace(probe(bench, layers), tick=lambda: heard.append(len(asked))).choose()
    assert heard[0] == 0
    assert heard == sorted(set(heard)), "something is tried between two of them"
    assert len(heard) == 2


@pytest.mark.parametrize(("rows_that_fit", "slots"), [(24, 6), (12, 3), (8, 1)])
def test_given_slots_are_halved_until_they_fit(bench, layers, rows_that_fit, slots):
    with shortage(bench, rows_that_fit):
        tried = probe(bench, layers).fewer(6)
    assert tried.slots == slots
    assert tried.examples_per_second > 0


def test_one_slot_that_does_not_fit_has_no_speed(bench, layers):
    with shortage(bench, 3):
        assert probe(bench, layers).fewer(6) == Tried(1, 0.0)


def test_alone_rows_are_halved_until_they_fit():
    # A model that pads: its passes show how many rows they have.
    bench = workbench(tiny.config(), tiny.base("seq2seq"), tiny.rows("seq2seq"))
    with tiny.one_thread(), shortage(bench, 1) as asked:
        assert speed_alone(bench, SETTINGS) > 0
    assert asked == [4, 2, *[1] * 4 * (1 + TIMES)], "the whole batch, one row at a time"
    with shortage(bench, 0):
        assert speed_alone(bench, SETTINGS) == 0


def test_alone_a_step_is_timed_whole(bench, monkeypatch):
    """Packed steps are, too."""
    done = []
    for where, name in ((torch.nn.utils, "clip_grad_norm_"), (torch.optim.AdamW, "step")):
        real = getattr(where, name)

        def noted(*args, real=real, name=name, **kwargs):
            done.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(where, name, noted)
    with tiny.one_thread():
        speed_alone(bench, SETTINGS)
    assert done == ["clip_grad_norm_", "step"] * (1 + TIMES)


def with_rows(bench, kind, sizes, copies):
    """A bench of such a kind of model whose rows have so many inputs and labels."""
    like = bench.train_rows.rows[0]

    def rows(some):
        return [replace(like, input_ids=[6] * a, labels=[6] * b) for a, b in some]

    train = TrainingRows(rows(sizes), [rows(some) for some in copies])
    return replace(bench, base=tiny.base(kind), train_rows=train)


@pytest.mark.parametrize(
    ("kind", "expected"), [("causal", [(9, 9), (8, 8), (7, 1)]), ("seq2seq", [(9, 9), (8, 8), (2, 9)])]
)
def test_the_longest_rows_are_those_that_take_most_of_a_pass(bench, kind, expected):
    sizes, copies = [(7, 1), (2, 9), (8, 8), (1, 1)], [[], [(9, 9), (3, 1)], [], []]
    found = longest(with_rows(bench, kind, sizes, copies), replace(SETTINGS, batch_size=3))
    assert [(len(row.input_ids), len(row.labels)) for row in found] == expected


@pytest.mark.parametrize(
    "work",
    [
        lambda bench, layers: probe(bench, layers).choose(),
        lambda bench, layers: probe(bench, layers).fewer(2),
        lambda bench, layers: speed_alone(bench, SETTINGS),
    ],
)
def test_another_fault_is_no_lack_of_memory(bench, layers, work):
    def broken(module, args, kwargs):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    handle = bench.base.model.register_forward_pre_hook(broken, with_kwargs=True)
    try:
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            work(bench, layers)
    finally:
        handle.remove()


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_step_is_waited_for_on_devices_that_only_take_orders(monkeypatch, kind):
    waited = []
    for name in ("cuda", "mps"):
        monkeypatch.setattr(getattr(torch, name), "synchronize", partial(waited.append, name))
    wait_for(torch.device("cpu"))
    wait_for(torch.device(kind))
    assert waited == [kind]
