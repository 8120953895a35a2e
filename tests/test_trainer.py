"""The engine `trainer`: marks, checkpoints, exact resumption, memory, failures, the adapter it leaves."""

import copy
import math
import shutil
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from sweeper import metrics
from sweeper.engines import checkpoints
from sweeper.engines.batches import collate, logits, read_rows
from sweeper.engines.evaluate import Evaluator, out_of_memory, overfitting
from sweeper.errors import DeviceError, TrialError
from sweeper.messages import BASE, Decision, Ending, Evaluation
from sweeper.models.modeling import BaseModel
from tests import tiny

DROPOUT = {"lora_dropout": 0.2}


def evaluated(channel):
    return [(one.mark, one.objective, one.metrics["loss"]) for one in channel.evaluations]


@pytest.mark.parametrize("kind", ["causal", "seq2seq", "classifier", "gpt2"])
def test_a_trial_is_trained_evaluated_and_leaves_one_adapter(tmp_path, kind):
    channel = tiny.run(tiny.spec(tmp_path, tiny.settings()), kind=kind)
    (outcome,) = channel.outcomes
    assert outcome.ending is Ending.FINISHED, outcome.reason
    assert [one.mark for one in channel.evaluations] == [12, 24]
    assert outcome.examples == 24
    assert outcome.best in channel.evaluations
    assert len(outcome.samples) == 2
    assert outcome.cost["seconds"] >= outcome.cost["train_seconds"] > 0 < outcome.cost["evaluation_seconds"]
    assert outcome.cost["peak_memory_bytes"] > 1e6
    weights = load_file(outcome.adapter / "adapter_model.safetensors")
    assert outcome.cost["trainable_parameters"] == sum(one.numel() for one in weights.values())
    size = (outcome.adapter / "adapter_model.safetensors").stat().st_size
    assert outcome.cost["adapter_megabytes"] == size / 1e6
    for evaluation in channel.evaluations:
        gap = evaluation.metrics["loss"] - evaluation.metrics["train_loss"]
        assert evaluation.metrics["generalization_gap"] == pytest.approx(gap)
    assert sorted(path.name for path in (tmp_path / "0000").rglob("*") if path.is_file()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


@pytest.mark.parametrize("kind", ["causal", "classifier"])
def test_the_best_mark_is_told_by_slices(tmp_path, kind):
    further = ["task.evaluation.metrics=[worst_slice.loss]", "task.evaluation.slice_rows=2"]
    channel = tiny.run(tiny.spec(tmp_path, tiny.settings()), kind=kind, overrides=further)
    best = channel.outcomes[0].best
    rows = {(one.by, one.value): one.rows for one in best.slices}
    assert rows["slice", "a"] + rows["slice", "b"] == 10
    assert sum(count for (by, _), count in rows.items() if by == "group") == 10
    assert sum(count for (by, _), count in rows.items() if by == "length") == 10
    losses = {one.value: one.metrics["loss"] for one in best.slices if one.by == "slice"}
    assert best.metrics["worst_slice.loss"] == max(losses.values())
    assert 0 < best.errors["loss"] < best.metrics["loss"]
    if kind == "classifier":
        assert sum(count for (by, _), count in rows.items() if by == "label") == 10
        assert [sum(row) for row in best.confusion.counts] == [4, 3, 3]
        assert 0 <= best.metrics["auroc"] <= 1
    assert sum(one.slices != () for one in channel.evaluations) <= 2


def test_the_best_mark_that_meets_the_constraints_is_restored(tmp_path):
    def train(name, *judged):
        overrides = ("task.objective={metric: loss, direction: minimize}", *judged)
        spec = tiny.spec(tmp_path / name, tiny.settings(), marks=(8, 16, 24))
        return tiny.run(spec, overrides=overrides)

    plain = train("plain")
    assert plain.outcomes[0].best.mark == 24
    first, second, last = (one.metrics["length_ratio"] for one in plain.evaluations)
    assert first > second > last
    bound = f"task.constraints=[{{metric: length_ratio, at_least: {second}}}]"
    outcomes = [
        train("met", bound).outcomes[0],
        train("missed", bound.replace(str(second), "9.0")).outcomes[0],
    ]
    assert [outcome.best.mark for outcome in outcomes] == [16, 24], "where none meets them, the best one"
    adapters = [
        load_file(one.adapter / "adapter_model.safetensors") for one in (*outcomes, plain.outcomes[0])
    ]
    met, missed, best = (adapter.popitem()[1] for adapter in adapters)
    assert torch.equal(missed, best)
    assert not torch.equal(met, best)


def test_training_reports_loss_rate_and_speed(tmp_path):
    channel = tiny.run(tiny.spec(tmp_path, tiny.settings(warmup=0.0)))
    training = [report for report in channel.reports if report.metrics]
    assert [report.examples for report in training] == [4, 8, 12, 16, 20, 24]
    assert training[0].metrics["learning_rate"] == pytest.approx(1e-2)
    assert all(report.metrics["examples_per_second"] > 0 for report in training)


def test_one_batch_may_pass_several_marks(tmp_path):
    channel = tiny.run(tiny.spec(tmp_path, tiny.settings(batch_size=16), marks=(6, 12, 18, 24)))
    assert [one.mark for one in channel.evaluations] == [6, 12, 18, 24]
    first, second, third, _ = channel.evaluations
    assert first.objective == second.objective
    assert third.metrics["loss"] != second.metrics["loss"]


def test_the_base_model_is_measured_and_timed(tmp_path):
    channel = tiny.run(tiny.spec(tmp_path, tiny.settings(), trial=BASE, marks=(0,)))
    (outcome,) = channel.outcomes
    assert (outcome.ending, outcome.examples, outcome.adapter) == (Ending.FINISHED, 0, None)
    assert [one.mark for one in channel.evaluations] == [0]
    assert outcome.cost["train_examples_per_second"] > 0
    assert any("train_examples_per_second" in report.metrics for report in channel.reports)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_suspended_between_marks_the_losses_go_on_exactly(tmp_path, method):
    settings = tiny.settings(method=method, epochs=2, **DROPOUT)
    marks = (24, 48)
    whole = tiny.run(tiny.spec(tmp_path / "whole", settings, marks=marks))

    def leave(progress):
        return Decision.SUSPEND if progress.examples == 32 else Decision.CONTINUE

    first = tiny.run(tiny.spec(tmp_path / "parts", settings, marks=marks), decide=leave)
    second = tiny.run(tiny.spec(tmp_path / "parts", settings, attempt=2, marks=marks))
    assert first.outcomes[0].ending is Ending.SUSPENDED
    assert first.outcomes[0].examples + second.outcomes[0].examples == 48
    assert first.train_losses | second.train_losses == whole.train_losses
    assert evaluated(second) == evaluated(whole)
    assert second.evaluations[-1].metrics == whole.evaluations[-1].metrics
    best = [path.outcomes[-1].adapter / "adapter_model.safetensors" for path in (whole, second)]
    if method == "lora":
        one, other = (load_file(path) for path in best)
        assert all(torch.equal(one[name], other[name]) for name in one)


class Killed(BaseException):
    """Nothing that the engine may catch."""


@pytest.mark.parametrize("moment", ["while evaluating", "after a mark"])
def test_killed_at_a_mark_no_training_is_repeated(tmp_path, moment):
    settings = tiny.settings(**DROPOUT)
    whole = tiny.run(tiny.spec(tmp_path / "whole", settings, marks=(8, 16, 24)))

    def die(progress):
        at_mark = progress.evaluation is not None if moment == "after a mark" else not progress.metrics
        if progress.examples == 16 and at_mark:
            raise Killed("in the middle")
        return Decision.CONTINUE

    with pytest.raises(Killed, match="in the middle"):
        tiny.run(tiny.spec(tmp_path / "parts", settings, marks=(8, 16, 24)), decide=die)
    second = tiny.run(tiny.spec(tmp_path / "parts", settings, attempt=2, marks=(8, 16, 24)))
    assert second.outcomes[0].examples == 8
    assert evaluated(second) == evaluated(whole)
    assert second.train_losses[24] == whole.train_losses[24]


def test_suspended_while_evaluating_the_mark_is_evaluated_first(tmp_path):
    def leave(progress):
        evaluating = progress.examples == 12 and not progress.metrics and progress.evaluation is None
        return Decision.SUSPEND if evaluating else Decision.CONTINUE

    settings = tiny.settings(**DROPOUT)
    first = tiny.run(tiny.spec(tmp_path, settings), decide=leave)
    assert (first.outcomes[0].ending, first.evaluations) == (Ending.SUSPENDED, [])
    second = tiny.run(tiny.spec(tmp_path, settings, attempt=2))
    assert [one.mark for one in second.evaluations] == [12, 24]
    assert second.outcomes[0].examples == 12


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    settings = tiny.settings()

    def leave(progress):
        return Decision.SUSPEND if progress.examples == 20 else Decision.CONTINUE

    whole = tiny.run(tiny.spec(tmp_path / "whole", settings))
    tiny.run(tiny.spec(tmp_path, settings), decide=leave)
    last = checkpoints.newest(tmp_path / "0000")
    assert last.state.examples == 20
    weights = last.folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert checkpoints.newest(tmp_path / "0000").state.examples == 12
    (last.folder / "state.json").write_text("{")
    second = tiny.run(tiny.spec(tmp_path, settings, attempt=2))
    assert second.outcomes[0].examples == 12
    assert evaluated(second) == evaluated(whole)


def test_without_its_weights_a_best_mark_is_forgotten(tmp_path):
    tiny.run(tiny.spec(tmp_path, tiny.settings()), decide=lambda p: leave_after(p, 20))
    trial = tmp_path / "0000"
    known = checkpoints.newest(trial)
    assert known.state.best_folder is not None
    shutil.rmtree(trial / known.state.best_folder)
    assert checkpoints.newest(trial).state.best is None


def leave_after(progress, examples):
    return Decision.SUSPEND if progress.examples >= examples else Decision.CONTINUE


def test_micro_batches_change_speed_not_losses(tmp_path):
    settings = tiny.settings(batch_size=8)
    together = tiny.run(tiny.spec(tmp_path / "1", settings))
    split = tiny.run(
        tiny.spec(tmp_path / "2", settings), overrides=("engine.report_seconds=1e-9", "engine.micro_batch=3")
    )
    for examples, loss in together.train_losses.items():
        assert split.train_losses[examples] == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("after_passes", [0, 6])
def test_out_of_memory_halves_the_micro_batch(tmp_path, after_passes):
    settings = tiny.settings(batch_size=4)
    plenty = tiny.run(tiny.spec(tmp_path / "1", settings))
    with tiny.shortage(2, training=True, after_passes=after_passes) as passes:
        tight = tiny.run(tiny.spec(tmp_path / "2", settings))
    assert passes.count(True) == 1, "the first pass that is too large is the last one"
    assert tight.outcomes[0].ending is Ending.FINISHED
    assert [one.mark for one in tight.evaluations] == [12, 24]
    for (mark, _, loss), (same, _, expected) in zip(evaluated(tight), evaluated(plenty), strict=True):
        assert mark == same
        assert loss == pytest.approx(expected, rel=1e-4)


def test_out_of_memory_with_one_row_fails_the_trial(tmp_path):
    with tiny.shortage(0, training=True) as passes:
        channel = tiny.run(tiny.spec(tmp_path, tiny.settings(batch_size=4)))
    assert passes == [True] * 3, "four rows, two, one"
    (outcome,) = channel.outcomes
    assert outcome.ending is Ending.FAILED
    assert "out of memory with one row per forward pass; set model.gradient_checkpointing" in outcome.reason
    assert not list((tmp_path / "0000").rglob("*.safetensors"))


def test_a_lost_device_is_no_fault_of_the_trial(tmp_path):
    def gone(module, args, kwargs):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    handle = tiny.base().model.register_forward_pre_hook(gone, with_kwargs=True)
    try:
        with pytest.raises(DeviceError, match=r"the device gave up in trial 0 \(CUDA error: an illegal"):
            tiny.run(tiny.spec(tmp_path, tiny.settings()))
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("rows_that_fit", "ending", "reason"),
    [(2, Ending.FINISHED, ""), (0, Ending.FAILED, "out of memory with one row per forward pass")],
)
def test_out_of_memory_in_evaluation_fewer_rows_are_scored_at_once(tmp_path, rows_that_fit, ending, reason):
    plenty = tiny.run(tiny.spec(tmp_path / "1", tiny.settings()))

    with tiny.shortage(rows_that_fit, training=False) as passes:
        tight = tiny.run(tiny.spec(tmp_path / "2", tiny.settings()))
    assert any(passes)
    (outcome,) = tight.outcomes
    assert (outcome.ending, outcome.reason[:43]) == (ending, reason)
    if ending is Ending.FINISHED:
        assert [mark for mark, _, _ in evaluated(tight)] == [mark for mark, _, _ in evaluated(plenty)]


