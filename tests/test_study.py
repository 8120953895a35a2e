"""The study: proposals, reports and results in the database, and who is refused."""

import math
from dataclasses import replace

import optuna
import pytest

from sweeper.config import SamplerConfig
from sweeper.errors import StudyError
from sweeper.layout import Layout
from sweeper.messages import (
    BASE,
    Confusion,
    Ending,
    Evaluation,
    HeldOutScores,
    Outcome,
    Sample,
    SliceScores,
    TrialState,
)
from sweeper.study.study import Spent, Study
from tests.sweeps import configure, open_study

RANDOM = SamplerConfig("random")


def finished(number: int, objective: float, folder) -> Outcome:
    best = Evaluation(96, objective, 0.02, {"rougeL": objective, "loss": 1.5})
    return Outcome(
        trial=number,
        attempt=1,
        ending=Ending.FINISHED,
        examples=96,
        engine="test",
        best=best,
        adapter=folder / "trials" / "0000" / "best",
        cost={"train_seconds": 4.0},
        warnings=("it overfits",),
        samples=(Sample("r1", "p", "a", "b"),),
    )


def test_a_finished_trial_is_read_back_whole(tmp_path):
    study = open_study(tmp_path)
    folder = tmp_path / "summarize"
    study.propose(8, RANDOM)
    study.set_examples(0, 96)
    study.report(0, 48, 0.25)
    study.report(0, 48, 0.99)
    study.finish(finished(0, 0.3, folder), Spent(96, 10.0, 1))
    record = Study.read(Layout(tmp_path, "summarize").study_url, "summarize", folder).record(0)
    assert record.state is TrialState.FINISHED
    assert (record.objective, record.error, record.best_mark) == (0.3, 0.02, 96)
    assert record.reports == {48: 0.25}
    assert (record.examples, record.trained, record.seconds) == (96, 96, 10.0)
    assert record.adapter == folder / "trials" / "0000" / "best"
    assert record.warnings == ("it overfits",)
    assert record.samples == (Sample("r1", "p", "a", "b"),)
    assert record.settings == configure(tmp_path)[0].trial


def test_slices_errors_and_confusion_are_read_back(tmp_path):
    study = open_study(tmp_path)
    study.propose(8, RANDOM)
    slices = (SliceScores("slice", "numpy", 12, {"rougeL": 0.2, "auroc": math.nan}, {"rougeL": 0.1}),)
    parts = {
        "slices": slices,
        "errors": {"rougeL": 0.02},
        "confusion": Confusion(("a", "b"), ((3, 1), (0, 4))),
    }
    outcome = finished(0, 0.3, tmp_path / "summarize")
    outcome = replace(
        outcome,
        best=replace(outcome.best, **parts, rows=(0.1, 0.5)),
        diverged=True,
        test=HeldOutScores(0.2, 0.1, {"rougeL": 0.2}, (0.1, 0.3), **parts),
    )
    study.finish(outcome, Spent(96, 10.0, 1))
    folder = tmp_path / "summarize"
    record = Study.read(Layout(tmp_path, "summarize").study_url, "summarize", folder).record(0)
    for found in (record, record.test):
        (one,) = found.slices
        assert (one.by, one.value, one.rows, one.errors) == ("slice", "numpy", 12, {"rougeL": 0.1})
        assert one.metrics["rougeL"] == 0.2
        assert math.isnan(one.metrics["auroc"])
        assert (found.errors, found.confusion) == (parts["errors"], parts["confusion"])
    assert (record.rows, record.test.rows, record.diverged) == ((0.1, 0.5), (0.1, 0.3), True)


def test_base_model_is_kept_outside_the_trials(tmp_path):
    study = open_study(tmp_path)
    assert study.records() == []
    best = Evaluation(0, 0.18, 0.017, {"rougeL": 0.18})
    study.finish(Outcome(BASE, 1, Ending.FINISHED, 0, "test", best=best), Spent())
    (base,) = study.records()
    assert (base.number, base.objective) == (BASE, 0.18)
    assert study.best() is None


def test_proposals_stop_at_the_budget(tmp_path):
    study = open_study(tmp_path)
    assert [study.propose(2, RANDOM).number for _ in range(2)] == [0, 1]
    assert study.propose(2, RANDOM) is None
    assert study.propose(3, RANDOM).number == 2


