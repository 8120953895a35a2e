"""Replayed curves: read, matched to settings, played in time."""

import json
import math
from dataclasses import replace

import pytest

from sweeper.engines.replay import Curve, ReplayEngine, nearest, read_curves, synthetic
from sweeper.errors import DataError
from tests.sweeps import configure, open_coordinator


def write(path, *lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


GOOD = {
    "settings": {"learning_rate": 1e-3, "batch_size": 8},
    "examples": 96,
    "seconds": 40.0,
    "error": 0.02,
    "reports": [[0, 0.1], [48, 0.2], [96, 0.3]],
}


def test_recorded_curves_are_read(tmp_path):
    (curve,) = read_curves(write(tmp_path / "c.jsonl", GOOD))
    assert [curve.at(share) for share in (0, 0.25, 0.5, 1)] == pytest.approx([0.1, 0.15, 0.2, 0.3])


def test_bad_files_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"there is no file .*nowhere\.jsonl"):
        read_curves(tmp_path / "nowhere.jsonl")
    with pytest.raises(DataError, match=r"line 2 of .* is no recorded curve"):
        read_curves(write(tmp_path / "bad.jsonl", GOOD, "{"))
    with pytest.raises(DataError, match=r"line 1 of .*it needs settings, examples"):
        read_curves(write(tmp_path / "short.jsonl", {"settings": {}}))
    with pytest.raises(DataError, match="holds no curve"):
        read_curves(write(tmp_path / "empty.jsonl"))


def test_the_nearest_curve_is_the_closest_by_ratio(tmp_path):
    trial = configure(tmp_path)[0].trial
    curves = [Curve({"learning_rate": rate}, 96, 1.0, 0.0, ((0, 0.0),)) for rate in (1e-5, 1e-4, 1e-3)]
    assert nearest(curves, replace(trial, learning_rate=2e-4)).settings["learning_rate"] == 1e-4
    assert nearest(curves, replace(trial, learning_rate=5e-4)).settings["learning_rate"] == 1e-3


def test_the_synthetic_surface_has_one_best_rate_and_diverges(tmp_path):
    trial = configure(tmp_path)[0].trial

    def final(rate: float, direction: str = "maximize") -> float:
        return synthetic(replace(trial, learning_rate=rate), 1, 96, direction).at(1.0)

    assert final(2e-3) > final(2e-4) > final(2e-6)
    assert final(2e-3, "minimize") < final(2e-4, "minimize")
    assert math.isnan(final(0.1))


def test_recorded_curves_may_have_further_metrics(tmp_path):
    judged = ["task.also=[{metric: chrf, direction: maximize}, {metric: seconds, direction: minimize}]"]
    curves = write(tmp_path / "c.jsonl", GOOD | {"metrics": {"chrf": [[0, 0.0], [96, 0.4]]}}, GOOD)
    overrides = [f"engine.curves={curves}", "budget.trials=1", *judged]
    with pytest.raises(DataError, match=r"line 2 of .* has no `chrf` among its metrics, which the task"):
        ReplayEngine(configure(tmp_path, *overrides)[0])
    write(curves, GOOD | {"metrics": {"chrf": [[0, 0.0], [96, 0.4]]}})
    coordinator, study, _ = open_coordinator(tmp_path, *overrides)
    ReplayEngine(configure(tmp_path, *overrides)[0], sleep=lambda _: None).run(coordinator)
    assert study.record(0).metrics == pytest.approx({"rougeL": 0.3, "chrf": 0.4, "loss": 2.7})


def test_made_up_metrics_are_at_odds_with_the_objective(tmp_path):
    trial = configure(tmp_path)[0].trial

    def final(rate: float, *metric: str) -> float:
        made = synthetic(replace(trial, learning_rate=rate), 1, 96, "maximize", ("exact_match",))
        return made.at(1.0, *metric)

    assert final(2e-3) > final(7e-4)
    assert final(2e-3, "exact_match") < final(7e-4, "exact_match")
    assert final(2e-3) == synthetic(replace(trial, learning_rate=2e-3), 1, 96, "maximize").at(1.0)


def test_time_passes_as_recorded(tmp_path):
    curves = write(tmp_path / "c.jsonl", GOOD)
    overrides = [f"engine.curves={curves}", "engine.speedup=10", "budget.trials=1"]
    coordinator, study, _ = open_coordinator(tmp_path, *overrides)
    slept: list[float] = []
    ReplayEngine(configure(tmp_path, *overrides)[0], sleep=slept.append).run(coordinator)
    assert sum(slept) == pytest.approx(4.0)
    assert study.record(0).reports == {48: 0.2, 96: 0.3}
    assert study.record(0).objective == 0.3