def test_a_loss_that_is_nan_from_the_first_step_fails_the_trial_at_once(tmp_path):
    def broken(module, args, output):
        return output * torch.nan if output.requires_grad else output

    handle = tiny.base().model.get_output_embeddings().register_forward_hook(broken)
    try:
        channel = tiny.run(tiny.spec(tmp_path, tiny.settings()))
    finally:
        handle.remove()
    (outcome,) = channel.outcomes
    assert (outcome.ending, outcome.examples) == (Ending.FAILED, 4)
    assert "the training loss became nan at example 4; lower the learning rate" in outcome.reason
    assert channel.evaluations == []


def test_only_shortage_of_memory_is_taken_for_it():
    assert out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."))
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not out_of_memory(ValueError("out of memory"))


def test_a_diverging_trial_fails_in_words_and_the_next_one_runs(tmp_path):
    wild = tiny.settings(method="full", learning_rate=1e30, max_grad_norm=0.0, warmup=0.0)
    channel = tiny.run(tiny.spec(tmp_path, wild), tiny.spec(tmp_path, tiny.settings(), trial=1))
    failed, fine = channel.outcomes
    assert failed.ending is Ending.FAILED
    assert "training loss became" in failed.reason
    assert failed.reason.endswith("lower the learning rate, lengthen the warm-up or set max_grad_norm")
    assert fine.ending is Ending.FINISHED
    assert math.isfinite(fine.best.objective)


