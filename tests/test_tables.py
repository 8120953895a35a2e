"""Trials, verdicts and numbers as a person reads them."""

import math
import re
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from sweeper.compose import compose, read_config
from sweeper.config import ConstraintConfig, Goals, ObjectiveConfig
from sweeper.messages import BASE, TrialState
from sweeper.study.objectives import best_of
from sweeper.terminal.screen import Screen
from sweeper.terminal.tables import (
    conclusions,
    minutes,
    number,
    trial_table,
    value,
    verdict_table,
)
from sweeper.verdict import CandidateFacts, SideFacts, VerdictFacts
from tests.sweeps import open_coordinator


@pytest.fixture
def sweep(tmp_path):
    """SweepInfo, and a record to make others from."""
    coordinator, study, _ = open_coordinator(tmp_path)
    info = replace(coordinator._sweep, verdict_runs=6)
    record = replace(
        study.record(BASE), number=0, state=TrialState.FINISHED, objective=0.2, error=0.02, seconds=30.0
    )
    return info, record


def other(record, number):
    """The record of another trial, with settings of its own."""
    return replace(
        record, number=number, settings=replace(record.settings, learning_rate=0.01 * (number + 1))
    )


def said(lines: list[str]) -> str:
    return "\n".join(lines)


def test_best_is_compared_with_defaults_and_base(sweep):
    info, record = sweep
    base = replace(record, number=BASE, objective=0.15)
    best = replace(other(record, 3), objective=0.3)
    told = said(conclusions(info, [base, record, best], best))
    assert "Best: trial 3 with rougeL 0.300 ± 0.020." in told
    assert "better by 0.100 than the default settings (0.200 ± 0.020)" in told
    assert "better by 0.150 than the untouched base model (0.150 ± 0.020)" in told
    assert "one standard error" not in told


def test_a_smaller_loss_is_better_and_a_worse_winner_is_said(sweep):
    info, record = sweep
    info = replace(info, objective=replace(info.objective, metric="loss", direction="minimize"))
    base = replace(record, number=BASE, objective=0.1)
    best = replace(other(record, 3), objective=0.15)
    told = said(conclusions(info, [base, record, best], best))
    assert "better by 0.050 than the default settings" in told
    assert "worse by 0.050 than the untouched base model" in told


def test_the_default_settings_are_never_better_than_themselves_and_equals_are_called_so(sweep):
    info, record = sweep
    again = replace(record, number=4, objective=0.25)
    told = said(conclusions(info, [record, again], again))
    assert "trained again (0.200 ± 0.020 in trial 0): no finished trial is better" in told
    assert "than the default settings" not in told
    base = replace(record, number=BASE, objective=0.3004)
    best = replace(other(record, 3), objective=0.3)
    assert "as good, to three digits, as the untouched base model" in said(
        conclusions(info, [base, best], best)
    )


def test_trials_with_the_settings_of_an_earlier_one_and_bounds_are_marked_in_the_table(sweep):
    info, record = sweep
    bounds = (ConstraintConfig("rougeL", at_least=0.1), ConstraintConfig("loss", at_most=2.5))
    trials = [replace(record, metrics={"loss": 2.125}), other(record, 1), replace(record, number=2)]
    console = Console(file=StringIO(), width=140)
    console.print(trial_table(replace(info, constraints=bounds), trials, trials[0]))
    text = console.file.getvalue()
    assert text.count("as 0") == 1
    assert "2.12" in text
    assert all(bound in text for bound in ("≥ 0.1", "≤ 2.5"))


def test_trials_that_cannot_be_told_from_the_best_are_named(sweep):
    info, record = sweep

    def told(*objectives: float, error: float | None = 0.01, direction="maximize") -> str:
        trials = [replace(record, number=i, objective=v, error=error) for i, v in enumerate(objectives)]
        goal = replace(info.objective, direction=direction)
        best = best_of(trials, Goals(goal))
        return said(conclusions(replace(info, objective=goal), trials, best))

    many = told(0.1, 0.325, 0.319, 0.321, 0.316, 0.314)
    assert "Trials 3, 2 and 4 lie within one standard error of the best: their order may well be" in many
    assert "Trial 0 lies within one standard error of the best" in told(
        0.31, 0.301, 0.33, direction="minimize"
    )
    assert "one standard error" not in told(0.1, 0.3, 0.2)
    assert "one standard error" not in told(0.3, 0.3, error=None), "there is none to compare with"
    crowd = told(*(0.3 + 0.0001 * i for i in range(12)))
    assert "Trials 10, 9, 8, 7, 6, 5, 4, 3, 2, 1 and 0 lie" not in crowd
    assert "Trials 10, 9, 8, 7, 6, 5, 4, 3 and 3 others lie within" in crowd


def test_the_best_settings_can_be_copied_into_a_command(sweep):
    info, record = sweep
    settings = replace(
        record.settings, learning_rate=0.0018728812345, lora=replace(record.settings.lora, rank=4)
    )
    best = replace(record, number=2, settings=settings, params={"learning_rate": 0.0018728812345})
    (line,) = [line for line in conclusions(info, [record, best], best) if "Settings" in line]
    _, *settings_told = line.split()
    assert settings_told[0] == "trial.learning_rate=0.0018728812345"
    assert "trial.lora.rank=4" in settings_told
    config, _ = read_config(compose(["+experiment=summarize", *settings_told]))
    assert config.trial == settings


