"""What every chart of a report draws, and what it says of it."""

from dataclasses import replace

import pytest

from sweeper.config import Goals, ObjectiveConfig
from sweeper.messages import SliceScores, TrialState
from sweeper.report import figures
from sweeper.report.drawing import LIGHT
from sweeper.report.importance import Importance, Importances
from sweeper.report.parts import parts
from tests.telling import told, verdict


def traces(chart):
    return {trace.get("name"): trace for trace in chart.figure["data"]}


def notes(chart):
    return [note["text"] for note in chart.figure["layout"]["annotations"]]


def test_learning_curves_end_where_trials_were_pruned():
    facts = told()
    chart = figures.learning_curves(facts)
    drawn = traces(chart)
    assert set(drawn) == {"pruned", "finished", "default settings", f"best: trial {facts.best.number}", None}
    assert [x for x in drawn["pruned"]["x"] if x is not None] == [24, 48, 24, 48]
    assert drawn["pruned"]["line"]["dash"] == "dot"
    assert [x for x in drawn["default settings"]["x"] if x is not None] == [24, 48, 96]
    assert notes(chart) == ["defaults", f"best: trial {facts.best.number}", "base model"]
    assert "11 learning curves of rougeL; the dotted ones end early: 2 were pruned." in chart.says


def test_a_trial_that_is_best_and_default_is_drawn_once():
    facts = told()
    chart = figures.learning_curves(replace(facts, best=facts.default))
    assert notes(chart) == ["best: defaults", "base model"]
    assert "default settings" not in traces(chart)


def test_many_trials_are_drawn_as_the_best_of_them():
    facts = told(trials=600)
    chart = figures.learning_curves(facts)
    lines = sum(trace["x"].count(None) for trace in chart.figure["data"])
    assert figures.MOST_CURVES <= lines <= figures.MOST_CURVES + 2
    points = sum(len(trace["x"]) for trace in figures.history(facts).figure["data"] if "error_y" in trace)
    assert points == len(facts.ranked())


def test_what_is_not_finite_leaves_a_gap():
    facts = told()
    record = replace(facts.trials[1], reports={24: float("nan"), 48: 0.2})
    chart = figures.learning_curves(replace(facts, trials=(facts.trials[0], record)))
    assert traces(chart)["finished"]["y"] == [None, 0.2, None]


def test_the_history_steps_up_with_every_better_finished_trial():
    facts = told()
    steps = next(trace for trace in figures.history(facts).figure["data"] if trace["mode"] == "lines")
    values = steps["y"]
    assert values == sorted(values)
    assert values[0] == facts.default.objective
    assert values[-1] == facts.best.objective
    assert steps["x"][-1] == facts.trials[-1].number


def test_the_best_so_far_is_one_that_could_win():
    facts = told()
    strict = replace(facts.goals.constraints[0], at_most=1.0)
    with_constraint = replace(facts, goals=replace(facts.goals, constraints=(strict,)))
    assert "lines" not in {
        t["mode"] for t in figures.history(replace(with_constraint, base=None)).figure["data"]
    }
    first, *rest = facts.trials
    first = replace(first, objective=0.9, metrics={"rougeL": 0.9, "loss": 3.0})
    steps = figures.history(replace(facts, trials=(first, *rest))).figure["data"]
    (line,) = [t for t in steps if t["mode"] == "lines" and t.get("hoverinfo") == "skip"]
    assert 0.9 not in line["y"]


def test_with_several_objectives_it_is_the_best_of_the_first_one():
    facts = told()
    assert "best rougeL so far" in notes(figures.history(facts))
    assert "; the best rougeL so far goes from" in figures.history(facts).says
    alone = replace(facts, goals=replace(facts.goals, also=()))
    assert "best so far" in notes(figures.history(alone))


def test_a_retraining_is_drawn_as_the_best_and_not_as_the_defaults():
    facts = told()
    again = replace(facts.best, number=0, retrains=5)
    assert notes(figures.learning_curves(replace(facts, trials=(again,), best=again))) == [
        "best: trial 0",
        "base model",
    ]
    unfinished = replace(again, state=TrialState.RUNNING)
    assert set(traces(figures.learning_curves(replace(facts, trials=(unfinished,), best=None)))) == {
        "unfinished",
        None,
    }


def test_a_smaller_loss_is_a_better_one():
    facts = told()
    facts = replace(facts, goals=replace(facts.goals, objective=ObjectiveConfig("loss", "minimize")))
    steps = next(trace for trace in figures.history(facts).figure["data"] if trace["mode"] == "lines")
    assert steps["y"] == sorted(steps["y"], reverse=True)


