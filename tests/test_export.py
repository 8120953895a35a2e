"""What leaves a sweep gives the same scores elsewhere, in processes that know nothing of sweeper."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from sweeper.__main__ import main
from sweeper.errors import ExportError, StudyError
from sweeper.layout import Layout
from sweeper.messages import TrialState
from sweeper.models.pretrained import resolve
from sweeper.storage import lock
from sweeper.stored import stored
from sweeper.verbs.export import choose, hub_token, push, register, write_export
from tests import tiny
from tests.sweeps import REPLAY, open_study

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


SWEEP = (
    "+experiment=summarize", "model=custom", "model.name=model", "model.device=cpu",
    "model.dtype=float32", "data=file", "data.path=rows.jsonl", "data.keep_together=false",
    "data.cleaning=[]", "data.audit.fail_on=never", "data.sizes={train: 64, validation: 16, test: 8}",
    "task.prompt='{input}'", "task.chat_template=false", "task.generation.max_new_tokens=4",
    "space=empty", "+space.learning_rate.choices=[1e-4,2e-2]", "trial.learning_rate=1e-4",
    "trial.epochs=3", "sampler=grid", "budget.trials=2", "pruner=none", "tracking=none",
)  # fmt: skip
PLAIN = """
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("model", dtype=torch.float32)
print(score(model, AutoTokenizer.from_pretrained("model"), {rows!r}))
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Iterator[Layout]:
    """Two trials of a tiny model, the second one better; the base model is named by a relative path."""
    folder = tmp_path_factory.mktemp("export")
    tiny.save(tiny.llama(), folder / "model")
    write_rows(folder / "rows.jsonl")
    with pytest.MonkeyPatch.context() as patch, tiny.one_thread():
        patch.chdir(folder)
        assert main(SWEEP) == 0
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
    told = alone(SCORE + PLAIN.format(rows=str(rows)), tmp_path)
    assert float(told.splitlines()[-1]) == pytest.approx(choose(swept).record.objective, abs=1e-9)


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # raised inside MLflow
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred")  # of MLflow's own functions
def test_mlflow_has_the_champion_and_needs_no_sweeper(swept, tmp_path, capsys, monkeypatch):
    assert main(["export", "summarize", "--mlflow"]) == 0
    assert "MLflow: models:/summarize@champion is version 1" in capsys.readouterr().out
    for kept in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):  # by MLflow itself, for child processes
        monkeypatch.delenv(kept)
    assert not list(swept.folder.glob(".export*"))
    rows = (swept.rows / "validation.arrow").resolve()
    told = alone(
        SCORE
        + f"""
import mlflow
mlflow.set_tracking_uri("sqlite:///{swept.root.resolve() / "mlflow.db"}")
parts = mlflow.transformers.load_model("models:/summarize@champion", return_type="components")
print(score(parts["model"], parts["tokenizer"], {str(rows)!r}))
served = mlflow.pyfunc.load_model("models:/summarize@champion")
print(served.metadata.metadata["sweeper.trial"], *served.predict(["red cat one"]))
""",
        tmp_path,
    )
    *_, score, served = told.splitlines()
    assert float(score) == pytest.approx(choose(swept).record.objective, abs=1e-9)
    assert served.startswith("summarize/1 red cat one")


def test_full_fine_tuning_gives_a_whole_model(swept, tmp_path, capsys):
    with tiny.one_thread():
        assert main([*SWEEP, "sweep.name=full", "trial.method=full", "budget.trials=1"]) == 0
    assert main(["export", "full", "--to", str(tmp_path / "model")]) == 0
    best = choose(Layout(Path("sweeps"), "full")).record
    rows = (swept.root / "full" / "rows" / "validation.arrow").resolve()
    told = alone(SCORE + PLAIN.format(rows=str(rows)), tmp_path)
    assert float(told.splitlines()[-1]) == pytest.approx(best.objective, abs=1e-9)


def test_the_card_goes_along_with_the_best_trial(swept, tmp_path):
    best = choose(swept)
    other = choose(swept, 1 - best.record.number)
    swept.card.write_text("# An earlier best one\n", encoding="utf-8")
    title = f"This is trial {best.record.number};"
    adapter = write_export(best, target=tmp_path / "adapter")
    assert title in (adapter / "README.md").read_text()
    merged = (write_export(best, True, tmp_path / "merged") / "README.md").read_text()
    assert title in merged
    assert "library_name: transformers" in merged
    with lock.hold(swept):
        running = write_export(choose(swept), target=tmp_path / "running")
    for without in (running, write_export(other, target=tmp_path / "other")):
        assert "This is trial" not in "".join(path.read_text() for path in without.glob("README.md"))


