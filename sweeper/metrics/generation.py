"""Generated texts beside their references: what words they share, and what they look like by themselves."""

import logging
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from sweeper.config import TaskConfig
from sweeper.config.metrics import TOOL_CALL_MATCH, MetricName
from sweeper.errors import DataError
from sweeper.metrics.answers import Floats, Texts
from sweeper.metrics.calls import read_calls
from sweeper.metrics.measured import NOWHERE, Mean, Measured, Rows, Sums, ratio, share
from sweeper.metrics.words import Stems, bare_words, words

_ROUGE = ("rouge1", "rouge2", "rougeL")
_BLEU_ORDERS = 4
_CHRF_ORDERS, _CHRF_BETA = 6, 2.0
"""sacrebleu's defaults."""


def measure(answers: Texts) -> Mapping[str, Measured]:
    """Every metric of generated texts but those of the loss.

    ROUGE is rouge-score's F-measure with the Porter stemmer, BLEU and chrF are sacrebleu's over all rows,
    divided by 100, the length ratio is that of the words BLEU counts.
    """
    pairs = list(zip(answers.outputs, answers.references, strict=True))
    bleu = _bleu_parts(pairs)
    spoken = [words(output) for output in answers.outputs]
    return {
        **_rouge(pairs),
        "bleu": Sums(bleu, _bleu),
        "chrf": Sums(np.array([_chrf_parts(*pair) for pair in pairs]), _chrf),
        "exact_match": Mean([float(output.split() == wanted.split()) for output, wanted in pairs]),
        "token_f1": Mean([_token_f1(bare_words(output), bare_words(wanted)) for output, wanted in pairs]),
        "empty_answers": Mean([float(not output.strip()) for output in answers.outputs]),
        "unfinished_answers": Mean([float(not one) for one in answers.ended] or [NOWHERE] * len(pairs)),
        "length_ratio": Sums(bleu[:, :2], ratio),
        "distinct_1": Distinct([_ngrams(text, 1) for text in spoken]),
        "distinct_2": Distinct([_ngrams(text, 2) for text in spoken]),
        "copied_trigrams": Sums(_copied(spoken, answers.prompts), _share_of_sums),
    }


def measure_calls(answers: Texts) -> Mapping[str, Measured]:
    """`tool_call_match`: the share of rows that call the tools that the reference calls, in its order, with
    equal arguments. Rows whose reference calls none, or none that can be read, don't count."""
    parts = []
    for output, reference in zip(answers.outputs, answers.references, strict=True):
        wanted = read_calls(reference)
        parts.append([float(read_calls(output) == wanted), 1.0] if wanted else [0.0, 0.0])
    return {TOOL_CALL_MATCH: Sums(np.array(parts), ratio)}


def check_calls(task: TaskConfig, references: Iterable[str]) -> None:
    """Raise DataError if the task is judged by `tool_call_match` and no reference has calls to match."""
    judged = (task.objective.metric, *task.goals.further)
    name = next((name for name in judged if MetricName.parse(name).metric == TOOL_CALL_MATCH), None)
    if name is not None and not any(map(read_calls, references)):
        raise DataError(
            f"`{name}` needs validation rows whose last assistant turn calls a tool, in a form that is known "
            "(docs/metrics.md), and there is none. Take another metric, such as token_f1, or rows with "
            "`tool_calls`"
        )


def _rouge(pairs: Sequence[tuple[str, str]]) -> dict[str, Measured]:
    scores = [_rouge_scorer().score(reference, output) for output, reference in pairs]
    return {name: Mean([score[name].fmeasure for score in scores]) for name in _ROUGE}


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(_ROUGE, tokenizer=Stems())


def _bleu_parts(pairs: Sequence[tuple[str, str]]) -> Floats:
    """[n, 2 + 4 + 4] lengths of output and reference, n-grams in common, n-grams of the output."""
    scorer = _bleu_scorer()
    scores = [scorer.sentence_score(output, [reference]) for output, reference in pairs]
    return np.array([[s.sys_len, s.ref_len, *s.counts, *s.totals] for s in scores], dtype=np.float64)


@cache
def _bleu_scorer() -> Any:
    from sacrebleu.metrics import BLEU

    logging.getLogger("sacrebleu").setLevel(logging.ERROR)
    # Neither option changes what is counted: they silence hints about single sentences.
    return BLEU(force=True, effective_order=True)


