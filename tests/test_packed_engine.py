"""The engine `packed` around its slots: refills, evaluation, resumption, memory, and who is trained alone."""

import json
import re
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from sweeper import metrics
from sweeper.engines import checkpoints, make_engine
from sweeper.engines.batches import read_rows
from sweeper.engines.evaluate import Evaluator
from sweeper.engines.packed import cycle
from sweeper.engines.packed.adapters import fresh
from sweeper.engines.packed.engine import PackedEngine
from sweeper.engines.packed.stack import Stack
from sweeper.engines.trainer import workbench
from sweeper.messages import BASE, Decision, Ending, Wait
from sweeper.models.modeling import BaseModel
from tests import tiny
from tests.sweeps import open_coordinator

DROPOUT = {"lora_dropout": 0.2}
EVERY_STEP = "engine.report_seconds=1e-9"


def run(*specs, slots=3, kind="causal", decide=lambda _: Decision.CONTINUE, data=None, more=()):
    overrides = ("engine=packed", f"engine.slots={slots}", EVERY_STEP, *more)
    return tiny.run(*specs, kind=kind, decide=decide, data=data, overrides=overrides)


def several(folder, *settings, **more):
    return [tiny.spec(folder, one, trial=i, seed=11 + i, **more) for i, one in enumerate(settings)]


def of(channel, trial):
    """What a channel heard of one trial."""
    return tiny.Script(
        (),
        reports=[one for one in channel.reports if one.trial == trial],
        outcomes=[one for one in channel.outcomes if one.trial == trial],
    )


def evaluated(channel):
    return [(one.mark, one.objective, one.metrics["loss"]) for one in channel.evaluations]


MIXED = (
    tiny.settings(),
    tiny.settings(lora_rank=12, batch_size=6, scheduler="cosine", lora_variant="rslora", weight_decay=0.1),
    tiny.settings(lora_target_modules="q_proj,v_proj", learning_rate=3e-3, epochs=2, label_smoothing=0.1),
    tiny.settings(augment_rate=0.5, max_grad_norm=0.1, lora_alpha=32.0),
)


def test_the_engine_trainer_gives_the_same_trials(tmp_path):
    data = tiny.rows(pool=True)
    together = run(*several(tmp_path / "packed", *MIXED), data=data)
    for spec in several(tmp_path / "trainer", *MIXED):
        alone, packed = tiny.run(spec, data=data), of(together, spec.trial)
        assert packed.train_losses == pytest.approx(alone.train_losses, abs=1e-5)
        for one, other in zip(packed.evaluations, alone.evaluations, strict=True):
            assert one.mark == other.mark
            assert one.metrics == pytest.approx(other.metrics, abs=1e-4)
        (outcome,), (expected,) = packed.outcomes, alone.outcomes
        assert (outcome.engine, expected.engine) == ("packed", "trainer")
        assert (outcome.ending, outcome.examples, outcome.best.mark) == (
            expected.ending,
            expected.examples,
            expected.best.mark,
        )
        assert [s.output for s in outcome.samples] == [s.output for s in expected.samples]
        assert set(outcome.cost) == set(expected.cost)
        one, other = (load_file(o.adapter / "adapter_model.safetensors") for o in (outcome, expected))
        assert {name: tensor.shape for name, tensor in one.items()} == {n: t.shape for n, t in other.items()}
        one, other = (
            json.loads((o.adapter / "adapter_config.json").read_text()) for o in (outcome, expected)
        )
        for config in (one, other):
            config["target_modules"] = sorted(config["target_modules"])
        assert one == other
        assert sorted(path.name for path in spec.folder.rglob("*") if path.is_file()) == [
            "adapter_config.json",
            "adapter_model.safetensors",
        ]


def test_plain_peft_loads_an_adapter_and_gets_the_same_scores(tmp_path):
    channel = run(*several(tmp_path, *MIXED[:3]))
    assert len(channel.outcomes) == 3
    for outcome in channel.outcomes:
        with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):  # PEFT's own
            model = PeftModel.from_pretrained(tiny.llama(), outcome.adapter).eval()
        config, data = tiny.config(), tiny.rows()
        answers = Evaluator(tiny.base(), config.task, read_rows(data.validation), ()).answers(
            model, lambda done, of: None
        )
        scores = metrics.score(config.task, answers)
        assert scores.objective == pytest.approx(outcome.best.objective, abs=1e-6)
        assert scores.metrics["loss"] == pytest.approx(outcome.best.metrics["loss"], rel=1e-5)


