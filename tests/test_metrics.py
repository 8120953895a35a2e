"""Scores: every metric that a configuration may name, with its standard error."""

import math

import numpy as np
import pytest

from sweeper.config import METRICS
from sweeper.metrics import Answers, Texts, objective_rows, score
from tests.measuring import EXAMPLES, LOSSES, classes, drawn_classes, take, task, texts

WITHOUT_ERROR = {"distinct_1", "distinct_2", "calibration_error"}


@pytest.mark.parametrize(("kind", "metric"), [(kind, name) for kind in METRICS for name in METRICS[kind]])
def test_every_metric_that_a_configuration_may_name_is_computed(kind, metric):
    scores = score(task(kind, metric), EXAMPLES[kind])
    assert tuple(scores.metrics) == METRICS[kind]
    assert scores.objective == scores.metrics[metric]
    assert math.isfinite(scores.objective)
    assert math.isfinite(scores.error) == (metric not in WITHOUT_ERROR)
    assert scores.errors.keys() == set(METRICS[kind]) - WITHOUT_ERROR
    assert all(len(rows) == len(EXAMPLES[kind].loss_sums) for rows in scores.rows.values())


@pytest.mark.parametrize(("kind", "metric"), [(kind, name) for kind in METRICS for name in METRICS[kind]])
def test_rows_of_the_objective_have_it_as_their_mean_and_its_error(kind, metric):
    """By which a verdict pairs its runs; what has no standard error has no such rows."""
    rows = objective_rows(task(kind, metric), EXAMPLES[kind])
    scores = score(task(kind, metric), EXAMPLES[kind])
    assert (rows is None) == (metric in WITHOUT_ERROR)
    assert scores.objective_rows == pytest.approx(() if rows is None or metric == "auroc" else rows, rel=1e-5)
    if rows is not None:
        assert rows.mean() == pytest.approx(scores.objective, abs=1e-12)
        if metric in scores.rows and metric != "loss":
            assert rows == pytest.approx(scores.rows[metric])
        # The error of the perplexity is by the delta method.
        tolerance = 0.05 if metric == "perplexity" else 1e-6
        assert np.std(rows, ddof=1) / math.sqrt(len(rows)) == pytest.approx(scores.error, rel=tolerance)


def test_a_metric_over_slices_has_no_rows():
    assert objective_rows(task("generate", "worst_slice.rougeL"), EXAMPLES["generate"]) is None


def test_loss_counts_every_token_alike_and_perplexity_is_its_exponential():
    scores = score(task("chat", "loss"), Answers(**LOSSES))
    assert scores.objective == pytest.approx(23.5 / 20)
    assert scores.metrics["perplexity"] == pytest.approx(math.exp(23.5 / 20))
    assert scores.rows["loss"] == pytest.approx([1, 8 / 6, 0.5, 1, 3])


def test_the_error_of_the_loss_is_that_of_a_mean_where_rows_are_equally_long():
    losses = [0.5, 1.5, 2.5, 3.0]
    scores = score(task("chat", "loss"), Answers([3 * loss for loss in losses], [3] * 4))
    assert scores.error == pytest.approx(np.std(losses, ddof=1) / 2)
    perplexity = score(task("chat", "perplexity"), Answers([3 * loss for loss in losses], [3] * 4))
    assert perplexity.error == pytest.approx(scores.error * math.exp(np.mean(losses)))


def test_a_diverged_loss_stays_visible():
    scores = score(task("chat", "perplexity"), Answers([1e6, 1.0], [1, 1]))
    assert scores.objective == math.inf
    assert math.isnan(score(task("chat", "loss"), Answers([math.nan, 1.0], [1, 1])).objective)


def generated(rows, draw):
    """Random texts, of which seven words in ten are right."""
    words = np.array([f"word{i}" for i in range(40)])
    spoken = [list(draw.choice(words, draw.integers(4, 12))) for _ in range(rows)]
    heard = [[w if draw.random() < 0.7 else draw.choice(words) for w in text] for text in spoken]
    given = [text[: len(text) // 2 + 2] for text in spoken]
    parts = [[" ".join(text) for text in part] for part in (heard, spoken, given)]
    return Texts(draw.gamma(2, 4, rows), draw.integers(4, 12, rows), *parts, draw.random(rows) < 0.7)


@pytest.mark.parametrize("kind", ["generate", "classify"])
def test_the_error_is_what_resampling_shows(kind):
    draw = np.random.default_rng(2)
    answers = drawn_classes(150) if kind == "classify" else generated(150, draw)
    wanted = task(kind, "loss")
    errors = score(wanted, answers).errors
    resampled = [score(wanted, take(answers, draw.integers(0, 150, 150))).metrics for _ in range(80)]
    shown = {name: np.std([one[name] for one in resampled]) for name in errors}
    assert errors == pytest.approx(shown, rel=0.35)


def test_one_row_has_a_score_but_no_error():
    for kind, answers in (("generate", texts(["a"], ["a"], ["a"])), ("classify", classes([1], [1]))):
        scores = score(task(kind, METRICS[kind][0]), answers)
        assert scores.objective == 1
        assert math.isnan(scores.error)
        assert scores.errors == {}
