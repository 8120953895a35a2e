"""The configuration: what it accepts, and faults that say what was given, what is allowed, what to do."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import hydra
import pytest
from omegaconf import OmegaConf

from sweeper.config import BudgetConfig, ObjectiveConfig, TrialSettings
from sweeper.errors import ConfigError, Fault
from sweeper.loading import dotted, load, read, to_tree


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    with hydra.initialize_config_module("sweeper.conf", version_base="1.3"):
        return OmegaConf.to_container(hydra.compose("config", ["+experiment@_global_=summarize"]))


def changed(tree: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """A copy of `tree` with the dotted `name` set."""
    tree = copy.deepcopy(tree)
    *groups, last = name.split(".")
    node = tree
    for group in groups:
        node = node[group]
    node[last] = value
    return tree


def test_a_composed_configuration_becomes_dataclasses(composed: dict[str, Any]) -> None:
    config = load(composed)
    assert config.sweep.name == "summarize"
    assert config.sweep.folder == Path("sweeps")
    assert config.trial.learning_rate == 2e-4
    assert config.trial.lora.alpha == 32.0
    assert isinstance(config.trial.lora.alpha, float)
    assert config.task.objective == ObjectiveConfig("rougeL", "maximize")
    assert config.space["learning_rate"]["log"] is True


def test_settings_survive_json(composed: dict[str, Any]) -> None:
    trial = load(composed).trial
    tree = to_tree(trial)
    assert read(TrialSettings, json.loads(json.dumps(tree)), "trial") == trial
    assert dotted(tree)["lora.rank"] == 8


def test_target_modules_may_be_a_list(composed: dict[str, Any]) -> None:
    config = load(changed(composed, "trial.lora.target_modules", ["q_proj", "v_proj"]))
    assert config.trial.lora.target_modules == "q_proj,v_proj"


FAULTS = [
    ("sweep.name", "a/b", "sweep.name: must match pattern"),
    ("sweep.seed", -1, "sweep.seed: must be greater than or equal to 0 (given: -1)"),
    ("sweep.sed", 1, "sweep.sed: unknown name; did you mean `seed`?"),
    ("pruning", {}, "pruning: unknown name; did you mean `pruner`?"),
    ("trial.lora.rnak", 8, "trial.lora.rnak: unknown name; did you mean `rank`?"),
    ("trial.lora.zzz", 8, "known here: rank, alpha, dropout, variant, target_modules"),
    ("trial.learning_rate", "fast", "trial.learning_rate: must be a valid number (given: 'fast')"),
    ("trial.learning_rate", 0.0, "trial.learning_rate: must be greater than 0 (given: 0.0)"),
    ("trial.learning_rate", float("inf"), "trial.learning_rate: must be a finite number (given: inf)"),
    (
        "trial.weight_decay",
        float("nan"),
        "trial.weight_decay: must be a finite number (given: nan)",
    ),
    ("trial.max_grad_norm", float("inf"), "trial.max_grad_norm: must be a finite number"),
    ("trial.batch_size", 2.5, "trial.batch_size: must be a valid integer"),
    ("trial.batch_size", True, "trial.batch_size: must be a valid integer (given: True)"),
    ("trial.scheduler", "cosin", "must be 'linear', 'cosine' or 'constant' (given: 'cosin')"),
    ("trial.lora.target_modules", [], "trial.lora.target_modules: must be a valid string (given: [])"),
    (
        "trial.lora.target_modules",
        ",",
        "trial.lora.target_modules: must be all-linear or names of modules, none of them empty (given: ',')",
    ),
    ("trial.lora.target_modules", ["q_proj", " "], "none of them empty (given: ['q_proj', ' '])"),
    ("trial.lora", 3, "trial.lora: must be an object (given: 3)"),
    ("trial", None, "trial: is missing; the defaults are in conf/config.yaml"),
    ("budget.trials", 0, "budget.trials: must be greater than or equal to 1 (given: 0)"),
    (
        "task.objective.metric",
        "rouge",
        "`rouge` does not fit task.kind=generate; allowed: rouge1, rouge2, rougeL",
    ),
    ("task.objective.metric", "worst_slice.bleu3", "did you mean `worst_slice.bleu`? allowed: rouge1,"),
    (
        "task.evaluation.metrics",
        ["loss", "f1"],
        "task.evaluation.metrics: `f1` does not fit task.kind=generate;",
    ),
    (
        "task.evaluation.slice_rows",
        0,
        "task.evaluation.slice_rows: must be greater than or equal to 1 (given: 0)",
    ),
    ("task.objective.direction", "minimize", "`rougeL` is maximized: set task.objective.direction=maximize"),
    (
        "task.also",
        [{"metric": "f1", "direction": "maximize"}],
        "task.also.0.metric: `f1` does not fit task.kind=generate;",
    ),
    ("task.also", [{"metric": "cost", "direction": "minimize"}], "or a cost: seconds, adapter_megabytes, "),
    (
        "task.also",
        [{"metric": "chrf", "direction": "maximize"}, {"metric": "seconds", "direction": "maximize"}],
        "task.also.1.direction: `seconds` is minimized: set task.also.1.direction=minimize",
    ),
    (
        "task.also",
        [{"metric": "rougeL", "direction": "maximize"}],
        "task.also.0.metric: `rougeL` is an objective already",
    ),
    (
        "task.also",
        [{"metric": "seconds", "direction": "minimize"}] * 2,
        "task.also.1.metric: `seconds` is an objective already",
    ),
    ("task.also", [{"metric": "bleu"}], "task.also.0.direction: is missing"),
    ("task.also", ["bleu"], "task.also.0: must be an object (given: 'bleu')"),
    ("task.objective.metric", "seconds", "task.objective.metric: `seconds` does not fit task.kind=generate"),
    (
        "task.constraints",
        [{"metric": "recall", "at_least": 0.6}],
        "task.constraints.0.metric: `recall` does not fit task.kind=generate;",
    ),
    (
        "task.constraints",
        [{"metric": "chrf", "at_leats": 0.6}],
        "task.constraints.0.at_leats: unknown name; did you mean `at_least`?",
    ),
    (
        "task.constraints",
        [{"metric": "chrf"}],
        "task.constraints.0: needs one of at_least and at_most (given: neither)",
    ),
    (
        "task.constraints",
        [{"metric": "length_ratio", "at_least": 0.6, "at_most": 1.4}],
        "task.constraints.0: needs one of at_least and at_most (given: at_least and at_most)",
    ),
    (
        "task.constraints",
        [{"metric": "chrf", "at_most": 0.6}],
        "task.constraints.0: `chrf` is maximized; bound it by at_least",
    ),
    (
        "task.constraints",
        [{"metric": "length_gap.chrf", "at_least": 0.6}],
        "task.constraints.0: `length_gap.chrf` is minimized; bound it by at_most",
    ),
    (
        "task.constraints",
        [{"metric": "seconds", "at_most": 60}],
        "task.constraints.0.metric: `seconds` does not",
    ),
    (
        "task.constraints",
        [{"metric": "chrf", "at_least": float("inf")}],
        "task.constraints.0.at_least: must be a finite number (given: inf)",
    ),
    (
        "task.prompt",
        "Summarize.",
        "task.prompt: must name a column of the rows in single braces, e.g. {input}, that of data.input "
        "(given: 'Summarize.')",
    ),
    ("data.input", None, "data.input: is needed for task.kind=generate: the name of a column"),
    ("data.source", "file", "data.path: is needed for data.source=file"),
    ("data.packages", [], "data.packages: is needed for data.source=docstrings"),
    (
        "data.cleaning",
        ["encodings"],
        "data.cleaning.0: must be 'encoding', 'whitespace', 'formats'",
    ),
    ("data.cleaning", ["missing", "missing"], "data.cleaning: lists `missing` more than once"),
    ("data.cleaning", ["length"], "data.length: has no bounds for the step `length`; set min_input or max"),
    ("data.length.min_input", 5, "data.length: has bounds and data.cleaning does not list `length`"),
    ("data.audit.near_duplicates", 0.5, "data.audit.near_duplicates: must be greater than 0.5 (given: 0.5)"),
    ("data.augment.methods", ["swap", "swap"], "data.augment.methods: lists `swap` more than once"),
    (
        "data.augment.methods",
        ["synonyms"],
        "data.augment.synonyms: is needed for the method synonyms: a file",
    ),
    ("data.augment.methods", ["back_translation"], "data.augment.back_translation.there: is needed for the"),
    ("data.augment.synonyms", "a.tsv", "data.augment.synonyms: is given, and none of data.augment.methods"),
    ("data.augment.back_translation.back", "x", "back_translation.back: is given, and data.augment.methods"),
    ("data.augment.share_of_words", 0.6, "data.augment.share_of_words: must be less than or equal to 0.5"),
    ("trial.augment_rate", 1.5, "trial.augment_rate: must be less than or equal to 1 (given: 1.5)"),
    ("trial.augment_rate", 0.1, "trial.augment_rate: needs a pool of augmented rows; name data.augment.meth"),
    ("space", {"augment_rate": {"low": 0, "high": 1}}, "space.augment_rate: needs a pool of augmented rows"),
    ("trial.reweight", 0.5, "trial.reweight: needs labels, and task.kind=generate has none"),
    ("space", {"reweight": {"low": 0, "high": 1}}, "space.reweight: needs labels, and task.kind=generate"),
    ("data.time", "day", "data.time: can't go together with data.group; set one of them to null"),
    (
        "model.name",
        "gpt2",
        "model.name: the embedded model is HuggingFaceTB/SmolLM2-135M-Instruct; for another one: "
        "model=custom model.name=gpt2",
    ),
    ("model.revision", "main", "model.revision: an embedded model has none"),
    ("sampler.startup_trials", None, "sampler.startup_trials: is needed for sampler=tpe"),
    ("pruner", {"name": "percentile"}, "pruner.percentile: is needed for pruner=percentile"),
    ("pruner", {"name": "patient"}, "pruner.patience: is needed for pruner=patient"),
    ("executor", {"name": "local"}, "executor.retries: is needed for executor=local"),
    ("executor.silence_seconds", None, "executor.silence_seconds: is needed for executor=auto"),
    (
        "executor.silence_seconds",
        9.5,
        "executor.silence_seconds: must be at least 5 times engine.report_seconds, 2 (given: 9.5); raise it",
    ),
    ("engine.report_seconds", 300, "5 times engine.report_seconds, 300 (given: 600); raise it, or lower"),
    (
        "executor.address",
        "foo",
        "executor.address: must be auto, or HOST:PORT of the cluster's head, such as",
    ),
    (
        "sweep.name",
        "nul",
        "sweep.name: can't be the name of a folder on every system; give another name (given",
    ),
    ("executor.workers", 0, "executor.workers: must be greater than or equal to 1 (given: 0)"),
    ("engine.report_seconds", None, "engine.report_seconds: is needed for engine=auto"),
    ("verdict.level", None, "verdict.level: is needed for verdict=holdout"),
]


@pytest.mark.parametrize(("name", "value", "message"), FAULTS)
def test_a_fault_says_what_is_allowed(composed: dict[str, Any], name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(changed(composed, name, value))


def test_a_silence_of_five_reports_is_taken(composed: dict[str, Any]) -> None:
    assert load(changed(composed, "executor.silence_seconds", 10.0)).executor.silence_seconds == 10.0


def test_constraints_and_further_objectives_are_read_and_measured(composed: dict[str, Any]) -> None:
    tree = changed(composed, "task.constraints", [{"metric": "length_ratio", "at_most": 2}])
    tree["task"]["constraints"].append({"metric": "length_ratio", "at_least": 0.5})
    tree["task"]["also"] = [
        {"metric": "seconds", "direction": "minimize"},
        {"metric": "worst_length.loss", "direction": "minimize"},
    ]
    task = load(tree).task
    assert [str(one) for one in task.constraints] == ["length_ratio ≤ 2", "length_ratio ≥ 0.5"]
    assert task.named_metrics == ("rougeL", "worst_length.loss", "length_ratio")
    assert [one.metric for one in task.goals.objectives] == ["rougeL", "seconds", "worst_length.loss"]
    tree["task"]["constraints"][0]["metric"] = "group_gap.loss"
    tree["data"]["group"] = None
    with pytest.raises(ConfigError, match=r"data\.group: is needed for the metric `group_gap\.loss`"):
        load(tree)


def test_a_replay_knows_no_sizes(composed: dict[str, Any]) -> None:
    tree = changed(composed, "task.also", [{"metric": "adapter_megabytes", "direction": "minimize"}])
    assert load(tree).task.also[0].metric == "adapter_megabytes"
    tree["engine"] = {"name": "replay"}
    with pytest.raises(
        ConfigError, match=r"`adapter_megabytes` is not known of replayed curves; seconds are"
    ):
        load(tree)


def test_length_bounds_that_leave_nothing(composed: dict[str, Any]) -> None:
    tree = changed(composed, "data.cleaning", ["length"])
    tree["data"]["length"] |= {"min_target": 9, "max_target": 8}
    with pytest.raises(ConfigError, match=r"data\.length\.min_target: 9 is more than max_target, 8"):
        load(tree)


def test_a_missing_field_is_named(composed: dict[str, Any]) -> None:
    tree = copy.deepcopy(composed)
    del tree["trial"]["epochs"]
    with pytest.raises(ConfigError, match=r"trial\.epochs: is missing"):
        load(tree)


def test_all_faults_are_reported_together(composed: dict[str, Any]) -> None:
    tree = changed(changed(composed, "trial.epochs", 0), "task.objective.metric", "rouge")
    tree = changed(tree, "budgett", 3)
    with pytest.raises(ConfigError, match=r"^3 faults in the configuration\n") as caught:
        load(tree)
    fields = {fault.field for fault in caught.value.faults}
    assert fields == {"trial.epochs", "task.objective.metric", "budgett"}


def test_the_space_is_checked_with_the_rest(composed: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"space\.x: no\n  task\.prompt: must name"):
        load(changed(composed, "task.prompt", "none"), lambda space, trial: [Fault("space.x", "no")])


def test_the_space_is_checked_against_the_trial(composed: dict[str, Any]) -> None:
    seen: list[Any] = []
    load(composed, lambda space, trial: seen.append((space, trial)) or [])
    assert seen == [(composed["space"], load(composed).trial)]


def test_reading_one_section_names_its_fields() -> None:
    with pytest.raises(ConfigError, match=r"budget\.trials: must be a valid integer"):
        read(
            BudgetConfig, {"trials": "x", "minutes": 1, "device_hours": None, "failures_in_row": 1}, "budget"
        )


@pytest.mark.parametrize(("direction", "better"), [("maximize", 2.0), ("minimize", 1.0)])
def test_better_follows_the_direction(direction: Any, better: float) -> None:
    objective = ObjectiveConfig("loss", direction)
    assert objective.better(better, 3.0 - better)
    assert not objective.better(better, better)