@pytest.mark.parametrize(("experiment", "beams"), [("generate", 1), ("generate", 2), ("chat", 1)])
def test_scores_do_not_depend_on_who_is_scored_beside(tmp_path, experiment, beams):
    more = [f"task.generation.num_beams={beams}"]
    if experiment == "chat":
        more += ["task=instruct", "data=chats", "data.path=none.jsonl", "task.evaluation.samples=2"]
    together = run(*several(tmp_path / "3", *MIXED[:3]), slots=3, more=more)
    apart = run(*several(tmp_path / "1", *MIXED[:3]), slots=1, more=more)
    for trial in range(3):
        for one, other in zip(of(together, trial).evaluations, of(apart, trial).evaluations, strict=True):
            assert one.metrics == pytest.approx(other.metrics, abs=1e-4)
        assert of(together, trial).outcomes[0].samples == of(apart, trial).outcomes[0].samples


def test_a_free_slot_takes_the_next_trial_while_the_rest_goes_on(tmp_path):
    long, short, third = several(tmp_path, tiny.settings(epochs=4), tiny.settings(), tiny.settings())
    long = replace(long, marks=(96,), examples=96)
    channel = run(long, short, third, slots=2)
    assert [outcome.trial for outcome in channel.outcomes] == [1, 2, 0]
    # Trial 0 makes a step in every cycle: 6 beside trial 1, and in the next one trial 2 is there already.
    order = [report.trial for report in channel.reports if "train_loss" in report.metrics]
    first = order.index(2)
    assert [order[:first].count(trial) for trial in (0, 1)] == [7, 6]


@pytest.mark.parametrize("decision", [Decision.PRUNE, Decision.CANCEL, Decision.SUSPEND])
def test_whoever_leaves_leaves_alone(tmp_path, decision):
    specs = several(tmp_path / "together", *MIXED[:3])

    def decide(progress):
        return decision if progress.trial == 1 and progress.examples >= 12 else Decision.CONTINUE

    channel = run(*specs, decide=decide)
    assert {o.trial: o.ending.name[:4] for o in channel.outcomes} == {
        0: "FINI",
        1: decision.name[:4],
        2: "FINI",
    }
    for trial in (0, 2):
        alone = run(replace(specs[trial], folder=tmp_path / str(trial)), slots=1)
        assert of(channel, trial).train_losses == pytest.approx(alone.train_losses, abs=1e-5)


def test_nan_stays_in_its_slot(tmp_path):
    wild = tiny.settings(learning_rate=1e30, max_grad_norm=0.0, warmup=0.0)
    specs = several(tmp_path, tiny.settings(), wild, tiny.settings(lora_rank=2))
    endings = {outcome.trial: outcome for outcome in run(*specs).outcomes}
    assert endings[1].ending is Ending.FAILED
    assert "training loss became" in endings[1].reason
    assert endings[0].ending is endings[2].ending is Ending.FINISHED


def test_patience_and_marks_are_each_trials_own(tmp_path):
    idle = tiny.settings(learning_rate=1e-12, patience=2, epochs=4)
    channel = run(
        tiny.spec(tmp_path, idle, marks=range(12, 97, 12)),
        tiny.spec(tmp_path, tiny.settings(), trial=1, marks=(5, 11, 24)),
    )
    (stopped,) = of(channel, 0).outcomes
    assert stopped.reason == "stopped at example 36 of 96: rougeL was best at 12, 2 marks ago"
    assert [one.mark for one in of(channel, 1).evaluations] == [5, 11, 24]


def test_suspended_between_marks_a_trial_goes_on_exactly_whoever_is_beside(tmp_path):
    settings = tiny.settings(epochs=2, **DROPOUT)
    spec = tiny.spec(tmp_path / "parts", settings, marks=(24, 48))
    other = tiny.spec(tmp_path / "other", tiny.settings(lora_rank=12, batch_size=3, **DROPOUT), trial=1)
    whole = run(replace(spec, folder=tmp_path / "whole"))
    first = run(spec, other, decide=lambda p: Decision.SUSPEND if p.examples == 32 else Decision.CONTINUE)
    second = run(other, replace(spec, attempt=2), slots=2)
    assert of(first, 0).outcomes[0].ending is Ending.SUSPENDED
    assert of(first, 0).outcomes[0].examples + of(second, 0).outcomes[0].examples == 48
    losses = of(first, 0).train_losses | of(second, 0).train_losses
    assert losses == pytest.approx(whole.train_losses, abs=1e-5)
    assert [one.mark for one in of(second, 0).evaluations] == [24, 48]


