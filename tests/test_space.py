"""The search space: what it accepts, what it refuses and how it says so, what it proposes."""

import json
import re
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from sweeper.config import LoraSettings, TrialSettings
from sweeper.errors import ConfigError
from sweeper.space import MAX_GRID, Space, check

TRIAL = TrialSettings(
    method="lora", learning_rate=2e-4, batch_size=8, epochs=1, scheduler="linear", warmup=0.05,
    weight_decay=0.0, max_grad_norm=1.0, label_smoothing=0.0, neftune_noise=0.0, patience=0,
    augment_rate=0.0, reweight=0.0,
    lora=LoraSettings(rank=8, alpha=32.0, dropout=0.0, variant="lora", target_modules="all-linear"),
)  # fmt: skip
FULL: dict[str, Any] = {
    "lora": {"rank": {"choices": [4, 8, 16]}, "dropout": {"low": 0.0, "high": 0.2, "step": 0.05}},
    "weight_decay": {"low": 0.0, "high": 0.1, "when": {"scheduler": "cosine"}},
    "learning_rate": {"low": 1e-4, "high": 5e-3, "log": True},
    "epochs": {"low": 1, "high": 3},
    "scheduler": {"choices": ["linear", "cosine"]},
}


def space(tree: dict[str, Any], trial: TrialSettings = TRIAL) -> Space:
    return Space.parse(tree, trial)


