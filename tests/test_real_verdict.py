"""A sweep of a tiny model with its verdict, and what the verdict's runs left, checked directly."""

import contextlib
import json

import pytest
from peft import PeftModel

from sweeper import metrics, verdict
from sweeper.__main__ import main
from sweeper.compose import read_config
from sweeper.data.prepare import open_test
from sweeper.engines.batches import read_rows
from sweeper.engines.evaluate import Evaluator
from sweeper.layout import Layout
from sweeper.messages import BASE
from sweeper.stored import stored
from tests import tiny

SWEEP = (
    *("+experiment=summarize", "model=custom", "model.name=model", "model.device=cpu", "tracking=none"),
    "model.dtype=float32",
    *("data=file", "data.path=rows.jsonl", "data.sizes={train: 16, validation: 6, test: 8}"),
    *("data.keep_together=false", "data.audit.fail_on=never", "task.generation.max_new_tokens=4"),
    *("budget.trials=2", "budget.seeds=2", "trial.learning_rate=1e-2", "space=empty"),
    *("+space.lora.rank.choices=[4,8]", "task.objective={metric: loss, direction: minimize}"),
)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """The folder of a sweep that has its verdict."""
    folder = tmp_path_factory.mktemp("judged")
    tiny.save(tiny.llama(), folder / "model")
    lines = []
    for i in range(60):
        words = [tiny.WORDS[(i * 7 + j * (1 + i % 5)) % len(tiny.WORDS)] for j in range(4)]
        lines.append(json.dumps({"input": " ".join([*words, f"{i} and {i * i}"]), "target": words[-1]}))
    (folder / "rows.jsonl").write_text("\n".join(lines))
    with contextlib.chdir(folder), tiny.one_thread():
        assert main([*SWEEP, "data.input=input", "data.target=target"]) == 0
    return folder


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own
def test_every_test_score_is_that_of_the_adapter_which_the_run_saved(judged, monkeypatch):
    monkeypatch.chdir(judged)
    layout = Layout(judged / "sweeps", "summarize")
    facts = verdict.read(layout)
    config, _ = read_config(stored(layout)[0])
    rows = read_rows(open_test(layout.rows))
    runs = verdict.known_runs(config, layout).records()
    assert [run.number for run in runs] == [BASE, 0, 1, 2, 3]
    scores = {}
    for run in runs:
        model = tiny.llama() if run.number == BASE else PeftModel.from_pretrained(tiny.llama(), run.adapter)
        answers = Evaluator(tiny.base(), config.task, rows, ()).answers(model.eval(), lambda done, of: None)
        found = metrics.score(config.task, answers)
        assert run.test.objective == pytest.approx(found.objective, rel=1e-6)
        assert run.test.metrics["loss"] == pytest.approx(found.metrics["loss"], rel=1e-5)
        scores[run.number] = found.objective
    assert facts.base == pytest.approx(scores[BASE])
    assert facts.default.scores == pytest.approx((scores[0], scores[2]))
    assert facts.candidates[0].scores == pytest.approx((scores[1], scores[3]))
    assert facts.rows == 8


def test_it_is_told_again_within_seconds_and_without_the_model(judged, monkeypatch, capsys):
    monkeypatch.chdir(judged)
    (judged / "model").rename(judged / "away")
    assert main([*SWEEP, "data.input=input", "data.target=target"]) == 0
    told = capsys.readouterr().out
    assert "Sweep summarize is complete" in told
    assert f"Verdict: {verdict.read(Layout(judged / 'sweeps', 'summarize')).sentence}" in told