def test_alone_in_its_slot_a_suspended_trial_goes_on_bit_for_bit(tmp_path):
    settings = tiny.settings(epochs=2, **DROPOUT)
    spec = tiny.spec(tmp_path / "parts", settings, marks=(24, 48))
    whole = run(replace(spec, folder=tmp_path / "whole"))
    first = run(spec, decide=lambda p: Decision.SUSPEND if p.examples == 32 else Decision.CONTINUE)
    second = run(replace(spec, attempt=2))
    assert first.train_losses | second.train_losses == whole.train_losses
    assert evaluated(second) == evaluated(whole)
    one, other = (load_file(c.outcomes[-1].adapter / "adapter_model.safetensors") for c in (whole, second))
    assert all(torch.equal(one[name], other[name]) for name in one)


class Killed(BaseException):
    """Nothing that the engine may catch."""


def test_killed_at_a_mark_no_training_is_repeated(tmp_path):
    specs = several(
        tmp_path / "parts", tiny.settings(**DROPOUT), tiny.settings(lora_rank=2), marks=(8, 16, 24)
    )
    whole = run(*(replace(spec, folder=tmp_path / "whole" / str(spec.trial)) for spec in specs))

    def die(progress):
        if progress.examples == 16 and progress.evaluation is not None:
            raise Killed("in the middle")
        return Decision.CONTINUE

    with pytest.raises(Killed, match="in the middle"):
        run(*specs, decide=die)
    second = run(*(replace(spec, attempt=2) for spec in specs))
    assert [outcome.examples for outcome in second.outcomes] == [8, 8]
    for trial in range(2):
        assert evaluated(of(second, trial)) == evaluated(of(whole, trial))


def test_a_trial_goes_on_with_the_engine_that_it_began_with(tmp_path):
    def leave(progress):
        return Decision.SUSPEND if progress.examples == 8 else Decision.CONTINUE

    begun = {"packed": run, "trainer": tiny.run}
    for name, other in (("packed", "trainer"), ("trainer", "packed")):
        spec = tiny.spec(tmp_path / name, tiny.settings(**DROPOUT))
        first = begun[name](spec, decide=leave)
        assert first.outcomes[0].engine == name
        second = begun[other](replace(spec, attempt=2))
        assert (second.outcomes[0].engine, second.outcomes[0].examples) == (name, 16)
        whole = begun[name](replace(spec, folder=tmp_path / "whole" / name))
        assert first.train_losses | second.train_losses == whole.train_losses


@pytest.mark.parametrize("engine", ["trainer", "auto"])
def test_handed_on_to_go_on_packed_a_trial_has_one_slot_and_no_number_is_tried(tmp_path, engine):
    spec = tiny.spec(tmp_path, tiny.settings())
    run(spec, decide=lambda p: Decision.SUSPEND if p.examples == 8 else Decision.CONTINUE)
    passes = []
    handle = tiny.base().model.register_forward_pre_hook(lambda model, _: passes.append(model.training))
    try:
        second = tiny.run(replace(spec, attempt=2), overrides=(f"engine={engine}",))
    finally:
        handle.remove()
    assert (second.outcomes[0].engine, second.outcomes[0].examples) == ("packed", 16)
    assert sum(passes) == 4, "as many as there are steps left"