def drawn(tree: Space, count: int = 20) -> list[tuple[dict[str, Any], TrialSettings]]:
    """Parameters and settings of some random trials."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    settings = [tree.suggest(study.ask()) for _ in range(count)]
    return [(trial.params, each) for trial, each in zip(study.trials, settings, strict=True)]


FAULTS = [
    # names
    ("learning_rat: {low: 1, high: 2}", "space.learning_rat: unknown name; did you mean `learning_rate`?"),
    ("rank: {choices: [8]}", "space.rank: unknown name; did you mean `lora.rank`?"),
    ("lora: {rnk: {choices: [8]}}", "space.lora.rnk: unknown name; did you mean `lora.rank`?"),
    ("lora.rank: {choices: [8]}", "space.lora.rank: write it as a tree: lora: {rank: ...}"),
    ("lora: 8", "space.lora: must be a tree of settings (given: 8)"),
    ("[1]", "space: must be a tree of settings with a distribution at each (given: [1])"),
    # form
    (
        "epochs: 3",
        "must be {low: ..., high: ...} or {choices: [...]} (given: 3); a fixed value belongs to trial.epochs",
    ),
    ("epochs: {low: 1, hihg: 3}", "space.epochs.hihg: unknown name; did you mean `high`?"),
    ("epochs: {}", "space.epochs: needs low and high, or choices"),
    ("epochs: {low: null, high: null}", "space.epochs: needs low and high, or choices"),
    ("epochs: {low: 1}", "space.epochs: needs high"),
    ("epochs: {high: 1}", "space.epochs: needs low"),
    (
        "learning_rate: {choices: [2e-4], low: 1e-4, high: 0.001, log: true}",
        "write `low: null, high: null, log: null` to keep the choices, or `choices: null` to keep the range",
    ),
    # ranges
    ("epochs: {low: 3, high: 1}", "space.epochs: low must not be above high (given: low 3, high 1)"),
    ("epochs: {low: 0.5, high: 3}", "space.epochs.low: must be a valid integer (given: 0.5)"),
    ("epochs: {low: 1, high: true}", "space.epochs.high: must be a valid integer (given: True)"),
    ("epochs: {low: 0, high: 3}", "space.epochs.low: must be greater than or equal to 1 (given: 0)"),
    ("warmup: {low: 'no', high: 0.1}", "space.warmup.low: must be a valid number (given: 'no')"),
    ("warmup: {low: 0.0, high: 1.0}", "space.warmup.high: must be less than 1 (given: 1.0)"),
    ("weight_decay: {low: 0.0, high: .inf}", "space.weight_decay.high: must be a finite number (given: inf)"),
    ("learning_rate: {low: -1.0, high: 1.0, log: true}", "space.learning_rate.low: must be greater than 0"),
    (
        "weight_decay: {low: 0.0, high: 0.1, log: true}",
        "space.weight_decay: a log scale needs low above 0 (given: 0.0)",
    ),
    (
        "weight_decay: {low: 0.1, high: 0.2, log: 1}",
        "space.weight_decay.log: must be true or false (given: 1)",
    ),
    ("epochs: {low: 1, high: 3, log: true, step: 1}", "space.epochs: log and step exclude each other"),
    ("epochs: {low: 1, high: 3, step: 0}", "space.epochs.step: must be a whole number above 0 (given: 0)"),
    (
        "epochs: {low: 1, high: 3, step: 0.5}",
        "space.epochs.step: must be a whole number above 0 (given: 0.5)",
    ),
    ("warmup: {low: 0, high: 0.1, step: x}", "space.warmup.step: must be a number above 0 (given: 'x')"),
    ("warmup: {low: 0.0, high: 0.2, step: .nan}", "space.warmup.step: must be a number above 0"),
    (
        "epochs: {low: 1, high: 10, step: 2}",
        "space.epochs: high 10 can't be reached from 1 in steps of 2; take 9",
    ),
    ("warmup: {low: 0.05, high: 0.2, step: 0.04}", "take 0.17"),
    (
        "scheduler: {low: 1, high: 2}",
        "space.scheduler: is no number; give choices, e.g. {choices: [linear, cosine, constant]}",
    ),
    ("lora: {target_modules: {low: 1, high: 2}}", "space.lora.target_modules: is no number"),
    # choices
    ("epochs: {choices: []}", "space.epochs.choices: must be a list of at least one value (given: [])"),
    (
        "scheduler: {choices: linear}",
        "space.scheduler.choices: must be a list of at least one value (given: 'linear')",
    ),
    ("epochs: {choices: [1, 2, 1]}", "space.epochs.choices: contains 1 more than once"),
    ("warmup: {choices: [0.05, 0, 0.0]}", "space.warmup.choices: contains 0.0 more than once"),
    ("epochs: {choices: [1, two]}", "space.epochs.choices: must be a valid integer (given: 'two')"),
    ("epochs: {choices: [1, null]}", "space.epochs.choices: must be a valid integer (given: None)"),
    (
        "lora: {rank: {choices: [8, 0]}}",
        "space.lora.rank.choices: must be greater than or equal to 1 (given: 0)",
    ),
    ("scheduler: {choices: [linear, cosin]}", "must be 'linear', 'cosine' or 'constant' (given: 'cosin')"),
    # defaults
    (
        "learning_rate: {low: 0.001, high: 0.01}",
        "the default trial.learning_rate=0.0002 is not in 0.001 .. 0.01",
    ),
    ("batch_size: {choices: [4, 16]}", "the default trial.batch_size=8 is not in choices 4, 16"),
    ("batch_size: {low: 5, high: 11, step: 2}", "trial.batch_size=8 is not in 5 .. 11 in steps of 2"),
    # conditions
    (
        "warmup: {low: 0, high: 0.1, when: cosine}",
        "space.warmup.when: must be like {scheduler: cosine} (given: 'cosine')",
    ),
    (
        "warmup: {low: 0, high: 0.1, when: {schedule: cosine}}",
        "space.warmup.when.schedule: unknown name; did you mean `scheduler`?",
    ),
    ("warmup: {low: 0, high: 0.1, when: {variant: dora}}", "did you mean `lora.variant`?"),
    (
        "warmup: {low: 0, high: 0.1, when: {scheduler: step}}",
        "space.warmup.when.scheduler: must be 'linear', 'cosine' or 'constant' (given: 'step')",
    ),
    (
        "warmup: {low: 0, high: 0.1, when: {scheduler: []}}",
        "space.warmup.when.scheduler: must be a value or a list of values",
    ),
    (
        "scheduler: {choices: [linear, cosine]}\nwarmup: {low: 0, high: 0.1, when: {scheduler: [constant]}}",
        "space.warmup.when.scheduler: is never constant: space.scheduler has choices linear, cosine",
    ),
    ("epochs: {low: 1, high: 3, when: {epochs: 1}}", "conditions go in a circle: epochs -> epochs"),
    (
        "epochs: {choices: [1], when: {lora.rank: 8}}\nlora: {rank: {low: 8, high: 9, when: {epochs: 1}}}",
        "conditions go in a circle",
    ),
]


@pytest.mark.parametrize(("text", "message"), FAULTS)
def test_a_fault_is_refused_with_a_way_out(text: str, message: str) -> None:
    tree = OmegaConf.to_container(OmegaConf.create(text))
    with pytest.raises(ConfigError, match=re.escape(message)):
        Space.parse(tree, TRIAL)
    assert any(message in str(fault) for fault in check(tree, TRIAL))


def test_faults_are_reported_together() -> None:
    tree = {"epochs": {"low": 3, "high": 1}, "batch_sise": {}, "lora": {"rank": {"choices": []}}}
    assert {fault.field for fault in check(tree, TRIAL)} == {
        "space.epochs", "space.batch_sise", "space.lora.rank.choices",
    }  # fmt: skip


def test_lora_settings_have_no_effect_on_full_fine_tuning() -> None:
    full = TrialSettings(**{**vars(TRIAL), "method": "full"})
    with pytest.raises(ConfigError, match=r"space\.lora\.rank: has no effect with trial\.method=full"):
        space({"lora": {"rank": {"choices": [8, 16]}}}, full)
    tree = {"lora": {"rank": {"choices": [8, 16], "when": {"method": "lora"}}}}
    assert space(tree, full).defaults == {}
    assert (
        check({"method": {"choices": ["lora", "full"]}, "lora": {"rank": {"choices": [8, 16]}}}, full) == []
    )


def test_a_good_space_has_no_faults() -> None:
    assert check(FULL, TRIAL) == []


def test_conditions_are_suggested_first() -> None:
    names = space(FULL).names
    assert set(names) == {
        "learning_rate", "epochs", "scheduler", "weight_decay", "lora.rank", "lora.dropout",
    }  # fmt: skip
    assert names.index("scheduler") < names.index("weight_decay")


def test_the_order_does_not_depend_on_the_file() -> None:
    other = space(dict(reversed(FULL.items())))
    assert other.names == space(FULL).names
    assert other.fingerprint() == space(FULL).fingerprint()


def test_suggestions_become_settings() -> None:
    tree = space(FULL)
    trials = drawn(tree)
    for params, suggested in trials:
        assert suggested == tree.settings(params)
        assert ("weight_decay" in params) == (suggested.scheduler == "cosine")
        if suggested.scheduler == "linear":
            assert suggested.weight_decay == TRIAL.weight_decay
        assert suggested.lora.dropout in (0.0, 0.05, 0.1, 0.15, 0.2)
        assert isinstance(suggested.epochs, int)
        assert 1e-4 <= suggested.learning_rate <= 5e-3
        assert suggested.lora.alpha == TRIAL.lora.alpha
    assert {suggested.scheduler for _, suggested in trials} == {"linear", "cosine"}


def test_settings_ignore_what_is_inactive() -> None:
    tree = space(FULL)
    assert tree.settings({}) == TRIAL
    assert tree.settings({"scheduler": "linear", "weight_decay": 0.05}).weight_decay == 0.0
    assert tree.settings({"scheduler": "cosine", "weight_decay": 0.05}).weight_decay == 0.05


def test_settings_refuse_what_is_not_varied_or_not_possible() -> None:
    with pytest.raises(ConfigError, match="warmup: is not varied; varied here: learning_rate, epochs"):
        space(FULL).settings({"warmup": 0.1})
    with pytest.raises(ConfigError, match=r"lora\.rank: must be greater than or equal to 1"):
        space(FULL).settings({"lora.rank": 0})


def test_defaults_are_the_active_ones() -> None:
    assert space(FULL).defaults == {
        "learning_rate": 2e-4, "epochs": 1, "scheduler": "linear", "lora.rank": 8, "lora.dropout": 0.0,
    }  # fmt: skip
    assert space(FULL).settings(space(FULL).defaults) == TRIAL


def test_an_inactive_default_may_lie_outside() -> None:
    tree = space({"weight_decay": {"low": 0.01, "high": 0.1, "when": {"scheduler": "cosine"}}})
    assert tree.defaults == {}
    assert drawn(tree, 1) == [({}, TRIAL)]


@pytest.mark.parametrize(
    "when", [{"lora.variant": "dora"}, {"lora": {"variant": "dora"}}, {"lora.variant": ["dora", "rslora"]}]
)
def test_conditions_on_nested_settings(when: dict[str, Any]) -> None:
    tree = {
        "lora": {"variant": {"choices": ["lora", "dora"]}, "dropout": {"low": 0, "high": 0.1, "when": when}}
    }
    for params, _ in drawn(space(tree)):
        assert ("lora.dropout" in params) == (params["lora.variant"] == "dora")


def test_a_condition_may_name_a_fixed_setting() -> None:
    tree = {"warmup": {"low": 0, "high": 0.1, "when": {"scheduler": ["linear", "cosine"]}}}
    assert space(tree).defaults == {"warmup": 0.05}


def test_a_chain_of_conditions() -> None:
    tree = space(
        {
            "epochs": {"low": 1, "high": 3, "when": {"scheduler": "cosine"}},
            "warmup": {"low": 0.0, "high": 0.1, "when": {"epochs": [2, 3]}},
            "scheduler": {"choices": ["linear", "cosine"]},
        }
    )
    assert tree.names == ("scheduler", "epochs", "warmup")
    for params, suggested in drawn(tree, 40):
        assert ("warmup" in params) == (suggested.epochs > 1)


def test_null_takes_an_entry_back() -> None:
    assert space({"epochs": None, "lora": None}).is_empty
    assert space({"epochs": {"low": 1, "high": 3, "choices": None, "log": False, "when": None}}).names == (
        "epochs",
    )
    assert space({"epochs": {"choices": [1, 2], "low": None, "log": False}}).names == ("epochs",)


def test_an_empty_space_is_the_default() -> None:
    tree = space({})
    assert tree.is_empty
    assert not tree.is_conditional
    assert tree.defaults == {}
    assert tree.grid() == [{}]
    assert drawn(tree, 1) == [({}, TRIAL)]


def test_equal_bounds_fix_a_value() -> None:
    tree = space({"epochs": {"low": 1, "high": 1}, "learning_rate": {"low": 2e-4, "high": 2e-4, "log": True}})
    assert tree.grid() == [{"learning_rate": 2e-4, "epochs": 1}]
    assert {suggested for _, suggested in drawn(tree, 3)} == {TRIAL}


def test_lists_of_target_modules_are_joined() -> None:
    tree = space({"lora": {"target_modules": {"choices": ["all-linear", ["q_proj", "v_proj"]]}}})
    assert tree.grid() == [{"lora.target_modules": "all-linear"}, {"lora.target_modules": "q_proj,v_proj"}]


def test_whole_numbers_serve_as_floats() -> None:
    tree = space({"lora": {"alpha": {"choices": [16, 32]}}, "warmup": {"low": 0, "high": 0.1}})
    for _, suggested in drawn(tree, 4):
        assert isinstance(suggested.lora.alpha, float)
        assert isinstance(suggested.warmup, float)


def test_a_grid_has_every_point_once() -> None:
    tree = space(
        {
            "scheduler": {"choices": ["linear", "cosine"]},
            "warmup": {"low": 0.0, "high": 0.1, "step": 0.05, "when": {"scheduler": "cosine"}},
            "epochs": {"low": 1, "high": 5, "step": 2},
        }
    )
    points = tree.grid()
    assert len(points) == 3 * (1 + 3)
    assert len({json.dumps(point, sort_keys=True) for point in points}) == len(points)
    assert tree.defaults in points
    assert {"epochs": 5, "scheduler": "cosine", "warmup": 0.1} in points


def test_a_grid_needs_a_finite_space() -> None:
    with pytest.raises(
        ConfigError, match=r"1 fault[^,]*\n  space\.learning_rate: .* is continuous; .*`step`"
    ):
        space(FULL | {"weight_decay": None}).grid()


def test_a_grid_has_a_largest_size() -> None:
    with pytest.raises(ConfigError, match=f"space: has more than the {MAX_GRID} points a grid may have"):
        space({"batch_size": {"low": 1, "high": 10**9}, "epochs": {"low": 1, "high": 10**9}}).grid()


def test_the_fingerprint_is_plain_and_tells_spaces_apart() -> None:
    prints = [
        space(tree).fingerprint()
        for tree in (
            {"epochs": {"low": 1, "high": 3}},
            {"epochs": {"low": 1, "high": 4}},
            {"epochs": {"low": 1, "high": 3, "log": True}},
            {"epochs": {"low": 1, "high": 3, "step": 2}},
            {"epochs": {"choices": [1, 3]}},
            {"epochs": {"low": 1, "high": 3, "when": {"scheduler": "linear"}}},
        )
    ]
    assert all(json.loads(json.dumps(each)) == each for each in prints)
    assert len({json.dumps(each) for each in prints}) == len(prints)
    assert (
        space({"warmup": {"low": 0, "high": 0.1}}).fingerprint()
        == space({"warmup": {"low": 0.0, "high": 0.1, "log": False, "step": None}}).fingerprint()
    )


def stepped(low: int, steps: int, step: int) -> tuple[str, dict[str, Any]]:
    return "weight_decay", {"low": low / 100, "high": (low + steps * step) / 100, "step": step / 100}


ranges = st.one_of(
    st.builds(
        lambda low, width, log: ("epochs", {"low": low, "high": low + width, "log": log}),
        st.integers(1, 50), st.integers(0, 50), st.booleans(),
    ),
    st.builds(
        lambda low, steps, step: ("epochs", {"low": low, "high": low + steps * step, "step": step}),
        st.integers(1, 50), st.integers(0, 50), st.integers(1, 9),
    ),
    st.builds(
        lambda low, factor, log: ("learning_rate", {"low": low, "high": low * factor, "log": log}),
        st.floats(1e-6, 1e-2), st.floats(1, 100), st.booleans(),
    ),
    st.builds(stepped, st.integers(0, 9), st.integers(0, 40), st.integers(1, 9)),
    st.builds(
        lambda choices: ("epochs", {"choices": choices}),
        st.lists(st.integers(1, 999), min_size=1, max_size=9, unique=True),
    ),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(entry=ranges, share=st.floats(0, 1, exclude_max=True), seed=st.integers(0, 99))
def test_whatever_is_proposed_is_in_the_space(
    entry: tuple[str, dict[str, Any]], share: float, seed: int
) -> None:
    name, leaf = entry
    low = leaf["choices"][0] if "choices" in leaf else leaf["low"]
    tree = space({name: leaf}, TrialSettings(**{**vars(TRIAL), name: low}))
    (parsed,) = tree.entries
    assert parsed.contains(parsed.at(share))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    assert parsed.contains(getattr(tree.suggest(study.ask()), name))
    if parsed.count is not None:
        points = [point[name] for point in tree.grid()]
        assert len(set(points)) == parsed.count
        assert all(parsed.contains(point) for point in points)
        study.enqueue_trial({name: points[-1]})
        assert getattr(tree.suggest(study.ask()), name) == points[-1]


def conditional() -> Space:
    tree = {
        "scheduler": {"choices": ["linear", "cosine"]},
        "weight_decay": {"low": 0.01, "high": 0.1, "when": {"scheduler": "cosine"}},
    }
    return Space.parse(tree, TRIAL)


def test_a_point_has_what_varies_under_its_own_settings():
    assert conditional().point({}) == {"scheduler": "linear"}
    cosine = {"scheduler": "cosine", "weight_decay": 0.05}
    assert conditional().point(cosine) == cosine
    assert conditional().point({"scheduler": "linear"}, start=cosine) == {"scheduler": "linear"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_decay": 0.05}, "weight_decay: has no effect: it varies only with scheduler=cosine"),
        ({"scheduler": "cosine"}, r"weight_decay: must be in 0.01 .. 0.1 \(given: 0.0\)"),
        ({"epochs": 3}, "epochs: is fixed in this sweep: .*; varied here: scheduler, weight_decay"),
        ({"decay": 0.1}, "decay: unknown name"),
    ],
)
def test_a_point_that_the_space_does_not_have(changes, message):
    with pytest.raises(ConfigError, match=message):
        conditional().point(changes)
