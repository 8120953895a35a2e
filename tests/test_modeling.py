"""The base model in memory: loaded once, trained on and left bit for bit as it was."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from transformers import BertConfig, BertForSequenceClassification

from sweeper.errors import ModelError
from sweeper.models.heads import Head
from sweeper.models.modeling import BaseModel, save
from sweeper.models.pretrained import architecture, resolve
from tests import tiny


@pytest.fixture
def folder(tmp_path):
    return tiny.save(tiny.llama(), tmp_path / "model")


def test_weights_that_do_not_fit_the_task_are_refused(tmp_path):
    shape = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    t5 = resolve(tiny.local(tiny.save(tiny.t5(), tmp_path / "t5")))
    weights = t5.path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match="can't be loaded as a seq2seq model"):
        BaseModel.load(tiny.local(t5.path), t5, tiny.config().task)
    bert = resolve(tiny.local(tiny.save(BertForSequenceClassification(shape), tmp_path / "bert")))
    assert architecture(bert, tiny.config(kind="classifier").task) == "classifier"


def scores(model, kind):
    ids = torch.tensor([[6, 7, 8, 1], [9, 10, 11, 1]])
    extra = {"decoder_input_ids": ids} if kind == "seq2seq" else {}
    with torch.no_grad():
        return model(input_ids=ids, **extra).logits


@pytest.mark.parametrize("kind", ["causal", "seq2seq", "classifier", "gpt2"])
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_base_is_left_bit_for_bit_as_it_was(kind, method, dtype):
    model = {"causal": tiny.llama, "seq2seq": tiny.t5, "gpt2": tiny.gpt2, "classifier": tiny.classifier}[
        kind
    ]()
    head = tiny.new_head(model, "score") if kind == "classifier" else Head()
    base = BaseModel(model.to(dtype), tiny.tokenizer(), "causal" if kind == "gpt2" else kind, head)
    before, names = scores(base.model, kind), set(base.model.state_dict())
    for seed in (1, 2):
        with base.put_on(tiny.settings(method=method), seed) as trained:
            trainable = [p for p in trained.parameters() if p.requires_grad]
            assert {p.dtype for p in trainable} == {torch.float32}
            optimizer = torch.optim.SGD(trainable, lr=1.0)
            scores_now = trained(
                input_ids=torch.tensor([[6, 7, 8, 1]]),
                **({"decoder_input_ids": torch.tensor([[6, 7]])} if kind == "seq2seq" else {}),
            ).logits
            scores_now.float().square().sum().backward()
            optimizer.step()
            assert not torch.equal(scores(trained, kind).float(), before.float())
        assert torch.equal(scores(base.model, kind), before)
        assert set(base.model.state_dict()) == names
        assert not base.model.training
        assert not any(p.requires_grad or p.grad is not None for p in base.model.parameters())


def test_an_adapter_follows_from_the_seed_alone():
    def values(seed):
        torch.rand(3)
        with tiny.base("classifier").put_on(tiny.settings(), seed) as model:
            return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])

    assert torch.equal(values(1), values(1))
    assert not torch.equal(values(1), values(2))


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_an_adapter_is_the_same_whatever_was_on_the_base_before(kind, tmp_path):
    def used(base, rank, folder, seed=1, **lora):
        with base.put_on(tiny.settings(lora_rank=rank, **lora), seed) as model:
            torch.manual_seed(5)
            weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
            for parameter in model.parameters():
                if parameter.requires_grad:
                    assert parameter.grad is None
                    torch.nn.init.normal_(parameter)
                    parameter.grad = torch.ones_like(parameter)
            save(model, folder)
            return weights, scores(model.train(), kind)

    lora = {"lora_alpha": 5.0, "lora_dropout": 0.3, "lora_variant": "rslora"}
    fresh, used_before = (
        BaseModel(make(), tiny.tokenizer(), kind, Head(), "tiny")
        for make in 2 * [tiny.llama if kind == "causal" else tiny.t5]
    )
    used(used_before, 4, tmp_path / "other", seed=2)
    used(used_before, 4, tmp_path / "other", seed=3)
    expected, expected_scores = used(fresh, 2, tmp_path / "fresh", **lora)
    found, found_scores = used(used_before, 2, tmp_path / "used", **lora)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    assert torch.equal(found_scores, expected_scores)
    weights = [tmp_path / name / "adapter_model.safetensors" for name in ("used", "fresh")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    configs = [LoraConfig.from_pretrained(str(tmp_path / name)) for name in ("used", "fresh")]
    assert configs[0] == configs[1]


@pytest.mark.parametrize("again", [False, True])
def test_memory_that_runs_out_while_an_adapter_is_put_on_leaves_the_base_bare(monkeypatch, again):
    base = BaseModel(tiny.llama(), tiny.tokenizer(), "causal", name="tiny")
    before, names = scores(base.model, "causal"), set(base.model.state_dict())
    if again:
        with base.put_on(tiny.settings(), 1):
            pass
    made, update = [], LoraLayer.update_layer

    def fails(self, *args, **kwargs):
        made.append(self)
        if len(made) == 3:
            raise torch.OutOfMemoryError("planted")
        update(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(LoraLayer, "update_layer", fails)
        with pytest.raises(torch.OutOfMemoryError, match="planted"), base.put_on(tiny.settings(), 1):
            pass
    assert set(base.model.state_dict()) == names
    assert torch.equal(scores(base.model, "causal"), before)
    with base.put_on(tiny.settings(lora_rank=2), 1) as model:
        trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(trained) == 2 * len({name.rpartition(".lora_")[0] for name in trained}) > 0


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loading_gives_a_frozen_model_of_the_type_asked_for(folder, checkpointing):
    config = tiny.local(folder, dtype="bfloat16", gradient_checkpointing=checkpointing)
    base = BaseModel.load(config, resolve(config), tiny.config().task)
    assert (base.model.dtype, base.kind, base.device.type) == (torch.bfloat16, "causal", "cpu")
    with base.put_on(tiny.settings(), 1) as model:
        model.train()
        model(input_ids=torch.tensor([[6, 7, 8]]), use_cache=False).logits.float().sum().backward()
        grads = [p.grad for p in model.parameters() if p.requires_grad]
        assert all(grad is not None for grad in grads)


def test_a_classifier_gets_a_head_for_its_labels(folder):
    config = tiny.local(folder)
    base = BaseModel.load(config, resolve(config), tiny.config(kind="classifier").task, tiny.LABELS)
    assert base.head.modules == ("score",)
    assert base.model.config.id2label == dict(enumerate(tiny.LABELS))
    again = BaseModel.load(config, resolve(config), tiny.config(kind="classifier").task, tiny.LABELS)
    assert torch.equal(scores(base.model, "classifier"), scores(again.model, "classifier"))


def test_generation_ends_with_a_turn_of_the_template_too(tmp_path):
    words = tiny.tokenizer()
    words.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    words.chat_template = "{% for m in messages %}{{ m.content }}<turn>{% endfor %}"
    tiny.llama().save_pretrained(tmp_path / "model")
    words.save_pretrained(tmp_path / "model")
    chosen = tiny.local(tmp_path / "model")
    for asks_in_turns, ends in ((True, [1, words.convert_tokens_to_ids("<turn>")]), (False, 1)):
        task = replace(tiny.config().task, chat_template=asks_in_turns)
        loaded = BaseModel.load(chosen, resolve(chosen), task)
        assert loaded.model.generation_config.eos_token_id == ends
