"""The verdict at the end of a sweep, over the replay engine: what came out, resumed, changed, refused."""

import contextlib
import math
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from sweeper import verdict
from sweeper.__main__ import main
from sweeper.compose import compose, read_config
from sweeper.config import ConstraintConfig
from sweeper.layout import Layout
from sweeper.messages import BASE, TrialState
from sweeper.report import read_facts
from sweeper.stored import stored
from sweeper.study.study import Study
from sweeper.verdict import VerdictFacts
from tests.processes import read_until
from tests.sweeps import JUDGED

LAYOUT = Layout(Path("sweeps"), "summarize")
URL = LAYOUT.study_url
NO_DIFFERENCE = ("space=empty", "+space.lora.dropout={low: 0.0, high: 0.2, step: 0.05}")
"""Synthetic curves don't know of dropout."""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def sweep(*overrides: str, trials: int = 3) -> VerdictFacts | None:
    """Run a sweep; what is read of its verdict afterwards."""
    assert main([*JUDGED, f"budget.trials={trials}", *overrides]) == 0
    return verdict.read(LAYOUT)


def judged(*overrides: str):
    return read_config(compose([*JUDGED, *overrides]))


def runs():
    """The verdict's runs, the base model left out."""
    records = Study.read(URL, LAYOUT.verdict.name, LAYOUT.verdict.folder).records()
    return [record for record in records if record.number != BASE]


def made():
    return [(run.retrains, run.repeat) for run in runs()]


@pytest.fixture(scope="module")
def gained(tmp_path_factory):
    """A folder with a sweep and its verdict, a gain, in it."""
    folder = tmp_path_factory.mktemp("gained")
    with contextlib.chdir(folder):
        sweep()
    return folder


@pytest.fixture
def facts(gained, monkeypatch):
    monkeypatch.chdir(gained)
    return verdict.read(LAYOUT)


def test_a_planted_gain_is_found(facts):
    (one,) = facts.candidates
    assert facts.outcome == one.outcome == "gain"
    assert facts.sentence.startswith(f"{one.name.capitalize()} beats the default settings by 0.0")
    assert 0 < one.low < one.gain < one.high
    assert one.p < 0.05
    assert one.gain == pytest.approx(sum(one.scores) / 3 - sum(facts.default.scores) / 3)
    assert one.optimism == pytest.approx(one.validation - facts.default.validation - one.gain)
    assert (facts.rows, facts.level, len(facts.default.scores)) == (96, 0.95, 3)
    assert facts.base < min(facts.default.scores)


def test_runs_are_made_side_by_side_with_seeds_that_no_trial_had(facts):
    _, study = stored(LAYOUT)
    best = study.best().number
    assert made() == [(side, repeat) for repeat in (1, 2, 3) for side in (0, best)]
    other = Study.read(URL, LAYOUT.verdict.name, LAYOUT.verdict.folder)
    assert [other.seed(run.number) for run in runs()[::2]] == list(facts.seeds)
    assert [other.seed(run.number) for run in runs()[1::2]] == list(facts.seeds)
    assert not set(facts.seeds) & {study.seed(number) for number in range(3)}
    assert {run.settings for run in runs()} == {study.record(0).settings, study.record(best).settings}


def test_a_finished_one_is_told_again_and_nothing_is_trained_anew(facts, capsys):
    before = runs()
    assert sweep() == facts
    told = capsys.readouterr().out
    assert "Sweep summarize is complete" in told
    assert f"Verdict: {facts.sentence}" in told
    assert "Run 0" not in told
    assert runs() == before
    assert main(["show", "summarize"]) == 0
    assert f"Verdict: {facts.sentence}" in capsys.readouterr().out


def test_it_is_listed_with_its_sweep_and_no_sweep_of_its_own(facts, capsys):
    main(["list"])
    (listed,) = (line for line in capsys.readouterr().out.splitlines() if "summarize" in line)
    assert re.search(r"complete \(replayed\) +3/3 .* gain$", listed.rstrip())
    assert main(["show", "summarise"]) == 2
    assert "known sweeps: summarize\n" in capsys.readouterr().err


def test_an_objective_without_an_error_gives_none(facts):
    config, _ = judged()
    _, study = stored(LAYOUT)
    assert verdict.hindrance(study, config, LAYOUT) == ""
    records = [replace(record, error=None) for record in study.records()]
    study.records = lambda: records
    assert "rougeL has no standard error over rows" in verdict.hindrance(study, config, LAYOUT)


