"""The engine `auto`: packed only where it was seen to be faster."""

import itertools
import logging
from dataclasses import replace

import pytest
import torch

from sweeper.engines.auto import AutoEngine
from sweeper.engines.packed import probe
from sweeper.engines.packed.engine import PackedEngine
from sweeper.engines.trainer import TrainerEngine, workbench
from sweeper.messages import BASE, Decision, Ending, Wait
from tests import tiny


@pytest.fixture(autouse=True)
def heard(caplog):
    caplog.set_level(logging.INFO, "sweeper.engines.auto")


def run(*specs, slots=None, **more):
    bench = workbench(tiny.config(), tiny.base(), tiny.rows())

    def packed(slots=slots):
        return PackedEngine(bench, slots, 1000)

    channel = tiny.Script(specs)
    with tiny.one_thread():
        AutoEngine(bench, packed, TrainerEngine(bench, {"packed": lambda: packed(1)}), **more).run(channel)
    return channel


def test_a_cpu_is_left_to_trainer_without_a_probe(tmp_path, caplog):
    channel = run(*(tiny.spec(tmp_path, tiny.settings(), trial=i) for i in range(2)))
    assert [outcome.engine for outcome in channel.outcomes] == ["trainer"] * 2
    assert caplog.messages == ["engine=auto: taking trainer; nothing to gain on device cpu, not measured"]


@pytest.mark.parametrize("slots", [None, 3])
def test_the_faster_one_is_taken_and_both_speeds_are_reported(tmp_path, slots):
    base = tiny.spec(tmp_path, tiny.settings(), trial=BASE, marks=(0,))
    odd = tiny.spec(tmp_path, tiny.settings(lora_variant="dora"), trial=0)
    rest = [tiny.spec(tmp_path, tiny.settings(), trial=i) for i in range(1, 4)]
    channel = run(base, Wait(0.001), odd, *rest, slots=slots, probed=("cpu",))
    (told,) = (report for report in channel.reports if "packed_slots" in report.metrics)
    assert (told.trial, told.examples, told.evaluation) == (1, 0, None)
    speeds = told.metrics["packed_examples_per_second"], told.metrics["trainer_examples_per_second"]
    taken = "packed" if speeds[0] > speeds[1] else "trainer"
    assert min(speeds) > 0
    assert slots is None or told.metrics["packed_slots"] == slots
    assert [outcome.ending for outcome in channel.outcomes] == [Ending.FINISHED] * 5
    engines = {outcome.trial: outcome.engine for outcome in channel.outcomes}
    assert engines == {BASE: "trainer", 0: "trainer", 1: taken, 2: taken, 3: taken}


@pytest.mark.parametrize(("rows_that_fit", "ending"), [(1, Ending.FINISHED), (0, Ending.FAILED)])
@pytest.mark.parametrize("slots", [None, 3])
def test_a_probe_that_runs_out_of_memory_ends_no_sweep(tmp_path, slots, rows_that_fit, ending):
    specs = [tiny.spec(tmp_path, tiny.settings(), trial=i) for i in range(2)]
    with tiny.shortage(rows_that_fit, training=True) as passes:
        channel = run(*specs, slots=slots, probed=("cpu",))
    assert any(passes)
    assert [outcome.ending for outcome in channel.outcomes] == [ending] * 2


def test_a_trial_that_cannot_be_probed_ends_alone_and_the_next_one_is_probed(tmp_path, caplog):
    odd = tiny.spec(tmp_path, tiny.settings(lora_target_modules="nowhere"), trial=0)
    channel = run(odd, tiny.spec(tmp_path, tiny.settings(), trial=1), probed=("cpu",))
    endings = [(outcome.ending, "nowhere" in outcome.reason) for outcome in channel.outcomes]
    assert endings == [(Ending.FAILED, True), (Ending.FINISHED, False)]
    (failed,) = caplog.messages
    assert failed.startswith("engine=auto: the probe with trial 0 failed: ")
    assert [report.trial for report in channel.reports if "packed_slots" in report.metrics] == [1]


def test_a_trial_that_cannot_be_timed_alone_leaves_no_number_of_slots(tmp_path, monkeypatch):
    """Eight rows fit: one slot of the first trial, two of the second."""
    faults = ["mat1 and mat2 shapes cannot be multiplied"]

    def faulty(module, args, kwargs):
        rows = len(kwargs["input_ids"])  # alone they are laid end to end, as one
        if module.training and rows == 1 and faults:
            raise RuntimeError(faults.pop())
        if module.training and rows > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(probe.time, "perf_counter", itertools.count().__next__)
    handle = tiny.base().model.register_forward_pre_hook(faulty, with_kwargs=True)
    try:
        specs = [
            tiny.spec(tmp_path, tiny.settings(batch_size=size), trial=i) for i, size in enumerate((8, 4))
        ]
        channel = run(*specs, probed=("cpu",))
    finally:
        handle.remove()
    assert [outcome.engine for outcome in channel.outcomes] == ["trainer", "packed"]
    (told,) = (report for report in channel.reports if "packed_slots" in report.metrics)
    assert (told.trial, told.metrics["packed_slots"]) == (1, 2)


def test_where_nothing_can_be_packed_nothing_is_probed(tmp_path, caplog):
    channel = run(tiny.spec(tmp_path, tiny.settings(neftune_noise=5.0)), probed=("cpu",))
    assert channel.outcomes[0].engine == "trainer"
    assert caplog.messages == []


@pytest.mark.parametrize("engine", ["packed", "trainer"])
def test_a_trial_goes_on_with_the_engine_that_it_began_with(tmp_path, engine):
    def leave(progress):
        return Decision.SUSPEND if progress.examples == 8 else Decision.CONTINUE

    spec = tiny.spec(tmp_path, tiny.settings())
    begun = (f"engine={engine}", "engine.report_seconds=1e-9", *["engine.slots=1"] * (engine == "packed"))
    tiny.run(spec, decide=leave, overrides=begun)
    channel = run(replace(spec, attempt=2), probed=("cpu",))
    (outcome,) = channel.outcomes
    assert (outcome.engine, outcome.ending, outcome.examples) == (engine, Ending.FINISHED, 16)
    # What was tried is told with how far the trial has come: its examples are counted from there.
    assert channel.reports[0].examples >= 8
    assert any("packed_slots" in report.metrics for report in channel.reports) == (engine == "packed")