def test_a_trial_that_violates_a_constraint_is_not_exported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main([*REPLAY, "budget.trials=2", "task.constraints=[{metric: rougeL, at_least: 0.9}]"])
    layout = Layout(Path("sweeps"), "summarize")
    with pytest.raises(ExportError, match=r"trial 0 violates a constraint .*misses ≥ 0.9"):
        choose(layout, 0)
    with pytest.raises(ExportError, match=r"No finished trial meets the constraints, .* came nearest"):
        choose(layout)


def test_without_a_folder_named_the_sweeps_own_is_written_anew(swept, capsys):
    (swept.exports / "adapter").mkdir(parents=True, exist_ok=True)
    (swept.exports / "adapter" / "old.txt").touch()
    assert main(["export", "summarize", "--trial", "0"]) == 0
    assert f"Adapter: {swept.exports / 'adapter'}" in capsys.readouterr().out
    assert not (swept.exports / "adapter" / "old.txt").exists()


def test_a_running_sweep_is_exported_as_it_stands(swept, capsys):
    with lock.hold(swept):
        assert main(["export", "summarize"]) == 0
    assert "The sweep is running: this is its best trial so far" in capsys.readouterr().out


def test_a_folder_in_use_is_left_alone(swept, tmp_path):
    (tmp_path / "mine").touch()
    for taken in (tmp_path, tmp_path / "mine"):
        with pytest.raises(ExportError, match="is not empty; give a new folder"):
            write_export(choose(swept), target=taken)


def test_only_finished_trials_are_exported(swept, tmp_path, monkeypatch, capsys):
    assert main(["export", "summarize", "--trial", "7"]) == 2
    assert "has no trial 7; its trials: 0 to 1" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    main([*REPLAY, "budget.trials=4", "pruner.min_peers=1"])
    layout = Layout(Path("sweeps"), "summarize")
    with pytest.raises(ExportError, match="was replayed, which trains nothing: it has no adapter"):
        choose(layout)
    pruned = [r.number for r in stored(layout)[1].records() if r.state is TrialState.PRUNED]
    with pytest.raises(
        ExportError, match=f"trial {pruned[0]} is pruned, and only a finished one is exported: 0"
    ):
        choose(layout, pruned[0])
    open_study(tmp_path / "empty")
    (tmp_path / "empty" / "summarize").mkdir()
    (tmp_path / "empty" / "summarize" / "config.yaml").write_text(layout.config.read_text())
    with pytest.raises(ExportError, match="`summarize`: No trial has finished, so there is no best one"):
        choose(Layout(tmp_path / "empty", "summarize"))