def test_patience_ends_a_trial_and_the_best_mark_is_restored(tmp_path):
    # At this rate the answers stay as they are, and no mark is better than the first.
    idle = tiny.settings(learning_rate=1e-12, patience=2, epochs=4)
    channel = tiny.run(tiny.spec(tmp_path, idle, marks=range(12, 97, 12)))
    (outcome,) = channel.outcomes
    assert outcome.ending is Ending.FINISHED
    assert outcome.reason == "stopped at example 36 of 96: rougeL was best at 12, 2 marks ago"
    assert (outcome.best.mark, outcome.examples) == (12, 36)
    assert outcome.samples


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own
@pytest.mark.parametrize("variant", ["lora", "rslora", "dora"])
def test_plain_peft_loads_the_adapter_and_gets_the_same_scores(tmp_path, variant):
    channel = tiny.run(tiny.spec(tmp_path, tiny.settings(lora_variant=variant)))
    (outcome,) = channel.outcomes
    model = PeftModel.from_pretrained(tiny.llama(), outcome.adapter).eval()
    config, data = tiny.config(), tiny.rows()
    answers = Evaluator(tiny.base(), config.task, read_rows(data.validation), ()).answers(
        model, lambda done, of: None
    )
    scores = metrics.score(config.task, answers)
    assert scores.objective == pytest.approx(outcome.best.objective, abs=1e-9)
    assert scores.metrics["loss"] == pytest.approx(outcome.best.metrics["loss"], rel=1e-6)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own
