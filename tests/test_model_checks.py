"""What is said of a base model before it is loaded."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import BertConfig, BertForMaskedLM

from sweeper.__main__ import main
from sweeper.errors import ModelError
from sweeper.models import pretrained
from sweeper.models.checks import check_files, check_rows, check_task, check_tokenizer, weight_shapes
from sweeper.models.modeling import BaseModel
from sweeper.models.pretrained import load_tokenizer, resolve
from tests import tiny
from tests.test_worker import texts


@pytest.fixture
def folder(tmp_path):
    return tiny.save(tiny.llama(), tmp_path / "model")


def bert(folder: Path, **changes: Any) -> Path:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(tiny.tokenizer()), pad_token_id=0, **shape, **changes)
    return tiny.save(BertForMaskedLM(config), folder)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def found(folder: Path) -> pretrained.ResolvedModel:
    return resolve(tiny.local(folder))


def rows(*ids: Sequence[int], prompt: str = "red", answer: str = "cat") -> Dataset:
    return Dataset.from_list(
        [
            {
                "id": f"r{i}",
                "prompt": prompt,
                "answer": answer,
                "prompt_ids": [],
                "input_ids": one,
                "labels": [],
            }
            for i, one in enumerate(ids)
        ]
    )


def test_a_model_that_fits_is_not_talked_about(folder):
    resolved = found(folder)
    check_task(resolved, "causal")
    tokenizer = load_tokenizer(resolved)
    assert check_files(resolved) == check_tokenizer(resolved, "causal", tokenizer) == []
    check_rows(resolved, "causal", tokenizer, [rows([3, len(tokenizer) - 1])])


@pytest.mark.parametrize(
    ("method", "package"),
    [("bitsandbytes", "bitsandbytes"), ("gptq", "gptqmodel"), ("quanto", "optimum.quanto")],
)
def test_quantised_weights_that_no_package_here_reads_are_refused(folder, monkeypatch, method, package):
    monkeypatch.setattr("sweeper.models.checks.find_spec", lambda name: None)
    edit(folder / "config.json", quantization_config={"quant_method": method})
    with pytest.raises(
        ModelError, match=rf"quantised \({method}\), and {package}, .* take the model that they"
    ):
        check_files(found(folder))


@pytest.mark.parametrize("method", ["gptq", "of_tomorrow"])
def test_quantised_weights_that_a_package_here_may_read_are_not_refused(folder, monkeypatch, method):
    monkeypatch.setattr("sweeper.models.checks.find_spec", lambda name: {"gptqmodel": "there"}.get(name))
    edit(folder / "config.json", quantization_config={"quant_method": method})
    assert check_files(found(folder)) == []


def test_a_package_within_one_that_is_not_installed_is_not_installed(folder):
    edit(folder / "config.json", quantization_config={"quant_method": "quanto"})
    with pytest.raises(ModelError, match=r"optimum\.quanto, which reads them, is not installed"):
        check_files(found(folder))


def test_another_attention_is_taken_for_one_that_is_not_installed(folder):
    edit(folder / "config.json", _attn_implementation="flash_attention_2")
    resolved, task = found(folder), tiny.config("task.max_input_tokens=400").task
    assert "asks for flash_attention_2, which is not installed: another" in check_files(resolved)[0]
    loaded = BaseModel.load(tiny.local(folder), resolved, task)
    assert loaded.model.config._attn_implementation == "sdpa"


def test_damaged_weights_are_told_with_their_file(folder):
    weights = folder / "model.safetensors"
    assert weight_shapes(found(folder))["model.norm.weight"] == (32,)
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged \(.*\); get the model anew"):
        check_files(found(folder))
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    with pytest.raises(ModelError, match="is a pointer of Git LFS and no weights; fetch them: git lfs pull"):
        check_files(found(folder))
    weights.write_bytes(whole)
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"lacks model-00002-of-00002\.safetensors; get the model anew"):
        check_files(found(folder))


def test_weights_that_a_writer_lacks_are_not_made_up(folder, capfd):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ModelError, match=r"1 of the 21 weights that its config.json asks for are not in its files, or .*norm"
    ):
        BaseModel.load(tiny.local(folder), found(folder), tiny.config().task)
    assert "\x1b" not in capfd.readouterr().err


def test_an_encoder_is_no_writer_unless_it_says_so(tmp_path):
    resolved = found(bert(tmp_path / "bert"))
    check_task(resolved, "classifier")
    with pytest.raises(
        ModelError, match=r"of type bert, an encoder: .* can't write text; take a model that writes"
    ):
        check_task(resolved, "causal")
    check_task(found(bert(tmp_path / "decoder", is_decoder=True)), "causal")


def test_a_task_that_the_architecture_has_no_form_for_is_refused(folder):
    edit(folder / "config.json", model_type="mamba")
    with pytest.raises(ModelError, match=r"type mamba, of which transformers has no form that classifies"):
        check_task(found(folder), "classifier")
    edit(folder / "config.json", model_type="vit")
    with pytest.raises(ModelError, match=r"type vit, which can't write text; take a model that writes"):
        check_task(found(folder), "causal")


def test_a_tokenizer_without_its_vocabulary_is_refused(tmp_path):
    """transformers makes an empty one, by which every word is unknown."""
    folder = bert(tmp_path / "bert")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    resolved = found(folder)
    with pytest.raises(ModelError, match=r"has no vocabulary .*, only a tokenizer's settings; copy"):
        check_tokenizer(resolved, "classifier", load_tokenizer(resolved))


def test_a_tokenizer_larger_than_the_model_matters_where_its_tokens_occur(folder):
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["<entity>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    resolved, beyond = found(folder), len(tokenizer) - 1
    assert check_tokenizer(resolved, "causal", tokenizer) == []
    check_rows(resolved, "causal", tokenizer, [rows([3])])
    told = rf"has {beyond + 1} tokens, the model embeddings for {beyond}, and in the rows are '<entity>'"
    for some in (rows([3, beyond]), rows([3], prompt="red <entity>"), rows([3], answer="<entity>")):
        with pytest.raises(ModelError, match=told):
            check_rows(resolved, "causal", tokenizer, [rows([3]), some])
    tokenizer.pad_token = "<entity>"  # noqa: S105 - of a tokenizer
    with pytest.raises(ModelError, match=r"its pad token is '<entity>'"):
        check_tokenizer(resolved, "causal", tokenizer)


def test_answers_without_an_end_are_told(folder):
    tokenizer = tiny.tokenizer()
    tokenizer.eos_token = None
    (told,) = check_tokenizer(found(folder), "causal", tokenizer)
    assert "has no end token: no answer is trained to end, and each one runs to task.generation" in told
    assert check_tokenizer(found(folder), "classifier", tokenizer) == []


def test_a_class_that_is_read_from_the_end_token_needs_one_of_it(tmp_path):
    resolved, tokenizer = found(tiny.save(tiny.t5(), tmp_path / "t5")), tiny.tokenizer()
    end = tokenizer.eos_token_id
    check_rows(resolved, "classifier", tokenizer, [rows([4, end], [5, end])])
    check_rows(resolved, "seq2seq", tokenizer, [rows([4, end, end])])
    with pytest.raises(ModelError, match=r"row r1 has 2: 'red'. Take the end token out of the texts"):
        check_rows(resolved, "classifier", tokenizer, [rows([4, end], [5, end, end])])
    with pytest.raises(ModelError, match=r"row r0 has none: .* Its tokenizer has to end every text with it"):
        check_rows(resolved, "classifier", tokenizer, [rows([4])])
    tokenizer.pad_token = tokenizer.eos_token
    with pytest.raises(ModelError, match=r"which is also what its tokenizer pads with; give the tokenizer"):
        check_tokenizer(resolved, "classifier", tokenizer)


def test_a_missing_model_is_told_before_any_row_is_read(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = ["+experiment=classify", "data=file", f"data.path={texts(tmp_path)}", "model=custom"]
    assert main([*line, "data.input=input", "data.target=target", "model.name=./missing"]) == 2
    shown = capsys.readouterr()
    assert "there is no folder ./missing" in shown.err
    assert "udit" not in shown.out + shown.err
