"""The whole path on the real embedded model: killed, continued, looked at in MLflow, loaded by plain peft."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.messages import BASE, TrialState
from sweeper.study.study import Study
from tests.pages import browser

SWEEP = [
    *(sys.executable, "-m", "sweeper", "+experiment=summarize", "data=file", "data.path=rows.jsonl"),
    *("data.input=text", "data.target=summary", "data.sizes={train: 16, validation: 8, test: 4}"),
    *("task.max_input_tokens=24", "task.max_answer_tokens=8", "task.generation.max_new_tokens=4"),
    *("budget.trials=2", "space.batch_size.choices=[4,8]", "trial.lora.target_modules=[q_proj,v_proj]"),
    *(
        "verdict=none",
        "model.dtype=float32",
        "data.keep_together=false",
    ),  # rows of one mould are alike by nature
]


def write_rows(path: Path) -> None:
    things = ["array", "table", "file", "queue", "model", "index", "graph"]
    rows = [
        {"text": f"This function takes the {thing} number {i} and sorts it.", "summary": f"Sort a {thing}."}
        for i in range(8)
        for thing in things
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")


def run(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SWEEP, *overrides], cwd=folder, capture_output=True, text=True, timeout=400)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of two trials, killed after the first mark of the first one and run again."""
    folder = tmp_path_factory.mktemp("real")
    write_rows(folder / "rows.jsonl")
    first = subprocess.Popen(SWEEP, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seen = ""
    for line in first.stdout:
        seen += line
        if "after 8 examples" in line:
            break
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    assert "after 8 examples" in seen, seen
    second = run(folder)
    assert second.returncode == 0, second.stdout + second.stderr
    return folder, second.stdout


def records(folder: Path):
    sweeps = folder / "sweeps"
    return Study.read(f"sqlite:///{sweeps / 'study.db'}", "summarize", sweeps / "summarize").records()


def test_the_budget_is_used_and_the_killed_trial_went_on(swept):
    folder, _ = swept
    trials = records(folder)
    assert [r.number for r in trials] == [BASE, 0, 1]
    assert all(r.state.is_over for r in trials)
    journal = folder / "sweeps" / "summarize" / "trials" / "0000" / "metrics.jsonl"
    points = [json.loads(line) for line in journal.read_text().splitlines()]
    assert trials[1].attempt == 2
    trained = [p["examples"] for p in points if p["attempt"] == 2 and "train_loss" in p["metrics"]]
    assert min(trained) > 8, "the first half was not trained again"
    assert [p["mark"] for p in points if p["mark"]] == [8, 16]


def test_it_leaves_a_card_in_the_place_of_pefts_own(swept):
    from huggingface_hub import ModelCard

    folder, _ = swept
    best = max(records(folder)[1:], key=lambda record: record.objective)
    data = ModelCard((folder / "sweeps/summarize/best/README.md").read_text()).data
    assert (data.library_name, data.license) == ("peft", "apache-2.0")
    scores = {one.metric_type: one.metric_value for one in data.eval_results}
    assert scores["rougeL"] == pytest.approx(best.metrics["rougeL"], abs=1e-6)
    assert scores["loss"] == pytest.approx(best.metrics["loss"], abs=1e-6)


def test_a_browser_shows_its_report(swept):
    folder, _ = swept
    page = folder / "sweeps/summarize/report.html"
    with browser() as tab:
        seen = tab.open(page)
        assert (seen.requests, seen.faults) == ([page.as_uri()], [])
        shown = tab.evaluate("document.body.innerText")
        assert "2 of 2 trials begun" in shown
        assert "This function takes the" in shown, "sample outputs"
        assert tab.evaluate("document.querySelectorAll('.chart .scatterlayer path').length") > 10


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # raised inside MLflow
def test_mlflow_agrees_with_the_study(swept):
    from mlflow import MlflowClient

    folder, _ = swept
    client = MlflowClient(f"sqlite:///{folder / 'sweeps' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("summarize")
    runs = {run.data.tags["sweeper.number"]: run for run in client.search_runs([experiment.experiment_id])
            if "sweeper.number" in run.data.tags}  # fmt: skip
    trials = {str(r.number): r for r in records(folder) if r.number != BASE}
    assert trials.keys() <= runs.keys()
    for number, trial in trials.items():
        run = runs[number]
        assert run.info.status == "FINISHED"
        assert float(run.data.params["learning_rate"]) == pytest.approx(trial.settings.learning_rate)
        history = client.get_metric_history(run.info.run_id, "objective")
        assert {point.step: point.value for point in history} == trial.reports
        assert len(history) == len(trial.reports), "no point twice"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # raised by peft's own call
def test_the_best_adapter_gives_the_same_score_by_plain_peft(swept):
    import torch
    from datasets import Dataset
    from peft import PeftModel
    from rouge_score.rouge_scorer import RougeScorer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sweeper.config import ModelConfig
    from sweeper.models.pretrained import resolve

    folder, _ = swept
    sweep = folder / "sweeps" / "summarize"
    finished = [r for r in records(folder) if r.state is TrialState.FINISHED and r.number != BASE]
    best = max(finished, key=lambda record: record.objective)
    name = "HuggingFaceTB/SmolLM2-135M-Instruct"
    path = resolve(ModelConfig(name, True, None, "float32", False, "cpu")).path
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, sweep / "best").eval()
    scorer, scores = RougeScorer(["rougeL"], use_stemmer=True), []
    for row in Dataset.from_file(str(sweep / "rows" / "validation.arrow")):
        prompt = torch.tensor([row["prompt_ids"]])
        whole = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=4,
            do_sample=False,
            pad_token_id=tokenizer.eos_token_id,
        )
        output = tokenizer.decode(whole[0, prompt.shape[1] :], skip_special_tokens=True)
        scores.append(scorer.score(row["answer"], output)["rougeL"].fmeasure)
    assert len(scores) == 8
    assert sum(scores) / len(scores) == pytest.approx(best.objective, abs=1e-9)


