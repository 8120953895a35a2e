"""What people type: what can't be read is told with the words that work."""

import shlex
import string
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sweeper.__main__ import main
from sweeper.compose import compose, read_config
from sweeper.errors import ConfigError
from sweeper.overrides import read_line

SWEEP = "+experiment=summarize"


def nothing(_: Sequence[str]) -> Mapping[str, Any]:
    return {}


@pytest.mark.parametrize(
    "text",
    [
        *("rows (1).jsonl", "a,b.jsonl", "a=b.jsonl", "a{b}.jsonl", "it's.jsonl", 'say "hi".jsonl'),
        *("~rows/a.jsonl", "[draft.jsonl", "a'b\"c.jsonl", "#1.jsonl", "f(x).jsonl", "choice(1,2)"),
    ],
)
def test_the_line_that_is_printed_works_in_a_shell(text, capsys):
    assert main(["--cfg", SWEEP, f"sweep.folder={text}"]) == 2
    *_, told = capsys.readouterr().err.splitlines()
    line = told.strip().replace("python -m sweeper --cfg", "printf '%s\\n'")
    told = subprocess.run(["sh", "-c", line], check=True, capture_output=True, text=True).stdout
    assert compose(told.splitlines())["sweep"]["folder"] == text


@settings(max_examples=60, deadline=None)
@given(st.text(string.printable[:-2].replace("\n", "").replace("\r", "").replace("$", ""), min_size=1))
@example('a\\"b\\')
def test_any_text_is_kept_or_told_with_quotes_that_keep_it(text):
    text = text.strip()
    line = read_line([f"task.prompt={text}"], nothing)
    if not text or text.startswith(("'", '"')) or text.lower() == "null":
        return  # it is quoted already, or is no text
    assert line.is_mended
    (prompt,) = line.words
    assert OverridesParser.create().parse_override(prompt).value() == text


@pytest.mark.parametrize("name", ["2024", "0", "1e5", "007", "0x1F", "true", "nan", "on", "null", "1_000"])
def test_what_is_given_for_a_text_is_that_text(name):
    tree = compose([SWEEP, f"sweep.name={name}", f"data.path={name}", f"data.input={name}"])
    or_none = None if name == "null" else name
    assert (tree["sweep"]["name"], tree["data"]["path"], tree["data"]["input"]) == (name, or_none, or_none)


def test_numbers_in_a_list_of_texts_are_texts():
    tree = compose([SWEEP, "task.evaluation.metrics=[1,'a',1e5]"])
    assert tree["task"]["evaluation"]["metrics"] == ["1", "a", "1e5"]


