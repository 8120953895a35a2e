"""Layers that adapters go on: tied ones, those of experts, those of state-space models."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from sweeper.errors import ModelError
from sweeper.models.modeling import merged, save
from sweeper.models.pretrained import check, resolve
from tests import tiny, zoo

IDS = torch.tensor([[6, 7, 8, 1], [9, 10, 11, 1]])


def scores(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def shaken(model):
    """The model with an adapter whose weights are no longer at their start; its scores."""
    torch.manual_seed(3)
    for name, weight in model.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    return scores(model)


@pytest.mark.parametrize("variant", ["lora", "dora"])
@pytest.mark.parametrize(
    ("shape", "targets"),
    [
        ("llama", "q_proj,lm_head"),
        ("llama", "embed_tokens"),
        ("llama", "embed_tokens,lm_head,q_proj"),
        ("gpt2", "wte,lm_head,c_attn"),
        ("gemma3", "embed_tokens,lm_head"),
    ],
)
def test_a_merged_model_of_tied_weights_answers_like_the_adapter(shape, targets, variant, tmp_path):
    base = zoo.load(zoo.make(shape, "causal", tie_word_embeddings=True), tmp_path / "model", "causal")
    untouched = scores(base.model)
    for seed in (1, 2):
        with base.put_on(tiny.settings(lora_target_modules=targets, lora_variant=variant), seed) as model:
            expected = shaken(model)
            save(model, tmp_path / f"adapter{seed}")
    assert (expected - untouched).abs().max() > 1e-3
    assert torch.equal(scores(base.model), untouched)
    merged(base, tmp_path / "adapter2").save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert not again.config.tie_word_embeddings
    torch.testing.assert_close(scores(again), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_on_embeddings_is_the_same_whatever_was_on_the_base_before(dtype, tmp_path):
    def values(base, rank):
        with base.put_on(
            tiny.settings(lora_target_modules="embed_tokens,q_proj", lora_rank=rank), 1
        ) as model:
            return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    used, fresh = (zoo.load(tiny.llama(), tmp_path / "model", "causal", dtype=dtype) for _ in range(2))
    values(used, 4)
    found, expected = values(used, 2), values(fresh, 2)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], one) and one.dtype == torch.float32 for name, one in expected.items())


@pytest.mark.parametrize("variant", ["lora", "dora"])
@pytest.mark.parametrize(
    ("shape", "layers"),
    [
        ("mixtral", {"k_proj", "o_proj", "q_proj", "v_proj"}),
        ("qwen2_moe", {"k_proj", "o_proj", "q_proj", "v_proj", "shared_expert_gate"}),
        ("mamba", {"in_proj"}),
    ],
)
def test_all_linear_is_what_can_be_adapted(shape, layers, variant, tmp_path):
    base = zoo.load(zoo.make(shape, "causal"), tmp_path / "model", "causal")
    for seed in (1, 2):
        with base.put_on(tiny.settings(lora_dropout=0.1, lora_variant=variant), seed) as model:
            found = {name.partition(".lora_")[0] for name, p in model.named_parameters() if p.requires_grad}
            model.train()(input_ids=IDS, use_cache=False).logits.sum().backward()
            assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
        assert {name.rpartition(".")[2] for name in found} == layers


@pytest.mark.parametrize(
    ("shape", "what", "target", "why"),
    [
        ("qwen2_moe", "causal", "up_proj", "'up_proj' is a part of the experts, whose weights are stacked"),
        ("mamba", "causal", "out_proj", "'out_proj' is read by the state-space kernels past any adapter"),
        ("t5", "seq2seq", "shared", "encoder.embed_tokens|shared shares its weights with other layers"),
        ("bart", "seq2seq", "lm_head", "lm_head shares its weights with other layers"),
    ],
)
def test_what_no_adapter_can_be_put_on_is_refused_before_training(shape, what, target, why, tmp_path):
    model = resolve(tiny.local(tiny.save(zoo.make(shape, what), tmp_path / "model")))
    with pytest.raises(ModelError, match=f"trial.lora.target_modules: of .*{why}"):
        check(model, tiny.config().task, [tiny.settings(lora_target_modules=target)])


def test_layers_that_share_nothing_leave_what_is_shared_alone(tmp_path):
    model = resolve(tiny.local(tiny.save(zoo.make("t5", "seq2seq"), tmp_path / "t5")))
    check(model, tiny.config().task, [tiny.settings(lora_target_modules="q, wo")])
    base = zoo.load(zoo.make("llama", "causal", tie_word_embeddings=True), tmp_path / "llama", "causal")
    with base.put_on(tiny.settings(lora_target_modules="q_proj"), 1):
        assert base.model.config.tie_word_embeddings
        assert base.model.get_output_embeddings().weight is base.model.get_input_embeddings().weight