def test_defaults_may_win_and_nothing_may_finish(sweep):
    info, record = sweep
    assert "no finished trial is better" in said(conclusions(info, [record], record))
    assert conclusions(info, [record], None) == ["No trial has finished, so there is no best one."]


def test_constraints_and_several_objectives_are_told(sweep):
    info, record = sweep
    info = replace(
        info,
        also=(ObjectiveConfig("seconds", "minimize"), ObjectiveConfig("chrf", "maximize")),
        constraints=(ConstraintConfig("exact_match", at_least=0.3),),
    )

    def trial(number, objective, exact, seconds):
        metrics = {"rougeL": objective, "chrf": 0.4, "exact_match": exact}
        return replace(other(record, number), objective=objective, metrics=metrics, seconds=seconds)

    trials = [trial(0, 0.4, 0.2, 9.0), trial(1, 0.3, 0.35, 90.0), trial(2, 0.29, 0.35, 5.0)]
    told = said(conclusions(info, trials, trials[2]))
    assert "Best: trial 2 with rougeL 0.290 ± 0.020, seconds 5, chrf 0.4." in told
    rule = "Among those within one standard error of its best rougeL, seconds decides, then chrf."
    assert f"Pareto front: 1, 2. {rule}" in told
    assert "It meets exact_match ≥ 0.3, as 2 of 3 finished trials do; no other can be best." in told
    assert "worse by 0.110 than the default settings (0.400 ± 0.020), which violate a constraint" in told
    assert "Trial 0 came nearest: exact_match 0.200 misses ≥ 0.3 by 0.100." in said(
        conclusions(info, trials[:1], None)
    )
    out = StringIO()
    Console(file=out, width=120).print(trial_table(info, trials, trials[2]))
    rows = {row.split()[0]: row for row in out.getvalue().splitlines() if "finished" in row}
    assert "≥ 0.3" in out.getvalue()
    assert rows["0"].rstrip().endswith("violates, defaults")
    assert rows["1"].rstrip().endswith("front")
    assert rows["2"].rstrip().endswith("best, front")
    out = StringIO()
    screen = Screen(Console(file=out, width=100))
    screen.opened(info, [])
    screen.ended(trials[0])
    assert "Objectives: maximize rougeL, minimize seconds, maximize chrf" in out.getvalue()
    assert "The best trial has to meet exact_match ≥ 0.3" in out.getvalue()
    assert "  exact_match 0.200 misses ≥ 0.3 by 0.100" in out.getvalue()


def test_hostile_text_is_shown_and_not_obeyed(sweep):
    out = StringIO()
    screen = Screen(Console(file=out, width=80))
    screen.say("[red]no markup[/red]")
    assert "[red]no markup[/red]" in out.getvalue()


def test_the_table_fits_eighty_columns_and_marks_the_best(sweep):
    info, record = sweep
    best = replace(record, number=12, objective=0.3, params={"learning_rate": 0.00123, "lora.rank": 16})
    out = StringIO()
    Console(file=out, width=80).print(trial_table(info, [record, best], best))
    rows = out.getvalue().splitlines()
    assert max(len(row.rstrip()) for row in rows) <= 80
    assert [row.split()[0] for row in rows if "finished" in row] == ["12", "0"], "best first"
    assert "0.00123" in out.getvalue()
    assert "0.300 ± 0.020" in out.getvalue()


def test_the_sides_of_a_verdict_fit_eighty_columns():
    side = {"scores": (0.2, 0.21, 0.19), "seconds": 60.0, "validation": 0.2}
    gain = {"outcome": "gain", "gain": 0.05, "low": 0.03, "high": 0.07, "p": 0.001, "optimism": -0.01}
    none = gain | {"gain": math.nan, "low": -math.inf, "high": math.inf, "optimism": None}
    facts = VerdictFacts(
        sentence="Trial 5 beats the default settings.",
        outcome="gain",
        level=0.95,
        rows=96,
        default=SideFacts(name="the default settings", **side),
        candidates=(
            CandidateFacts(name="trial 5", trial=5, **side, **gain),
            CandidateFacts(name="trial 7", trial=7, **side | {"scores": ()}, failed=3, **none),
        ),
        base=0.15,
    )
    out = StringIO()
    Console(file=out, width=80).print(verdict_table(facts, "rougeL"))
    told = out.getvalue()
    assert max(len(line.rstrip()) for line in told.splitlines()) <= 80
    cells = [re.split(r" {2,}", line.strip()) for line in told.splitlines()]
    assert ["default settings", "0.200 0.210 0.190", "0.200", "0.200", "60"] in cells
    assert ["trial 5", "0.200 0.210 0.190", "0.200", "0.200", "+0.050", "60"] in cells
    assert ["-0.010", "0.030 to 0.070"] in cells, "below: validation's optimism, and the interval"
    assert ["trial 7", "3 failed", "-", "0.200", "-", "60"] in cells
    assert ["base model", "0.150"] in cells


def test_numbers_and_times():
    assert number(None, None) == "-"
    assert number(0.5, None) == "0.500"
    assert number(0.5, float("nan")) == "0.500"
    assert (minutes(89), minutes(150)) == ("89 s", "2 min")
    assert [value(one) for one in (2e-4, 0.0, 16384.0, 8, "linear", None)] == [
        "0.0002", "0", "16,384", "8", "linear", ""
    ]  # fmt: skip
