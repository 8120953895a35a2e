import subprocess
import sys
from dataclasses import replace

import pytest

from sweeper.data import manifest as manifests
from sweeper.data.manifest import Manifest, SplitInfo, StepCounts, describe, frozen
from tests.rows import configure


def example(config):
    split = SplitInfo(3, "abc", 10, 1, 0, 4, ())
    return Manifest(
        key=manifests.key(config),
        digest="d" * 32,
        source="rows.jsonl",
        content="c",
        tokenizer="t",
        architecture="causal",
        harvested=9,
        dropped={"no answer": 1},
        cleaned={"encoding": StepCounts(2, 0, 1), "length": StepCounts(0, 0, 0)},
        splits={"train": split, "validation": split},
        labels=("no", "yes"),
        warnings=("mind",),
    )


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    config = configure(tmp_path / "rows.jsonl")
    manifests.write(example(config), tmp_path)
    assert manifests.read(tmp_path) == example(config)
    assert frozen(config, tmp_path) == example(config)


def test_no_rows_are_frozen_in_an_empty_or_foreign_folder(tmp_path):
    config = configure(tmp_path / "rows.jsonl")
    assert frozen(config, tmp_path) is None
    (tmp_path / "manifest.json").write_text('{"key": 1}')
    assert frozen(config, tmp_path) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 8},
        {"sizes": (None, 3, 2)},
        {"input": "title"},
        {"cleaning": ("encoding",)},
        {"keep_together": False},
        {"time": "day"},
        {"task": {"prompt": "{input}!"}},
        {"task": {"max_input_tokens": 9}},
        {"task": {"max_answer_tokens": 9}},
        {"task": {"chat_template": True}},
    ],
)
def test_rows_of_another_configuration_are_not_taken(tmp_path, changed):
    path = tmp_path / "rows.jsonl"
    manifests.write(example(configure(path)), tmp_path)
    assert frozen(configure(path, **changed), tmp_path) is None


def test_what_counts_as_a_near_duplicate_is_part_of_the_rows_where_it_is_asked_for(tmp_path):
    def key(likeness, **data):
        config = configure(tmp_path / "rows.jsonl", **data)
        audit = replace(config.data.audit, near_duplicates=likeness)
        return manifests.key(replace(config, data=replace(config.data, audit=audit)))

    assert key(0.8) != key(0.9)
    assert key(0.8, keep_together=False) == key(0.9, keep_together=False)
    asked = {"keep_together": False, "cleaning": ("near_duplicates",)}
    assert key(0.8, **asked) != key(0.9, **asked)


def test_what_has_no_influence_on_the_rows_may_change(tmp_path):
    config = configure(tmp_path / "rows.jsonl")
    manifests.write(example(config), tmp_path)
    other = replace(
        config,
        model=replace(config.model, revision="1", dtype="bfloat16", device="cpu"),
        task=replace(config.task, objective=replace(config.task.objective, metric="bleu")),
        budget=replace(config.budget, trials=99),
    )
    assert frozen(other, tmp_path) is not None


def test_every_cleaning_step_is_told():
    told = example(configure(None))
    assert manifests.cleaning(told) == "Cleaning: encoding 2 changed, 1 flagged; length nothing"
    assert manifests.cleaning(replace(told, cleaned={})) == ""
    decided = replace(told, cleaned={}, reviewed={"keep": 1, "drop": 2})
    assert manifests.cleaning(decided) == "Cleaning: a person's decisions 1 keep, 2 drop"


def test_the_splits_are_described_for_a_tracker():
    first, second = describe(example(configure(None)))
    assert (first.split, first.rows, first.source, first.digest) == ("train", 3, "rows.jsonl", "abc")
    assert second.split == "validation"


def test_reading_a_manifest_imports_nothing_heavy():
    heavy = "{'torch', 'transformers', 'datasets', 'pyarrow', 'numpy', 'mlflow'}"
    code = (
        f"import sys, sweeper.data.manifest, sweeper.data.sources; print(sorted({heavy} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "[]"