@pytest.mark.parametrize(("kind", "method"), [("causal", "lora"), ("causal", "full"), ("classifier", "lora")])
def test_the_held_out_scores_are_those_of_the_best_model_as_it_was_saved(tmp_path, kind, method):
    rate = 3e-3 if method == "full" else 1e-2
    settings = tiny.settings(method=method, learning_rate=rate, epochs=3, scheduler="constant")
    data = tiny.rows(kind, test=7)
    spec = tiny.spec(tmp_path, settings, marks=range(12, 73, 12), held_out=True)
    channel = tiny.run(spec, kind=kind, data=data)
    (outcome,) = channel.outcomes
    assert outcome.best.mark < 72, "training went on after it"
    if method == "full":
        model = type(tiny.llama()).from_pretrained(outcome.adapter)
    else:
        blank = tiny.classifier() if kind == "classifier" else tiny.llama()
        model = PeftModel.from_pretrained(blank, outcome.adapter).eval()
    config = tiny.config(kind=kind)
    evaluator = Evaluator(tiny.base(kind), config.task, read_rows(data.test), data.labels)
    scores = evaluator.scores(evaluator.answers(model.eval(), lambda done, of: None))
    assert outcome.test.objective == pytest.approx(scores.objective, abs=1e-9)
    assert outcome.test.metrics["loss"] == pytest.approx(scores.metrics["loss"], rel=1e-6)
    assert sum(outcome.test.rows) / 7 == pytest.approx(scores.objective)
    assert outcome.test.metrics["loss"] != pytest.approx(outcome.best.metrics["loss"], rel=1e-3)
    assert {sample.row for sample in outcome.test.samples} <= set(data.test["id"])


