import math

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from sweeper.config import METRICS, EvaluationConfig, GenerationConfig, ObjectiveConfig, TaskConfig
from sweeper.metrics import Answers, Classes, Texts, score

REFERENCES = [
    "Return the number of rows in the table.",
    "Compute the running means of all columns.",
    "Open a file for reading.",
    "Draw samples from a normal distribution.",
    "Draw samples from a normal distribution.",
]
OUTPUTS = [
    "Returns the number of rows.",
    "Computes the mean of a column",
    "Open a file for reading.",
    "",
    "Draw samples from a uniform distribution, quickly.",
]
LOSSES = {"loss_sums": [3.0, 8.0, 2.5, 4.0, 6.0], "token_counts": [3, 6, 5, 4, 2]}


def task(kind, metric):
    direction = "minimize" if metric in ("loss", "perplexity") else "maximize"
    return TaskConfig(
        kind=kind,
        prompt="{input}",
        chat_template=False,
        max_input_tokens=8,
        max_answer_tokens=8,
        objective=ObjectiveConfig(metric=metric, direction=direction),
        generation=GenerationConfig(max_new_tokens=8, num_beams=1),
        evaluation=EvaluationConfig(marks_per_epoch=1, batch_size=1, samples=0, slice_rows=5, metrics=()),
    )


def texts(outputs=OUTPUTS, references=REFERENCES, **losses):
    return Texts(outputs=outputs, references=references, **(losses or LOSSES))


def classes(predicted, true):
    n = len(true)
    return Classes(predicted=predicted, true=true, loss_sums=[0.5] * n, token_counts=[1] * n)


EXAMPLES = {
    "generate": texts(),
    "chat": Answers(**LOSSES),
    "classify": classes([0, 1, 2, 2, 0], [0, 1, 1, 2, 2]),
}


@pytest.mark.parametrize(("kind", "metric"), [(kind, name) for kind in METRICS for name in METRICS[kind]])
def test_every_metric_that_a_configuration_may_name_is_computed(kind, metric):
    scores = score(task(kind, metric), EXAMPLES[kind])
    assert tuple(scores.metrics) == METRICS[kind]
    assert scores.objective == scores.metrics[metric]
    assert math.isfinite(scores.objective)
    assert math.isfinite(scores.error)
    assert all(len(rows) == 5 for rows in scores.rows.values())


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL"])
def test_rouge_equals_the_library(name):
    scorer = RougeScorer([name], use_stemmer=True)
    rows = [scorer.score(r, o)[name].fmeasure for r, o in zip(REFERENCES, OUTPUTS, strict=True)]
    scores = score(task("generate", name), texts())
    assert scores.rows[name] == pytest.approx(rows)
    assert scores.objective == pytest.approx(np.mean(rows))
    assert scores.error == pytest.approx(np.std(rows, ddof=1) / math.sqrt(5))


@pytest.mark.parametrize("text", ["Кошка сидит на окне", "猫が窓に座っている", "القطة على النافذة", "แมวนั่ง"])
def test_rouge_knows_other_scripts(text):
    assert (
        score(task("generate", "rougeL"), texts([text], [text], loss_sums=[1], token_counts=[1])).objective
        == 1
    )
    other = score(task("generate", "rouge1"), texts(["dog"], [text], loss_sums=[1], token_counts=[1]))
    assert other.objective == 0


@pytest.mark.parametrize(("name", "metric"), [("bleu", BLEU), ("chrf", CHRF)])
def test_bleu_and_chrf_equal_the_library_on_a_scale_to_one(name, metric):
    scores = score(task("generate", name), texts())
    assert scores.objective == pytest.approx(metric().corpus_score(OUTPUTS, [REFERENCES]).score / 100)
    assert 0 < scores.error < 0.5
    assert scores.error == score(task("generate", name), texts()).error


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_nothing_in_common_scores_zero_with_no_error(name):
    nothing = texts(["???"] * 3, ["abc"] * 3, loss_sums=[1] * 3, token_counts=[1] * 3)
    scores = score(task("generate", name), nothing)
    assert (scores.objective, scores.error) == (0, 0)


def test_exact_match_looks_past_white_space_only():
    answers = texts(["a  b\n", "A b", ""], ["a b", "a b", " "], loss_sums=[1] * 3, token_counts=[1] * 3)
    scores = score(task("generate", "exact_match"), answers)
    assert list(scores.rows["exact_match"]) == [1, 0, 1]
    assert scores.objective == pytest.approx(2 / 3)


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


def test_classification_equals_scikit_learn():
    draw = np.random.default_rng(1)
    true = draw.integers(0, 4, 80)
    predicted = np.where(draw.random(80) < 0.6, true, draw.integers(0, 6, 80))  # 4 and 5 are never true
    metrics = score(task("classify", "macro_f1"), classes(predicted, true)).metrics
    assert metrics["accuracy"] == pytest.approx(accuracy_score(true, predicted))
    assert metrics["micro_f1"] == pytest.approx(f1_score(true, predicted, average="micro"))
    for name, function in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        wanted = function(true, predicted, average="macro", zero_division=0)
        assert metrics[f"macro_{name}"] == pytest.approx(wanted)


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "macro_precision", "macro_recall"])
def test_the_error_is_what_resampling_shows(name):
    draw = np.random.default_rng(2)
    true = draw.integers(0, 3, 300)
    predicted = np.where(draw.random(300) < 0.7, true, draw.integers(0, 3, 300))
    scores = score(task("classify", name), classes(predicted, true))
    resampled = []
    for _ in range(300):
        rows = draw.integers(0, 300, 300)
        resampled.append(score(task("classify", name), classes(predicted[rows], true[rows])).objective)
    assert scores.error == pytest.approx(np.std(resampled), rel=0.2)


def test_one_row_has_a_score_but_no_error():
    for kind, answers in (
        ("generate", texts(["a"], ["a"], loss_sums=[1], token_counts=[1])),
        ("classify", classes([1], [1])),
    ):
        scores = score(task(kind, METRICS[kind][0]), answers)
        assert scores.objective == 1
        assert math.isnan(scores.error)
