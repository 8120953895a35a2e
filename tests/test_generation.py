"""Metrics of texts against the libraries that define them, and values worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from sweeper.config.metrics import CHAT_ANSWERS, METRICS
from sweeper.errors import DataError
from sweeper.metrics import check_calls, objective_rows, score
from tests.measuring import OUTPUTS, REFERENCES, take, task, texts

NASTY = [
    ("", "something there"),
    ("???", "abc"),
    ("a b c", "a b c d e f g"),
    ("a b", "a b"),
    ("x", "x y"),
    ("the the the the the", "the cat sat"),
    ("ein schönes Haus, nicht wahr?", "Ein schöneres Haus - nicht wahr!"),
    ("1,000.5 dollars (US)", "1,000.5 dollars"),
]


def scored(*pairs, prompts=("",) * 9):
    outputs, references = zip(*pairs, strict=True)
    return score(task("generate", "rougeL"), texts(outputs, references, prompts))


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL"])
def test_rouge_equals_the_library(name):
    scorer = RougeScorer([name], use_stemmer=True)
    rows = [scorer.score(r, o)[name].fmeasure for r, o in zip(REFERENCES, OUTPUTS, strict=True)]
    scores = score(task("generate", name), texts())
    assert scores.rows[name] == pytest.approx(rows)
    assert scores.objective == pytest.approx(np.mean(rows))
    assert scores.error == pytest.approx(np.std(rows, ddof=1) / math.sqrt(5))


def test_answers_that_are_empty_or_never_end_are_shares_of_the_rows():
    ended = texts(["", " \n", "a", "b"], ["a"] * 4)
    known = score(task("generate", "empty_answers"), replace(ended, ended=[True, True, True, False]))
    assert (known.objective, known.metrics["unfinished_answers"]) == (0.5, 0.25)
    unknown = score(task("generate", "rougeL"), replace(ended, ended=()))
    assert math.isnan(unknown.metrics["unfinished_answers"])


def test_the_metrics_of_a_chats_answers_worked_out_by_hand():
    """One word of two is right, then both; of the last turns of the assistant, none calls a tool."""
    wanted = task("chat", "loss", "token_f1")
    found = score(wanted, texts(["red cat", "green bird"], ["red dog", "green bird"], ["", ""])).metrics
    assert tuple(found) == (*METRICS["chat"], *CHAT_ANSWERS)
    assert found["loss"] == 1
    assert found["exact_match"] == 0.5
    assert found["token_f1"] == found["rouge1"] == found["rougeL"] == 0.75
    assert found["rouge2"] == 0.5
    assert found["length_ratio"] == 1
    # Three of four words, one of two pairs; no longer n-grams, which are smoothed.
    assert found["bleu"] == pytest.approx(
        BLEU().corpus_score(["red cat", "green bird"], [["red dog", "green bird"]]).score / 100
    )
    assert math.isnan(found["tool_call_match"])


CALL = '<tool_call>{"name": "add", "arguments": {"a": 1, "b": [2, 3]}}</tool_call>'
NOW = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'


def test_tool_calls_match_by_name_and_arguments_over_the_rows_that_have_some():
    pairs = [
        ('I add. {"name": "add"}', CALL),  # calls nothing
        ('{"name": "add", "parameters": {"b": [2, 3], "a": 1.0}}', CALL),  # the same, as Llama writes it
        (CALL.replace("[2, 3]", "[3, 2]"), CALL),
        (CALL.replace("add", "sub"), CALL),
        (f"{CALL}{NOW}", f"{CALL}\n{NOW}"),
        (f"{NOW}{CALL}", f"{CALL}{NOW}"),
        (CALL, f"{CALL}{NOW}"),
        ("<tool_call>oh", CALL),
        ("Hello.", "Hello."),
        (CALL, "Hello."),
        ("<tool_call>oh", "<tool_call>oh"),
    ]
    outputs, references = zip(*pairs, strict=True)
    answers = texts(list(outputs), list(references), [""] * len(pairs))
    scores = score(task("chat", "tool_call_match"), answers)
    assert scores.objective == 2 / 8
    assert scores.error == pytest.approx(math.sqrt(0.25 * 0.75 / 8), rel=0.15)
    rows = objective_rows(task("chat", "tool_call_match"), answers)
    assert rows is not None
    assert rows.mean() == pytest.approx(0.25)


def test_without_tool_calls_nothing_can_be_judged_by_them():
    said = r"`worst_length.tool_call_match` needs validation rows whose last .* calls a tool"
    wanted = task("chat", "worst_length.tool_call_match")
    with pytest.raises(DataError, match=said):
        check_calls(wanted, ["Hello.", "<tool_call>oh"])
    check_calls(wanted, ["Hello.", CALL])
    check_calls(task("chat", "loss", "tool_call_match"), ["Hello."])


@pytest.mark.parametrize("text", ["Кошка сидит на окне", "猫が窓に座っている", "القطة على النافذة", "แมวนั่ง"])
def test_words_of_other_scripts_count(text):
    same, other = scored((text, text)).metrics, scored(("dog", text)).metrics
    assert same["rougeL"] == same["token_f1"] == 1
    assert other["rouge1"] == other["token_f1"] == 0


CORPORA = [list(zip(OUTPUTS, REFERENCES, strict=True)), NASTY, *([pair] for pair in NASTY)]


@pytest.mark.parametrize("pairs", CORPORA, ids=range(len(CORPORA)))
@pytest.mark.parametrize(("name", "metric"), [("bleu", BLEU), ("chrf", CHRF)])
def test_bleu_and_chrf_equal_the_library_on_a_scale_to_one(name, metric, pairs):
    outputs, references = map(list, zip(*pairs, strict=True))
    wanted = metric().corpus_score(outputs, [references]).score / 100
    assert scored(*pairs).metrics[name] == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_nothing_in_common_scores_zero_with_no_error(name):
    scores = scored(*[("???", "abc")] * 3)
    assert (scores.metrics[name], scores.errors[name]) == (0, 0)


def test_exact_match_looks_past_white_space_only():
    scores = scored(("a  b\n", "a b"), ("A b", "a b"), ("", " "))
    assert list(scores.rows["exact_match"]) == [1, 0, 1]
    assert scores.metrics["exact_match"] == pytest.approx(2 / 3)


def test_token_f1_compares_bags_of_bare_words():
    scores = scored(
        ("The Eiffel-Tower!", "eiffeltower"),  # articles and marks do not count
        ("in Paris in France", "in Paris"),  # 2 of 4 right, 2 of 2 found
        ("", "the"),  # neither has a word
        ("Paris", ""),
    )
    assert scores.rows["token_f1"] == pytest.approx([1, 2 / 3, 1, 0])


def test_the_length_ratio_is_that_of_all_words():
    scores = scored(("a b c d e f", "a b c"), ("a", "a b c d e"))
    assert scores.metrics["length_ratio"] == 7 / 8
    corpus = BLEU().corpus_score(OUTPUTS, [REFERENCES])
    assert score(task("generate", "bleu"), texts()).metrics["length_ratio"] == corpus.sys_len / corpus.ref_len


def test_distinct_counts_different_ngrams_over_all_rows():
    scores = scored(("a b a b", "x"), ("A b", "x"), ("", "x"))
    assert scores.metrics["distinct_1"] == 2 / 6
    assert scores.metrics["distinct_2"] == 2 / 4  # a b, b a, a b; a b
    assert scored(("", "x")).metrics["distinct_1"] == 0


def test_copied_trigrams_are_those_that_the_prompt_has():
    prompts = ["Text: One two three, four FIVE.", "one", "a b c"]
    scores = scored(("two three four six", "x"), ("one two", "x"), ("aa b c", "x"), prompts=prompts)
    assert scores.metrics["copied_trigrams"] == 1 / 3  # of: two three four, three four six, aa b c


def test_rows_do_not_influence_each_other():
    whole, rows = texts(), np.array([0, 2, 4])
    parts = score(task("generate", "bleu"), take(whole, rows))
    for name, values in score(task("generate", "bleu"), whole).rows.items():
        assert values[rows] == pytest.approx(parts.rows[name])
