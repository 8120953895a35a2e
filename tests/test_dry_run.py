"""One row through everything that trials do, before the first of them."""

import errno

import pytest
import torch
from transformers import LlamaForCausalLM, MambaConfig, MambaForCausalLM, MixtralConfig, MixtralForCausalLM

from sweeper.__main__ import main
from sweeper.config import TrialSettings
from sweeper.engines.dry_run import dry_run
from sweeper.engines.trainer import workbench
from sweeper.errors import ModelError, OutOfMemoryError
from sweeper.models.modeling import BaseModel
from sweeper.space import Space
from tests import tiny
from tests.test_worker import texts


def attempt(base: BaseModel, kind: str = "causal", within_memory=None, **space) -> None:
    config = tiny.config(kind=kind)
    trial = tiny.settings(config)
    bench = workbench(config, base, tiny.rows(kind))

    def within(work, settings: TrialSettings) -> None:
        with base.put_on(settings, 0) as model:
            work(model, 1)

    rows, labels = bench.train_rows.rows, bench.evaluator.labels
    with tiny.one_thread():
        dry_run(base, config.task, Space.parse(space, trial), rows, labels, within_memory or within)


EVERYTHING = {
    "method": {"choices": ["lora", "full"]},
    "lora": {
        "variant": {"choices": ["lora", "dora"]},
        "rank": {"choices": [4, 8]},
        "dropout": {"low": 0.0, "high": 0.2},
    },
}


@pytest.mark.parametrize("kind", ["causal", "gpt2", "seq2seq", "classifier"])
def test_models_that_can_be_trained_are_left_as_they_were(kind):
    base = tiny.base(kind)
    before = {name: weights.clone() for name, weights in base.model.state_dict().items()}
    attempt(base, kind, **EVERYTHING)
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_each_method_and_variant_is_tried_once_with_the_most_demanding_settings():
    tried = []

    def note(work, settings: TrialSettings) -> None:
        lora = settings.lora
        tried.append("full" if settings.method == "full" else (lora.variant, lora.rank, lora.dropout))

    attempt(tiny.base(), within_memory=note, **EVERYTHING)
    assert tried == ["full", ("lora", 8, 0.2), ("dora", 8, 0.2)]
    tried.clear()
    attempt(tiny.base(), within_memory=note, lora={"variant": {"choices": ["rslora", "lora"]}})
    assert [one[0] for one in tried] == ["lora"]


def test_layers_that_peft_refuses_are_told_with_those_that_are_left():
    small = {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4, "vocab_size": len(tiny.tokenizer())}
    base = BaseModel(MambaForCausalLM(MambaConfig(**small)), tiny.tokenizer(), "causal", name="mamba")
    with pytest.raises(ModelError, match=r"mamba can't be trained .*'out_proj' .*it has .*in_proj.*x_proj"):
        attempt(base, lora={"target_modules": {"choices": ["all-linear", "in_proj,out_proj"]}})


def test_what_works_without_dropout_is_told():
    def without_dropout(work, settings) -> None:
        if settings.lora.dropout:
            raise ValueError("ParamWrapper does not work with lora_dropout != 0.")

    told = r"lora\.dropout=0\.1: .* Without dropout it can: '~space\.lora\.dropout'$"
    with pytest.raises(ModelError, match=told):
        attempt(tiny.base(), within_memory=without_dropout, lora={"dropout": {"low": 0.0, "high": 0.1}})


def test_a_model_with_experts_passes_more_than_once():
    """A second trial's adapter is what its file says, too."""
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    small |= {"num_key_value_heads": 2, "num_local_experts": 2, "vocab_size": len(tiny.tokenizer())}
    base = BaseModel(MixtralForCausalLM(MixtralConfig(**small)), tiny.tokenizer(), "causal", name="mixtral")
    for _ in range(2):
        attempt(base)


def test_layers_that_learn_nothing_are_told(caplog):
    """Fused kernels read a layer's weights and pass by what was put on it."""
    model = tiny.llama()
    attention = type(model.model.layers[0].self_attn)

    class Fused(attention):
        def forward(self, hidden_states, *args, **kwargs):
            before = self.v_proj
            self.v_proj = lambda x: torch.nn.functional.linear(x, before.weight)
            try:
                return super().forward(hidden_states, *args, **kwargs)
            finally:
                self.v_proj = before

        def __setattr__(self, name, value):
            if name == "v_proj":
                self.__dict__.pop(name, None)
                self._modules.pop(name, None)
                (self._modules if isinstance(value, torch.nn.Module) else self.__dict__)[name] = value
            else:
                super().__setattr__(name, value)

    for layer in model.model.layers:
        layer.self_attn.__class__ = Fused
    base = BaseModel(model, tiny.tokenizer(), "causal", name="fused")
    with pytest.raises(ModelError, match="adapters on v_proj learn nothing: the model computes past them"):
        attempt(base, lora={"target_modules": {"choices": ["all-linear", "q_proj,v_proj"]}})
    assert "Adapters on v_proj learn nothing with fused, which computes past them; those on" in caplog.text


