"""What pruning saves and what it costs, on recorded full curves: python -m tests.benchmarks.pruning

Sweeps of eight trials are drawn from the recorded ones in random order, without replacement, and played
against a pruner. Every curve was trained to its end, so the truth is known: the seconds that pruning
saved, and the regret: how much worse the best finished trial is than the best of the eight.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import optuna

from sweeper.config import PrunerConfig
from sweeper.engines.replay import Curve, read_curves
from sweeper.study.pruners import EXAMPLES, make_pruner

CURVES = Path(__file__).parents[1] / "data" / "curves.jsonl"
PRUNERS = (
    PrunerConfig("none"),
    PrunerConfig("median", min_peers=3),
    PrunerConfig("percentile", percentile=75.0, min_peers=3),
    PrunerConfig("successive_halving", reduction_factor=2),
    PrunerConfig("hyperband", reduction_factor=3),
)


@dataclass(frozen=True)
class Played:
    """One sweep: seconds spent, seconds without pruning, trials pruned, and what was lost."""

    seconds: float
    full_seconds: float
    pruned: int
    regret: float

    @property
    def saved(self) -> float:
        """Share of the time that pruning saved."""
        return 1 - self.seconds / self.full_seconds


def play(curves: Sequence[Curve], pruner: optuna.pruners.BasePruner) -> Played:
    """Train `curves` one after another under `pruner`; larger objectives are better."""
    study = optuna.create_study(direction="maximize", pruner=pruner)
    seconds, pruned, found = 0.0, 0, []
    for curve in curves:
        trial = study.ask()
        trial.set_user_attr(EXAMPLES, curve.examples)
        for mark, value in curve.reports[1:]:
            trial.report(value, mark)
            if trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                seconds += curve.seconds * mark / curve.examples
                pruned += 1
                break
        else:
            best = max(value for _, value in curve.reports[1:])
            study.tell(trial, best)
            found.append(best)
            seconds += curve.seconds
    truth = max(value for curve in curves for _, value in curve.reports[1:])
    return Played(seconds, sum(c.seconds for c in curves), pruned, truth - max(found))


def sweeps(
    curves: Sequence[Curve], pruner: optuna.pruners.BasePruner, count: int, trials: int = 8
) -> list[Played]:
    """`count` sweeps of `trials` curves each, drawn with seeds 0, 1, 2, ..."""
    return [play(random.Random(seed).sample(list(curves), trials), pruner) for seed in range(count)]


def pruners(curves: Sequence[Curve]) -> dict[str, optuna.pruners.BasePruner]:
    """Ours by name, with the marks of the curves, and Optuna's own median beside them."""
    first, longest = curves[0].reports[1][0], max(curve.examples for curve in curves)
    ours = {config.name: make_pruner(config, first, longest) for config in PRUNERS}
    return ours | {"Optuna's median": optuna.pruners.MedianPruner()}


def main() -> None:
    """Print a table over 200 sweeps for each pruner."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    curves = read_curves(CURVES)
    error = mean(curve.error for curve in curves)
    print(f"{len(curves)} recorded curves, one measurement is off by {error:.3f} (standard error)")
    print(f"{'pruner':20} {'pruned of 8':>12} {'time saved':>12} {'mean regret':>12} {'best kept':>10}")
    for name, pruner in pruners(curves).items():
        played = sweeps(curves, pruner, 200)
        regrets = [p.regret for p in played]
        print(
            f"{name:20} {mean(p.pruned for p in played):12.1f} {mean(p.saved for p in played):12.1%} "
            f"{mean(regrets):7.4f} ±{stdev(regrets) / len(regrets) ** 0.5:.4f} "
            f"{mean(r == 0 for r in regrets):9.1%}"
        )


if __name__ == "__main__":
    main()