def test_a_run_that_patience_ends_is_scored_too(tmp_path):
    idle = tiny.settings(learning_rate=1e-12, patience=2, epochs=4)
    spec = tiny.spec(tmp_path, idle, marks=range(12, 97, 12), held_out=True)
    (outcome,) = tiny.run(spec, data=tiny.rows(test=6)).outcomes
    assert outcome.reason.startswith("stopped at example 36 of 96")
    assert outcome.test.count == 6


@pytest.mark.parametrize("how", ["killed", "suspended"])
def test_while_the_held_out_rows_are_scored_no_training_is_lost(tmp_path, how):
    settings = tiny.settings(**DROPOUT)
    whole = tiny.run(tiny.spec(tmp_path / "whole", settings, held_out=True), data=tiny.rows(test=6))
    spec = tiny.spec(tmp_path / "parts", settings, held_out=True)
    told = []

    def leave(progress):
        told.extend([progress.evaluation.mark] if progress.evaluation else [])
        if 24 not in told or progress.evaluation:
            return Decision.CONTINUE
        if how == "killed":
            raise Killed("while testing")
        return Decision.SUSPEND

    if how == "killed":
        with pytest.raises(Killed, match="while testing"):
            tiny.run(spec, decide=leave, data=tiny.rows(test=6))
    else:
        assert tiny.run(spec, decide=leave, data=tiny.rows(test=6)).outcomes[0].ending is Ending.SUSPENDED
    second = tiny.run(replace(spec, attempt=2), data=tiny.rows(test=6))
    assert second.outcomes[0].examples == 0
    assert second.outcomes[0].test == whole.outcomes[0].test


def test_held_out_scores_that_are_not_finite_are_refused():
    model = tiny.llama()
    model.lm_head.weight.data.fill_(math.nan)
    base = BaseModel(model, tiny.tokenizer(), "causal")
    evaluator = Evaluator(base, tiny.config().task, read_rows(tiny.rows(test=6).test), ())
    with pytest.raises(TrialError, match="the test loss or the objective on the test rows is not finite"):
        evaluator.held_out(model, lambda done, of: None)


