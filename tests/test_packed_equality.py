"""Every trial in a slot of the packed engine equals its own run by plain peft and torch.optim.AdamW."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from sweeper.engines import make_engine
from sweeper.messages import Decision, Ending
from sweeper.models.modeling import BaseModel
from tests import plain_peft, tiny

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own
FAMILIES = ("llama", "qwen2", "qwen3", "t5", "t5 without dropout")
LOST = tiny.settings(learning_rate=1e200, max_grad_norm=0.0, warmup=0.0)
"""In its second step everything is infinite or NaN."""


@cache
def base(family: str, dtype: torch.dtype) -> BaseModel:
    if family.startswith("t5"):
        model: Any = tiny.t5(0.0 if "without" in family else 0.1)
        return BaseModel(model.to(dtype), tiny.tokenizer(), "seq2seq", name=family)
    torch.manual_seed(0)
    shape = tiny.llama().config.to_dict()
    wanted = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    more = ("vocab_size", "num_key_value_heads", "max_position_embeddings", "pad_token_id", "eos_token_id")
    like = {name: shape[name] for name in (*wanted, *more)}
    if family == "llama":
        model = tiny.llama()
    elif family == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**like))
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**like, head_dim=8))
    # Plain attention takes its softmax in float32, whatever the model is in.
    model.set_attn_implementation("sdpa")
    return BaseModel(model.to(dtype), tiny.tokenizer(), "causal", name=family)


@pytest.fixture
def in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms cast to float32, whatever the model is in: let them stay in its type."""
    for kind in (LlamaRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm, T5LayerNorm):
        monkeypatch.setattr(
            kind,
            "forward",
            lambda self, x: F.rms_norm(x, self.weight.shape, self.weight, self.variance_epsilon),
        )


