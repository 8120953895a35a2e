"""Messages are frozen, plain, and arrive on the other side of a pipe as they were sent."""

import dataclasses
import math
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from sweeper import messages
from sweeper.config import LoraSettings, TrialSettings
from sweeper.messages import (
    BASE,
    Confusion,
    Decision,
    Done,
    Ending,
    Evaluation,
    HeldOutScores,
    Outcome,
    Progress,
    Sample,
    SliceScores,
    TrialSpec,
    TrialState,
    Wait,
)

SETTINGS = TrialSettings(
    method="lora", learning_rate=2e-4, batch_size=8, epochs=1, scheduler="linear", warmup=0.05,
    weight_decay=0.0, max_grad_norm=1.0, label_smoothing=0.0, neftune_noise=0.0, patience=0,
    augment_rate=0.0, reweight=0.0,
    lora=LoraSettings(rank=8, alpha=32.0, dropout=0.0, variant="lora", target_modules="all-linear"),
)  # fmt: skip
SPEC = TrialSpec(7, 2, 99, SETTINGS, (48, 96), 96, Path("sweeps/mine/trials/0007"))
SLICE = SliceScores("slice", "numpy", 12, {"rougeL": 0.2}, {"rougeL": 0.1})
CONFUSION = Confusion(("cat", "dog"), ((3, 1), (0, 4)))
EVALUATION = Evaluation(48, 0.3, 0.02, {"rougeL": 0.3, "loss": 2.5}, (SLICE,), {"loss": 0.1}, CONFUSION)
SAMPLE = Sample("numpy:abs", "Text: ...", "Absolute value.", "The value.")
HELD_OUT = HeldOutScores(0.25, 0.01, {"rougeL": 0.25}, (0.2, 0.3), (SLICE,), (SAMPLE,), {"rougeL": 0.01})
MESSAGES = [
    SPEC,
    Wait(0.5),
    Done("all trials are done"),
    EVALUATION,
    Progress(7, 2, 48, {"train_loss": 2.5}, EVALUATION),
    Outcome(
        7,
        2,
        Ending.FINISHED,
        96,
        "trainer",
        "",
        EVALUATION,
        Path("adapter"),
        {"seconds": 1.5},
        ("w",),
        (SAMPLE,),
        HELD_OUT,
    ),
    SAMPLE,
    SLICE,
    CONFUSION,
    HELD_OUT,
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_crosses_a_pipe(message: Any) -> None:
    here, there = multiprocessing.Pipe()
    here.send(message)
    assert there.recv() == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_is_frozen(message: Any) -> None:
    field = dataclasses.fields(message)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError, match=f"cannot assign to field '{field}'"):
        setattr(message, field, None)


def test_every_message_is_tried_here() -> None:
    own = {
        kind
        for kind in vars(messages).values()
        if dataclasses.is_dataclass(kind) and kind.__module__ == "sweeper.messages"
    }
    assert own == {type(message) for message in MESSAGES}


def test_numbers_that_are_not_finite_cross_a_pipe() -> None:
    here, there = multiprocessing.Pipe()
    here.send(dataclasses.replace(EVALUATION, error=math.nan, objective=math.inf))
    arrived = there.recv()
    assert math.isnan(arrived.error)
    assert arrived.objective == math.inf


def test_a_trial_is_over_when_it_cannot_change() -> None:
    assert {state for state in TrialState if state.is_over} == {
        TrialState.FINISHED, TrialState.PRUNED, TrialState.FAILED,
    }  # fmt: skip
    assert {ending.value for ending in Ending} >= {state.value for state in TrialState if state.is_over}


def test_decisions_keep_their_identity_across_a_pipe() -> None:
    here, there = multiprocessing.Pipe()
    for decision in Decision:
        here.send(decision)
        assert there.recv() is decision


def test_the_base_model_is_no_trial() -> None:
    assert not SPEC.is_base
    assert dataclasses.replace(SPEC, trial=BASE, marks=(0,), examples=0).is_base