def test_a_fully_trained_model_is_an_ordinary_model_folder(tmp_path):
    channel = tiny.run(tiny.spec(tmp_path, tiny.settings(method="full", learning_rate=1e-3)))
    (outcome,) = channel.outcomes
    model = type(tiny.llama()).from_pretrained(outcome.adapter)
    data = tiny.rows()
    answers = Evaluator(tiny.base(), tiny.config().task, read_rows(data.validation), ()).answers(
        model, lambda done, of: None
    )
    loss = sum(answers.loss_sums) / sum(answers.token_counts)
    assert loss == pytest.approx(outcome.best.metrics["loss"], rel=1e-6)


@pytest.mark.parametrize("kind", ["causal", "seq2seq", "classifier"])
def test_answers_do_not_depend_on_the_batch_size(kind):
    data = tiny.rows(kind)
    found = []
    for size in (1, 3, 10):
        config = tiny.config(f"task.evaluation.batch_size={size}", kind=kind)
        evaluator = Evaluator(tiny.base(kind), config.task, read_rows(data.validation), data.labels)
        found.append(evaluator.answers(tiny.base(kind).model, lambda done, of: None))
    for other in found[1:]:
        assert other.loss_sums == pytest.approx(found[0].loss_sums, rel=1e-5)
        assert other.token_counts == found[0].token_counts
        for name in ("outputs", "predicted"):
            assert getattr(other, name, None) == getattr(found[0], name, None)


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("kind", ["causal", "gpt2"])
def test_answers_are_those_of_each_row_alone(kind, beams):
    """Losses and texts against the model as a user calls it; one beam reads the prompts once, two can't."""
    base, rows = tiny.base(kind), read_rows(tiny.rows(kind).validation)
    config = tiny.config(f"task.generation.num_beams={beams}", kind=kind)
    answers = Evaluator(base, config.task, rows, ()).answers(base.model, lambda done, of: None)
    for row, nats, count, output in zip(
        rows, answers.loss_sums, answers.token_counts, answers.outputs, strict=True
    ):
        with torch.no_grad():
            loss = base.model(torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])).loss
            prompt = torch.tensor([row.prompt_ids])
            text = base.model.generate(
                prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=4, num_beams=beams
            )[0, prompt.shape[1] :]
        assert count == sum(label != -100 for label in row.labels)
        assert nats / count == pytest.approx(float(loss), rel=1e-5)
        assert output == base.tokenizer.decode(text, skip_special_tokens=True).strip()


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("kind", ["causal", "gpt2"])
def test_the_answers_of_chats_are_those_of_each_last_turn_alone(kind, beams):
    base, rows = tiny.base(kind), read_rows(tiny.chats().validation)
    model = copy.deepcopy(base.model)
    with torch.no_grad():
        for module in model.modules():  # else it begins every answer with the same word
            if type(module).__name__ in ("Linear", "Conv1D"):
                module.weight.mul_(12)
    named = "task.evaluation.metrics=[worst_length.token_f1]"
    config = tiny.config(*tiny.CHATS, named, f"task.generation.num_beams={beams}")
    answers = Evaluator(base, config.task, rows, ()).answers(model, lambda done, of: None)
    for row, nats, output in zip(rows, answers.loss_sums, answers.outputs, strict=True):
        with torch.no_grad():
            loss = model(torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])).loss
            prompt = torch.tensor([row.prompt_ids])
            text = model.generate(
                prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=4, num_beams=beams
            )[0, prompt.shape[1] :]
        assert nats / sum(label != -100 for label in row.labels) == pytest.approx(float(loss), rel=1e-5)
        assert output == base.tokenizer.decode(text).partition("<eos>")[0].strip()
    assert answers.references == [row.answer for row in rows]
    assert len({output.partition(" ")[0] for output in answers.outputs}) > 1


