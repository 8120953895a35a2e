"""What a report reads: from a sweep in any state, with anything missing or damaged."""

import json
from dataclasses import replace

import pytest

from sweeper import provenance
from sweeper.data.audit import write_audit
from sweeper.data.manifest import write as write_manifest
from sweeper.engines.replay import ReplayEngine
from sweeper.errors import StudyError
from sweeper.layout import Layout, write_atomically
from sweeper.messages import BASE, TrialState
from sweeper.report.facts import read_facts
from sweeper.storage import lock
from sweeper.stored import as_yaml, public
from sweeper.study.objectives import front
from tests.sweeps import configure, open_coordinator
from tests.telling import told, verdict


def sweep(folder, *overrides, trials=6):
    """A replayed sweep on disk; gives its layout and its study."""
    settings = (f"budget.trials={trials}", *overrides)
    config, _ = configure(folder, *settings)
    layout = Layout(folder, config.sweep.name)
    coordinator, study, _ = open_coordinator(folder, *settings)
    write_atomically(layout.config, as_yaml(public(config)))
    ReplayEngine(config, sleep=lambda seconds: None).run(coordinator)
    coordinator.close()
    return layout, study


def test_a_finished_sweep_is_read_whole(tmp_path):
    layout, study = sweep(tmp_path, "space.learning_rate.high=0.2", trials=8)
    provenance.write(layout, "python -m sweeper +experiment=summarize")
    facts = read_facts(layout, verdict())
    assert (facts.name, facts.state, facts.budget) == ("summarize", "complete", 8)
    assert [record.number for record in facts.trials] == list(range(8))
    assert facts.base == study.record(BASE)
    assert facts.best == study.best()
    assert facts.default == study.record(0)
    assert sum(facts.counts.values()) == 8
    assert facts.seed == study.seed(facts.best.number)
    assert facts.provenance.command == "python -m sweeper +experiment=summarize"
    assert facts.noted
    assert facts.verdict == verdict()
    assert facts.faults == ()
    ranked = [record.objective for record in facts.ranked()]
    assert ranked == sorted(ranked, reverse=True)
    curve = facts.curves[0]
    assert curve.examples[-1] == 96
    assert curve.loss[0] > curve.loss[-1]


def test_a_sweep_is_running_stopped_or_complete(tmp_path):
    layout, _ = sweep(tmp_path, trials=3)
    assert read_facts(layout).state == "complete"
    with lock.hold(layout):
        assert read_facts(layout).state == "running"
        assert read_facts(layout, running=False).state == "complete", "as its own coordinator says"
    more, _ = configure(tmp_path, "budget.trials=9")
    write_atomically(layout.config, as_yaml(public(more)))
    assert read_facts(layout).state == "stopped"


def test_a_grid_that_is_used_up_is_complete(tmp_path):
    grid = ("sampler=grid", "space=empty", "+space.batch_size={choices: [4, 8]}", "pruner=none")
    layout, _ = sweep(tmp_path, *grid, trials=6)
    assert (read_facts(layout).state, len(read_facts(layout).trials)) == ("complete", 2)


def test_a_sweep_that_has_only_begun_is_read(tmp_path):
    config, _ = configure(tmp_path)
    layout = Layout(tmp_path, config.sweep.name)
    open_coordinator(tmp_path)
    write_atomically(layout.config, as_yaml(public(config)))
    facts = read_facts(layout)
    assert (facts.trials, facts.best, facts.base, facts.default, facts.curves) == ((), None, None, None, ())
    assert (facts.rows, facts.audit, facts.noted) == (None, None, False)
    assert facts.faults == (), "what was never written is no fault"


def test_all_trials_may_have_failed(tmp_path):
    curves = tmp_path / "curves.jsonl"
    curves.write_text(
        json.dumps(
            {"settings": {}, "examples": 96, "seconds": 1.0, "error": 0.0, "reports": [[0, float("nan")]]}
        )
    )
    layout, _ = sweep(tmp_path, f"engine.curves={curves}", "budget.failures_in_row=2", trials=4)
    facts = read_facts(layout)
    assert facts.best is None
    assert {record.state for record in facts.trials} == {TrialState.FAILED}
    assert "the loss became NaN" in facts.trials[0].reason


def test_rows_and_audit_are_read_where_they_are(tmp_path):
    layout, _ = sweep(tmp_path, trials=1)
    plan = told()
    layout.rows.mkdir()
    write_manifest(plan.rows, layout.rows)
    write_audit(plan.audit, layout.audit)
    layout.audit_page.write_text("page")
    facts = read_facts(layout)
    assert (facts.rows, facts.audit, facts.has_audit_page) == (plan.rows, plan.audit, True)


def test_damaged_files_are_named_and_read_as_missing(tmp_path):
    layout, _ = sweep(tmp_path, trials=1)
    layout.rows.mkdir()
    (layout.rows / "manifest.json").write_bytes(b'{"key": "\xff"')
    layout.audit.write_text("{")
    layout.provenance.write_text("[]")
    with layout.metrics(0).open("a") as file:
        file.write('{"trial": 0, "metr')
    facts = read_facts(layout)
    assert (facts.rows, facts.audit, facts.noted) == (None, None, False)
    damaged, unread = facts.faults
    assert "rows/ is damaged" in damaged
    assert "audit.json can't be read; `python -m sweeper audit ...` writes it anew" in unread
    assert facts.curves[0].trial == 0


def test_further_objectives_and_constraints_of_a_stored_configuration(tmp_path):
    also = "task.also=[{metric: loss, direction: minimize}]"
    layout, study = sweep(tmp_path, also, "task.constraints=[{metric: loss, at_most: 2.1}]", trials=4)
    facts = read_facts(layout)
    assert facts.goals == study.goals
    assert facts.front == tuple(record.number for record in front(facts.trials, study.goals))
    strict = replace(facts.goals.constraints[0], at_most=0.1)
    (told,) = replace(facts, goals=replace(facts.goals, constraints=(strict,))).violations(facts.trials[0])
    assert "misses ≤ 0.1" in told


def test_a_retraining_has_no_default_settings():
    facts = told()
    again = replace(facts.best, number=0, retrains=5)
    retrained = replace(facts, trials=(again,), best=again)
    assert (facts.retrains, retrained.retrains, retrained.default) == (None, 5, None)


def test_there_must_be_such_a_sweep(tmp_path):
    with pytest.raises(StudyError, match=r"no sweep `nowhere` in .*; known sweeps: none yet"):
        read_facts(Layout(tmp_path, "nowhere"))


def test_a_metric_is_found_wherever_it_is():
    facts = told()
    record = replace(facts.trials[0], cost={"peak_memory_bytes": 7.0})
    assert facts.value(record, "rougeL") == record.objective
    assert facts.value(record, "loss") == record.metrics["loss"]
    assert facts.value(record, "seconds") == record.seconds
    assert facts.value(record, "peak_memory_bytes") == 7.0
    assert facts.value(record, "bleu") is None
    assert facts.value(replace(record, metrics={"loss": float("nan")}), "loss") is None


def test_settings_are_asked_for_by_name():
    facts = told()
    assert facts.setting("sampler.name") == "tpe"
    assert facts.setting("sampler.name.deeper") is None
    assert facts.setting("not.there") is None
