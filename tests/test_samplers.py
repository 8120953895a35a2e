"""Samplers: the same proposals in one go and after a resume, with conditions, and guided early."""

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial

from sweeper.config import LoraSettings, SamplerConfig, TrialSettings
from sweeper.entry import Scalar
from sweeper.space import Space
from sweeper.study.samplers import derive_seed, grid_order, make_sampler
from tests.sweeps import REPLAY

CONF = Path(__file__).parents[1] / "conf"
SAMPLERS = sorted(path.stem for path in (CONF / "sampler").glob("*.yaml"))
SEED = 7
TRIAL = TrialSettings(
    method="lora", learning_rate=2e-4, batch_size=8, epochs=1, scheduler="linear", warmup=0.05,
    weight_decay=0.0, max_grad_norm=1.0, label_smoothing=0.0, neftune_noise=0.0, patience=0,
    augment_rate=0.0, reweight=0.0,
    lora=LoraSettings(rank=8, alpha=32.0, dropout=0.0, variant="lora", target_modules="all-linear"),
)  # fmt: skip
CONDITIONAL = Space.parse(
    {
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "scheduler": {"choices": ["linear", "cosine"]},
        "weight_decay": {"low": 0.0, "high": 0.1, "when": {"scheduler": "cosine"}},
        "lora": {"rank": {"choices": [4, 8, 16, 32]}, "dropout": {"low": 0.0, "high": 0.2, "step": 0.05}},
    },
    TRIAL,
)
FINITE = Space.parse(
    {
        "scheduler": {"choices": ["linear", "cosine"]},
        "batch_size": {"choices": [4, 8, 16], "when": {"scheduler": "linear"}},
        "epochs": {"low": 1, "high": 3},
    },
    TRIAL,
)


def sampler(name: str) -> SamplerConfig:
    return SamplerConfig(**OmegaConf.to_container(OmegaConf.load(CONF / "sampler" / f"{name}.yaml")))


def objective(params: dict[str, Scalar]) -> float:
    """A smooth surface with its maximum inside the space; parameters it doesn't know add their length."""
    rate = float(params.get("learning_rate", 1e-3))
    rest = sum(len(name) * float(value) for name, value in params.items() if not isinstance(value, str))
    return -((rate - 2e-3) ** 2) * 1e5 - (0.01 * rest - 1) ** 2


def propose(
    storage: str | None,
    space: Space,
    config: SamplerConfig,
    total: int,
    several: bool = False,
    constraint: Callable[[dict[str, Scalar]], float] | None = None,
) -> list[FrozenTrial]:
    """Ask and tell until the study has `total` trials; called again, it goes on.

    `several`: the learning rate is to be small as well. `constraint` is met where it is zero or less.
    """
    directions = ["maximize", "minimize"] if several else ["maximize"]
    study = optuna.create_study(
        storage=storage, study_name="sweep", directions=directions, load_if_exists=True
    )
    points = [space.defaults]
    if config.name == "grid":
        points += grid_order([point for point in space.grid() if point != space.defaults], SEED)
    for number in range(len(study.trials), total):
        if number < len(points):
            study.enqueue_trial(points[number])
        study.sampler = make_sampler(config, space, SEED, number)
        trial = study.ask()
        space.suggest(trial)
        if constraint is not None:
            trial.set_constraint("constraint", constraint(trial.params))
        if several:
            study.tell(trial, [objective(trial.params), float(trial.params.get("learning_rate", 0.0))])
        elif number % 4 == 2:
            trial.report(objective(trial.params), 1)
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, objective(trial.params))
    return study.trials


def is_slow(params: dict[str, Scalar]) -> float:
    """A constraint: the rate is at most 3e-4, far from where the objective is best."""
    return math.log10(float(params.get("learning_rate", 1e-3)) / 3e-4)


JUDGED = {"several": True, "constraint": is_slow}


@pytest.mark.parametrize(
    ("name", "judged"),
    [*((name, {}) for name in SAMPLERS), *((name, JUDGED) for name in ("tpe", "gp", "nsga2"))],
)
def test_four_trials_and_four_more_are_eight(name: str, judged: dict[str, Any], tmp_path: Path) -> None:
    space = FINITE if name == "grid" else CONDITIONAL
    config = sampler(name)
    whole = propose(None, space, config, 8, **judged)
    propose(f"sqlite:///{tmp_path / 'parts.db'}", space, config, 4, **judged)
    parts = propose(f"sqlite:///{tmp_path / 'parts.db'}", space, config, 8, **judged)
    assert [trial.params for trial in parts] == [trial.params for trial in whole]
    assert whole[0].params == space.defaults
    assert len({str(sorted(trial.params.items())) for trial in whole}) > 4


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("told", [1, 7])
def test_a_proposal_that_a_crash_cut_short_is_completed_as_it_began(
    name: str, told: int, tmp_path: Path
) -> None:
    space = FINITE if name == "grid" else CONDITIONAL
    url = f"sqlite:///{tmp_path / 'study.db'}"
    whole = propose(None, space, sampler(name), told + 1)[-1].params
    propose(url, space, sampler(name), told)
    for cut in range(len(whole) + 1):
        study = optuna.load_study(storage=url, study_name="sweep")
        if cut == 0 and name == "grid":
            study.enqueue_trial(whole)
        study.sampler = make_sampler(sampler(name), space, SEED, told)
        trial = study.ask()
        assert trial.number == told
        suggested = {}
        for entry in space.entries[:cut]:
            if entry.is_active(suggested):
                suggested[entry.name] = entry.suggest(trial)
        if cut == len(whole):
            space.suggest(trial)
        else:
            study._storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.WAITING)
    assert study.trials[told].params == whole


