"""Every trial setting is alive: two values give two different trials."""

from typing import Any

import pytest

from sweeper.loading import dotted, to_tree
from tests import tiny

# Two values per setting, and what else the trial needs for them to matter.
CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "method": ("lora", "full", {}),
    "learning_rate": (1e-3, 1e-2, {}),
    "batch_size": (4, 6, {}),
    "epochs": (1, 2, {}),
    "scheduler": ("linear", "cosine", {}),
    "warmup": (0.0, 0.5, {}),
    "weight_decay": (0.0, 1.0, {}),
    "max_grad_norm": (0.0, 0.01, {}),
    "label_smoothing": (0.0, 0.3, {}),
    "neftune_noise": (0.0, 10.0, {}),
    "patience": (0, 1, {"learning_rate": 1e-12}),
    "augment_rate": (0.0, 0.5, {}),
    "reweight": (0.0, 1.0, {}),
    "lora.rank": (2, 4, {}),
    "lora.alpha": (4.0, 16.0, {}),
    "lora.dropout": (0.0, 0.5, {}),
    "lora.variant": ("lora", "dora", {}),
    "lora.target_modules": ("all-linear", "q_proj,v_proj", {}),
}
ROWS = 12


def trace(folder, name, value, others):
    """What can be seen of a trial from outside: its schedule, its losses, its length."""
    changes = {name.replace("lora.", "lora_"): value} | others
    settings = tiny.settings(**{"warmup": 0.0, **changes})
    marks = tuple(range(4, ROWS * settings.epochs + 1, 4))
    kind = "classifier" if name == "reweight" else "causal"
    rows = tiny.rows(kind, train=ROWS, validation=4, pool=True)
    channel = tiny.run(tiny.spec(folder, settings, marks=marks), kind=kind, data=rows)
    assert not channel.outcomes[0].reason or name == "patience"
    rates = [report.metrics["learning_rate"] for report in channel.reports if report.metrics]
    validation = [(one.mark, one.metrics["loss"]) for one in channel.evaluations]
    return rates, validation, channel.outcomes[0].examples


@pytest.mark.parametrize("name", dotted(to_tree(tiny.settings())))
def test_two_values_make_two_trials(tmp_path, name):
    one, other, others = CASES[name]
    first, second = (trace(tmp_path / str(i), name, value, others) for i, value in enumerate((one, other)))
    assert first != second
    assert first == trace(tmp_path / "again", name, one, others)


@pytest.mark.parametrize("variant", ["rslora"])
def test_the_third_variant_too(tmp_path, variant):
    assert trace(tmp_path / "0", "lora.variant", variant, {}) != trace(
        tmp_path / "1", "lora.variant", "lora", {}
    )


def test_the_constant_schedule_stays_and_the_others_fall(tmp_path):
    rates = {
        name: trace(tmp_path / name, "scheduler", name, {})[0] for name in ("constant", "linear", "cosine")
    }
    assert rates["constant"] == pytest.approx([1e-2] * 3)
    assert rates["linear"] == pytest.approx([1e-2, 1e-2 * 2 / 3, 1e-2 / 3])
    assert rates["cosine"] == pytest.approx([1e-2, 7.5e-3, 2.5e-3])