def test_waiting_for_a_trial_holds_nobody_up(tmp_path):
    def arrive(progress):
        if progress.evaluation is not None and progress.examples == 24:
            raise Killed("at its end")
        return Decision.CONTINUE

    with pytest.raises(Killed, match="at its end"):
        run(tiny.spec(tmp_path, tiny.settings()), Wait(1e6), decide=arrive)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"lora_variant": "dora"}, "DoRA looks at the base model's weights"),
        ({"method": "full", "learning_rate": 1e-3}, "full fine-tuning changes the base model"),
        ({"neftune_noise": 5.0}, "NEFTune's noise is drawn for a whole batch"),
        ({"lora_target_modules": "q_proj,embed_tokens"}, "its adapters go on embed_tokens"),
    ],
)
def test_what_cannot_be_packed_is_trained_alone_and_says_so(tmp_path, changes, why):
    odd = tiny.settings(**changes)
    specs = several(tmp_path, tiny.settings(), odd, tiny.settings())
    channel = run(*specs)
    (outcome,) = of(channel, 1).outcomes
    assert (outcome.ending, outcome.engine) == (Ending.FINISHED, "trainer")
    assert outcome.warnings[0] == f"trained by the engine trainer: {why}"
    alone = tiny.run(replace(specs[1], folder=tmp_path / "alone"))
    assert evaluated(of(channel, 1)) == evaluated(alone)
    assert [of(channel, trial).outcomes[0].engine for trial in (0, 2)] == ["packed", "packed"]
    waiting = [report for report in channel.reports if report.trial == 0]
    assert len(waiting) > len(of(run(specs[0]), 0).reports), "who waits meanwhile goes on reporting"


@pytest.mark.parametrize(
    ("kind", "why"), [("classifier", "classification head"), ("gpt2", "gpt2 is none of llama")]
)
def test_what_no_trial_of_a_model_can_do(tmp_path, kind, why):
    (outcome,) = run(tiny.spec(tmp_path, tiny.settings()), kind=kind).outcomes
    assert (outcome.ending, outcome.engine) == (Ending.FINISHED, "trainer")
    assert why in outcome.warnings[0]


def test_the_base_model_is_measured_without_a_warning(tmp_path):
    (outcome,) = run(tiny.spec(tmp_path, tiny.settings(), trial=BASE, marks=(0,))).outcomes
    assert (outcome.ending, outcome.warnings) == (Ending.FINISHED, ())
    assert outcome.cost["train_examples_per_second"] > 0


def test_decisions_heard_while_others_are_evaluated_are_obeyed(tmp_path):
    """Trial 1 hears them during trial 0's evaluation: its examples stand between two of its own steps."""
    specs = [
        tiny.spec(tmp_path, tiny.settings(), marks=(4, 24)),
        tiny.spec(tmp_path, tiny.settings(epochs=2), trial=1, marks=(48,)),
    ]

    def decide(progress):
        evaluating = progress.trial == 1 and progress.examples == 4 and not progress.metrics
        return Decision.SUSPEND if evaluating else Decision.CONTINUE

    channel = run(*specs, decide=decide)
    (left,) = of(channel, 1).outcomes
    assert (left.ending, left.examples) == (Ending.SUSPENDED, 4)
    assert of(channel, 0).outcomes[0].ending is Ending.FINISHED
    again = run(replace(specs[1], attempt=2))
    assert (again.outcomes[0].ending, again.outcomes[0].examples) == (Ending.FINISHED, 44)


@pytest.mark.parametrize("work", ["test rows", "samples"])
def test_others_report_while_one_is_tested_or_writes_its_samples(tmp_path, work):
    tested = work == "test rows"
    chat = ("task=instruct", "data=chats", "data.path=none.jsonl", "task.evaluation.samples=8")
    short = tiny.spec(tmp_path, tiny.settings(), marks=(24,), held_out=tested)
    long = tiny.spec(tmp_path, tiny.settings(epochs=2), trial=1, marks=(48,))
    heard = []

    def decide(progress):
        # Samples are written before trial 0 tells its mark, test rows are scored after it.
        heard.append((progress.trial, progress.examples, bool(progress.metrics), progress.evaluation))
        return Decision.CONTINUE

    channel = run(short, long, decide=decide, data=tiny.rows(test=8), more=() if tested else chat)
    assert [one.ending for one in channel.outcomes] == [Ending.FINISHED] * 2
    told = next(i for i, one in enumerate(heard) if one[0] == 0 and one[3] is not None)
    waiting = [i for i, one in enumerate(heard) if one[:3] == (1, 24, False)]
    if tested:
        assert len([i for i in waiting if i > told]) >= 2
    else:
        batches = len(tiny.rows().validation) // 4 + 1
        assert len([i for i in waiting if i < told]) >= batches + 2


