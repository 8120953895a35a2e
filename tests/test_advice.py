"""What messages advise: settings that there are, and that are not on already."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from sweeper.advice import WAYS, cleaning_with, either, fixed, less_memory, less_to_load, of_finding
from sweeper.compose import compose, read_config
from sweeper.data.audit import Audit, advised
from sweeper.data.encode import Encoder
from sweeper.data.findings import Finding
from sweeper.engines.evaluate import overfitting
from sweeper.errors import DataError
from sweeper.messages import Evaluation
from sweeper.metrics import slices
from sweeper.space import Space
from tests import tiny
from tests.rows import tokenizer

ROOT = Path(__file__).parents[1]
CLASSIFY = (
    "+experiment=classify",
    "data=file",
    "data.path=rows.jsonl",
    "data.target=label",
    "data.slice=place",
)
GROUPS = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()} - {"experiment"}
NAME = re.compile(
    rf"(?<![\w./@])(?:{'|'.join(sorted(GROUPS | {'trial', 'sweep'}))})(?:\.[a-z_]+)+(?![\w./(@])"
)
OVERRIDE = re.compile(rf"(?<![\w./~])(?:{'|'.join(sorted(GROUPS))}|trial|sweep)(?:\.[a-z_]+)*=[\w./-]+")


def configured(*overrides):
    return read_config(compose(list(overrides)))[0]


def texts():
    """Module, line and text of every message in the code; what is filled in later is {}."""
    for path in sorted((ROOT / "sweeper").rglob("*.py")):
        tree = ast.parse(path.read_text())
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        parts = {
            id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values
        }
        for node in ast.walk(tree):
            if id(node) in docs | parts:
                continue
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
            elif isinstance(node, ast.JoinedStr):
                text = "".join(p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
            else:
                continue
            if " " in text:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", text


def settings():
    """Every dotted name of a configuration, with the groups that hold others."""
    names = set()

    def walk(tree, prefix):
        for name, value in tree.items():
            names.add(prefix + name)
            if isinstance(value, dict):
                walk(value, f"{prefix}{name}.")

    from sweeper.loading import to_tree

    walk(to_tree(configured("+experiment=summarize")), "")
    return names


def test_every_setting_that_a_message_names_is_there():
    known, unknown = settings(), []
    for place, text in texts():
        for found in NAME.finditer(text):
            name = found[0]
            varied = (
                name.removeprefix("space.")
                .removesuffix(".choices")
                .removesuffix(".high")
                .removesuffix(".low")
            )
            if name not in known and not (name.startswith("space.") and f"trial.{varied}" in known):
                unknown.append(f"{place}: {name}")
    assert unknown == []


def test_every_override_that_a_message_writes_out_is_one_that_works():
    there, seen = settings(), 0
    for place, text in texts():
        for found in OVERRIDE.finditer(text):
            name, value = found[0].rstrip(".").split("=", 1)
            if not value or text[found.end() : found.end() + 1] in ("{", "["):
                continue
            seen += 1
            if "." in name:
                assert name in there or name.startswith("space."), f"{place}: {found[0]}"
            elif name != "sweep":
                assert (ROOT / "conf" / name / f"{value}.yaml").exists(), f"{place}: {found[0]}"
    assert seen > 30, "they are found"


def overrides_in(text):
    return [word for word in shlex.split(text.rstrip(".")) if re.match(r"[a-z]+(\.[a-z_]+)+=", word)]


@pytest.mark.parametrize("way", WAYS)
def test_a_way_out_of_a_finding_is_told_until_it_is_taken(way):
    more = ["task.objective.metric=accuracy"] if way == "macro_f1" else []
    given = [*CLASSIFY, "data.cleaning=[]", *more]
    told = of_finding("Look at them.", [way], configured(*given))
    wanted = overrides_in(told.replace("=....", "=900."))
    assert told.startswith("Look at them. ")
    assert wanted, told
    by_name = {word.partition("=")[0]: word for word in [*given, *wanted]}
    told = of_finding("Look at them.", [way], configured(*by_name.values()))
    assert overrides_in(told) == []
    assert told == "Look at them." or "on, " in told


def test_steps_of_the_cleaning_are_added_where_they_belong():
    assert cleaning_with(configured(*CLASSIFY, "data.cleaning=[encoding,personal]"), "missing") == (
        "'data.cleaning=[encoding,missing,personal]'"
    )
    own = configured(*CLASSIFY, "data.cleaning=[personal,encoding]")
    assert cleaning_with(own, "missing") == "'data.cleaning=[personal,encoding,missing]'"
    assert cleaning_with(own, "personal", "encoding") == ""


def test_an_audit_made_before_is_told_with_what_is_on_now():
    finding = Finding(
        "duplicates", "warning", "Two rows repeat.", "They count twice.", 2, 9, ways=("exact_duplicates",)
    )
    found = Audit("", "", None, "", {}, (finding,), {}, (), 0)
    (before,) = advised(found, configured(*CLASSIFY, "data.cleaning=[]")).findings
    (after,) = advised(found, configured(*CLASSIFY, "data.cleaning=[exact_duplicates]")).findings
    assert before.advice == (
        "They count twice. The cleaning step `exact_duplicates` drops them: "
        "'data.cleaning=[exact_duplicates]'."
    )
    assert after.advice == (
        "They count twice. The cleaning step `exact_duplicates`, which is on, drops them in training and "
        "validation rows."
    )


@pytest.mark.parametrize(
    ("overrides", "advice"),
    [
        (
            (),
            "set model.gradient_checkpointing=true, set model.dtype=bfloat16, lower task.max_input_tokens or "
            "task.max_answer_tokens, take a smaller rank, or take a smaller model",
        ),
        (
            ("model.gradient_checkpointing=true", "model.dtype=bfloat16", "trial.lora.rank=1", "space=empty"),
            "lower task.max_input_tokens or task.max_answer_tokens, or take a smaller model",
        ),
        (
            ("trial.method=full", "space=full", "model.dtype=bfloat16"),
            "set model.gradient_checkpointing=true, lower task.max_input_tokens or task.max_answer_tokens, "
            "train adapters alone: trial.method=lora, or take a smaller model",
        ),
    ],
)
def test_what_needs_less_memory(overrides, advice):
    one = configured("+experiment=summarize", "budget.trials=1", *overrides)
    assert less_memory(one, one.trial) == advice


def test_of_a_classifier_the_answer_is_no_length_and_the_type_of_the_model_counts():
    one = configured(*CLASSIFY, "model.gradient_checkpointing=true")
    assert less_memory(one, one.trial, "torch.bfloat16").startswith("lower task.max_input_tokens, take")


def test_what_helps_to_load_a_model():
    one = configured("+experiment=summarize", "executor=local", "executor.workers_per_device=3")
    assert less_to_load(one) == (
        "Take a smaller model, set model.dtype=bfloat16, set executor.workers_per_device=2, or take a device "
        "that nobody else uses"
    )
    one = configured("+experiment=summarize", "model.dtype=bfloat16")
    assert less_to_load(one) == "Take a smaller model, or take a device that nobody else uses"


def test_a_setting_is_fixed_by_what_is_missing_for_it():
    trial = tiny.settings(tiny.config())
    space = Space.parse({"epochs": {"low": 1, "high": 3}}, trial)
    assert trial.epochs == 1
    assert fixed(space, epochs=1) == "'~space.epochs'"
    assert (
        fixed(space, epochs=2, lora__dropout=0.5) == "'~space.epochs' trial.epochs=2 trial.lora.dropout=0.5"
    )
    assert fixed(Space.parse({}, trial), epochs=1) == ""
    assert [either("a"), either("ab"), either("abc")] == ["a", "a, or b", "a, b, or c"]


@pytest.mark.parametrize(
    ("experiment", "advice"),
    [
        (
            ("+experiment=generate", "data.path=rows.jsonl", "task.chat_template=true"),
            "or task.chat_template=false",
        ),
        (("+experiment=instruct", "data.path=rows.jsonl"), "or task.kind=generate"),
        ((*CLASSIFY, "task.chat_template=true"), "or task.chat_template=false"),
    ],
)
def test_without_a_template_what_asks_for_one_is_advised_against(experiment, advice):
    task = configured(*experiment).task
    with pytest.raises(DataError, match=f"take an instruction-tuned model, {advice}"):
        Encoder(task, tokenizer(None), "causal")


def test_slices_are_not_asked_to_be_smaller_than_they_can_be():
    task = configured(
        *CLASSIFY, "task.evaluation.metrics=[slice_gap.accuracy]", "task.evaluation.slice_rows=3"
    ).task
    about = slices.About(["a", "a", "a", "b", "b"], [""] * 5, [3] * 5, [0, 1, 0, 1, 0])
    with pytest.raises(DataError, match=r"validation, or set task\.evaluation\.slice_rows=2 or less$"):
        slices.check(task, about)
    alone = slices.About(["a"] * 5, [""] * 5, [3] * 5, [0, 1, 0, 1, 0])
    with pytest.raises(DataError, match=r"Raise data\.sizes\.validation$"):
        slices.check(task, alone)


def test_fewer_epochs_are_advised_where_there_are_several():
    losses = ((2.0, 1.9), (1.9, 0.5))
    curve = [Evaluation(i, 0.0, 0.0, {"loss": a, "train_loss": b}) for i, (a, b) in enumerate(losses)]
    assert "; fewer epochs, a lower learning rate" in overfitting(curve, 2)
    assert "; a lower learning rate or more rows help" in overfitting(curve, 1)