@pytest.mark.parametrize("last", [0, 1])
def test_chats_whose_rows_end_with_their_prompts_are_answered_too(last):
    """Rows that can't be read once, for they have no first token of the answer to begin with."""
    base, rows = tiny.base(), read_rows(tiny.chats().validation)
    cut = [
        replace(row, input_ids=row.input_ids[:end], labels=row.labels[:end])
        for row in rows
        for end in [len(row.prompt_ids) + last]
    ]
    task = tiny.config(*tiny.CHATS, "task.evaluation.metrics=[token_f1]").task
    whole, found = (
        Evaluator(base, task, some, ()).answers(base.model, lambda done, of: None) for some in (rows, cut)
    )
    assert found.outputs == whole.outputs


def test_special_tokens_that_end_nothing_stay_in_the_answers_of_chats():
    """Templates mark tool calls by them."""
    base, rows = tiny.base(), read_rows(tiny.chats().validation)
    mark, end = tiny.tokenizer().convert_tokens_to_ids(["<unk>", "<eos>"])
    task = tiny.config(*tiny.CHATS, "task.evaluation.metrics=[token_f1]").task
    for forced, said in ((mark, "<unk> <unk> <unk> <unk>"), (end, "")):

        def force(module: object, args: object, logits: torch.Tensor, forced: int = forced) -> torch.Tensor:
            logits = logits.clone()
            logits[..., forced] += 1000
            return logits

        hook = base.model.lm_head.register_forward_hook(force)
        try:
            answers = Evaluator(base, task, rows, ()).answers(base.model, lambda done, of: None)
        finally:
            hook.remove()
        assert set(answers.outputs) == {said}


def test_each_prompt_passes_through_the_model_once():
    base, rows = tiny.base(), read_rows(tiny.rows().validation)
    read = []
    hook = base.model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    try:
        Evaluator(base, tiny.config("task.evaluation.batch_size=10").task, rows, ()).answers(
            base.model, lambda done, of: None
        )
    finally:
        hook.remove()
    # Without padding, and without last tokens, which predict nothing; then token after token.
    assert read == [sum(len(row.input_ids) - 1 for row in rows), *[len(rows)] * 3]


def test_the_output_layer_sees_labelled_positions_alone():
    model, seen = tiny.llama(), []
    model.lm_head.register_forward_hook(lambda module, args, result: seen.append(result.shape))
    batch = collate(read_rows(tiny.rows().train)[:4], "causal", 0)
    kept = logits(model, "causal", batch)
    assert seen == [(len(batch["targets"]), len(tiny.tokenizer()))]
    everywhere = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    torch.testing.assert_close(kept, everywhere[batch["keep"]])


def curve(*points):
    return [
        Evaluation(i, 0.0, 0.0, {"loss": loss, "train_loss": train}) for i, (loss, train) in enumerate(points)
    ]


@pytest.mark.parametrize("engine", ["trainer", "packed"])
def test_a_short_trial_reports_its_loss_often_enough_to_see_it_fall(tmp_path, engine):
    spec = tiny.spec(tmp_path, tiny.settings(batch_size=1))
    channel = tiny.run(spec, overrides=(f"engine={engine}", "engine.report_seconds=100"))
    assert len(channel.train_losses) >= 12, "of 24 steps"


def test_overfitting_is_told_from_the_curve():
    assert "validation loss rose" in overfitting(curve((2.0, 2.1), (1.8, 1.7), (1.9, 1.4), (2.0, 1.2)), 2)
    assert "above the training loss" in overfitting(curve((2.0, 1.9), (1.9, 0.5)), 2)
    assert overfitting(curve((2.0, 2.1), (1.8, 1.7), (1.9, 1.4)), 2) == ""
    assert overfitting(curve((2.0, 1.9), (1.9, 1.8), (1.8, 1.7)), 2) == ""
    assert overfitting([], 2) == ""