def test_importances_have_their_ranges():
    found = Importances((Importance("rate", 0.7, 0.5, 0.9), Importance("rank", 0.3, 0.1, 0.5)), 20, 0.6)
    chart = figures.importance(found)
    (trace,) = chart.figure["data"]
    assert trace["y"] == ["rank", "rate"]
    assert trace["error_x"]["array"] == pytest.approx([0.2, 0.2])
    assert trace["error_x"]["arrayminus"] == pytest.approx([0.2, 0.2])
    assert chart.says == "rate 70% (50% to 90%); rank 30% (10% to 50%)."
    assert figures.importance(Importances((), 3, 0.0, "too few")) is None


def test_slices_stand_in_the_order_of_the_table():
    facts = told()
    part = parts(facts)[0]
    chart = figures.slices(facts, part)
    assert chart.figure["layout"]["yaxis"]["ticktext"] == [line.value for line in part.lines][::-1]
    assert set(traces(chart)) == {"base model", "default settings", f"best: trial {facts.best.number}"}


def test_slices_whose_names_begin_alike_stay_apart():
    facts = told()
    begins = "the same beginning of two long names: "
    scores = tuple(
        SliceScores("slice", begins + end, rows, {"rougeL": score})
        for end, rows, score in (("one", 9, 0.1), ("two", 8, 0.2))
    )
    facts = replace(facts, base=None, trials=(), best=replace(facts.best, slices=scores))
    (trace,) = figures.slices(facts, parts(facts)[0]).figure["data"]
    assert dict(zip(trace["y"], trace["x"], strict=True)) == {1: 0.1, 0: 0.2}


def test_the_front_stands_out():
    facts = told()
    (chart,) = figures.pareto(facts)
    drawn = traces(chart)
    assert drawn["Pareto front"]["marker"]["color"] == LIGHT["best"]
    assert sorted(filter(None, drawn["Pareto front"]["text"])) == ["0", "1", "2"]
    assert len(drawn["other finished trials"]["x"]) == len(facts.finished) - 3
    assert figures.pareto(replace(facts, goals=replace(facts.goals, also=()))) == []


def test_gains_show_their_intervals_and_leave_out_endless_ones():
    chart = figures.gains(verdict(), "rougeL")
    (trace,) = chart.figure["data"]
    assert trace["y"] == ["trial 7", "trial 5"]
    assert trace["marker"]["color"] == [LIGHT["faint"], LIGHT["best"]]
    endless = [
        replace(one, low=float("-inf"), high=float("inf"), outcome="not enough seeds")
        for one in verdict().candidates
    ]
    assert figures.gains(replace(verdict(), candidates=tuple(endless)), "rougeL") is None


def test_a_sweep_without_results_has_no_charts():
    facts = told(trials=0, base=None, best=None, curves=())
    charts = (figures.learning_curves, figures.training_loss, figures.history)
    assert [chart(facts) for chart in charts] == [None, None, None]


def test_a_base_model_alone_is_no_chart():
    waiting = replace(told().trials[0], state=TrialState.WAITING, reports={}, objective=None)
    facts = replace(told(trials=0, best=None, curves=()), trials=(waiting,))
    assert figures.learning_curves(facts) is None
    assert figures.history(facts) is None


def test_axes_end_at_the_bounds_of_what_they_show():
    facts = told()
    trials = tuple(replace(trial, metrics=trial.metrics | {"exact_match": 0.9}) for trial in facts.trials)
    (near_one,) = [replace(trial, objective=0.99, error=0.3) for trial in trials if trial.number == 1]
    facts = replace(
        facts,
        trials=(trials[0], near_one, *trials[2:]),
        best=near_one,
        goals=Goals(
            facts.objective, (ObjectiveConfig("exact_match", "maximize"), ObjectiveConfig("loss", "minimize"))
        ),
    )
    shares, loss = figures.pareto(facts)
    whole = {"minallowed": 0.0, "maxallowed": 1.0}
    assert shares.figure["layout"]["xaxis"]["autorangeoptions"] == whole
    assert shares.figure["layout"]["yaxis"]["autorangeoptions"] == whole
    assert loss.figure["layout"]["xaxis"]["autorangeoptions"] == {"minallowed": 0.0}
    low, high = figures.history(facts).figure["layout"]["yaxis"]["range"]
    assert 0 <= low < high == 1
