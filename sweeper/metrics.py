"""Scores of a model's answers: every metric of a task, and the objective with its standard error.

Shares lie in 0..1, BLEU and chrF too; losses are nats per token. The names are those of
`sweeper.config.METRICS`.

ROUGE is rouge-score's F-measure with the Porter stemmer, averaged over rows. rouge-score itself drops
every letter outside a-z; here such words count as well, and scripts without spaces count by character.
For plain ASCII text the numbers are rouge-score's own.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from sweeper.config import METRICS, TaskConfig

Floats = NDArray[np.float64]

_RESAMPLES = 500
"""Bootstrap samples behind the standard error of BLEU and chrF."""


@dataclass(frozen=True)
class Answers:
    """What a model made of n rows, measured by its loss alone (task.kind=chat).

    `loss_sums` are nats summed over each row's answer tokens, `token_counts` how many tokens those are.
    """

    loss_sums: Sequence[float]
    token_counts: Sequence[int]


@dataclass(frozen=True)
class Texts(Answers):
    """Generated texts beside the reference texts (task.kind=generate)."""

    outputs: Sequence[str]
    references: Sequence[str]


@dataclass(frozen=True)
class Classes(Answers):
    """Predicted beside true class ids (task.kind=classify); each row counts as one token."""

    predicted: Sequence[int]
    true: Sequence[int]


@dataclass(frozen=True)
class Scores:
    """Every metric of a task over the same rows."""

    objective: float
    error: float
    """Standard error of `objective` over the rows; NaN where it has none, e.g. for a single row."""
    metrics: Mapping[str, float]
    rows: Mapping[str, Floats] = field(default_factory=dict)
    """Per-row values, [n] each, of those metrics that a single row has."""


def score(task: TaskConfig, answers: Answers) -> Scores:
    """Every metric of `task.kind`, computed on `answers`: `Texts`, `Classes` or plain `Answers`.

    Standard errors: std/sqrt(n) for means over rows; the delta method for loss and perplexity, which
    are ratios of two sums; sacrebleu's seeded bootstrap for BLEU and chrF; the jackknife for macro
    averages.
    """
    rows: dict[str, Floats] = {}
    metrics = {name: _REGISTRY[task.kind][name].value(answers, rows) for name in METRICS[task.kind]}
    objective = task.objective.metric
    error = float("nan")
    if len(answers.loss_sums) > 1:
        error = _REGISTRY[task.kind][objective].error(answers, rows)
    return Scores(metrics[objective], error, metrics, rows)


A = TypeVar("A", bound=Answers)


@dataclass(frozen=True)
class _Metric(Generic[A]):
    """A value and its standard error; both may leave or find per-row values in the mapping."""

    value: Callable[[A, dict[str, Floats]], float]
    error: Callable[[A, dict[str, Floats]], float]


def _mean_over_rows(name: str, per_row: Callable[[A], Floats]) -> _Metric[A]:
    def value(answers: A, rows: dict[str, Floats]) -> float:
        rows[name] = per_row(answers)
        return float(np.mean(rows[name]))

    def error(_: A, rows: dict[str, Floats]) -> float:
        return float(np.std(rows[name], ddof=1) / np.sqrt(len(rows[name])))

    return _Metric(value, error)


def _loss(answers: Answers, rows: dict[str, Floats]) -> float:
    sums, tokens = np.asarray(answers.loss_sums, float), np.asarray(answers.token_counts, float)
    rows["loss"] = sums / tokens
    return float(sums.sum() / tokens.sum())


def _loss_error(answers: Answers, rows: dict[str, Floats]) -> float:
    sums, tokens = np.asarray(answers.loss_sums, float), np.asarray(answers.token_counts, float)
    residuals = sums - _loss(answers, rows) * tokens
    return float(np.std(residuals, ddof=1) / np.sqrt(len(sums)) / tokens.mean())


def _perplexity(answers: Answers, rows: dict[str, Floats]) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(_loss(answers, rows)))


def _perplexity_error(answers: Answers, rows: dict[str, Floats]) -> float:
    return _perplexity(answers, rows) * _loss_error(answers, rows)


def _rouge(name: str) -> _Metric[Texts]:
    def per_row(answers: Texts) -> Floats:
        scorer = _rouge_scorer(name)
        pairs = zip(answers.references, answers.outputs, strict=True)
        return np.array([scorer.score(reference, output)[name].fmeasure for reference, output in pairs])

    return _mean_over_rows(name, per_row)


@cache
def _rouge_scorer(name: str) -> Any:
    from nltk.stem.porter import PorterStemmer  # type: ignore[import-untyped]  # rouge-score's own
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([name], tokenizer=_Words(PorterStemmer()))


class _Words:
    """Splits text as rouge-score does, but knows the letters of every script."""

    _UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    _WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")

    def __init__(self, stemmer: Any) -> None:
        self._stemmer = stemmer

    def tokenize(self, text: str) -> list[str]:
        words = self._WORD.findall(text.lower())
        return [self._stemmer.stem(word) if len(word) > 3 and word.isascii() else word for word in words]


def _exact_matches(answers: Texts) -> Floats:
    """1 where output and reference agree up to white space, else 0."""
    pairs = zip(answers.outputs, answers.references, strict=True)
    return np.array([float(output.split() == reference.split()) for output, reference in pairs])


def _corpus(make: Callable[[], Any]) -> _Metric[Texts]:
    """A sacrebleu metric, divided by 100."""

    def value(answers: Texts, _: dict[str, Floats]) -> float:
        return float(make().corpus_score(answers.outputs, [answers.references]).score) / 100

    def error(answers: Texts, _: dict[str, Floats]) -> float:
        # sacrebleu logs its seed, which is a constant, at every call.
        logging.getLogger("sacrebleu").setLevel(logging.WARNING)
        metric = make()
        result = metric.corpus_score(answers.outputs, [answers.references], n_bootstrap=_RESAMPLES)
        fields = json.loads(result.format(width=8, signature=str(metric.get_signature()), is_json=True))
        half_of_95 = fields.get("confidence_var", 0.0)  # absent where every resample scores zero
        return float(half_of_95) / 1.96 / 100

    return _Metric(value, error)


def _bleu() -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU(force=True)  # only silences the hint that a text looks tokenised


def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()


def _hits(answers: Classes) -> Floats:
    return np.equal(answers.predicted, answers.true).astype(np.float64)


def _macro(formula: Callable[[Floats, Floats, Floats], Floats]) -> _Metric[Classes]:
    """The mean over the classes that occur of a formula of (hits, predicted, true) counts, [..., classes].

    Written on counts, because the jackknife needs the value without each row in turn.
    """

    def counts(answers: Classes) -> tuple[Floats, Floats, Floats]:
        predicted, true = np.asarray(answers.predicted), np.asarray(answers.true)
        classes = np.union1d(predicted, true)
        of_predicted = (predicted[:, None] == classes).astype(float)
        of_true = (true[:, None] == classes).astype(float)
        return of_predicted * of_true, of_predicted, of_true

    def value(answers: Classes, _: dict[str, Floats]) -> float:
        hits, predicted, true = (rows.sum(0) for rows in counts(answers))
        return float(formula(hits, predicted, true).mean())

    def error(answers: Classes, _: dict[str, Floats]) -> float:
        hits, predicted, true = (rows.sum(0) - rows for rows in counts(answers))
        without = formula(hits, predicted, true).mean(-1)
        n = len(without)
        return float(np.sqrt((n - 1) / n * np.sum((without - without.mean()) ** 2)))

    return _Metric(value, error)


def _share(part: Floats, whole: Floats) -> Floats:
    """part / whole, 0 where there is nothing."""
    share: Floats = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return share


_LOSS = {"loss": _Metric(_loss, _loss_error), "perplexity": _Metric(_perplexity, _perplexity_error)}

_REGISTRY: Mapping[str, Mapping[str, _Metric[Any]]] = {
    "generate": {
        "rouge1": _rouge("rouge1"),
        "rouge2": _rouge("rouge2"),
        "rougeL": _rouge("rougeL"),
        "bleu": _corpus(_bleu),
        "chrf": _corpus(_chrf),
        "exact_match": _mean_over_rows("exact_match", _exact_matches),
        **_LOSS,
    },
    "chat": _LOSS,
    "classify": {
        "accuracy": _mean_over_rows("accuracy", _hits),
        # With one label per row and every class counted, micro-F1 is the accuracy.
        "micro_f1": _mean_over_rows("micro_f1", _hits),
        "macro_f1": _macro(lambda hits, predicted, true: _share(2 * hits, predicted + true)),
        "macro_precision": _macro(lambda hits, predicted, _: _share(hits, predicted)),
        "macro_recall": _macro(lambda hits, _, true: _share(hits, true)),
        "loss": _Metric(_loss, _loss_error),
    },
}