def test_called_away_while_evaluated_the_mark_is_evaluated_first_next_time(tmp_path):
    def leave(progress):
        evaluating = progress.examples == 12 and not progress.metrics and progress.evaluation is None
        return Decision.SUSPEND if evaluating else Decision.CONTINUE

    specs = several(tmp_path, tiny.settings(**DROPOUT), tiny.settings())
    first = run(*specs, decide=leave)
    assert [(one.ending, one.examples) for one in first.outcomes] == [(Ending.SUSPENDED, 12)] * 2
    assert first.evaluations == []
    second = run(*(replace(spec, attempt=2) for spec in specs))
    assert [one.mark for one in of(second, 0).evaluations] == [12, 24]
    assert second.outcomes[0].examples == 12


# Memory


def test_out_of_memory_passes_become_smaller_and_the_step_comes_again(tmp_path, caplog):
    specs = several(tmp_path / "1", *(replace(one, augment_rate=0.0) for one in MIXED))
    plenty = run(*specs)
    with tiny.shortage(2, training=True) as passes:
        tight = run(*(replace(spec, folder=tmp_path / "2" / str(spec.trial)) for spec in specs))
    assert any(passes)
    assert [one.ending for one in tight.outcomes] == [Ending.FINISHED] * 4
    assert re.match(r"out of memory: engine.token_budget goes down from \d+ to \d+", caplog.messages[0])
    for trial in range(4):
        assert of(tight, trial).train_losses == pytest.approx(of(plenty, trial).train_losses, abs=1e-5)


def test_out_of_memory_with_one_row_trials_leave_until_the_rest_fits(tmp_path, monkeypatch, caplog):
    specs = several(tmp_path, *MIXED[:3])
    real = cycle.Layers.at_work

    def hungry(layers, stack, groups, dropout=None):
        if stack.slots > 1 and layers._model.training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(layers, stack, groups, dropout)

    monkeypatch.setattr(cycle.Layers, "at_work", hungry)
    first = run(*specs)
    endings = {one.trial: (one.ending, one.examples) for one in first.outcomes}
    assert endings == {0: (Ending.FINISHED, 24), 1: (Ending.SUSPENDED, 0), 2: (Ending.SUSPENDED, 0)}
    assert [told for told in caplog.messages if "slots" in told] == [
        f"out of memory: engine.slots goes down from {many} to {few} for the trials to come, too"
        for many, few in ((3, 2), (2, 1))
    ]
    again = run(replace(specs[1], attempt=2), slots=1)
    assert again.outcomes[0].ending is Ending.FINISHED


@pytest.fixture
def weights_that_fit(monkeypatch):
    """Lets no stack of more adapter weights be made."""
    real = Stack.fitted

    def limit(most):
        def fitted(stack, newcomers, slots):
            made = real(stack, newcomers, slots)
            if made.weights.numel() > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return made

        monkeypatch.setattr(Stack, "fitted", fitted)

    return limit


def weights_of(rank):
    """Adapter weights of a trial on all layers."""
    pairs = fresh(tiny.base(), tiny.settings(lora_rank=rank), 0).adapter.weights.values()
    return sum(a.numel() + b.numel() for a, b in pairs)


def test_a_larger_rank_without_memory_waits_until_it_is_alone(tmp_path, weights_that_fit, caplog):
    *small, large = several(tmp_path, *[tiny.settings(lora_rank=4)] * 2, tiny.settings(lora_rank=100))
    alone = run(replace(large, folder=tmp_path / "alone"))
    weights_that_fit(weights_of(128))
    channel = run(*small, large, replace(large, attempt=2))
    assert [(one.trial, one.ending, one.examples) for one in channel.outcomes] == [
        (2, Ending.SUSPENDED, 0),
        *((trial, Ending.FINISHED, 24) for trial in range(3)),
    ]
    assert caplog.messages == [
        f"out of memory: engine.slots goes down from {many} to {few} for the trials to come, too"
        for many, few in ((3, 2), (2, 1))
    ]
    assert of(channel, 2).train_losses == pytest.approx(alone.train_losses, abs=1e-5)


