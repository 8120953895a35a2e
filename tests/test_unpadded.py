"""Rows end to end against the same rows padded, as the model takes them."""

import pytest
import torch
import torch.nn.functional as F
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from sweeper.engines import batches, unpadded
from sweeper.engines.batches import Row, collate
from tests import tiny

SHAPE = {
    "vocab_size": 18, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
    "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1,
}  # fmt: skip


def qwen2(**changes):
    torch.manual_seed(0)
    return Qwen2ForCausalLM(Qwen2Config(**SHAPE | changes))


def qwen3():
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=16))


MODELS = {"llama": tiny.llama, "qwen2": qwen2, "qwen3": qwen3}


def rows(lengths):
    """(prompt, answer) tokens of each row"""
    generator = torch.Generator().manual_seed(0)

    def row(prompt, answer):
        ids = torch.randint(2, 18, (prompt + answer,), generator=generator).tolist()
        return Row("", "", "", ids, [batches.IGNORED] * prompt + ids[prompt:], ids[:prompt], -1)

    return [row(*one) for one in lengths]


SHORT = rows([(3, 2), (7, 1), (1, 5), (5, 3)])


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]().double()


def learned(model, batch, logits):
    """Logits, and the gradient of every weight."""
    model.zero_grad()
    scores = logits(model, "causal", batch)
    F.cross_entropy(scores, batch["targets"]).backward()
    return [scores.detach(), *(weights.grad.clone() for weights in model.parameters())]


@pytest.mark.parametrize("some", [SHORT, rows([(280, 4), (3, 2)])], ids=["short", "long"])
def test_logits_and_gradients_are_those_of_padded_rows(model, some):
    batch = collate(some, "causal", 0)
    assert unpadded.fits(model)
    read = []
    model.register_forward_pre_hook(lambda _, args, named: read.append(named["input_ids"]), with_kwargs=True)
    found = learned(model, batch, unpadded.logits)
    assert read[0].tolist() == [[token for row in some for token in row.input_ids[:-1]]]
    expected = learned(model, batch, batches.logits)
    assert len(found[0]) == sum(len(row.input_ids) - len(row.prompt_ids) for row in some)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def written(model, some, ends):
    """What `Reading.write` gives for all rows at once, at most six tokens of each."""
    batch = collate(some, "causal", 0)
    with torch.no_grad():
        reading = unpadded.Reading(batch, 6, [len(row.prompt_ids) for row in some])
        scores = reading.logits(model)
        counts = torch.bincount(batch["row"])
        return reading.write(model, scores[counts.cumsum(0) - counts].argmax(-1), torch.tensor(ends), pad=0)


def generated(model, row, ends):
    """What the model itself writes after a prompt that it sees alone."""
    prompt = torch.tensor([row.prompt_ids])
    found = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6, do_sample=False, eos_token_id=ends
    )
    return found[0, prompt.shape[1] :].tolist()


def test_what_is_written_is_what_the_model_writes_after_each_prompt_alone(model):
    model.eval()
    free = written(model, SHORT, [19])
    assert free.tolist() == [generated(model, row, [19]) for row in SHORT]
    # Ends in the middle of one row and at the start of another.
    ends = [free[0, 2].item(), free[1, 0].item()]
    stopped = written(model, SHORT, ends)
    for row, tokens in zip(SHORT, stopped.tolist(), strict=True):
        alone = generated(model, row, ends)
        assert tokens[: len(alone)] == alone
        assert not any(tokens[len(alone) :])
    assert stopped.shape[1] > 1


def test_writing_ends_when_every_row_has(model):
    model.eval()
    assert written(model, SHORT, list(range(18))).shape == (4, 1)


def neftune(model):
    model.get_input_embeddings().neftune_noise_alpha = 5.0
    return model


def checkpointed(model):
    model.activation_checkpointing_enable()
    return model


@pytest.mark.parametrize(
    "make",
    [
        tiny.gpt2,
        lambda: qwen2(use_sliding_window=True, sliding_window=4, max_window_layers=0),
        lambda: qwen2(attention_dropout=0.1),
        lambda: neftune(tiny.llama()),
        lambda: checkpointed(tiny.llama()),
    ],
    ids=["another architecture", "a window", "dropout", "NEFTune", "checkpointing"],
)
def test_what_is_not_sound_stays_padded(make):
    model = make().eval()
    batch = collate(SHORT, "causal", 0)
    assert not unpadded.fits(model)
    found = unpadded.logits(model, "causal", batch)
    assert torch.equal(found, batches.logits(model, "causal", batch))


def test_the_model_keeps_its_own_attention():
    model = tiny.llama()
    before = model.config._attn_implementation
    reading = unpadded.Reading(collate(SHORT, "causal", 0))
    reading.logits(model)
    assert model.config._attn_implementation == before
    model.lm_head = None
    with pytest.raises(TypeError, match="NoneType"):
        reading.logits(model)
    assert model.config._attn_implementation == before
