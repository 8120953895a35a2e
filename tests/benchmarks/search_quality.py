"""How good a search is, for the same device time: make bench-search

Sweeps are played on recorded curves of real trials: a proposed trial is the recorded one with the nearest
settings. Every method gets the device time of so many whole trials, begins with the default settings as every
sweep does, and is scored by the best value among its finished trials. Seed by seed it is compared with random
search.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median, stdev

import optuna
from scipy.stats import t

from sweeper.compose import compose, read_config
from sweeper.config import Config
from sweeper.engines.replay import Curve, nearest, read_curves
from sweeper.space import Space
from sweeper.study.pruners import EXAMPLES, make_pruner
from sweeper.study.samplers import make_sampler

CURVES = Path(__file__).parents[1] / "data" / "curves_small.jsonl"
RECORDED = (
    "+experiment=classify",
    "engine=replay",
    "trial.learning_rate=2e-3",
    "space.learning_rate.low=2e-4",
    "space.learning_rate.high=0.1",
    "space.batch_size.choices=[4,8,16,32]",
)
"""The space that the curves were recorded from."""

RANDOM = "random, no pruning"
METHODS = {
    RANDOM: ("random", "none"),
    "tpe, median (the default)": ("tpe", "median"),
    "tpe, no pruning": ("tpe", "none"),
    "random, median": ("random", "median"),
    "random, successive halving": ("random", "successive_halving"),
    "random, hyperband": ("random", "hyperband"),
    "quasi-random, no pruning": ("quasi_random", "none"),
    "gp, median": ("gp", "median"),
    "gp, no pruning": ("gp", "none"),
}


@dataclass(frozen=True)
class Found:
    """What one sweep found."""

    best: float
    trials: int
    """Begun in the time."""


def play(method: str, curves: Sequence[Curve], whole_trials: float, seed: int) -> Found:
    """One sweep by `method`, with the device time of so many whole trials on average."""
    config, space = configured(method)
    marks = [mark for mark, _ in curves[0].reports[1:]]
    pruner = make_pruner(config.pruner, marks[0], marks[-1])
    # Hyperband deals out its brackets by the study's name.
    study = optuna.create_study(study_name=f"{method}, seed {seed}", direction="maximize", pruner=pruner)
    study.enqueue_trial(dict(space.defaults))
    left = whole_trials * mean(curve.seconds for curve in curves)
    best, number = 0.0, 0
    while left > 0:
        study.sampler = make_sampler(config.sampler, space, seed, number)
        trial = study.ask()
        curve = nearest(curves, space.suggest(trial))
        trial.set_user_attr(EXAMPLES, curve.examples)
        number += 1
        for before, (mark, value) in zip([0, *marks], curve.reports[1:], strict=False):
            left -= curve.seconds * (mark - before) / curve.examples
            if left <= 0:
                break
            trial.report(value, mark)
            if trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            value = max(value for _, value in curve.reports[1:])
            study.tell(trial, value)
            best = max(best, value)
    return Found(best, number)


def configured(method: str) -> tuple[Config, Space]:
    """The configuration of a method."""
    if method not in _CONFIGURED:
        sampler, pruner = METHODS[method]
        _CONFIGURED[method] = read_config(compose([*RECORDED, f"sampler={sampler}", f"pruner={pruner}"]))
    return _CONFIGURED[method]


_CONFIGURED: dict[str, tuple[Config, Space]] = {}


def timed_alike(curves: Sequence[Curve]) -> list[Curve]:
    """The curves with the median time of their batch size: each alone tells what else the machine did."""
    by_size: dict[int, list[float]] = {}
    for curve in curves:
        by_size.setdefault(curve.settings["batch_size"], []).append(curve.seconds)
    return [replace(curve, seconds=median(by_size[curve.settings["batch_size"]])) for curve in curves]


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Mean, and half the width of Student's interval around it."""
    half = float(t.ppf((1 + level) / 2, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return mean(values), half


def main(words: Sequence[str]) -> None:
    """Print a table for every budget."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--whole-trials", type=float, nargs="+", default=[8, 16, 32])
    parser.add_argument(
        "--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD"
    )
    parser.add_argument("--curves", type=Path, default=CURVES)
    given = parser.parse_args(words)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    curves = timed_alike(read_curves(given.curves))
    tops = sorted((max(value for _, value in curve.reports[1:]) for curve in curves), reverse=True)
    print(f"{len(curves)} recorded curves; the best reach {', '.join(f'{top:.3f}' for top in tops[:5])}")
    print(f"one measurement is off by {mean(curve.error for curve in curves):.3f} (standard error)")
    for whole_trials in given.whole_trials:
        print(f"\nthe device time of {whole_trials:g} whole trials, {given.seeds} seeds")
        print(f"{'method':28} {'trials':>7} {'best found':>18} {'above random':>20}")
        at_random = [play(RANDOM, curves, whole_trials, seed) for seed in range(given.seeds)]
        for method in given.methods:
            began = time.process_time()
            found = [play(method, curves, whole_trials, seed) for seed in range(given.seeds)]
            best, margin = interval([one.best for one in found])
            gains = [one.best - other.best for one, other in zip(found, at_random, strict=True)]
            gain = "" if method == RANDOM else "{:+.4f} ± {:.4f}".format(*interval(gains))
            print(
                f"{method:28} {mean(one.trials for one in found):7.1f} {best:9.4f} ± {margin:.4f} {gain:>20}"
                f"   {time.process_time() - began:.0f} s of the processor",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