def test_a_gap_that_does_not_matter_is_no_overfitting():
    assert overfitting(curve((0.004, 0.004), (0.003, 0.001)), 2) == ""
    assert overfitting(curve((0.02, 0.02), (0.001, 0.01), (0.002, 0.005), (0.004, 0.001)), 2) == ""
    assert "above the training loss" in overfitting(curve((0.2, 0.2), (0.11, 0.01)), 2)


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("kind", ["causal", "gpt2", "seq2seq"])
def test_answers_that_are_empty_or_never_end_are_counted(kind, beams):
    """A model that writes one word for ever, one that ends at once, and one that does so after its prompt."""
    config = tiny.config(f"task.generation.num_beams={beams}", kind=kind)
    base, rows = tiny.base(kind), read_rows(tiny.rows(kind).validation)
    word, end = tiny.tokenizer().convert_tokens_to_ids(["cat", "<eos>"])

    def found(forced: int) -> dict[str, float]:
        def force(module: object, args: object, logits: torch.Tensor) -> torch.Tensor:
            logits = logits.clone()
            logits[..., forced] += 1000
            return logits

        hook = base.model.lm_head.register_forward_hook(force)
        try:
            evaluator = Evaluator(base, config.task, rows, ())
            metrics = evaluator.scores(evaluator.answers(base.model, lambda done, of: None)).metrics
        finally:
            hook.remove()
        return {name: metrics[name] for name in ("empty_answers", "unfinished_answers")}

    assert found(word) == {"empty_answers": 0.0, "unfinished_answers": 1.0}
    assert found(end) == {"empty_answers": 1.0, "unfinished_answers": 0.0}


def test_the_best_mark_alone_keeps_the_objective_of_every_row(tmp_path):
    (outcome,) = tiny.run(tiny.spec(tmp_path, tiny.settings(), marks=(6, 12, 18, 24))).outcomes
    assert len(outcome.best.rows) == len(tiny.rows().validation)
    assert sum(outcome.best.rows) / len(outcome.best.rows) == pytest.approx(outcome.best.objective, rel=1e-5)


def test_pruned_trials_leave_nothing_heavy(tmp_path):
    channel = tiny.run(
        tiny.spec(tmp_path, tiny.settings()),
        decide=lambda progress: Decision.PRUNE if progress.evaluation else Decision.CONTINUE,
    )
    (outcome,) = channel.outcomes
    assert (outcome.ending, outcome.examples) == (Ending.PRUNED, 12)
    assert not list((tmp_path / "0000").rglob("*.*"))


def test_trials_in_one_process_do_not_influence_each_other(tmp_path):
    wanted = tiny.spec(tmp_path / "alone", tiny.settings(neftune_noise=5.0, **DROPOUT))
    alone = tiny.run(wanted)
    other = tiny.settings(method="full", neftune_noise=1.0)
    behind = tiny.run(
        tiny.spec(tmp_path / "behind", other, trial=1), replace(wanted, folder=tmp_path / "behind" / "0000")
    )
    assert evaluated(behind)[2:] == evaluated(alone)


@pytest.mark.parametrize("how", ["pruned", "failed"])
def test_a_trial_that_is_cut_short_leaves_no_noise_on_the_embeddings(tmp_path, how):
    wanted = tiny.spec(tmp_path / "alone", tiny.settings(**DROPOUT))
    alone = tiny.run(wanted)
    embeddings = tiny.base().model.get_input_embeddings()

    def cut(progress):
        assert hasattr(embeddings, "neftune_noise_alpha"), "this trial has noise"
        if how == "failed":
            raise RuntimeError("planted")
        return Decision.PRUNE

    noisy = tiny.spec(tmp_path / "noisy", tiny.settings(neftune_noise=5.0))
    (outcome,) = tiny.run(noisy, decide=cut).outcomes
    assert outcome.ending is {"pruned": Ending.PRUNED, "failed": Ending.FAILED}[how]
    assert not hasattr(embeddings, "neftune_noise_alpha")
    assert not embeddings._forward_hooks
    behind = tiny.run(replace(wanted, folder=tmp_path / "behind"))
    assert evaluated(behind) == evaluated(alone)
