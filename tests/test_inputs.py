"""What is checked before the first trial, and what makes a sweep itself."""

from dataclasses import replace
from io import StringIO

import pytest
import torch
from rich.console import Console

from sweeper.errors import ConfigError, DataError, ModelError
from sweeper.inputs import fingerprint, longest, lora_targets, number_type, prepare_inputs, trained_bytes
from sweeper.layout import Layout
from sweeper.terminal.screen import Screen
from tests import tiny
from tests.rows import chat, write_jsonl
from tests.sweeps import configure


def test_what_defines_a_sweep_is_in_its_fingerprint(tmp_path):
    def of(*overrides: str):
        return fingerprint(*configure(tmp_path, *overrides))

    same = ["budget.trials=9", "sampler=gp", "pruner=none", "task.evaluation.batch_size=3", "tracking=mlflow"]
    assert of() == of(*same) == of("model.device=cpu", "data.path=elsewhere")
    # Not there where they are empty: a sweep that was begun without such settings goes on.
    assert not {"also", "constraints"} & of()["task"].keys()
    for other in (
        "trial.epochs=2",
        "sweep.seed=8",
        "space.lora.dropout.high=0.05",
        "task.generation.max_new_tokens=3",
        "task.evaluation.marks_per_epoch=4",
        "task.prompt='{input}'",
        "data.sizes.train=32",
        "model=qwen3_0_6b",
        "task.also=[{metric: seconds, direction: minimize}]",
        "task.constraints=[{metric: chrf, at_least: 0.3}]",
    ):
        assert of(other) != of(), other


def test_what_is_trained_is_known_before_it_is_loaded(tmp_path):
    """Adapters of the largest rank on every matrix but the vocabulary's, or the whole model."""
    folder = tiny.save(tiny.llama(), tmp_path / "model")
    width, inner, heads = 32, 64, 16
    layer = 4 * width + 2 * (width + heads) + 3 * (width + inner)
    words = 2 * (len(tiny.tokenizer()) + width)
    _, space = configure(tmp_path, "space.lora.rank.choices=[2,16]", "trial.lora.rank=2")
    assert 4 * 16 * 2 * layer <= trained_bytes(folder, space) <= 4 * 16 * (2 * layer + words)
    _, space = configure(tmp_path, "~space.lora", "trial.lora.rank=2")
    assert trained_bytes(folder, space) < 4 * 2 * (2 * layer + words) + 1
    _, space = configure(tmp_path, "~space.lora", "trial.method=full")
    assert trained_bytes(folder, space) == (folder / "model.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("entry", "expected"),
    [("{low: 1, high: 3}", 3), ("{choices: [1, 2]}", 2), ("{low: 1, high: 2, when: {scheduler: cosine}}", 2)],
)
def test_the_longest_trial(tmp_path, entry, expected):
    _, space = configure(tmp_path, f"+space.epochs={entry}")
    assert longest(space) == expected
    assert longest(configure(tmp_path)[1]) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_workers_elsewhere_may_have_devices_that_this_machine_has_not(tmp_path):
    gpus = ("model.device=cuda", "model.dtype=bfloat16")
    assert number_type(configure(tmp_path, "executor=ray", *gpus)[0]) == "bfloat16"
    with pytest.raises(ModelError, match=r"model\.device=cuda is not on this machine"):
        number_type(configure(tmp_path, "executor=inline", *gpus)[0])


def test_every_target_the_space_may_choose_is_checked(tmp_path):
    choices = "+space.lora.target_modules={choices: [all-linear, [q_proj, v_proj]]}"
    config, space = configure(tmp_path, choices)
    targets = {settings.lora.target_modules for settings in lora_targets(space)}
    assert targets == {"all-linear", "q_proj,v_proj"}
    assert list(lora_targets(replace(space, entries=()))) == [config.trial]


@pytest.mark.parametrize(("metric", "column"), [("worst_slice.loss", "slice"), ("group_gap.loss", "group")])
def test_a_metric_over_slices_needs_their_column(tmp_path, metric, column):
    overrides = [f"task.evaluation.metrics=[{metric}]", f"data.{column}=null"]
    with pytest.raises(
        ConfigError, match=rf"data\.{column}: is needed for the metric `{metric}`: the name of a"
    ):
        configure(tmp_path, *overrides)
    config, _ = configure(tmp_path, overrides[0])
    assert config.task.named_metrics == ("rougeL", metric)


def test_a_sweep_that_no_row_could_be_judged_in_is_refused(tmp_path):
    """No validation row calls a tool: told when the rows are prepared, not by a failed trial."""
    model = tiny.save(tiny.llama(), tmp_path / "model")
    talks = [
        chat(f"{a} {b}", b, f"{b} {c}", c) for a in tiny.WORDS for b in tiny.WORDS for c in ("cat", "dog")
    ]
    overrides = [
        *("+experiment=instruct", f"data.path={write_jsonl(tmp_path / 'chats.jsonl', talks[:60])}"),
        *("data.messages=messages", "data.sizes={train: 8, validation: 4, test: 4}", "verdict=none"),
        *("data.audit.fail_on=never", "data.audit.near_duplicates=1", "data.keep_together=false"),
        *("task.max_input_tokens=40", "task.max_answer_tokens=8", "model=custom", f"model.name={model}"),
    ]
    judged = "task.objective={metric: tool_call_match, direction: maximize}"
    config, space = configure(tmp_path, judged, like=overrides)
    with pytest.raises(DataError, match="`tool_call_match` needs validation rows whose last assistant turn"):
        prepare_inputs(config, space, Layout(tmp_path, "calls"), {}, Screen(Console(file=StringIO())))
