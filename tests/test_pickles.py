"""No file is unpickled: a bomb is planted in every place where one is read, and none goes off."""

import ast
import importlib.metadata
import io
import json
import pickle
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from datasets import Dataset, DatasetDict

from sweeper.__main__ import main
from sweeper.config import BackTranslationConfig
from sweeper.data import sources
from sweeper.data.checks.toxicity import Toxicity
from sweeper.data.prepare import open_rows, prepare
from sweeper.data.review import read_review
from sweeper.data.translate import revisions
from sweeper.engines import checkpoints
from sweeper.errors import DataError, ModelError
from sweeper.messages import Decision, Ending
from sweeper.models.modeling import BaseModel, merged
from sweeper.models.pretrained import WHEEL, load_tokenizer, resolve
from sweeper.storage.database import open_storage
from tests import tiny
from tests.rows import configure, tokenizer, write_jsonl
from tests.sweeps import REPLAY

ROOT = Path(__file__).parents[1]


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self._canary = str(canary)

    def __reduce__(self):
        return open, (self._canary, "w")


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """Where a bomb writes when it goes off; it must not."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "a pickle was loaded"


def in_torch(canary: Path) -> bytes:
    file = io.BytesIO()
    torch.save({"state": Bomb(canary)}, file)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_bombs_go_off_where_pickles_are_loaded(tmp_path):
    for name, explode in {
        "plain": lambda path: pickle.loads(pickle.dumps(Bomb(path))),  # noqa: S301 - ours
        "torch": lambda path: torch.load(io.BytesIO(in_torch(path)), weights_only=False),
    }.items():
        explode(tmp_path / name)
        assert (tmp_path / name).exists()


def test_no_module_names_a_way_to_unpickle():
    forbidden = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    calls = {"allow_pickle", "weights_only", "read_pickle", "full_load", "unsafe_load", "trust_remote_code"}
    found = []
    for path in sorted((ROOT / "sweeper").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = set()
            if isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names} & forbidden
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").partition(".")[0]} & forbidden
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                names = {called} & {"torch.load", "np.load", "numpy.load", "yaml.load", "eval", "exec"}
                off = [one for one in node.keywords if one.arg in calls]
                names |= {f"{one.arg}={ast.unparse(one.value)}" for one in off} - {"trust_remote_code=False"}
            found += [f"{path.relative_to(ROOT)}:{node.lineno}: {name}" for name in sorted(names)]
    assert found == []


# Models


NO_SAFETENSORS = r"no \*\.safetensors; other weight formats can run code"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.gguf", "model.pt", "tf_model.h5"])
def test_a_model_without_safetensors_is_refused(canary, tmp_path, name):
    folder = tiny.save(tiny.llama(), tmp_path / "model")
    (folder / "model.safetensors").rename(folder / name)
    (folder / name).write_bytes(in_torch(canary))
    with pytest.raises(ModelError, match=NO_SAFETENSORS):
        resolve(tiny.local(folder))
    with pytest.raises(DataError, match=f"there: .*{NO_SAFETENSORS}"):
        revisions(BackTranslationConfig(folder, folder))
    with pytest.raises(DataError, match=f"toxicity: .*{NO_SAFETENSORS}"):
        Toxicity(folder, seed=7)


def test_the_converted_model_in_the_cache_is_looked_at_too(canary, tmp_path, monkeypatch):
    wheel = importlib.metadata.distribution(WHEEL)
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path))
    folder = tiny.save(tiny.llama(), tmp_path / f"{WHEEL}-{wheel.version}")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(in_torch(canary))
    with pytest.raises(ModelError, match=NO_SAFETENSORS):
        resolve(tiny.model_config(embedded=True))


def test_bombs_beside_the_weights_are_not_looked_at(canary, tmp_path):
    folder = tiny.save(tiny.llama(), tmp_path / "model")
    for name in ("pytorch_model.bin", "adapter_model.bin", "training_args.bin", "optimizer.pt"):
        (folder / name).write_bytes(in_torch(canary))
    for name in ("tokenizer.pkl", "vocab.pkl", "model.pkl", "generation_config.pkl"):
        (folder / name).write_bytes(pickle.dumps(Bomb(canary)))
    found = resolve(tiny.local(folder))
    load_tokenizer(found)
    assert BaseModel.load(tiny.local(folder), found, tiny.config().task).kind == "causal"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.safetensors", "can't be loaded as a causal model"),
        ("tokenizer.json", "has no tokenizer that can be read"),
        ("config.json", "is no readable JSON"),
    ],
)
def test_a_bomb_under_the_name_of_a_model_file_is_refused(canary, tmp_path, name, words):
    folder = tiny.save(tiny.llama(), tmp_path / "model")
    (folder / name).write_bytes(in_torch(canary))
    with pytest.raises(ModelError, match=words):
        BaseModel.load(tiny.local(folder), resolve(tiny.local(folder)), tiny.config().task)


def test_an_adapter_that_is_a_pickle_is_not_merged(canary, tmp_path):
    (outcome,) = tiny.run(tiny.spec(tmp_path, tiny.settings())).outcomes
    (outcome.adapter / "adapter_model.safetensors").unlink()
    (outcome.adapter / "adapter_model.bin").write_bytes(in_torch(canary))
    folder = tiny.save(tiny.llama(), tmp_path / "model")
    base = BaseModel.load(tiny.local(folder), resolve(tiny.local(folder)), tiny.config().task)
    with pytest.raises(Exception, match="Weights only load failed"):
        merged(base, outcome.adapter)


# Checkpoints


def with_bombs(trial: Path, names: Sequence[str], canary: Path) -> None:
    """Plant bombs in every checkpoint and seal it anew, as whoever may write to the sweep's folder can."""
    folders = sorted(trial.glob("attempt-*/step-*"))
    for folder in folders:
        state = checkpoints.newest(trial).state
        written = Path(shutil.move(folder, trial / "written"))
        (written / checkpoints.STATE).unlink()
        for name in names:
            (written / name).write_bytes(in_torch(canary))
        if "adapter_model.bin" in names:
            (written / "adapter_model.safetensors").unlink()
        checkpoints.seal(written, folder, state)
    assert folders


