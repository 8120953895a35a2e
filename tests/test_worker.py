"""A worker: from a folder of prepared rows and a channel to trained trials, on the real small model too."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from sweeper import worker
from sweeper.config import Config
from sweeper.data.prepare import prepare
from sweeper.errors import DataError, ModelError
from sweeper.messages import BASE, Decision, Ending
from sweeper.models.pretrained import architecture, load_tokenizer, resolve
from tests import tiny


def texts(folder, rows=60):
    """A file of rows in which the answer is the last word of the input."""
    lines = []
    for i in range(rows):
        words = [tiny.WORDS[(i * 7 + j * (1 + i % 5)) % len(tiny.WORDS)] for j in range(4)]
        lines.append(
            json.dumps({"input": " ".join([*words, f"number {i} and {i * i}"]), "target": words[-1]})
        )
    path = folder / "rows.jsonl"
    path.write_text("\n".join(lines))
    return path


def configure(folder, *overrides: str) -> Config:
    return tiny.config(
        "data=file", "data.input=input", "data.target=target",
        f"data.path={texts(folder)}", "data.sizes.train=16", "data.sizes.validation=6",
        "data.sizes.test=6", "engine.report_seconds=1e-9", *overrides,
    )  # fmt: skip


def prepared(config: Config, folder):
    resolved = resolve(config.model)
    prepare(config, load_tokenizer(resolved), architecture(resolved, config.task), folder)
    return folder


def test_a_worker_trains_a_local_model_on_prepared_rows(tmp_path):
    model = tiny.save(tiny.llama(), tmp_path / "model")
    config = configure(tmp_path, "model=custom", f"model.name={model}", "model.device=cpu")
    rows = prepared(config, tmp_path / "rows")
    channel = tiny.Script([tiny.spec(tmp_path, tiny.settings(), marks=(8, 16))])
    with tiny.one_thread():
        worker.run(config, rows, channel)
    assert channel.outcomes[0].ending is Ending.FINISHED, channel.outcomes[0].reason
    assert [one.mark for one in channel.evaluations] == [8, 16]


def test_an_ordinary_trial_never_opens_the_test_rows(tmp_path):
    model = tiny.save(tiny.llama(), tmp_path / "model")
    config = configure(tmp_path, "model=custom", f"model.name={model}", "model.device=cpu")
    rows = prepared(config, tmp_path / "rows")
    (rows / "test.arrow").unlink()
    base = tiny.spec(tmp_path, tiny.settings(), trial=BASE, marks=(0,))
    trial = tiny.spec(tmp_path, tiny.settings(), marks=(16,))
    run = tiny.spec(tmp_path, tiny.settings(), trial=1, marks=(16,), held_out=True)
    channel = tiny.Script([base, trial, run])
    with tiny.one_thread():
        worker.run(config, rows, channel)
    assert [one.ending for one in channel.outcomes] == [Ending.FINISHED, Ending.FINISHED, Ending.FAILED]
    assert "has no test rows" in channel.outcomes[2].reason


@pytest.mark.parametrize(
    ("said", "error", "told"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            ModelError,
            "does not fit into",
        ),
        (RuntimeError("CUDA error: invalid device ordinal"), RuntimeError, "invalid device ordinal"),
    ],
)
def test_a_model_that_does_not_fit_is_told_as_that(tmp_path, monkeypatch, said, error, told):
    model = tiny.save(tiny.llama(), tmp_path / "model")
    config = configure(tmp_path, "model=custom", f"model.name={model}", "model.device=cpu")
    rows = prepared(config, tmp_path / "rows")

    def full(self, *args, **kwargs):
        raise said

    monkeypatch.setattr(LlamaForCausalLM, "to", full)
    with pytest.raises(error, match=told):
        worker.run(config, rows, tiny.Script([]))


def test_a_replaying_worker_needs_neither_model_nor_rows(tmp_path):
    channel = tiny.Script([tiny.spec(tmp_path, tiny.settings())])
    worker.run(tiny.config("engine=replay", "engine.speedup=1e9"), tmp_path / "nowhere", channel)
    assert channel.outcomes[0].ending is Ending.FINISHED


def test_without_rows_nothing_is_loaded(tmp_path):
    with pytest.raises(DataError, match="holds no prepared rows"):
        worker.run(tiny.config(), tmp_path / "rows", tiny.Script([]))


def test_the_embedded_model_learns_and_goes_on_after_a_suspension(tmp_path):
    config = configure(tmp_path)
    rows = prepared(config, tmp_path / "rows")
    settings = replace(config.trial, learning_rate=2e-3, batch_size=4, warmup=0.0)
    base = tiny.spec(tmp_path, settings, trial=BASE, marks=(0,))
    trial = tiny.spec(tmp_path, settings, marks=(16,))
    first = tiny.Script([base, trial], lambda p: Decision.SUSPEND if p.examples == 8 else Decision.CONTINUE)
    worker.run(config, rows, first)
    second = tiny.Script([replace(trial, attempt=2)])
    worker.run(config, rows, second)
    whole = tiny.Script([replace(trial, folder=tmp_path / "whole")])
    worker.run(config, rows, whole)
    assert [outcome.examples for outcome in (*first.outcomes, *second.outcomes)] == [0, 8, 8]
    assert first.train_losses | second.train_losses == whole.train_losses
    assert second.evaluations == whole.evaluations
    assert second.evaluations[0].metrics["loss"] < 0.8 * first.evaluations[0].metrics["loss"]
    assert len(second.outcomes[0].samples) == 2