def test_who_holds_a_slot_beyond_a_lowered_number_keeps_it(tmp_path, weights_that_fit, caplog):
    """Trial 3 finds slot 0 free and no memory: the others hold slots 1 and 2, and two are left."""
    long = tiny.settings(epochs=2)
    specs = [
        *several(tmp_path, tiny.settings()),
        *(tiny.spec(tmp_path, long, trial=i, marks=(48,)) for i in (1, 2)),
        tiny.spec(tmp_path, tiny.settings(lora_rank=100), trial=3),
        tiny.spec(tmp_path, tiny.settings(), trial=4),
    ]
    weights_that_fit(weights_of(128))
    endings = [(one.trial, one.ending) for one in run(*specs).outcomes]
    assert endings[:2] == [(0, Ending.FINISHED), (3, Ending.SUSPENDED)]
    assert sorted(endings[2:]) == [(trial, Ending.FINISHED) for trial in (1, 2, 4)]
    assert [told for told in caplog.messages if "slots" in told] == [
        "out of memory: engine.slots goes down from 3 to 2 for the trials to come, too"
    ]


def test_an_adapter_that_does_not_fit_alone_fails_its_trial_and_no_other(tmp_path, weights_that_fit):
    specs = several(tmp_path, tiny.settings(lora_rank=100), tiny.settings(lora_rank=4))
    weights_that_fit(weights_of(8))
    large, small = run(*specs).outcomes
    assert (large.ending, small.ending) == (Ending.FAILED, Ending.FINISHED)
    assert "out of memory" in large.reason


def test_a_stack_that_cannot_be_made_smaller_stays_as_it_is(tmp_path, monkeypatch, caplog):
    real_work, real_fitted = cycle.Layers.at_work, Stack.fitted

    def hungry(layers, stack, groups, dropout=None):
        if layers._model.training and not any("slots" in told for told in caplog.messages):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real_work(layers, stack, groups, dropout)

    refused = []

    def fitted(stack, newcomers, slots):
        if slots == 2 and not newcomers:
            refused.append(slots)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real_fitted(stack, newcomers, slots)

    monkeypatch.setattr(cycle.Layers, "at_work", hungry)
    monkeypatch.setattr(Stack, "fitted", fitted)
    channel = run(*several(tmp_path, tiny.settings(), tiny.settings(epochs=2), tiny.settings()))
    assert refused
    assert {one.trial: one.ending for one in channel.outcomes} == {
        0: Ending.FINISHED,
        1: Ending.FINISHED,
        2: Ending.SUSPENDED,
    }


def test_out_of_memory_alone_with_one_row_fails_the_trial(tmp_path):
    with tiny.shortage(0, training=True):
        (outcome,) = run(tiny.spec(tmp_path, tiny.settings())).outcomes
    assert outcome.ending is Ending.FAILED
    assert "out of memory with one row per forward pass; set model.gradient_checkpointing" in outcome.reason


def test_out_of_memory_in_evaluation_fewer_are_scored_at_once(tmp_path):
    with tiny.shortage(1, training=False) as passes:
        channel = run(*several(tmp_path, *MIXED[:3]))
    assert any(passes)
    assert [one.ending for one in channel.outcomes] == [Ending.FINISHED] * 3


def test_a_fault_in_a_shared_step_fails_who_shared_it(tmp_path):
    def broken(module, args, kwargs):
        if module.training:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    handle = tiny.base().model.register_forward_pre_hook(broken, with_kwargs=True)
    try:
        channel = run(*several(tmp_path, *MIXED[:2]))
    finally:
        handle.remove()
    assert [one.ending for one in channel.outcomes] == [Ending.FAILED] * 2
    assert all("mat1 and mat2" in one.reason for one in channel.outcomes)


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    spec = tiny.spec(tmp_path, tiny.settings())
    run(spec, decide=lambda p: Decision.SUSPEND if p.examples == 20 else Decision.CONTINUE)
    last = checkpoints.newest(spec.folder)
    assert (last.state.engine, last.state.examples) == ("packed", 20)
    moments = last.folder / checkpoints.MOMENTS
    moments.write_bytes(moments.read_bytes()[:-1] + b"?")
    assert run(replace(spec, attempt=2)).outcomes[0].examples == 12


def test_a_trial_reports_while_slots_are_tried(tmp_path):
    channel = run(tiny.spec(tmp_path, tiny.settings()), slots="null")
    first = next(i for i, report in enumerate(channel.reports) if report.metrics)
    assert [report.examples for report in channel.reports[:first]] == [0] * first
    assert first >= 1


