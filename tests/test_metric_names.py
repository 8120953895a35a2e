"""Names of metrics: derived ones, those that installed packages add, and what is said of wrong ones."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sweeper.compose import compose, read_config
from sweeper.config.metrics import (
    CHAT_ANSWERS,
    METRICS,
    MetricName,
    added_metric,
    metric_bounds,
    metric_direction,
    metric_fault,
    needs_answers,
)
from sweeper.errors import ConfigError, TrialError
from sweeper.metrics import score
from tests.measuring import EXAMPLES, task

GOOD = """
from sweeper.metrics import Mean

class Shouting:
    kinds = ("generate",)
    direction = "minimize"

    def measure(self, answers):
        return Mean([float(output.isupper()) for output in answers.outputs])

class Clumsy(Shouting):
    def measure(self, answers):
        return 0.5

class Backwards(Shouting):
    direction = "up"

class Nowhere(Shouting):
    kinds = "generate"

class Idle:
    kinds, direction = ["chat"], None

class Reading(Shouting):
    kinds, reads_answers = ("chat",), True

shouting, clumsy, backwards, nowhere, idle = Shouting(), Clumsy(), Backwards(), Nowhere(), Idle()
class Silent(Shouting):
    kinds = ("chat",)

reading, silent = Reading(), Silent()
"""


def install(folder: Path, name: str, code: str, points: dict[str, str]) -> None:
    """A distribution as pip would leave it in a folder of packages."""
    module = name.replace("-", "_")
    (folder / f"{module}.py").write_text(code)
    about = folder / f"{module}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = "".join(f"{metric} = {module}:{target}\n" for metric, target in points.items())
    (about / "entry_points.txt").write_text(f"[sweeper.metrics]\n{lines}")


@pytest.fixture
def added(tmp_path, monkeypatch):
    """A folder on sys.path with a package that adds metrics."""
    monkeypatch.syspath_prepend(tmp_path)
    names = ("shouting", "clumsy", "backwards", "nowhere", "idle", "reading", "silent", "missing")
    install(
        tmp_path, "loud-metrics", GOOD, {name: name for name in names} | {"rougeL": "idle", "a.b": "idle"}
    )
    yield tmp_path
    sys.modules.pop("loud_metrics", None)


def test_a_name_is_taken_apart():
    assert MetricName.parse("rougeL") == MetricName("rougeL")
    assert MetricName.parse("worst_slice.loss") == MetricName("loss", "worst", "slice")
    assert MetricName.parse("length_gap.loss") == MetricName("loss", "gap", "length")
    assert MetricName.parse("rarest_class.f1") == MetricName("f1", "rarest")
    assert MetricName.parse("other.loss") == MetricName("other.loss")
    columns = [
        MetricName.parse(f"{name}.loss").column for name in ("worst_slice", "group_gap", "worst_length")
    ]
    assert columns == ["slice", "group", None]


def test_directions():
    assert metric_direction("rougeL") == metric_direction("worst_slice.rougeL") == "maximize"
    assert metric_direction("loss") == metric_direction("worst_group.loss") == "minimize"
    assert metric_direction("calibration_error") == metric_direction("slice_gap.rougeL") == "minimize"
    assert metric_direction("length_ratio") is None
    assert metric_direction("length_gap.length_ratio") == "minimize"
    assert metric_direction("rarest_class.recall") == "maximize"


@pytest.mark.parametrize(
    ("kind", "names", "is_needed"),
    [
        ("generate", ["loss"], True),
        ("classify", ["macro_f1"], False),
        ("chat", ["loss", "perplexity", "worst_length.loss"], False),
        ("chat", ["loss", "length_gap.chrf"], True),
        ("chat", ["tool_call_match"], True),
    ],
)
def test_answers_are_generated_where_a_metric_needs_them(kind, names, is_needed):
    assert needs_answers(kind, names) == is_needed


def test_an_added_metric_of_chats_may_need_answers(added):
    assert not needs_answers("chat", ["loss", "silent"])
    assert needs_answers("chat", ["loss", "worst_length.reading"])
    measured = score(task("chat", "loss", "reading"), replace(EXAMPLES["generate"], outputs=["A"] * 5))
    assert measured.metrics["reading"] == 1


def test_every_metric_of_ours_is_without_fault():
    for kind, names in [*METRICS.items(), ("chat", CHAT_ANSWERS)]:
        for name in names:
            assert metric_fault(kind, name) is None
            assert metric_fault(kind, f"group_gap.{name}") is None
            is_worse = metric_direction(name) is not None
            assert (metric_fault(kind, f"worst_length.{name}") is None) == is_worse


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("generate", "f1", "`f1` does not fit task.kind=generate; allowed: rouge1, rouge2, "),
        ("chat", "worst_slce.loss", "did you mean `worst_slice.loss`? allowed: loss, perplexity, rouge1, "),
        ("classify", "rougeL", "allowed: accuracy, "),
        ("classify", "worst_slice.bleu", "`worst_slice.bleu` does not fit task.kind=classify; "),
        ("classify", "worst_slice.", "does not fit task.kind=classify; "),
        ("generate", "rarest_class.recall", "does not fit task.kind=generate, which has no classes"),
        ("classify", "rarest_class.auroc", "a single class has precision, recall, f1"),
        ("generate", "worst_slice.length_ratio", "neither better nor worse, .* take slice_gap.length_ratio"),
    ],
)
def test_what_is_said_of_a_wrong_name(kind, name, said):
    import re

    found = metric_fault(kind, name)
    assert said in found or re.search(said, found)


def test_an_installed_package_adds_a_metric(added):
    assert metric_fault("generate", "shouting") is None
    assert metric_direction("shouting") == metric_direction("worst_slice.shouting") == "minimize"
    answers = replace(EXAMPLES["generate"], outputs=["A", "b", "C", "d", "E"])
    scores = score(task("generate", "shouting", "length_gap.shouting"), answers)
    assert scores.objective == 3 / 5
    assert scores.error == pytest.approx(math.sqrt(0.6 * 0.4 / 4))
    assert list(scores.rows["shouting"]) == [1, 0, 1, 0, 1]
    # Where nobody asks for it, it is not measured.
    assert "shouting" not in score(task("generate", "loss"), answers).metrics


def test_a_configuration_may_name_an_added_metric(added):
    overrides = ["+experiment=summarize", "task.evaluation.metrics=[shouting,slice_gap.shouting]"]
    config, _ = read_config(compose(overrides))
    assert config.task.named_metrics == ("rougeL", "shouting", "slice_gap.shouting")
    with pytest.raises(
        ConfigError, match=r"task\.evaluation\.metrics: `whispering` does not fit .*, shouting"
    ):
        read_config(compose(["+experiment=summarize", "task.evaluation.metrics=[whispering]"]))
    with pytest.raises(ConfigError, match=r"task\.objective\.direction: `shouting` is minimized"):
        read_config(compose(["+experiment=summarize", "task.objective.metric=shouting"]))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing", r"`missing` of the package loud-metrics can't be loaded \(AttributeError: .*\); mend"),
        (
            "backwards",
            r"is no metric: its direction must be maximize, minimize or None \(found: 'up'\); mend",
        ),
        (
            "nowhere",
            r"is no metric: its kinds must be some of generate, chat, classify \(found: 'generate'\)",
        ),
        ("idle", r"`idle` of the package loud-metrics is no metric: it has no method `measure`; mend the"),
        ("silence", r"no installed package adds a metric `silence` \(sweeper\.metrics\)"),
    ],
)
def test_a_broken_or_unknown_one_is_told(added, name, said):
    with pytest.raises(ConfigError, match=said):
        added_metric(name)


def test_a_broken_one_is_a_fault_of_the_configuration(added):
    said = r"task\.evaluation\.metrics: `missing` of the package loud-metrics can't be loaded"
    with pytest.raises(ConfigError, match=said):
        read_config(compose(["+experiment=summarize", "task.evaluation.metrics=[missing]"]))


def test_an_added_metric_fits_its_task_kinds_alone(added):
    assert (
        metric_fault("chat", "shouting") == "`shouting` does not fit task.kind=chat; it is there for generate"
    )


def test_none_takes_the_place_of_ours_or_has_a_name_that_is_no_word(added):
    assert metric_direction("rougeL") == "maximize"
    assert "allowed: " in metric_fault("generate", "a.b")


def test_two_packages_with_one_name_are_told(added):
    install(added, "other-metrics", "", {"shouting": "shouting"})
    with pytest.raises(
        ConfigError, match="added by the package loud-metrics and the package other-metrics; un"
    ):
        added_metric("shouting")


def test_one_that_fails_fails_the_trial(added):
    said = r"the metric `clumsy` of another package failed \(AttributeError: .*\); mend that"
    with pytest.raises(TrialError, match=said):
        score(task("generate", "clumsy"), EXAMPLES["generate"])


def test_names_are_known_without_heavy_libraries(added):
    code = (
        "import sys; from sweeper.config.metrics import metric_fault; print(metric_fault('chat', 'shouted'));"
        "assert not {'torch', 'numpy', 'sklearn', 'loud_metrics'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": f"{added}:{Path(__file__).parents[1]}"},
    )
    assert "shouting" in done.stdout


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("macro_f1", (0, 1)),
        ("worst_slice.rougeL", (0, 1)),
        ("rarest_class.recall", (0, 1)),
        ("slice_gap.loss", (0, None)),
        ("perplexity", (0, None)),
        ("seconds", (0, None)),
        ("of_another_package", (None, None)),
    ],
)
def test_which_values_a_metric_can_have(name, bounds):
    assert metric_bounds(name) == bounds