def test_an_adapter_or_a_base_model_that_is_gone(swept, tmp_path):
    choice = choose(swept)
    with pytest.raises(ExportError, match="the base model model has changed since: other then"):
        write_export(replace(choice, revision="other"), True, tmp_path / "model")
    hidden = choice.adapter.with_name("hidden")
    choice.adapter.rename(hidden)
    try:
        with pytest.raises(ExportError, match="the adapter of trial 1 is gone: there is no"):
            choose(swept)
    finally:
        hidden.rename(choice.adapter)


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred")
def test_what_mlflow_can_not_take(swept, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    choice = choose(swept)
    tracking = choice.config.tracking
    secret = replace(tracking, uri="http://me:***@127.0.0.1:1")
    with pytest.raises(StudyError, match="is not stored; set MLFLOW_TRACKING_URI to the whole URI"):
        register(replace(choice, config=replace(choice.config, tracking=secret)))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:s3cret@127.0.0.1:1")
    with pytest.raises(
        ExportError, match=r"MLflow at http://me:\*\*\*@127.0.0.1:1 did not take the model"
    ) as told:
        register(replace(choice, config=replace(choice.config, tracking=secret)))
    assert "s3cret" not in str(told.value)
    model = tiny.local(tiny.save(tiny.t5(), tmp_path / "t5"))
    other = replace(choice, config=replace(choice.config, model=model), revision=resolve(model).revision)
    with pytest.raises(ExportError, match="there is none for encoder-decoders any more"):
        register(other)


def test_a_token_is_asked_for_before_anything_is_done(swept, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert main(["export", "summarize", "--push", "me/model"]) == 2
    told = capsys.readouterr()
    assert "set HF_TOKEN to it" in told.err
    assert "Exporting" not in told.out
    with pytest.raises(ExportError, match="wants a token to push"):
        hub_token()


def test_a_hub_that_is_away_is_told_without_the_token(swept, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_s3cret")
    choice = choose(swept)
    with pytest.raises(ExportError, match=r"me/model could not be pushed: .*offline") as told:
        push(choice, choice.adapter, "me/model")
    assert "hf_s3cret" not in str(told.value)


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload of small files needs; remembers what it was sent."""

    seen: ClassVar[list[tuple[str, str, bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append((self.path, self.headers["Authorization"], body))
        answer: dict[str, object] = {}
        if self.path == "/api/repos/create":
            answer = {"url": f"http://{self.headers['Host']}/me/model", "name": "me/model"}
        elif "/preupload/" in self.path:
            files = [file["path"] for file in json.loads(body)["files"]]
            answer = {"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in files]}
        elif "/commit/" in self.path:
            answer = {
                "success": True,
                "commitOid": "0" * 40,
                "commitUrl": "http://127.0.0.1/me/model/commit/0",
            }
        self._answer(answer)

    def do_GET(self) -> None:
        self._answer({"id": "me/model", "sha": "0" * 40, "siblings": []})

    def _answer(self, tree: dict[str, object]) -> None:
        text = json.dumps(tree).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_a_push_uploads_the_folder_to_a_private_repository(swept):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": "hf_s3cret",
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "sweeper", "export", "summarize", "--push", "me/model"],
            env={**os.environ, **hub}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr
    assert "Pushed: http://127.0.0.1" in done.stdout
    assert "hf_s3cret" not in done.stdout + done.stderr
    assert {token for _, token, _ in Hub.seen} == {"Bearer hf_s3cret"}
    created = next(json.loads(body) for path, _, body in Hub.seen if path == "/api/repos/create")
    assert (created["name"], created["organization"], created["visibility"]) == ("model", "me", "private")
    commit = next(body for path, _, body in Hub.seen if "/commit/" in path)
    header, *files = [json.loads(line)["value"] for line in commit.splitlines()]
    assert header["summary"] == "Trial 1 of the sweep summarize"
    sent = {file["path"]: base64.b64decode(file["content"]) for file in files}
    folder = swept.exports / "adapter"
    assert sent == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "adapter_model.safetensors" in sent


def test_a_merged_classifier_knows_its_classes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.save(tiny.llama(), tmp_path / "model")
    words = [word for word in tiny.WORDS if word not in tiny.LABELS]
    rows = [
        {"text": f"{words[i % 9]} {tiny.LABELS[i % 3]} {words[i // 9]}", "kind": tiny.LABELS[i % 3]}
        for i in range(81)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    overrides = [
        one
        for one in SWEEP
        if not one.startswith(("+experiment", "task.", "space", "+space", "trial.", "sampler"))
    ]
    with tiny.one_thread():
        code = main([
            "+experiment=classify", *overrides, "data.input=text", "data.target=kind", "data.stratify=kind",
            "data.sizes={train: 48, validation: 15, test: 6}", "trial.learning_rate=5e-3", "trial.epochs=3",
            "space=empty", "budget.trials=1",
        ])  # fmt: skip
    assert code == 0
    layout = Layout(Path("sweeps"), "classify")
    choice = choose(layout)
    assert choice.record.objective > 0.5
    write_export(choice, True, tmp_path / "out" / "model")
    code = f"""
import torch
from datasets import Dataset
from sklearn.metrics import f1_score
from transformers import AutoModelForSequenceClassification
model = AutoModelForSequenceClassification.from_pretrained("model", dtype=torch.float32).eval()
rows = Dataset.from_file({str((layout.rows / "validation.arrow").resolve())!r})
told = [model.config.id2label[int(model(torch.tensor([row["input_ids"]])).logits.argmax())] for row in rows]
print(f1_score(rows["answer"], told, average="macro"))
"""
    assert float(alone(code, tmp_path / "out").splitlines()[-1]) == pytest.approx(choice.record.objective)