@pytest.mark.parametrize(
    ("engine", "name", "ending"),
    [
        ("trainer", "optimizer.pt", Ending.FAILED),
        ("trainer", "scheduler.pt", Ending.FAILED),
        ("trainer", "rng_state.pth", Ending.FAILED),
        ("trainer", "adapter_model.bin", Ending.FAILED),
        ("trainer", "adapter_model.safetensors", Ending.FAILED),
        ("trainer", "training_args.bin", Ending.FINISHED),  # which nothing reads
        ("packed", "moments.safetensors", Ending.FAILED),
    ],
)
def test_a_checkpoint_is_read_without_running_anything(canary, tmp_path, engine, name, ending):
    overrides = (f"engine={engine}", "engine.report_seconds=1e-9")

    def leave(progress):
        return Decision.SUSPEND if progress.examples == 16 else Decision.CONTINUE

    tiny.run(tiny.spec(tmp_path, tiny.settings()), decide=leave, overrides=overrides)
    with_bombs(tmp_path / "0000", [name], canary)
    (outcome,) = tiny.run(tiny.spec(tmp_path, tiny.settings(), attempt=2), overrides=overrides).outcomes
    assert outcome.ending is ending


# Rows


def write_extension(path: Path, canary: Path) -> None:
    """What PyExtensionType wrote, which pyarrow before 14.0.1 unpickled by itself (CVE-2023-47248)."""
    metadata = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Bomb(canary)),
    }
    fields = [pa.field("text", pa.string(), metadata=metadata), pa.field("answer", pa.string())]
    table = pa.table({"text": ["a", "b"], "answer": ["c", "d"]}, schema=pa.schema(fields))
    schema = table.schema.with_metadata({b"pandas": pickle.dumps(Bomb(canary)), b"huggingface": b"{}"})
    parquet.write_table(table.cast(schema), path)