def test_an_incomplete_proposal_is_completed_alike(tmp_path):
    whole = open_study(tmp_path / "whole")
    expected = [whole.propose(8, RANDOM).params for _ in range(2)][1]
    study = open_study(tmp_path)
    study.propose(8, RANDOM)
    # As if killed between making the row and its first parameter.
    beside = optuna.load_study(study_name="summarize", storage=Layout(tmp_path, "summarize").study_url)
    beside._storage.create_new_trial(beside._study_id)
    again = open_study(tmp_path)
    again.propose(8, RANDOM)
    assert again.propose(8, RANDOM).params == expected


def test_cost_adds_up_over_attempts(tmp_path):
    study = open_study(tmp_path)
    study.propose(8, RANDOM)
    study.finish(Outcome(0, 1, Ending.SUSPENDED, 40, "test"), Spent(40, 5.0, 1))
    assert study.record(0).state is TrialState.WAITING
    study.propose(8, RANDOM)
    record = study.finish(finished(0, 0.3, tmp_path / "summarize"), Spent(56, 7.0, 2))
    assert (record.trained, record.seconds, record.attempt) == (96, 12.0, 2)


def test_a_changed_configuration_is_refused_with_the_difference(tmp_path):
    open_study(tmp_path)
    with pytest.raises(
        StudyError, match=r"trial\.learning_rate: 0\.0002 in the study, 0\.0003 now"
    ) as refusal:
        open_study(tmp_path, "trial.learning_rate=3e-4")
    assert "sweep.name=summarize_2" in str(refusal.value)
    assert "delete summarize" in str(refusal.value)
    with pytest.raises(StudyError, match=r"(?s)space\.batch_size.*task\.evaluation\.marks_per_epoch"):
        open_study(tmp_path, "space.batch_size.choices=[8,16]", "task.evaluation.marks_per_epoch=3")


def test_what_may_change_is_not_refused(tmp_path):
    first = open_study(tmp_path)
    changes = ["budget.trials=20", "sampler=random", "pruner=none", "task.evaluation.batch_size=4"]
    assert open_study(tmp_path, *changes).fingerprint == first.fingerprint


def test_an_unknown_study_is_named_with_the_known_ones(tmp_path):
    open_study(tmp_path)
    url = Layout(tmp_path, "").study_url
    with pytest.raises(StudyError, match=r"no sweep `sumarize` in .*; known sweeps: summarize"):
        Study.read(url, "sumarize", tmp_path)
    optuna.create_study(storage=url, study_name="foreign")
    with pytest.raises(StudyError, match=r"`foreign` in .* was not made by sweeper"):
        Study.read(url, "foreign", tmp_path)


def test_delete_forgets_the_study(tmp_path):
    open_study(tmp_path)
    url = Layout(tmp_path, "").study_url
    Study.delete(url, "summarize")
    assert Study.names(url) == []
    assert Study.names(f"sqlite:///{tmp_path / 'none.db'}") == []
    assert not (tmp_path / "none.db").exists()


CONSTRAINED = "task.constraints=[{metric: chrf, at_least: 0.3}, {metric: length_ratio, at_most: 1.5}]"
SEVERAL = "task.also=[{metric: chrf, direction: maximize}, {metric: seconds, direction: minimize}]"


def end(study: Study, objective: float, ending: Ending = Ending.FINISHED, seconds: float = 10.0, **metrics):
    """Propose the next trial and end it with these metrics."""
    number = study.propose(8, RANDOM).number
    best = Evaluation(96, objective, 0.02, {"rougeL": objective, "loss": 1.5} | metrics)
    return study.finish(Outcome(number, 1, ending, 96, "test", best=best), Spent(96, seconds, 1))


def test_a_violator_is_never_best(tmp_path):
    study = open_study(tmp_path, CONSTRAINED)
    end(study, 0.9, chrf=0.29, length_ratio=1.0)
    assert study.best() is None
    end(study, 0.2, chrf=0.35, length_ratio=1.5)
    end(study, 0.8, chrf=0.35, length_ratio=1.6)
    assert study.best().number == 1
    folder = tmp_path / "summarize"
    again = Study.read(Layout(tmp_path, "summarize").study_url, "summarize", folder)
    assert again.best().number == 1
    assert again.goals == study.goals


def test_optuna_is_told_by_how_much_constraints_are_missed(tmp_path):
    study = open_study(tmp_path, CONSTRAINED)
    end(study, 0.9, chrf=0.25, length_ratio=1.0)
    end(study, 0.8, Ending.PRUNED, chrf=math.nan, length_ratio=2.0)
    told = optuna.load_study(study_name="summarize", storage=Layout(tmp_path, "summarize").study_url)
    bounds = ["chrf ≥ 0.3", "length_ratio ≤ 1.5"]
    assert [list(trial.constraints) for trial in told.trials] == [bounds, bounds]
    assert list(told.trials[0].constraints.values()) == pytest.approx([0.05, -0.5])
    assert list(told.trials[1].constraints.values()) == pytest.approx([math.inf, 0.5])


