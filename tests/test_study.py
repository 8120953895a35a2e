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
from sweeper.study import Spent, Study, best_of
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
        best=replace(outcome.best, **parts),
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
    optuna.load_study(
        study_name="summarize", storage=Layout(tmp_path, "summarize").study_url
    )._storage.create_new_trial(study._study._study_id)
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


def test_best_is_the_earliest_of_equals_in_the_direction(tmp_path):
    study = open_study(tmp_path)
    base = study.propose(8, RANDOM)
    records = [replace(base, number=i, objective=v) for i, v in enumerate([0.2, 0.4, 0.4, None])]
    up = study.objective
    assert best_of(records, up).number == 1
    assert best_of(records, replace(up, direction="minimize")).number == 0
    assert best_of([], up) is None


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