@pytest.mark.filterwarnings("ignore:.*py_extension_type.*:RuntimeWarning")  # pyarrow refuses, and says so
def test_a_parquet_file_with_pickled_metadata(canary, tmp_path):
    path = tmp_path / "rows.parquet"
    write_extension(path, canary)
    rows = list(sources.load(configure(path).data).parts["train"].rows())
    assert [row["text"] for row in rows] == ["a", "b"]


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".npy", ".npz", ".pt", ".joblib", ".arrow", ".h5"])
def test_files_that_may_hold_pickles_are_no_rows(canary, tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(DataError, match=rf"has the extension `\{suffix}`; allowed: \.jsonl"):
        sources.load(configure(path).data)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_pickles_under_another_name_are_no_rows(canary, tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(DataError, match="rows"):
        list(sources.load(configure(path).data).parts["train"].rows())


def script(folder: Path, canary: Path) -> None:
    (folder / f"{folder.name}.py").write_text(f"open({str(canary)!r}, 'w')\n")
    (folder / "dataset_infos.json").write_text(json.dumps({"default": {"builder_name": folder.name}}))


def objects(folder: Path, canary: Path) -> None:
    np.save(folder / "train.npy", np.array([Bomb(canary)], dtype=object), allow_pickle=True)


def archive(folder: Path, canary: Path) -> None:
    """A WebDataset: one row whose columns are decoded by their extensions."""
    with tarfile.open(folder / "train.tar", "w") as tar:
        for suffix, content in {
            "text.pyd": pickle.dumps(Bomb(canary)),
            "a.pickle": pickle.dumps(Bomb(canary)),
            "b.pth": in_torch(canary),
            "c.txt": b"text",
        }.items():
            info = tarfile.TarInfo(f"0000.{suffix}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def plain(folder: Path, canary: Path) -> None:
    (folder / "train.pkl").write_bytes(pickle.dumps(Bomb(canary)))


def configured(folder: Path, canary: Path) -> None:
    """A card that asks for a builder which reads pickles."""
    plain(folder, canary)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: train.pkl\n  builder: pandas\n---\n"
    )


def saved(folder: Path, canary: Path) -> None:
    DatasetDict({"train": Dataset.from_dict({"text": ["a"], "answer": ["b"]})}).save_to_disk(str(folder))
    (folder / "train" / "state.json").write_bytes(pickle.dumps(Bomb(canary)))


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (script, "Dataset scripts are no longer supported"),
        (objects, r"No \(supported\) data files found"),
        (plain, r"No \(supported\) data files found"),
        (configured, r"Unable to find .*train\.pkl' with any supported extension"),
        (archive, "Weights only load failed"),
        (saved, "can't decode byte"),
    ],
)
def test_folders_in_the_format_of_the_hub(canary, tmp_path, plant, words):
    folder = tmp_path / "rows"
    folder.mkdir()
    plant(folder, canary)
    data = replace(configure(None).data, source="hub", path=None, name=str(folder))
    with pytest.raises(DataError, match=words):
        sources.load(data)


@pytest.mark.filterwarnings("ignore:.*py_extension_type.*:RuntimeWarning")
def test_a_hub_folder_with_pickled_metadata(canary, tmp_path):
    write_extension(tmp_path / "train.parquet", canary)
    data = replace(configure(None).data, source="hub", path=None, name=str(tmp_path))
    assert [row["text"] for row in sources.load(data).parts["train"].rows()] == ["a", "b"]


def test_a_review_that_is_a_pickle(canary, tmp_path):
    path = tmp_path / "queue.csv"
    path.write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(DataError, match=r"queue\.csv"):
        read_review(path)


