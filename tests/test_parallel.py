"""Parallel coordinates: where every setting stands, and what its axis says."""

from dataclasses import replace

import pytest

from sweeper.report.drawing import LIGHT
from sweeper.report.parallel import parallel
from tests.telling import told


def test_every_trial_is_a_line_through_all_axes():
    facts = told()
    chart = parallel(facts)
    axes = len(facts.space) + 1
    lines = sum(trace["x"].count(None) for trace in chart.figure["data"])
    assert lines == len(facts.ranked())
    assert chart.figure["layout"]["xaxis"]["ticktext"] == [
        "learning_rate",
        "batch_size",
        "lora.rank",
        "lora.dropout",
        "rougeL",
    ]
    for trace in chart.figure["data"]:
        assert len(trace["x"]) == len(trace["y"]) == len(trace["text"])
        assert len(trace["x"]) % (axes + 1) == 0
        assert all(0 <= place <= 1 for place in trace["y"] if place is not None)
    assert chart.figure["data"][-1]["line"]["color"] == LIGHT["best"], "on top"


def test_a_wide_range_is_drawn_by_its_ratios_and_its_ends_are_named():
    facts = told()
    rates = [1e-5, 1e-4, 1e-3]
    trials = tuple(
        replace(record, params={**record.params, "learning_rate": rate}, objective=0.1 * (i + 1))
        for i, (record, rate) in enumerate(zip(facts.trials, rates, strict=False))
    )
    chart = parallel(replace(facts, trials=trials, best=trials[2]))
    on_first = {note["text"]: note["y"] for note in chart.figure["layout"]["annotations"] if note["x"] == 0}
    assert on_first == pytest.approx({"1e-05": 0.0, "0.0001": 0.5, "0.001": 1.0})


def test_an_inactive_setting_leaves_a_gap():
    facts = told()
    trials = tuple(
        replace(r, params={k: v for k, v in r.params.items() if k != "batch_size" or r.number})
        for r in facts.trials
    )
    chart = parallel(replace(facts, trials=trials))
    default = next(trace for trace in chart.figure["data"] if trace["line"]["color"] == LIGHT["default"])
    assert default["y"][1] is None


def test_one_trial_or_nothing_that_varies_is_no_chart():
    assert parallel(told(trials=1)) is None
    assert parallel(told(space=())) is None