def packed(
    folder: Path,
    family: str,
    dtype: torch.dtype,
    trials: Sequence[tiny.TrialSettings],
    slots: int,
    rows: tiny.Rows,
    budget: int = 64,
    pruned: Sequence[int] = (),
) -> tiny.Script:
    """Train all of `trials`; those in `pruned` are stopped at their first mark, a third of the way."""
    specs = []
    for number, one in enumerate(trials):
        examples = len(rows.train) * one.epochs
        marks = (examples // 3, examples) if number in pruned else (examples,)
        specs.append(tiny.spec(folder, one, trial=number, marks=marks, seed=11 + number))
    overrides = ("engine=packed", f"engine.slots={slots}", f"engine.token_budget={budget}")
    channel = tiny.Script(
        specs, lambda p: Decision.PRUNE if p.evaluation and p.trial in pruned else Decision.CONTINUE
    )
    with tiny.one_thread():
        config = tiny.config(*overrides, "engine.report_seconds=1e-9")
        make_engine(config, base(family, dtype), rows).run(channel)
    return channel


def losses(channel: tiny.Script, trial: int) -> list[float]:
    reports = [one for one in channel.reports if one.trial == trial and "train_loss" in one.metrics]
    return [one.metrics["train_loss"] for one in reports]


def kind_of(family: str) -> str:
    return "seq2seq" if family.startswith("t5") else "causal"


def mixed(count: int, family: str) -> list[tiny.TrialSettings]:
    """Settings of which no two share everything."""
    ranks, batches, rates = (4, 12, 2, 8, 20), (4, 6, 3, 8), (1e-2, 3e-3, 3e-2)
    schedules, decays, clips = ("linear", "cosine", "constant"), (0.0, 0.1), (1.0, 0.05, 0.0)
    some = ("q,v", "wi,wo,k") if family.startswith("t5") else ("q_proj,v_proj", "gate_proj,down_proj,k_proj")
    targets = ("all-linear", some[0], "all-linear", some[1])
    return [
        tiny.settings(
            lora_rank=ranks[i % 5], lora_alpha=float(4 + i), lora_variant=("lora", "rslora")[i % 2],
            lora_target_modules=targets[i % 4], batch_size=batches[i % 4], epochs=1 + i % 2,
            learning_rate=rates[i % 3], scheduler=schedules[i % 3], warmup=(0.0, 0.2)[i % 2],
            weight_decay=decays[i % 2], max_grad_norm=clips[i % 3], label_smoothing=(0.0, 0.0, 0.1)[i % 3],
            lora_dropout=(0.0, 0.3)[i % 2],
        )
        for i in range(count)
    ]  # fmt: skip


def assert_equal_to_plain(
    channel: tiny.Script,
    number: int,
    family: str,
    dtype: torch.dtype,
    one: tiny.TrialSettings,
    rows: tiny.Rows,
) -> None:
    """The whole run, in float64."""
    plain = plain_peft.train(base(family, dtype).model, rows.train.to_list(), one, 11 + number)
    assert losses(channel, number) == pytest.approx(plain.losses, rel=0, abs=1e-9)
    (outcome,) = (outcome for outcome in channel.outcomes if outcome.trial == number)
    assert outcome.ending is Ending.FINISHED, outcome.reason
    saved = load_file(outcome.adapter / "adapter_model.safetensors")
    assert set(saved) == set(plain.adapter)
    for name, weights in plain.adapter.items():
        torch.testing.assert_close(saved[name], weights, rtol=0, atol=1e-9)


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("slots", [1, 3, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_whole_runs_in_double_precision(tmp_path, family, slots):
    """With refills, a pruned trial and one that becomes NaN among them."""
    trials = mixed(slots + 2, family)
    trials.insert(1, LOST)
    rows, pruned = tiny.rows(kind_of(family), train=20, validation=4), len(trials) - 2
    channel = packed(tmp_path, family, torch.float64, trials, slots, rows, pruned=[pruned])
    endings = {outcome.trial: outcome.ending for outcome in channel.outcomes}
    assert endings.pop(1) is Ending.FAILED
    assert endings.pop(pruned) is Ending.PRUNED
    assert set(endings.values()) == {Ending.FINISHED}
    for number in endings:
        assert_equal_to_plain(channel, number, family, torch.float64, trials[number], rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_twenty_steps_in_single_precision(tmp_path, family):
    rows = tiny.rows(kind_of(family), train=80, validation=4)
    trials = [replace(one, batch_size=4, epochs=1, learning_rate=3e-3) for one in mixed(4, family)]
    channel = packed(tmp_path, family, torch.float32, trials, 3, rows, budget=200)
    for number, one in enumerate(trials):
        plain = plain_peft.train(base(family, torch.float32).model, rows.train.to_list(), one, 11 + number)
        assert len(plain.losses) == 20
        assert losses(channel, number) == pytest.approx(plain.losses, rel=0, abs=1e-5)


ANY = st.builds(
    tiny.settings,
    lora_rank=st.integers(1, 18),
    lora_alpha=st.floats(1.0, 32.0),
    lora_variant=st.sampled_from(["lora", "rslora"]),
    lora_dropout=st.sampled_from([0.0, 0.1, 0.5]),
    lora_target_modules=st.sampled_from(["all-linear", "q_proj", "v_proj,up_proj"]),
    batch_size=st.integers(1, 9),
    epochs=st.integers(1, 2),
    learning_rate=st.floats(1e-4, 3e-2),
    scheduler=st.sampled_from(["linear", "cosine", "constant"]),
    warmup=st.floats(0.0, 0.9),
    weight_decay=st.floats(0.0, 0.5),
    max_grad_norm=st.sampled_from([0.0, 0.01, 1.0]),
    label_smoothing=st.sampled_from([0.0, 0.2]),
)
NUMBERS = itertools.count()


@pytest.mark.usefixtures("in_double")
@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(trials=st.lists(ANY, min_size=1, max_size=4), slots=st.integers(1, 3), budget=st.integers(1, 200))
def test_any_mix(tmp_path, trials, slots, budget):
    rows = tiny.rows(train=9, validation=2)
    folder = tmp_path / str(next(NUMBERS))
    channel = packed(folder, "llama", torch.float64, trials, slots, rows, budget)
    for number, one in enumerate(trials):
        assert_equal_to_plain(channel, number, "llama", torch.float64, one, rows)