@pytest.mark.filterwarnings("ignore:.*py_extension_type.*:RuntimeWarning")
def test_frozen_rows_with_pickled_metadata(canary, tmp_path):
    rows = [{"text": f"text {i}", "answer": f"answer {i}"} for i in range(20)]
    config = configure(write_jsonl(tmp_path / "rows.jsonl", rows))
    prepare(config, tokenizer(), "causal", tmp_path / "frozen")
    for path in (tmp_path / "frozen").glob("*.arrow"):
        with pa.OSFile(str(path)) as file:
            table = pa.ipc.open_stream(file).read_all()
        metadata = {
            b"ARROW:extension:name": b"arrow.py_extension_type",
            b"ARROW:extension:metadata": pickle.dumps(Bomb(canary)),
        }
        fields = [field.with_metadata(metadata) if field.name == "id" else field for field in table.schema]
        schema = pa.schema(fields, {b"pandas": pickle.dumps(Bomb(canary))})
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
            stream.write_table(table.cast(schema))
    found = open_rows(tmp_path / "frozen")
    assert len(found.validation["id"]) == 2
    (tmp_path / "frozen" / "train.arrow").write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(pa.ArrowInvalid, match=r"Arrow|stream|metadata"):
        open_rows(tmp_path / "frozen")


# The folder of a sweep


def test_every_file_of_a_sweep_may_turn_into_a_bomb(canary, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*REPLAY, "budget.trials=2"]) == 0
    folder = tmp_path / "sweeps" / "summarize"
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "config.yaml":
            path.write_bytes(pickle.dumps(Bomb(canary)))
    (folder / "inbox").mkdir(exist_ok=True)
    (folder / "inbox" / "0.json").write_bytes(pickle.dumps(Bomb(canary)))
    storage = open_storage("sqlite:///sweeps/study.db")
    for study in storage.get_all_studies():  # where Optuna's CMA-ES keeps its state
        storage.set_study_system_attr(study._study_id, "cma:optimizer", pickle.dumps(Bomb(canary)).hex())
    verbs = [["list"], *([verb, "summarize"] for verb in ("show", "report", "trials"))]
    assert [main(verb) for verb in verbs] == [0, 0, 0, 0]
    main([*REPLAY, "budget.trials=3"])
    with (folder / "config.yaml").open("a") as file:
        file.write(f"x: !!python/object/apply:open ['{canary}', 'w']\n")
    assert [main(verb) for verb in verbs] == [0, 2, 2, 2]
    assert "config.yaml is damaged" in capsys.readouterr().err


HOOKED = """
import datetime, pickle, sys
found = []
sys.addaudithook(lambda event, args: found.append(args) if event == "pickle.find_class" else None)
pickle.loads(pickle.dumps(datetime.date(2000, 1, 1)))
from sweeper.__main__ import main
code = main(sys.argv[1:])
print("unpickled:", *found)
raise SystemExit(code)
"""
"""A command line that tells at its end which classes were unpickled; the first one by itself."""


def test_a_whole_sweep_unpickles_nothing(tmp_path):
    """Audit, preparation, training, MLflow, report and card, in a process that is asked by Python itself."""
    tiny.save(tiny.llama(), tmp_path / "model")
    rows = [
        {"text": f"{word} sees {label} {i}", "label": label}
        for i in range(10)
        for word in tiny.WORDS
        for label in tiny.LABELS
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    overrides = [
        *(
            "+experiment=classify",
            "data=file",
            "data.path=rows.jsonl",
            "data.input=text",
            "data.target=label",
        ),
        *("data.sizes={train: 16, validation: 8, test: 4}", "data.keep_together=false", "verdict=none"),
        *("model=custom", "model.name=model", "model.embedded=false", "model.device=cpu"),
        *("model.dtype=float32", "task.max_input_tokens=24", "budget.trials=2"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", HOOKED, *overrides], cwd=tmp_path, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Model card: " in done.stdout
    assert done.stdout.splitlines()[-1] == "unpickled: ('datetime', 'date')"
