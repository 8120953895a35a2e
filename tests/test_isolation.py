"""Trials one after another on one loaded model: each is what it would be on a model of its own."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sweeper.engines import make_engine
from sweeper.messages import BASE, Decision, Ending
from tests import tiny, zoo

VARIANTS = ("lora", "rslora", "dora", "full")
SHIPPED = ("dog", "bird", "cat")
"""The classes of a model that ships a head: those of the rows in another order."""

WRITERS = [
    ("llama", "causal"),
    ("gpt2", "causal"),
    ("falcon", "causal"),
    ("t5", "seq2seq"),
    ("bart", "seq2seq"),
]
CLASSIFIERS = {
    "llama": "causal", "gpt2": "causal", "bert": "masked", "distilbert": "masked", "roberta": "masked",
    "xlnet": "causal", "t5": "seq2seq", "bart": "seq2seq",
}  # fmt: skip
"""What a model without a head is saved as."""


def cases(*shown):
    """Every combination; those that are not shown in every run are slow."""
    every = [(shape, kind, kind, variant) for shape, kind in WRITERS for variant in VARIANTS]
    every += [
        (shape, what, "classifier", variant)
        for shape, without in CLASSIFIERS.items()
        for what in (without, "classifier")
        for variant in VARIANTS
    ]
    return [pytest.param(*one, marks=() if one in shown else pytest.mark.slow) for one in every]


def saved(shape, what, kind, folder):
    """A folder with such a model."""
    return zoo.load(zoo.make(shape, what, SHIPPED if what == "classifier" else ()), folder, kind)


def settings(variant, **changes):
    chosen = {"method": "full"} if variant == "full" else {"lora_variant": variant, "lora_dropout": 0.1}
    # With a warm-up the first step would change nothing, and its mark may be the best.
    rate = 1e-3 if variant == "full" else 1e-2
    return tiny.settings(**chosen, learning_rate=rate, warmup=0.0, **changes)


def train(base, *specs, decide=lambda _: Decision.CONTINUE):
    """The outcomes of `specs` on a model that is loaded, and the evaluations of the last one."""
    kind = base.kind
    channel = tiny.Script(specs, decide)
    chosen = tiny.config("engine=trainer", "engine.report_seconds=1e-9", kind=kind)
    with tiny.one_thread():
        make_engine(chosen, base, rows(kind)).run(channel)
    last = [one.evaluation for one in channel.reports if one.trial == specs[-1].trial and one.evaluation]
    return channel.outcomes, [(one.mark, one.objective, one.metrics["loss"]) for one in last]


def rows(kind):
    """T5 and BART find the end of a text by its end token."""
    made = tiny.rows(kind, train=12, validation=6)
    if kind != "classifier":
        return made
    train, validation = (
        part.map(lambda row: {"input_ids": [*row["input_ids"], 1]}) for part in (made.train, made.validation)
    )
    return replace(made, train=train, validation=validation)


def spec(folder, wanted, trial):
    return tiny.spec(folder, wanted, trial, marks=(4, 12), seed=trial + 1)


def state(base):
    """Everything that a trial could leave behind on a model."""
    model = base.model
    values = {name: tensor.clone() for name, tensor in model.state_dict(keep_vars=True).items()}
    values |= {name: tensor.clone() for name, tensor in model.named_buffers()}
    about = {}
    for name, module in model.named_modules():
        about[name, "is"] = type(module)
        for key, value in vars(module).items():
            plain = isinstance(value, bool | int | float | str | None)
            about[name, key] = value if plain else len(value) if key.endswith("_hooks") else type(value)
    flags = {name: (p.requires_grad, p.grad is None, p.dtype) for name, p in model.named_parameters()}
    return values, about, flags, model.config.to_dict()


def changed(one, other):
    """What is not the same in two states."""
    found = [name for name, value in one[0].items() if not torch.equal(other[0][name], value)]
    for first, second in zip(one[1:], other[1:], strict=True):
        names = (name for name in first | second if first.get(name) != second.get(name))
        found += [(name, first.get(name), second.get(name)) for name in names]
    return found


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def cut_short(progress):
    """Trial 2 is pruned in the middle, trial 3 fails there."""
    if progress.trial == 2 and progress.examples:
        return Decision.PRUNE
    if progress.trial == 3 and progress.examples:
        raise RuntimeError("planted")
    return Decision.CONTINUE


@pytest.mark.parametrize(
    ("shape", "what", "kind", "variant"),
    cases(
        ("llama", "causal", "causal", "lora"),
        ("gpt2", "causal", "causal", "dora"),
        ("bert", "masked", "classifier", "rslora"),
        ("distilbert", "classifier", "classifier", "dora"),
        ("roberta", "masked", "classifier", "full"),
    ),
)
def test_a_trial_after_others_is_the_trial_on_a_model_of_its_own(shape, what, kind, variant, tmp_path):
    fresh = saved(shape, what, kind, tmp_path / "model")
    start = {name: weights.clone() for name, weights in fresh.model.named_parameters()}
    wanted = settings(variant)
    (alone,), expected = train(fresh, spec(tmp_path / "alone", wanted, 5))
    used = saved(shape, what, kind, tmp_path / "model")
    train(used, replace(spec(tmp_path / "used", wanted, 0), trial=BASE))
    before = state(used)
    noisy = replace(wanted, neftune_noise=5.0)
    others = [wanted, noisy, noisy, settings("lora" if variant == "full" else "full"), wanted]
    for number, other in enumerate(others, 1):
        (outcome,), _ = train(used, spec(tmp_path / "used", other, number), decide=cut_short)
        endings = {2: Ending.PRUNED, 3: Ending.FAILED}
        assert outcome.ending is endings.get(number, Ending.FINISHED), outcome.reason
        assert changed(before, state(used)) == []
    (after,), found = train(used, spec(tmp_path / "last", wanted, 5))
    assert found == expected
    assert files(after.adapter) == files(alone.adapter)
    first = load_file(tmp_path / "used" / "0001" / "attempt-1" / "best" / weights_of(variant))
    last = load_file(after.adapter / weights_of(variant))
    for module in used.head.modules:
        for name, _ in used.model.get_submodule(module).named_parameters():
            key = f"{module}.{name}" if variant == "full" else f"base_model.model.{module}.{name}"
            assert not torch.equal(last[key], first[key])
            assert f"{module}.{name}" in used.head.fresh or not torch.equal(
                last[key], start[f"{module}.{name}"]
            )


def weights_of(variant):
    return "model.safetensors" if variant == "full" else "adapter_model.safetensors"


IN_A_PROCESS = """
import sys
from pathlib import Path
from tests import test_isolation as here
shape, what, kind, variant, folder = sys.argv[1:]
base = here.saved(shape, what, kind, Path(folder) / "model")
print(here.train(base, here.spec(Path(folder) / "new", here.settings(variant), 5))[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [("gpt2", "causal", "causal", "lora"), ("bert", "classifier", "classifier", "dora")]
)
def test_it_is_the_trial_in_a_process_of_its_own(case, tmp_path):
    base = saved(*case[:3], tmp_path / "model")
    for number in (1, 5):
        _, found = train(base, spec(tmp_path / "used", settings(case[3]), number))
    output = subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS, *case, str(tmp_path)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1],
    ).stdout  # fmt: skip
    assert json.loads(output.replace("(", "[").replace(")", "]")) == [list(one) for one in found]


@pytest.mark.parametrize(
    ("shape", "what", "kind"),
    [
        ("mixtral", "causal", "causal"),
        ("t5", "seq2seq", "seq2seq"),
        pytest.param("qwen2_moe", "causal", "causal", marks=pytest.mark.slow),
        pytest.param("llama", "classifier", "classifier", marks=pytest.mark.slow),
    ],
)
def test_a_full_trial_that_was_left_goes_on_as_if_it_had_not_been(shape, what, kind, tmp_path):
    """Of models with experts, files name and cut the weights in another way than the model does."""
    base = saved(shape, what, kind, tmp_path / "model")
    wanted = settings("full")
    (whole,), expected = train(base, spec(tmp_path / "whole", wanted, 1))

    def leave(progress):
        return Decision.SUSPEND if progress.examples == 4 else Decision.CONTINUE

    (left,), first = train(base, spec(tmp_path / "parts", wanted, 1), decide=leave)
    (done,), second = train(base, replace(spec(tmp_path / "parts", wanted, 1), attempt=2))
    assert (left.ending, done.ending) == (Ending.SUSPENDED, Ending.FINISHED)
    assert [*first, *second][-len(expected) :] == expected
    assert files(done.adapter) == files(whole.adapter)
