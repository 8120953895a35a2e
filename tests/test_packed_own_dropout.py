"""T5 in slots: its own dropout follows from (trial seed, step, place) alone, and nothing else changes."""

from dataclasses import replace

import pytest
import torch

from sweeper.engines import make_engine
from sweeper.engines.batches import read_rows
from sweeper.engines.packed.cycle import Share, gradients
from sweeper.engines.packed.dropout import Dropout, row_key
from sweeper.engines.packed.layers import Layers
from sweeper.engines.packed.stack import Stack
from sweeper.messages import Ending
from sweeper.models.modeling import BaseModel
from tests import tiny

MIXED = (
    tiny.settings(lora_dropout=0.2),
    tiny.settings(lora_rank=12, batch_size=6, lora_variant="rslora", weight_decay=0.1),
    tiny.settings(lora_target_modules="q,v,wi", learning_rate=3e-3, epochs=2),
)
CPU = torch.device("cpu")


def base(dropout: float = 0.1) -> BaseModel:
    return BaseModel(tiny.t5(dropout), tiny.tokenizer(), "seq2seq", name="tiny")


def run(folder, *settings, on=None, engine="packed", slots=3, budget=1000, more=()):
    """The outcome of trials with `settings`, together or one after another."""
    specs = [tiny.spec(folder, one, trial=i, seed=11 + i) for i, one in enumerate(settings)]
    channel = tiny.Script([replace(spec, marks=(12, spec.examples)) for spec in specs])
    packed = (f"engine.slots={slots}", f"engine.token_budget={budget}") if engine == "packed" else ()
    config = tiny.config(f"engine={engine}", "engine.report_seconds=1e-9", *packed, *more)
    with tiny.one_thread():
        make_engine(config, on or base(), tiny.rows("seq2seq")).run(channel)
    assert {outcome.ending for outcome in channel.outcomes} == {Ending.FINISHED}, channel.outcomes
    return channel


def losses(channel, trial):
    return [one.metrics["train_loss"] for one in channel.reports if one.trial == trial and one.metrics]


def evaluations(channel, trial):
    return [one.evaluation.metrics for one in channel.reports if one.trial == trial and one.evaluation]


def test_without_dropout_the_engine_trainer_gives_the_same_trials(tmp_path):
    settings = [replace(one, lora=replace(one.lora, dropout=0.0)) for one in MIXED]
    together = run(tmp_path / "packed", *settings, on=base(0.0))
    apart = run(tmp_path / "trainer", *settings, on=base(0.0), engine="trainer")
    assert {outcome.engine for outcome in together.outcomes} == {"packed"}
    for trial in range(3):
        assert losses(together, trial) == pytest.approx(losses(apart, trial), abs=1e-5)
        for one, other in zip(evaluations(together, trial), evaluations(apart, trial), strict=True):
            assert one == pytest.approx(other, abs=1e-4)
        one, other = (next(o for o in c.outcomes if o.trial == trial) for c in (together, apart))
        assert one.samples == other.samples


@pytest.mark.parametrize("beams", [1, 2])
def test_neighbours_and_passes_change_neither_losses_nor_scores(tmp_path, beams):
    more = (f"task.generation.num_beams={beams}",)
    together = run(tmp_path / "3", *MIXED, budget=60, more=more)
    apart = run(tmp_path / "1", *MIXED, slots=1, more=more)
    for trial in range(3):
        assert losses(together, trial) == pytest.approx(losses(apart, trial), abs=1e-5)
        for one, other in zip(evaluations(together, trial), evaluations(apart, trial), strict=True):
            assert one == pytest.approx(other, abs=1e-4)


def test_the_bases_dropout_is_a_part_of_a_trial(tmp_path):
    settings = tiny.settings(learning_rate=1e-9)
    still = losses(run(tmp_path / "0", settings, on=base(0.0)), 0)
    found = [losses(run(tmp_path / str(i), settings, on=base(0.5)), 0) for i in range(2)]
    assert found[0] == found[1]
    assert all(abs(one - other) > 1e-3 for one, other in zip(found[0], still, strict=True))


def test_activations_computed_again_meet_the_same_masks(tmp_path):
    again = base()
    again.model.activation_checkpointing_enable({"use_reentrant": False})
    found, once = run(tmp_path / "1", *MIXED, on=again), run(tmp_path / "2", *MIXED)
    for trial in range(3):
        assert losses(found, trial) == pytest.approx(losses(once, trial), abs=1e-5)


def test_who_is_trained_alone_meets_torchs_own_masks(tmp_path):
    dora = tiny.settings(lora_variant="dora")
    packed = run(tmp_path / "packed", dora)
    assert packed.outcomes[0].engine == "trainer"
    assert losses(packed, 0) == losses(run(tmp_path / "trainer", dora, engine="trainer"), 0)


def test_the_model_is_left_as_it_was(tmp_path):
    one = base()
    before = one.model.config._attn_implementation
    run(tmp_path, *MIXED, on=one)
    parts = (one.model, one.model.encoder, one.model.decoder)
    assert [part.config._attn_implementation for part in parts] == [before] * 3
    for module in one.model.modules():
        assert not module.training
        assert not module._forward_hooks
        assert not hasattr(module, "drop_weights")


def test_every_place_that_drops_draws_its_own_mask(monkeypatch):
    """Both ends of a stack, and in every layer of a block what it adds, and what it has computed before."""
    drawn = []
    real = Dropout.of_base

    def note(dropout, x, site, rate):
        drawn.append((site, rate, x.dim()))
        return real(dropout, x, site, rate)

    monkeypatch.setattr(Dropout, "of_base", note)
    one, rows = base(0.25), read_rows(tiny.rows("seq2seq").train)[:2]
    share = Share(0, rows, [row_key(0, 0, place) for place in range(2)], 0.0, 0.0)
    layers = Layers(one.model)
    with layers.on_model():
        gradients(
            one,
            layers,
            Stack({"encoder.block.0.layer.0.SelfAttention.q": (32, 32)}, 1, 8, torch.float32),
            [share],
            1000,
        )
    encoder, decoder = 2 + 2 * (2 + 2), 2 + 2 * (2 + 2 + 2)
    assert len(drawn) == encoder + decoder
    assert len({site for site, _, _ in drawn}) == len(drawn)
    assert min(site for site, _, _ in drawn) >= len(layers.names)
    assert {rate for _, rate, _ in drawn} == {0.25}
    assert sum(dims == 4 for _, _, dims in drawn) == 2 + 4


def test_attention_weights_are_numbered_as_if_there_were_no_padding():
    keys = [row_key(7, 0, place) for place in range(3)]
    dropout = Dropout.of(keys, [0.0] * 3, CPU)
    short, long = (dropout.of_base(torch.ones(3, 4, n, n + 2), 0, 0.5) for n in (5, 9))
    assert torch.equal(short, long[:, :, :5, :7])
    heads = short.view(3, 4, -1)
    assert not any(torch.equal(heads[:, i], heads[:, j]) for i in range(4) for j in range(i))