def test_given_slots_that_do_not_fit_are_fewer_after_trying_with_a_warning(caplog):
    engine = PackedEngine(workbench(tiny.config(), tiny.base(), tiny.rows()), 3, 1000)
    with tiny.shortage(4, training=True):
        assert engine.choose_slots(tiny.settings()).slots == 1
    assert caplog.messages == ["engine.slots=3 don't fit into memory; going on with 1"]


@pytest.mark.parametrize("slots", ["null", 2])
def test_what_peft_refuses_fails_that_trial_alone(tmp_path, slots):
    channel = run(
        *several(tmp_path, tiny.settings(lora_target_modules="nowhere"), tiny.settings(), tiny.settings()),
        slots=slots,
    )
    outcomes = {outcome.trial: outcome for outcome in channel.outcomes}
    assert [outcomes[trial].ending for trial in range(3)] == [Ending.FAILED, *[Ending.FINISHED] * 2]
    assert "nowhere" in outcomes[0].reason
    assert {outcome.engine for outcome in channel.outcomes} == {"packed"}


def test_what_peft_refuses_may_be_all_there_is(tmp_path):
    (outcome,) = run(tiny.spec(tmp_path, tiny.settings(lora_target_modules="nowhere"))).outcomes
    assert (outcome.ending, outcome.engine) == (Ending.FAILED, "packed")


# Around it


def test_a_coordinator_fills_the_slots_and_prunes(tmp_path):
    coordinator, study, recorder = open_coordinator(tmp_path, "budget.trials=7", "pruner.min_peers=2")
    overrides = ("engine=packed", "engine.slots=3", "task.generation.max_new_tokens=2")
    with tiny.one_thread():
        rows = tiny.rows(train=96, validation=4)
        make_engine(tiny.config(*overrides), tiny.base(), rows).run(coordinator)
    coordinator.close()
    assert [record.number for record in study.records()] == [BASE, *range(7)]
    assert all(record.state.is_over for record in study.records())
    assert {record.engine for record in study.records()} == {"trainer", "packed"}
    together, most = 0, 0
    for kind, what in recorder.heard:
        if kind in ("started", "ended") and what.number != BASE:
            together += 1 if kind == "started" else -1
            most = max(most, together)
    assert most == 3


@pytest.fixture
def other_base():
    def make(change):
        model = tiny.llama()
        change(model)
        return BaseModel(model, tiny.tokenizer(), "causal", name="tiny")

    return make


def run_on(base, *specs):
    channel = tiny.Script(specs)
    with tiny.one_thread():
        make_engine(tiny.config("engine=packed", "engine.slots=3", EVERY_STEP), base, tiny.rows()).run(
            channel
        )
    return channel


def test_llama_likes_that_drop_attention_weights_are_trained_alone(tmp_path, other_base):
    base = other_base(lambda model: setattr(model.config, "attention_dropout", 0.1))
    (outcome,) = run_on(base, tiny.spec(tmp_path, tiny.settings())).outcomes
    assert (outcome.ending, outcome.engine) == (Ending.FINISHED, "trainer")
    assert outcome.warnings[0] == "trained by the engine trainer: the base model drops attention weights"


def test_a_base_in_bfloat16_trains_adapters_in_float32(tmp_path, other_base):
    specs = several(tmp_path / "16", *MIXED[:2])
    half = run_on(other_base(lambda model: model.to(torch.bfloat16)), *specs)
    whole = run(*(replace(spec, folder=tmp_path / "32" / str(spec.trial)) for spec in specs))
    for trial in range(2):
        (outcome,) = of(half, trial).outcomes
        saved = load_file(outcome.adapter / "adapter_model.safetensors")
        assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
        assert of(half, trial).train_losses == pytest.approx(of(whole, trial).train_losses, rel=0.03)


def test_activations_computed_again_change_nothing(tmp_path, other_base):
    specs = several(tmp_path / "1", *(replace(one, lora=replace(one.lora, dropout=0.3)) for one in MIXED[:2]))
    again = run_on(
        other_base(lambda model: model.activation_checkpointing_enable({"use_reentrant": False})), *specs
    )
    once = run(*(replace(spec, folder=tmp_path / "2" / str(spec.trial)) for spec in specs))
    for trial in range(2):
        assert of(again, trial).train_losses == pytest.approx(of(once, trial).train_losses, abs=1e-5)
