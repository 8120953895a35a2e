"""One row through everything that trials do, before the first of them."""

import errno
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import LlamaForCausalLM, MambaConfig, MambaForCausalLM, MixtralConfig, MixtralForCausalLM

from sweeper.__main__ import main
from sweeper.config import TrialSettings
from sweeper.engines.dry_run import dry_run
from sweeper.engines.trainer import workbench
from sweeper.errors import ModelError, OutOfMemoryError
from sweeper.models import modeling
from sweeper.models.modeling import BaseModel
from sweeper.space import Space
from tests import tiny
from tests.test_worker import texts


def attempt(
    base: BaseModel, kind: str = "causal", *overrides: str, within_memory=None, given=None, **space
) -> None:
    config = tiny.config(*overrides, kind=kind)
    trial = tiny.settings(config)
    bench = workbench(config, base, given or tiny.rows(kind))

    def within(work, settings: TrialSettings) -> None:
        with base.put_on(settings, 0) as model:
            work(model, 1)

    rows, labels = bench.train_rows.rows, bench.evaluator.labels
    with tiny.one_thread(), tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "saved"
        varied = Space.parse(space, trial)
        dry_run(base, config.task, varied, rows, labels, within_memory or within, place)
        assert not place.exists(), "nothing is left"


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


@dataclass
class Done:
    """What was done with a model in one of the ways that a space has."""

    settings: TrialSettings
    trained: list[int] = field(default_factory=list)
    """Tokens of the passes through a model that trains, with its dropout."""
    written: list[int] = field(default_factory=list)
    """Tokens of those through one that doesn't, in which a text grows."""
    gradients: int = 0
    saved: int = 0
    read: int = 0


@pytest.fixture
def watched(monkeypatch):
    """Runs the dry run and gives what was done, by a look at the model itself."""
    ways: list[Done] = []
    for name in ("save", "restore"):
        work = getattr(modeling, name)

        def counted(*args, work=work, name=name) -> None:
            ways[-1].saved += name == "save"
            ways[-1].read += name == "restore"
            work(*args)

        monkeypatch.setattr(modeling, name, counted)

    def run(kind: str, *overrides: str, rows=None, **space) -> list[Done]:
        base = tiny.base(kind)

        def within(work, settings: TrialSettings) -> None:
            done = Done(settings)
            ways.append(done)
            with base.put_on(settings, 0) as model:
                dropouts = [m for name, m in model.named_modules() if ".lora_dropout." in name]

                def look(module, args, output) -> None:
                    active = all(one.training and one.p == settings.lora.dropout for one in dropouts)
                    if torch.is_grad_enabled() and module.training and active:
                        done.trained.append(args[0].numel())
                    elif not module.training:
                        done.written.append(args[0].numel())

                words = [m for m in base.model.modules() if isinstance(m, torch.nn.Embedding)]
                words = [m for m in words if m.num_embeddings == len(base.tokenizer)]
                handles = [one.register_forward_hook(look) for one in words]
                first = next(weights for weights in model.parameters() if weights.requires_grad)
                handles.append(first.register_hook(lambda _: setattr(done, "gradients", done.gradients + 1)))
                if isinstance(model, PeftModel):
                    load = model.load_adapter

                    def loads(*args, **kwargs):
                        done.read += 1
                        return load(*args, **kwargs)

                    model.load_adapter = loads
                try:
                    work(model, 1)
                finally:
                    for handle in handles:
                        handle.remove()

        attempt(base, kind, *overrides, within_memory=within, given=rows, **space)
        return ways

    return run


@pytest.mark.parametrize(
    ("kind", "overrides", "rows"),
    [
        ("causal", (), None),
        ("causal", ("task.generation.num_beams=2",), None),
        ("causal", tiny.CHATS, tiny.chats()),
        ("causal", (*tiny.CHATS, "task.objective={metric: rougeL, direction: maximize}"), tiny.chats()),
        ("gpt2", (), None),
        ("seq2seq", (), None),
        ("classifier", (), None),
    ],
    ids=["generate", "beams", "chat by its loss", "chat by its answers", "gpt2", "seq2seq", "classify"],
)
def test_all_that_trials_do_is_done_once_with_the_most_demanding_settings(watched, kind, overrides, rows):
    ways = watched(kind, *overrides, rows=rows, **EVERYTHING)
    full, *adapted = ways
    assert full.settings.method == "full"
    assert [one.settings.lora.variant for one in adapted] == ["lora", "dora"]
    for one in adapted:
        lora = one.settings.lora
        assert (lora.rank, lora.dropout, lora.target_modules) == (8, 0.2, "all-linear")
    given = tiny.rows(kind) if rows is None else rows
    longest = max(given.train, key=lambda row: len(row["input_ids"]) + len(row["labels"]))
    for one in ways:
        # A decoder needs no scores after the last token; an encoder-decoder reads the answer too.
        assert one.trained[0] in (len(longest["input_ids"]) - (kind == "causal"), len(longest["input_ids"]))
        assert len(one.trained) == 1 + (kind == "seq2seq"), "forward"
        assert one.gradients == 1, "and backward"
        assert (one.saved, one.read) == (1, 1)
        steps = [tokens for tokens in one.written if tokens <= 2]
        assert (len(steps) > 0) == (kind != "classifier"), "a text was written"


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
    before = {name: weights.clone() for name, weights in base.model.state_dict().items()}
    for _ in range(2):
        attempt(base, method={"choices": ["lora", "full"]})
    after = base.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before | after)


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
