"""What leaves a sweep gives the same scores elsewhere, in processes that know nothing of sweeper."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sweeper import lock
from sweeper.__main__ import main
from sweeper.errors import ExportError
from sweeper.export import choose, hub_token, push, register, write_export
from sweeper.layout import Layout
from sweeper.stored import stored
from tests import tiny
from tests.sweeps import REPLAY

ALONE = """
import sys

class NoSweeper:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "sweeper":
            raise ImportError("sweeper is not there")

sys.meta_path.insert(0, NoSweeper())
try:
    import sweeper
except ImportError:
    pass
else:
    raise SystemExit("sweeper is there")
"""
SCORE = """
import torch
from datasets import Dataset
from rouge_score.rouge_scorer import RougeScorer

def score(model, tokenizer, rows):
    scorer, scores = RougeScorer(["rougeL"], use_stemmer=True), []
    for row in Dataset.from_file(rows):
        prompt = torch.tensor([row["prompt_ids"]])
        whole = model.eval().generate(input_ids=prompt, attention_mask=torch.ones_like(prompt),
                                      max_new_tokens=4, do_sample=False, pad_token_id=0)
        output = tokenizer.decode(whole[0, prompt.shape[1]:], skip_special_tokens=True)
        scores.append(scorer.score(row["answer"], output)["rougeL"].fmeasure)
    return sum(scores) / len(scores)
"""


def alone(code: str, folder: Path) -> str:
    """What `code` prints in a fresh process, in another folder, that can't import sweeper."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE + code], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def write_rows(path: Path) -> None:
    words = tiny.WORDS
    rows = [
        {"input": f"{words[i % 12]} {words[(i * 5 + 1) % 12]} {words[(i * 7 + i // 12) % 12]}"}
        for i in range(120)
    ]
    for row in rows:
        row["target"] = "cat dog" if row["input"].startswith(("red", "green", "one", "cat")) else "blue bird"
    path.write_text("\n".join(json.dumps(row) for row in rows))


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Iterator[Layout]:
    """Two trials of a tiny model, the second one better; the base model is named by a relative path."""
    folder = tmp_path_factory.mktemp("export")
    tiny.save(tiny.llama(), folder / "model")
    write_rows(folder / "rows.jsonl")
    with pytest.MonkeyPatch.context() as patch, tiny.one_thread():
        patch.chdir(folder)
        code = main([
            "+experiment=summarize", "model=custom", "model.name=model", "model.device=cpu",
            "model.dtype=float32", "data=file", "data.path=rows.jsonl", "data.keep_together=false",
            "data.cleaning=[]", "data.audit.fail_on=never", "data.sizes={train: 64, validation: 16, test: 8}",
            "task.prompt='{input}'", "task.chat_template=false", "task.generation.max_new_tokens=4",
            "space=empty", "+space.learning_rate.choices=[1e-4,2e-2]", "trial.learning_rate=1e-4",
            "trial.epochs=3", "sampler=grid", "budget.trials=2", "pruner=none", "tracking=none",
        ])  # fmt: skip
        assert code == 0
        yield Layout(Path("sweeps"), "summarize")


def test_the_adapter_scores_the_same_by_plain_peft(swept, tmp_path, capsys):
    assert main(["export", "summarize", "--to", str(tmp_path / "adapter")]) == 0
    best = choose(swept).record
    assert (best.number, best.objective > 0.2) == (1, True), "the untouched model has 0.15"
    assert f"Adapter: {tmp_path / 'adapter'}" in capsys.readouterr().out
    found = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert found["base_model_name_or_path"] == str(Path("model").resolve())
    rows = (swept.rows / "validation.arrow").resolve()
    told = alone(
        SCORE
        + f"""
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer
model = AutoPeftModelForCausalLM.from_pretrained("adapter", dtype=torch.float32)
print(score(model, AutoTokenizer.from_pretrained({found["base_model_name_or_path"]!r}), {str(rows)!r}))
""",
        tmp_path,
    )
    assert float(told.splitlines()[-1]) == pytest.approx(best.objective, abs=1e-9)


def test_the_merged_model_scores_the_same_by_plain_transformers(swept, tmp_path, capsys):
    assert main(["export", "summarize", "--merge", "--to", str(tmp_path / "model")]) == 0
    assert f"Model: {tmp_path / 'model'}" in capsys.readouterr().out
    assert not (tmp_path / "model" / "adapter_config.json").exists()
    rows = (swept.rows / "validation.arrow").resolve()
    told = alone(
        SCORE
        + f"""
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("model", dtype=torch.float32)
print(score(model, AutoTokenizer.from_pretrained("model"), {str(rows)!r}))
""",
        tmp_path,
    )
    assert float(told.splitlines()[-1]) == pytest.approx(choose(swept).record.objective, abs=1e-9)


def test_mlflow_serves_the_champion_without_sweeper(swept, tmp_path, capsys):
    for version in (1, 2):
        assert main(["export", "summarize", "--mlflow"]) == 0
        assert f"models:/summarize@champion is version {version}" in capsys.readouterr().out
    assert not list(swept.folder.glob(".export*"))
    told = alone(
        f"""
import mlflow
mlflow.set_tracking_uri("sqlite:///{swept.root.resolve() / "mlflow.db"}")
model = mlflow.pyfunc.load_model("models:/summarize@champion")
print(model.predict(["red cat one"]))
""",
        tmp_path,
    )
    assert "cat dog" in told.splitlines()[-1]
