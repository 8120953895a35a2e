"""The model card: complete or refused, with metadata that the hub reads and text that stays text."""

import re
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from sweeper.errors import CardError
from sweeper.report.card import card
from tests.pages import HOSTILE
from tests.telling import told


def test_its_metadata_is_what_the_hub_reads():
    facts = told(verdict=None)
    data = ModelCard(card(facts)).data
    assert (data.base_model, data.library_name, data.license) == (
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "peft",
        "apache-2.0",
    )
    assert data.model_name == "summarize"
    results = {(one.dataset_split, one.metric_type): one.metric_value for one in data.eval_results}
    assert results == {
        ("validation", "rougeL"): round(facts.best.objective, 6),
        ("validation", "loss"): round(3 - facts.best.objective, 6),
    }
    assert {one.dataset_revision for one in data.eval_results} == {facts.rows.digest}


def test_a_verdict_on_this_very_trial_adds_its_test_score():
    facts = told()
    assert facts.verdict.candidates[0].trial == facts.best.number
    results = ModelCard(card(facts)).data.eval_results
    assert [one.metric_value for one in results if one.dataset_split == "test"] == [pytest.approx(0.24)]


def test_every_section_has_its_numbers():
    facts = told()
    text = card(facts)
    default, best = facts.default.objective, facts.best.objective
    interval = f"{best - 1.96 * 0.02:.3f} to {best + 1.96 * 0.02:.3f}"
    sections = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert sections == [
        "Verdict",
        "How to use it",
        "What was searched",
        "Data",
        "Results",
        "Results by part of the rows",
        "Limits, and uses to avoid",
        "What it cost",
        "Licence",
        "How to reproduce it",
    ]
    for said in (
        "Better by 0.09: plain",
        "| trial 5 | +0.0900 | +0.0500 to +0.1300 | 0.01 | gain | +0.0200 |",
        "12 trials (9 finished, 2 pruned, 1 failed) with sampler tpe and no pruning, as there are several",
        "seed of the sweep 7, of the trial 105",
        f"| rougeL | 0.145 ± 0.020 | {default:.3f} ± 0.020 | {best:.3f} ± 0.020 | {interval} |",
        f"| torch | 25 | 0.135 ± 0.030 | {default - 0.01:.3f} ± 0.030 | {best - 0.01:.3f} ± 0.030 |",
        "digest of the rows aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "- warning: plain",
        "0.09 device hours",
        f"By data.slice it does worst on plain: rougeL {best - 0.01:.3f} ± 0.030 over 25 rows.",
    ):
        assert said in text, said


def test_with_one_objective_the_pruner_is_named():
    facts = told()
    text = card(replace(facts, goals=replace(facts.goals, also=())))
    assert "with sampler tpe and pruner median, for rougeL" in text


def test_the_card_of_a_retraining_speaks_of_the_trial_that_it_retrains():
    facts = told(verdict=None)
    again = replace(facts.best, number=0, retrains=5)
    text = card(replace(facts, trials=(again,), best=again))
    assert "These are the settings of trial 5, on all rows" in text
    assert "This is trial 0, the settings of trial 5, on all rows;" in text
    assert "default settings" not in text
    score = f"{again.objective:.3f} ± 0.020"
    assert f"| rougeL | 0.145 ± 0.020 | {score} |" in text
    assert f"| torch | 25 | 0.135 ± 0.030 | {again.objective - 0.01:.3f} ± 0.030 |" in text


def test_the_verdict_costs_too_and_may_have_one_seed():
    facts = told()
    judged = replace(facts.verdict, seconds=3600.0, seeds=(1,))
    text = card(replace(facts, verdict=judged))
    assert "1.09 device hours for the whole sweep and its verdict" in text
    assert "trained anew over 1 seed (1) and scored" in text


def test_without_a_verdict_it_promises_nothing():
    text = card(told(verdict=None))
    assert "None was reached: trial 5 is best on the validation rows by which it was chosen" in text


def test_hostile_text_is_read_as_text():
    text = card(told(HOSTILE)).split("---", 2)[2]
    outside = re.sub(r"(?s)^(`{3,})\w+\n.*?^\1$", "", text, flags=re.MULTILINE)
    assert not re.search(r"(?<!\\)[<>]", outside)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in outside.splitlines() if line.startswith("| ")]
    assert set(widths) <= {4, 6, 7}, "no cell breaks out of its table"
    sections = re.findall(r"^## .*$", text, re.MULTILINE)
    assert len(sections) == 10


def test_a_fence_is_longer_than_any_in_the_text():
    facts = told("x ```` y")
    assert "`````sh\npython -m sweeper x ```` y\n`````" in card(facts)


def test_an_unknown_licence_is_said_to_be():
    facts = told()
    config = {**facts.config, "model": {**facts.config["model"], "name": "/models/mine"}}
    text = card(replace(facts, config=config))
    data = ModelCard(text).data
    assert (data.license, data.base_model) == ("unknown", None)
    assert "Neither is known here: look both up" in text


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"rows": None}, r"would lack: data \(rows/ is damaged or missing\)"),
        ({"audit": None}, r"would lack: the audit's findings"),
        ({"noted": False}, r"would lack: how to reproduce it"),
        ({"rows": None, "audit": None}, r"data .*; the audit's findings"),
        ({"best": None}, "has no finished trial that meets its constraints"),
    ],
)
def test_a_missing_section_is_an_error(changes, missing):
    with pytest.raises(CardError, match=missing):
        card(told(**changes))


def test_missing_numbers_are_an_error():
    facts = told()
    with pytest.raises(CardError, match="the trial has no metrics"):
        card(replace(facts, best=replace(facts.best, metrics={})))
    idle = tuple(replace(record, seconds=0.0) for record in facts.trials)
    with pytest.raises(CardError, match="no trial has noted any"):
        card(replace(facts, base=None, trials=idle))