def _bleu(sums: Floats) -> Floats:
    """BLEU of a corpus from its counts, [..., 10] to [...], smoothed as sacrebleu does (`exp`).

    Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation", 2002; the smoothing is
    method 3 of Chen and Cherry, 2014: the k-th order without a match counts as 1 / 2^k matches.
    """
    output, reference = sums[..., 0], sums[..., 1]
    common, all_of = sums[..., 2 : 2 + _BLEU_ORDERS], sums[..., 2 + _BLEU_ORDERS :]
    smoothed = np.where(common > 0, common, 0.5 ** np.cumsum(common == 0, axis=-1))
    precisions = share(smoothed, all_of)
    brevity = np.exp(np.minimum(0.0, 1 - np.divide(reference, output)))
    scored = (common > 0).any(-1) & (all_of > 0).all(-1)
    logs = np.log(np.where(np.expand_dims(scored, -1), precisions, 1.0)).mean(-1)
    found: Floats = np.where(scored, brevity * np.exp(logs), 0.0)
    return found


def _chrf_parts(output: str, reference: str) -> list[float]:
    """[6 * 3] character n-grams of output and reference and those in common, for each order."""
    from sacrebleu.metrics.helpers import extract_all_char_ngrams

    parts: list[float] = []
    orders = (extract_all_char_ngrams(text, _CHRF_ORDERS) for text in (output, reference))
    for of_output, of_reference in zip(*orders, strict=True):
        both = of_output.keys() & of_reference.keys()
        common = sum(min(of_output[gram], of_reference[gram]) for gram in both)
        # As sacrebleu has it: an order that the reference is too short for doesn't count against the output.
        parts += [of_output.total() if of_reference else 0, of_reference.total(), common]
    return parts


def _chrf(sums: Floats) -> Floats:
    """chrF of a corpus from its counts, [..., 18] to [...].

    Popović, "chrF: character n-gram F-score for automatic MT evaluation", 2015: the F-score, with recall
    twice as important, of precision and recall averaged over those orders that both sides have.
    """
    output, reference, common = np.moveaxis(sums.reshape(*sums.shape[:-1], _CHRF_ORDERS, 3), -1, 0)
    there = (output > 0) & (reference > 0)
    orders = there.sum(-1)
    precision = share((share(common, output) * there).sum(-1), orders)
    recall = share((share(common, reference) * there).sum(-1), orders)
    weight = _CHRF_BETA**2
    return share((1 + weight) * precision * recall, weight * precision + recall)


def _token_f1(output: Sequence[str], reference: Sequence[str]) -> float:
    """F1 of the words as bags; without any words on one side, whether the other has none either."""
    if not output or not reference:
        return float(output == reference)
    common = (Counter(output) & Counter(reference)).total()
    return 2 * common / (len(output) + len(reference))


def _ngrams(text: Sequence[str], n: int) -> list[Hashable]:
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


class Distinct:
    """Share of different n-grams among all that were written, over all rows together.

    Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models", 2016. It falls with
    the number of rows, so that only equally many can be compared, and has no standard error here: resampling
    rows repeats n-grams, and leaving them out sees only those that occur once.
    """

    per_row = None

    def __init__(self, texts: Sequence[Sequence[Hashable]]) -> None:
        """`texts` are the n-grams of each row."""
        numbers: dict[Hashable, int] = {}
        self._rows = [np.array([numbers.setdefault(gram, len(numbers)) for gram in t], int) for t in texts]

    def value(self, rows: Rows) -> float:
        everything = np.concatenate([self._rows[row] for row in rows])
        return len(np.unique(everything)) / len(everything) if len(everything) else 0.0

    def error(self, rows: Rows) -> float:
        return NOWHERE


def _copied(spoken: Sequence[Sequence[str]], prompts: Sequence[str]) -> Floats:
    """[n, 2] trigrams of each output that its prompt has too, and all of its trigrams.

    See et al., "Get To The Point", 2017, who count those that are new.
    """
    parts = []
    for text, prompt in zip(spoken, prompts, strict=True):
        given = f" {' '.join(words(prompt))} "
        trigrams = [f" {' '.join(text[i : i + 3])} " for i in range(len(text) - 2)]
        parts.append([sum(trigram in given for trigram in trigrams), len(trigrams)])
    return np.array(parts, dtype=np.float64)


def _share_of_sums(sums: Floats) -> Floats:
    return share(sums[..., 0], sums[..., 1])