def test_a_finished_sweep_answers_from_its_databases(swept):
    folder, first = swept
    again = run(folder)
    assert again.returncode == 0
    assert "Sweep summarize is complete" in again.stdout
    assert "Finding the base model" not in again.stdout
    table = [line for line in first.splitlines() if "finished" in line and ":" not in line]
    assert table
    assert all(line in again.stdout for line in table)


def test_show_prints_the_result_with_answers(swept):
    folder, _ = swept
    show = [sys.executable, "-m", "sweeper", "show", "summarize"]
    done = subprocess.run(show, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Best adapter: sweeps/summarize/best" in done.stdout
    assert "Reference: Sort a" in done.stdout


def test_changed_rows_are_refused_and_the_frozen_ones_stay(swept):
    folder, _ = swept
    rows = folder / "rows.jsonl"
    manifest = (folder / "sweeps" / "summarize" / "rows" / "manifest.json").read_bytes()
    before = rows.read_bytes()
    rows.write_bytes(before + b'\n{"text": "One more row of text.", "summary": "More."}')
    try:
        refused = run(folder, "budget.trials=3")
    finally:
        rows.write_bytes(before)
    assert refused.returncode == 2
    assert "the rows of sweep `summarize` have changed since it began" in refused.stderr
    assert (folder / "sweeps" / "summarize" / "rows" / "manifest.json").read_bytes() == manifest


def test_a_target_that_the_model_does_not_have(swept, tmp_path):
    folder, _ = swept
    refused = run(folder, "sweep.name=other", "trial.lora.target_modules=[q_prj]")
    assert refused.returncode == 2
    assert "q_prj" in refused.stderr
    assert "q_proj" in refused.stderr, "those that exist are named"
    assert "other" not in Study.names(f"sqlite:///{folder / 'sweeps' / 'study.db'}")
