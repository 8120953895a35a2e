"""Distributions of other tools in the form of this one."""

import pytest

from sweeper.habits import from_call, from_keys, split, written


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ({"min": 1e-4, "max": 1e-2}, {"low": 1e-4, "high": 1e-2}),
        (
            {"min": 1e-4, "max": 1e-2, "distribution": "log_uniform_values"},
            {"low": 1e-4, "high": 1e-2, "log": True},
        ),
        (
            {"min": -9.21034, "max": -4.60517, "distribution": "log_uniform"},
            {"low": 1e-4, "high": 0.01, "log": True},
        ),
        ({"distribution": "q_uniform", "min": 0, "max": 8, "q": 2}, {"low": 0, "high": 8, "step": 2}),
        ({"values": [8, 16]}, {"choices": [8, 16]}),
        ({"type": "float", "low": 0, "high": 1}, {"low": 0, "high": 1}),
        ({"type": "categorical", "choices": ["a", "b"]}, {"choices": ["a", "b"]}),
        ({"grid_search": [1, 2]}, {"choices": [1, 2]}),
        ({"lower": 1, "upper": 3, "type": "int", "log": True}, {"low": 1, "high": 3, "log": True}),
        ({"mu": 0, "sigma": 1, "distribution": "normal"}, None),
        ({"min": 0, "max": 1, "distribution": "beta"}, None),
        ({"value": 3}, None),
        ({"min": 3, "max": 1}, None),
        ({"min": "a", "max": "b"}, None),
    ],
)
def test_keys(given, ours):
    assert from_keys(given) == ours


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("interval(1e-4, 1e-2)", {"low": 1e-4, "high": 1e-2}),
        ("tag(log, interval(1e-4,1e-2))", {"low": 1e-4, "high": 1e-2, "log": True}),
        ("int(interval(1, 8))", {"low": 1, "high": 8}),
        ("range(1, 8)", {"low": 1, "high": 7}),
        ("range(8, 65, 8)", {"low": 8, "high": 64, "step": 8}),
        ("range(0.1, 0.5, 0.1)", {"low": 0.1, "high": 0.5, "step": 0.1}),
        ("range(start=1,stop=8)", {"low": 1, "high": 7}),
        ("choice(8, 16)", {"choices": [8, 16]}),
        ("shuffle(choice(a,b))", {"choices": ["a", "b"]}),
        ("tune.choice([linear, 'cosine'])", {"choices": ["linear", "cosine"]}),
        ("tune.loguniform(1e-4, 1e-2)", {"low": 1e-4, "high": 1e-2, "log": True}),
        ("tune.quniform(0, 0.2, 0.05)", {"low": 0, "high": 0.2, "step": 0.05}),
        ("trial.suggest_float('lr', 1e-4, 1e-2, log=True)", {"low": 1e-4, "high": 1e-2, "log": True}),
        ("suggest_int('rank', 4, 32)", {"low": 4, "high": 32}),
        ("normal(0, 1)", None),
        ("os.system('ls')", None),
        ("uniform(1)", None),
        ("cosine", None),
        ("rows (1).jsonl", None),
    ],
)
def test_calls(text, ours):
    assert from_call(text) == ours


def test_commas_inside_of_brackets_and_quotes_part_nothing():
    assert split("a, [b, c], 'd, e', f(g, h)") == ["a", "[b, c]", "'d, e'", "f(g, h)"]


def test_a_form_is_written_as_a_configuration_has_it():
    form = {"low": 1e-4, "high": 0.123456789, "log": True, "choices": ["linear", "a b", 8, None]}
    assert written(form) == '{low: 0.0001, high: 0.123456789, log: true, choices: [linear, "a b", 8, null]}'