def test_a_number_for_a_text_in_a_file_is_to_be_quoted(tmp_path, monkeypatch):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    text = (
        "# @package _global_\ndefaults: [{override /data: file}]\ndata: {path: x, input: 1, target: true}\n"
    )
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=r'data\.input: must be text, and 1 is none to YAML; .*: "1"'
    ) as told:
        read_config(compose(["+experiment=mine"]))
    assert 'data.target: must be text, and True is none to YAML; write it in quotes: "True"' in str(
        told.value
    )


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["data.path=my", "rows.jsonl"], ["data.path=my rows.jsonl"]),
        (["task.prompt=Say", "it", "({input})"], ['task.prompt="Say it ({input})"']),
        (["space.lora.rank.choices=[8,", "16]"], ["space.lora.rank.choices=[8, 16]"]),
        (["+space.warmup={low:", "0.0,", "high:", "0.1}"], ["+space.warmup={low: 0.0, high: 0.1}"]),
        (["+space.warmup=low:0.0", "+space.warmup=high:0.1"], ["+space.warmup={low: 0.0, high: 0.1}"]),
        (["space.lora.rank.choices=8", "space.lora.rank.choices=16"], ["space.lora.rank.choices=[8, 16]"]),
        (["--budget.trials=3"], ["budget.trials=3"]),
        (["-m"], []),
        (["--multirun", "budget.trials=3"], ["budget.trials=3"]),
        (["--config-name=config"], []),
        (["--config-dir=x"], []),
        (["hydra/sweeper=optuna"], []),
        (["hydra.sweep.dir=out"], ["sweep.folder=out"]),
        (["hydra/launcher=joblib"], []),
        (["data.cleaning=encoding,missing"], ["data.cleaning=[encoding,missing]"]),
        (["space.lora.rank.choices=8,16"], ["space.lora.rank.choices=[8, 16]"]),
        (["trial.lora.rank=8,16"], ["space.lora.rank.choices=[8, 16]"]),
        (["trial.learning_rate=1e-4,1e-3"],
         ["~space.learning_rate", "+space.learning_rate={choices: [0.0001, 0.001]}",
          "trial.learning_rate=0.0001"]),
        (["space.learning_rate=interval(1e-4,1e-3)"], ["space.learning_rate={low: 0.0001, high: 0.001}"]),
        (["space.learning_rate=interval(1e-6,1e-5)"],
         ["space.learning_rate={low: 1e-06, high: 1e-05}", "trial.learning_rate=1e-05"]),
        (["space.learning_rate=interval(1e-2,1e-1)"],
         ["space.learning_rate={low: 0.01, high: 0.1}", "trial.learning_rate=0.01"]),
        (["space.lora.rank=range(4,17)"], ["~space.lora.rank", "+space.lora.rank={low: 4, high: 16}"]),
        (["space.learning_rate=tune.loguniform(1e-4,1e-2)"],
         ["space.learning_rate={low: 0.0001, high: 0.01, log: true}"]),
        (["+space.warmup={type: float, low: 0, high: 0.1}"], ["+space.warmup={low: 0, high: 0.1}"]),
        (["space.learning_rate={min: 1e-4, max: 1e-2, distribution: log_uniform_values}"],
         ["space.learning_rate={low: 0.0001, high: 0.01, log: true}"]),
        (["+space.scheduler={values: [linear, cosine]}"], ["+space.scheduler={choices: [linear, cosine]}"]),
    ],
)  # fmt: skip
def test_habits_of_other_tools_are_told_with_the_words_that_work_here(words, meant):
    with pytest.raises(ConfigError, match=r"^\d faults? in the command") as told:
        compose([SWEEP, *words])
    assert told.value.mended == (SWEEP, *meant)
    read_config(compose([word for word in told.value.mended if not word.startswith("hydra")]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lst"], "lst: is no override (name=value); see python -m sweeper --help"),
        (["=3"], "=3: is no override (name=value)"),
        (["a b=3"], "a b: is no override (name=value)"),
        (["--nothing"], "--nothing: is no override (name=value)"),
        (["-m"], "-m: is not needed: one command trains all trials of a sweep"),
        (["budget.trials=3,4"], "budget.trials: takes one value; what a sweep tries are settings of a trial"),
        (["+space.warmup={low: a(b, high: 1}"], "space.warmup: is cut off: lists and braces must close"),
        (["+space.warmup={low: /, high: (}"], "+space.warmup: is cut off: lists and braces must close"),
        (["+space.warmup={low: ;, high: 1}"], "+space.warmup: can't be read: token recognition error"),
        (["space.lora.rank.choices=[8,1;6]"], "the shell: 'space.lora.rank.choices=[8,\"1;6\"]'"),
        (
            ["trial.nothing=8,16"],
            "trial.nothing: takes one value; what a sweep tries are settings of a trial",
        ),
        (["sweep.study=postgresql://me:hu(sh@host/x"], "sweep.study: has signs that mean something"),
    ],
)
def test_what_can_not_be_mended_is_told(words, message):
    with pytest.raises(ConfigError, match="fault") as told:
        compose([SWEEP, *words])
    assert message in str(told.value)
    assert "hu(sh" not in str(told.value)


def test_a_value_of_the_wrong_kind_is_told_as_such():
    with pytest.raises(ConfigError, match=r"budget\.trials: must be a valid integer \(given: '3\(4\)'\)"):
        read_config(compose([SWEEP, "budget.trials=3(4)"]))


def test_secrets_are_not_in_the_line(capsys):
    assert main([SWEEP, "sweep.study=postgresql://me:hush@host/x", "data.path=a(b"]) == 2
    told = capsys.readouterr().err
    assert "hush" not in told
    assert shlex.quote("sweep.study=postgresql://me:***@host/x") in told