def test_its_device_time_is_that_of_every_run_and_of_the_base_model(facts):
    opened = Study.read(URL, LAYOUT.verdict.name, LAYOUT.verdict.folder)
    config, _ = judged("budget.trials=3")
    kept = opened.records()
    opened.records = lambda: [
        replace(run, cost={"seconds": 7.0}) if run.number == BASE else run for run in kept
    ]
    spent = verdict.judge(stored(LAYOUT)[1], opened, config).seconds
    assert sum(run.seconds for run in runs()) > 0
    assert spent == pytest.approx(7.0 + sum(run.seconds for run in runs()))


def test_finished_runs_without_a_standard_error_are_told_apart_from_failed_ones(facts):
    config, _ = judged("budget.trials=3")
    _, study = stored(LAYOUT)
    opened = Study.read(URL, LAYOUT.verdict.name, LAYOUT.verdict.folder)
    kept = opened.records()
    blind = [
        replace(run, test=replace(run.test, rows=(), error=math.nan)) if run.repeat == 1 else run
        for run in kept
    ]
    opened.records = lambda: blind
    found = verdict.judge(study, opened, config)
    assert (found.default.failed, found.candidates[0].failed) == (1, 1)
    for name in ("the default settings", found.candidates[0].name):
        assert (
            f"; 1 of the runs of {name} finished and count as failed all the same, as rougeL has no standard "
            "error on their test rows" in found.sentence
        )
    assert found.sentence.endswith("rows.")
    assert "count as failed" not in facts.sentence


def test_a_constraint_that_a_finalist_misses_on_the_test_rows_is_told(facts, monkeypatch):
    config, _ = judged("budget.trials=3")
    _, study = stored(LAYOUT)
    opened = Study.read(URL, LAYOUT.verdict.name, LAYOUT.verdict.folder)
    (one,) = facts.candidates
    kept = opened.records()
    bound = ConstraintConfig("loss", at_most=study.record(one.trial).metrics["loss"] + 1)
    monkeypatch.setattr(study, "goals", replace(study.goals, constraints=(bound,)))
    assert verdict.judge(study, opened, config).sentence == facts.sentence
    for metrics, found in (({"loss": 9.0}, "9.000"), ({}, "no value")):
        opened.records = lambda metrics=metrics: [
            replace(run, test=replace(run.test, metrics=metrics)) for run in kept
        ]
        told = f"; on the test rows {one.name} misses {bound} ({found})."
        assert verdict.judge(study, opened, config).sentence == facts.sentence.removesuffix(".") + told


def test_settings_that_make_no_difference_are_a_tie():
    facts = sweep(*NO_DIFFERENCE)
    assert facts.outcome == "tie"
    assert facts.sentence.startswith("No real gain: ")


def test_a_space_that_leads_away_from_the_best_is_called_worse():
    bad = "+space.learning_rate.choices=[2e-3, 1e-5]"
    facts = sweep("space=empty", bad, "trial.learning_rate=2e-3", "sampler=grid", "pruner=none")
    assert facts.outcome == "worse"
    assert facts.sentence.startswith("No gain: ")
    assert facts.sentence.endswith("on the validation rows no trial was better than the default settings.")


def test_one_seed_is_not_enough_and_nothing_is_trained_for_it(capsys):
    assert sweep("budget.seeds=1") is None
    told = capsys.readouterr().out
    assert "No verdict: budget.seeds=1 can't tell luck from a gain; 2 or more can." in told
    assert "the verdict's" not in told, "nor does it count in what is still to come"
    assert Study.names(URL) == ["summarize"]
    assert sweep("budget.seeds=2").outcome == "gain"


def test_runs_that_fail_are_counted():
    facts = sweep(
        "space=empty", "+space.learning_rate={low: 1e-4, high: 0.1, log: true}", "trial.learning_rate=0.06"
    )
    assert facts.outcome == "not enough seeds"
    assert (facts.default.scores, facts.default.failed) == ((), 3)
    assert "finished were 0 runs (3 failed) of the default settings and 3 runs of" in facts.sentence


def test_without_test_rows_there_is_none(capsys):
    assert sweep("data.sizes.test=0") is None
    told = "No verdict: it needs 2 test rows and there are 0; data.sizes.test keeps some apart."
    assert told in capsys.readouterr().out
    assert Study.names(URL) == ["summarize"]


def test_without_a_second_settings_there_is_none(capsys):
    assert sweep("space=empty", "+space.lora.dropout.choices=[0.0]", "sampler=random") is None
    told = "No verdict: no trial with other settings than the default settings has finished."
    assert told in capsys.readouterr().out