def test_an_end_that_a_crash_cut_short_is_told_again(tmp_path):
    study = open_study(tmp_path, CONSTRAINED)
    number = study.propose(8, RANDOM).number
    best = Evaluation(96, 0.5, 0.02, {"rougeL": 0.5, "chrf": 0.4, "length_ratio": 1.0})
    told = optuna.trial.Trial(study._study, study._frozen(number)._trial_id)
    told.set_constraint("chrf ≥ 0.3", -0.1)
    again = open_study(tmp_path, CONSTRAINED)
    again.propose(8, RANDOM)
    record = again.finish(Outcome(number, 2, Ending.FINISHED, 96, "test", best=best), Spent(96, 5.0, 2))
    assert (record.state, again.best()) == (TrialState.FINISHED, record)


def test_several_objectives_are_told_in_their_order(tmp_path):
    study = open_study(tmp_path, SEVERAL)
    end(study, 0.3, chrf=0.4, seconds=20.0)
    end(study, 0.29, chrf=0.4, seconds=5.0)
    url = Layout(tmp_path, "summarize").study_url
    told = optuna.load_study(study_name="summarize", storage=url)
    assert [direction.name for direction in told.directions] == ["MAXIMIZE", "MAXIMIZE", "MINIMIZE"]
    assert [trial.values for trial in told.trials] == [[0.3, 0.4, 20.0], [0.29, 0.4, 5.0]]
    assert study.best().number == 1, "within the standard error, and cheaper"
    assert Study.read(url, "summarize", tmp_path / "summarize").best().number == 1


def test_a_trial_without_a_value_in_an_objective_has_failed(tmp_path):
    study = open_study(tmp_path, SEVERAL)
    for missing in ({}, {"chrf": math.nan}):
        record = end(study, 0.3, **missing)
        assert (record.state, record.reason) == (TrialState.FAILED, "the objective `chrf` has no value")
    assert study.best() is None


def test_reports_are_stored_with_several_objectives_and_nothing_is_pruned(tmp_path):
    study = open_study(tmp_path, SEVERAL, "pruner=median")
    for value in (0.5, 0.5, 0.5, 0.1):
        number = study.propose(8, RANDOM).number
        study.set_examples(number, 96)
        study.report(number, 48, value)
        assert not study.should_prune(number)
    assert study.record(3).reports == {48: 0.1}
    assert open_study(tmp_path, SEVERAL).record(3).reports == {48: 0.1}


def test_a_study_that_knows_one_objective_alone_is_read(tmp_path):
    study = open_study(tmp_path)
    about = study._study.user_attrs["sweeper"]
    study._study.set_user_attr(
        "sweeper", {key: about[key] for key in about if key not in ("also", "constraints")}
    )
    again = open_study(tmp_path)
    assert (again.goals.also, again.goals.constraints) == ((), ())
    read = Study.read(Layout(tmp_path, "summarize").study_url, "summarize", tmp_path / "summarize")
    assert read.goals == study.goals


def test_enqueued_runs_know_their_settings_before_they_begin_and_can_be_withdrawn(tmp_path):
    study = open_study(tmp_path)
    params = dict(study.space.defaults) | {"lora.rank": 16}
    for repeat in (1, 2):
        study.enqueue(params, 5, repeat)
    waiting = study.records()
    assert [(r.state, r.retrains, r.repeat, r.settings.lora.rank) for r in waiting] == [
        (TrialState.WAITING, 5, 1, 16),
        (TrialState.WAITING, 5, 2, 16),
    ]
    study.withdraw(0)
    withdrawn = study.record(0)
    assert (withdrawn.state, withdrawn.repeat) == (TrialState.FAILED, 0)
    run = study.propose(2, RANDOM)
    assert (run.number, run.settings) == (1, waiting[1].settings)
    assert study.propose(2, RANDOM) is None


def test_runs_of_one_repeat_share_a_seed_that_no_trial_has(tmp_path):
    study = open_study(tmp_path)
    study.propose(8, RANDOM)
    for retrains, repeat in ((0, 1), (5, 1), (0, 2)):
        study.enqueue(study.space.defaults, retrains, repeat)
    seeds = [study.seed(number) for number in range(4)]
    assert seeds[1] == seeds[2]
    assert len({*seeds, study.seed(BASE)}) == 4