def test_a_gradient_that_is_not_finite_is_told():
    model = tiny.llama()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("inf"))
    base = BaseModel(model, tiny.tokenizer(), "causal", name="broken")
    with pytest.raises(ModelError, match=r"the gradient of .* is not finite in a first step; .* anew$"):
        attempt(base)
    base.model.to(torch.bfloat16)
    with pytest.raises(ModelError, match=r"is not finite in a first step; try model\.dtype=float32$"):
        attempt(base)


def test_an_adapter_that_is_read_again_as_another_one_is_told(monkeypatch):
    from sweeper.models import modeling

    save = modeling.save

    def spoiled(model, folder) -> None:
        with torch.no_grad():
            for name, weights in model.named_parameters():
                if "lora_A" in name:
                    weights.mul_(2)
        save(model, folder)

    monkeypatch.setattr(modeling, "save", spoiled)
    with pytest.raises(ModelError, match="its adapter is another one after it was saved and read again"):
        attempt(tiny.base())


def test_a_model_whose_loss_reaches_no_weight_is_told():
    class Detached(LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            found = super().forward(*args, **kwargs)
            found.logits = found.logits.detach().requires_grad_()
            return found

    base = BaseModel(Detached(tiny.llama().config), tiny.tokenizer(), "causal", name="detached")
    with pytest.raises(ModelError, match="detached can't be trained with method=full: no weight gets a grad"):
        attempt(base, method={"choices": ["full", "lora"]})


def test_a_full_disk_is_no_fault_of_the_model():
    def full(work, settings) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"^\[Errno \d+\] No space left on device$"):
        attempt(tiny.base(), within_memory=full)


def test_too_little_memory_is_told_in_the_words_for_it():
    def full(work, settings) -> None:
        raise OutOfMemoryError("out of memory with one row per forward pass; take a smaller model")

    with pytest.raises(
        ModelError, match=r"method=full: out of memory with one row .*; take a smaller model$"
    ):
        attempt(tiny.base(), within_memory=full, method={"choices": ["lora", "full"]})


def sweep_of_texts(folder) -> list[str]:
    """The command of a sweep with a model of its own in `folder`, in which one works."""
    tiny.save(tiny.llama(), folder / "model")
    line = ["+experiment=summarize", "data=file", f"data.path={texts(folder)}", "data.input=input"]
    line += ["data.target=target", "model=custom", "model.name=./model", "model.device=cpu", "verdict=none"]
    line += ["data.sizes.train=8", "data.sizes.validation=4", "data.sizes.test=4", "budget.trials=1"]
    return [*line, "tracking=none", "executor=inline", "task.generation.max_new_tokens=2"]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        ),
    ],
)
def test_a_row_that_finds_no_memory_ends_the_sweep_with_what_needs_less(tmp_path, monkeypatch, capsys, error):
    monkeypatch.chdir(tmp_path)
    line = [*sweep_of_texts(tmp_path), "model.gradient_checkpointing=true", "model.dtype=float32"]

    def too_large(*args) -> None:
        raise error

    monkeypatch.setattr("sweeper.engines.dry_run.backward", too_large)
    with tiny.one_thread():
        assert main(line) == 2
    told = capsys.readouterr().err
    assert "./model can't be trained with method=lora" in told
    assert "out of memory with one row per forward pass; set model.dtype=bfloat16, lower task.max_" in told
    assert "take a smaller rank, or take a smaller model" in told
    assert "gradient_checkpointing" not in told, "it is on"
    assert "target_modules (it has" not in told, "they are not what is wrong"
    assert "Traceback" not in told


def test_a_sweep_that_no_trial_can_be_made_of_ends_before_the_first_and_frees_its_name(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    line = sweep_of_texts(tmp_path)

    def fused(*args) -> None:
        raise RuntimeError("a kernel of its own")

    with tiny.one_thread():
        with monkeypatch.context() as patched:
            patched.setattr("sweeper.engines.dry_run.backward", fused)
            assert main(line) == 2
        told = capsys.readouterr().err
        assert "./model can't be trained with method=lora" in told
        assert (
            "RuntimeError: a kernel of its own. Name other layers in trial.lora.target_modules (it has"
            in told
        )
        assert "Traceback" not in told
        assert main([*line, "trial.lora.target_modules=q_proj"]) == 0