def test_equal_settings_count_once_and_the_default_ones_never():
    choices = ("space=empty", "+space.lora.dropout.choices=[0.0, 0.1]", "sampler=random", "pruner=none")
    sweep(*choices, "budget.finalists=3", "budget.seeds=2", trials=8)
    _, study = stored(LAYOUT)
    (one,) = verdict.finalists(study, 3)
    assert one.settings.lora.dropout == 0.1
    alike = [r for r in study.records() if r.number >= 0 and r.settings == one.settings]
    assert len(alike) > 1
    assert one.objective == max(record.objective for record in alike)
    assert {retrains for retrains, _ in made()} == {0, one.number}


def test_it_can_be_left_out_had_later_and_goes_with_its_sweep(capsys):
    assert sweep("verdict=none", trials=2) is None
    assert "erdict" not in capsys.readouterr().out
    assert Study.names(URL) == ["summarize"]
    assert sweep(trials=2) is not None
    told = capsys.readouterr().out
    assert "Run 0: the default settings again, seed 1" in told
    assert "Trial 0:" not in told
    assert main(["delete", "summarize", "--yes"]) == 0
    assert Study.names(URL) == []
    assert not LAYOUT.folder.exists()


def test_more_trials_bring_another_finalist_and_the_defaults_are_not_trained_again():
    first = sweep(trials=2)
    second = sweep(trials=8)
    former, latter = first.candidates[0].trial, second.candidates[0].trial
    assert former != latter
    pairs = [(0, 1), (former, 1), (0, 2), (former, 2), (0, 3), (former, 3)]
    assert made() == pairs + [(latter, repeat) for repeat in (1, 2, 3)]
    assert second.default.scores == first.default.scores
    third = sweep("budget.seeds=4", trials=8)
    assert made()[9:] == [(0, 4), (latter, 4)]
    assert third.default.scores[:3] == second.default.scores


def test_runs_of_a_former_finalist_that_still_wait_are_withdrawn():
    sweep("verdict=none", trials=2)
    _, study = stored(LAYOUT)
    config, _ = judged("budget.trials=2")
    verdict.open_runs(study, config, LAYOUT)
    assert [run.state for run in runs()] == [TrialState.WAITING] * 6
    facts = sweep(trials=8)
    withdrawn = [run for run in runs() if run.repeat == 0]
    assert [(run.number, run.state, run.seconds) for run in withdrawn] == [
        (number, TrialState.FAILED, 0.0) for number in (1, 3, 5)
    ]
    assert len(runs()) == 9
    assert (facts.candidates[0].failed, len(facts.candidates[0].scores)) == (0, 3)


def test_no_look_on_the_way():
    sweep("verdict=none", trials=2)
    _, study = stored(LAYOUT)
    config, _ = judged("budget.trials=2")
    opened, _ = verdict.open_runs(study, config, LAYOUT)
    assert verdict.judge(study, opened, config) is None
    assert verdict.outlook(study, config, LAYOUT) == "No verdict yet: 0 of its 6 runs are over."


def test_bounds_of_time_do_not_count_for_it(capsys):
    sweep("verdict=none", trials=2)
    facts = sweep("budget.minutes=1e-9", trials=8)
    assert "The sweep has stopped: the budget of 1e-09 minutes is used." in capsys.readouterr().out
    assert len(facts.default.scores) == 3


def test_killed_and_interrupted_it_goes_on_where_it_was(forks, capsys):
    command = [*JUDGED, "budget.trials=3", "engine.speedup=100"]
    process = forks.start(command, Path.cwd())
    read_until(process, "Run 2: the default settings again, seed 2")
    read_until(process, "after 48 examples")
    process.kill()
    process.communicate(timeout=30)
    assert main(["show", "summarize"]) == 0
    assert "No verdict yet: 2 of its 6 runs are over." in capsys.readouterr().out
    assert main(["list"]) == 0
    assert re.search(r"summarize +no verdict yet \(replayed\) +3/3", capsys.readouterr().out)
    assert read_facts(LAYOUT).state == "no verdict yet"
    process = forks.start(command, Path.cwd())
    read_until(process, "Run 2 finished")
    read_until(process, "seed 2")
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=30)[0]
    assert process.returncode == 130
    assert "Go on with: python -m sweeper" in told
    facts = sweep()
    assert made() == [(side, repeat) for repeat in (1, 2, 3) for side in (0, facts.candidates[0].trial)]
    assert [run.attempt for run in runs()] == [1, 1, 2, 2, 1, 1]
    assert sum(run.trained for run in runs()) < 6.9 * 96
    main(["delete", "summarize", "--yes"])
    whole = sweep()
    assert [side.scores for side in (facts.default, *facts.candidates)] == [
        side.scores for side in (whole.default, *whole.candidates)
    ]