@pytest.mark.parametrize("name", SAMPLERS)
def test_conditions_are_kept(name: str) -> None:
    space = FINITE if name == "grid" else CONDITIONAL
    trials = propose(None, space, sampler(name), 9)
    for trial in trials:
        assert ("weight_decay" in trial.params) == (
            space is CONDITIONAL and trial.params["scheduler"] == "cosine"
        )
        space.settings(trial.params)
    assert {trial.params["scheduler"] for trial in trials} == {"linear", "cosine"}


def test_most_of_the_default_sweep_is_guided() -> None:
    small = OmegaConf.to_container(OmegaConf.load(CONF / "space" / "lora_small.yaml"))
    budget = OmegaConf.load(CONF / "budget" / "quick.yaml").trials
    trials = propose(None, Space.parse(small, TRIAL), sampler("tpe"), budget)
    guided = [trial for trial in trials if any(key.startswith("tpe:") for key in trial.system_attrs)]
    assert len(guided) > budget / 2


def test_gp_proposes_from_its_model_after_the_start() -> None:
    space = Space.parse({"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}, TRIAL)
    guided = propose(None, space, SamplerConfig("gp", startup_trials=3), 12)
    assert abs(max(guided, key=lambda trial: trial.value or -1e9).params["learning_rate"] - 2e-3) < 5e-4


@pytest.mark.parametrize(
    ("config", "total"),
    [
        (SamplerConfig("tpe", startup_trials=4), 80),
        (SamplerConfig("gp", startup_trials=4), 8),
        (SamplerConfig("nsga2", population_size=6), 80),
    ],
    ids=["tpe", "gp", "nsga2"],
)
def test_proposals_move_to_where_the_constraint_is_met(config: SamplerConfig, total: int) -> None:
    rate = {"low": 1e-4, "high": 1e-2, "log": True}
    space = Space.parse({"learning_rate": rate, "warmup": {"low": 0.0, "high": 0.2}}, TRIAL)

    def share(constraint: Callable[[dict[str, Scalar]], float] | None) -> float:
        """Of the last half of the trials, those that meet it."""
        last = propose(None, space, config, total, constraint=constraint)[total // 2 :]
        return sum(is_slow(trial.params) <= 0 for trial in last) / len(last)

    assert share(is_slow) > 0.5
    assert share(None) < 0.2


def test_nsga2_breeds_from_the_first_generation() -> None:
    trials = propose(None, CONDITIONAL, SamplerConfig("nsga2", population_size=3), 12)
    assert max(trial.system_attrs.get("NSGAIISampler:generation", 0) for trial in trials) >= 2


def test_quasi_random_points_spread_evenly() -> None:
    space = Space.parse({"warmup": {"low": 0.0, "high": 0.8}}, TRIAL)
    study = optuna.create_study()
    for number in range(8):
        study.sampler = make_sampler(SamplerConfig("quasi_random"), space, SEED, number)
        space.suggest(study.ask())
    assert sorted(int(trial.params["warmup"] * 10) for trial in study.trials) == list(range(8))


def test_a_trial_asked_for_again_gets_the_same_quasi_random_point() -> None:
    first = optuna.create_study(sampler=make_sampler(SamplerConfig("quasi_random"), CONDITIONAL, SEED, 0))
    CONDITIONAL.suggest(first.ask())
    again = optuna.create_study(sampler=make_sampler(SamplerConfig("quasi_random"), CONDITIONAL, SEED, 0))
    CONDITIONAL.suggest(again.ask())
    CONDITIONAL.suggest(again.ask())
    assert first.trials[0].params == again.trials[0].params != again.trials[1].params


@pytest.mark.parametrize("name", SAMPLERS)
def test_another_seed_proposes_something_else(name: str) -> None:
    def second(seed: int) -> dict[str, Scalar]:
        study = optuna.create_study(sampler=make_sampler(sampler(name), CONDITIONAL, seed, 1))
        CONDITIONAL.suggest(study.ask())
        return study.trials[0].params

    assert second(1) == second(1) != second(2)


def test_a_grid_is_shuffled_by_the_seed_and_complete() -> None:
    points = FINITE.grid()
    order = grid_order(points, SEED)
    assert sorted(map(str, order)) == sorted(map(str, points))
    assert order != points
    assert order == grid_order(points, SEED) != grid_order(points, SEED + 1)


def test_seeds_are_the_same_in_every_process() -> None:
    code = "from sweeper.study.samplers import derive_seed; print(derive_seed(7, 3, 'trial'))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(other) == derive_seed(7, 3, "trial") == 445741114
    assert len({derive_seed(seed, number) for seed in range(20) for number in range(20)}) == 400
    assert derive_seed(1, 23) != derive_seed(12, 3)
    assert all(0 <= derive_seed(7, number) < 2**31 for number in range(100))


def test_gp_says_nothing_in_the_middle_of_a_sweep(tmp_path) -> None:
    command = [sys.executable, "-m", "sweeper", *REPLAY, "sampler=gp", "sampler.startup_trials=2"]
    done = subprocess.run(
        [*command, "budget.trials=4"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120
    )
    assert "Trial 3" in done.stdout
    assert done.stderr == ""
