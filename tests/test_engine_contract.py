"""What every engine does, whatever it trains: marks, decisions, resumption, failures, the end."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from sacrebleu.metrics import CHRF

from sweeper.config.metrics import CHAT_ANSWERS
from sweeper.engines import make_engine
from sweeper.messages import BASE, Decision, Done, Ending, Engine, Wait
from tests import tiny


@dataclass(frozen=True)
class Maker:
    """Makes an engine whose every progress is reported; `wild` settings make its training diverge."""

    make: Callable[[], Engine]
    wild: tiny.TrialSettings


def trainer() -> Engine:
    return make_engine(
        tiny.config("engine=trainer", "engine.report_seconds=1e-9"), tiny.base(), tiny.rows(test=8)
    )


def packed() -> Engine:
    overrides = ("engine=packed", "engine.slots=3", "engine.report_seconds=1e-9")
    return make_engine(tiny.config(*overrides), tiny.base(), tiny.rows(test=8))


def auto() -> Engine:
    config = tiny.config("engine=auto", "engine.report_seconds=1e-9")
    return make_engine(config, tiny.base(), tiny.rows(test=8))


def replay() -> Engine:
    return make_engine(tiny.config("engine=replay", "engine.speedup=1e9", "data.sizes.test=8"))


ENGINES = {
    "trainer": Maker(
        trainer, tiny.settings(method="full", learning_rate=1e30, max_grad_norm=0.0, warmup=0.0)
    ),
    "auto": Maker(auto, tiny.settings(method="full", learning_rate=1e30, max_grad_norm=0.0, warmup=0.0)),
    "packed": Maker(packed, tiny.settings(learning_rate=1e30, max_grad_norm=0.0, warmup=0.0)),
    "replay": Maker(replay, tiny.settings(learning_rate=0.1)),
}


DECISIONS = pytest.mark.parametrize(
    ("decision", "ending"),
    [
        (Decision.PRUNE, Ending.PRUNED),
        (Decision.CANCEL, Ending.CANCELLED),
        (Decision.SUSPEND, Ending.SUSPENDED),
    ],
)


@pytest.fixture(params=ENGINES)
def maker(request):
    return ENGINES[request.param]


def work(
    maker: Maker, *specs: tiny.TrialSpec | Wait, decide=lambda progress: Decision.CONTINUE
) -> tiny.Script:
    channel = tiny.Script(specs, decide)
    with tiny.one_thread():
        maker.make().run(channel)
    return channel


def marks(channel: tiny.Script) -> Sequence[int]:
    return [evaluation.mark for evaluation in channel.evaluations]


@pytest.mark.parametrize("wanted", [(24,), (12, 24), (6, 12, 18, 24), (5, 11, 24)])
def test_every_mark_is_reported_once_and_in_order(maker, tmp_path, wanted):
    channel = work(maker, tiny.spec(tmp_path, tiny.settings(), marks=wanted))
    assert marks(channel) == list(wanted)
    (outcome,) = channel.outcomes
    assert (outcome.ending, outcome.examples) == (Ending.FINISHED, 24)
    assert outcome.best in channel.evaluations
    assert all(math.isfinite(evaluation.objective) for evaluation in channel.evaluations)


def test_reports_belong_to_their_trial_and_attempt(maker, tmp_path):
    channel = work(maker, tiny.spec(tmp_path, tiny.settings(), trial=3, attempt=2))
    assert {(report.trial, report.attempt) for report in channel.reports} == {(3, 2)}
    assert [(outcome.trial, outcome.attempt) for outcome in channel.outcomes] == [(3, 2)]
    examples = [report.examples for report in channel.reports]
    assert examples == sorted(examples)


@DECISIONS
def test_a_decision_at_a_mark_is_obeyed_at_once(maker, tmp_path, decision, ending):
    channel = work(
        maker,
        tiny.spec(tmp_path, tiny.settings(), marks=(8, 16, 24)),
        decide=lambda progress: decision if progress.evaluation else Decision.CONTINUE,
    )
    assert marks(channel) == [8]
    assert [outcome.ending for outcome in channel.outcomes] == [ending]
    assert channel.outcomes[0].examples < 24


@DECISIONS
def test_a_decision_between_marks_is_obeyed_before_the_next(maker, tmp_path, decision, ending):
    channel = work(maker, tiny.spec(tmp_path, tiny.settings(), marks=(24,)), decide=lambda progress: decision)
    assert marks(channel) == []
    assert [outcome.ending for outcome in channel.outcomes] == [ending]


def test_a_suspended_trial_goes_on_where_it_was(maker, tmp_path):
    spec = tiny.spec(tmp_path / "parts", tiny.settings(), marks=(8, 16, 24))
    whole = work(maker, replace(spec, folder=tmp_path / "whole"))
    first = work(
        maker,
        spec,
        decide=lambda p: Decision.SUSPEND if p.evaluation and p.examples >= 16 else Decision.CONTINUE,
    )
    second = work(maker, replace(spec, attempt=2))
    assert second.outcomes[0].ending is Ending.FINISHED
    assert 0 < second.outcomes[0].examples < 24
    assert first.outcomes[0].examples + second.outcomes[0].examples == 24
    told = {evaluation.mark: evaluation.objective for evaluation in (*first.evaluations, *second.evaluations)}
    assert told == {evaluation.mark: evaluation.objective for evaluation in whole.evaluations}


def test_a_diverging_trial_fails_alone(maker, tmp_path):
    channel = work(maker, tiny.spec(tmp_path, maker.wild), tiny.spec(tmp_path, tiny.settings(), trial=1))
    failed, fine = channel.outcomes
    assert failed.ending is Ending.FAILED
    assert len(failed.reason) > 20
    assert fine.ending is Ending.FINISHED
    assert (failed.diverged, fine.diverged) == (True, False)


def test_the_base_model_has_one_mark_and_no_training(maker, tmp_path):
    channel = work(maker, tiny.spec(tmp_path, tiny.settings(), trial=BASE, marks=(0,)))
    assert marks(channel) == [0]
    assert [(one.ending, one.examples) for one in channel.outcomes] == [(Ending.FINISHED, 0)]


@pytest.mark.parametrize("engine", [trainer, packed, auto])
def test_an_evaluation_says_how_far_it_is(engine, tmp_path):
    specs = tiny.spec(tmp_path, tiny.settings(), trial=BASE, marks=(0,)), tiny.spec(tmp_path, tiny.settings())
    channel = work(Maker(engine, tiny.settings()), *specs)
    rows = len(tiny.rows().validation)
    for number, evaluations in ((BASE, 1), (0, 2)):
        reports = [one for one in channel.reports if one.trial == number]
        told = [one.scored for one in reports if one.scored is not None]
        assert told.count((rows, rows)) >= evaluations, "the last one of each"
        assert {(4, rows), (8, rows)} <= set(told), "and a report after every batch of four"
        assert all(one.scored is None for one in reports if one.evaluation is not None)
    trained = [one for one in channel.reports if one.metrics.get("train_loss")]
    assert [one.scored for one in trained] == [None] * len(trained)


def talked(folder: Path, engine: str, *more: str) -> tiny.Script:
    """A trial on chats, slow enough to say something at its end."""
    overrides = (*tiny.CHATS, f"engine={engine}", "engine.report_seconds=1e-9", *more)
    channel = tiny.Script([tiny.spec(folder, tiny.settings(learning_rate=1e-4), held_out=True)])
    with tiny.one_thread():
        make_engine(tiny.config(*overrides), tiny.base(), tiny.chats(test=6)).run(channel)
    return channel


@pytest.mark.parametrize("engine", ["trainer", "packed"])
def test_chats_are_judged_by_their_last_answers_if_a_metric_needs_them_else_by_the_loss_alone(
    engine, tmp_path
):
    objective = "task.objective={metric: chrf, direction: maximize}"
    asked = talked(tmp_path / "asked", engine, objective, "task.evaluation.samples=10")
    plain = talked(tmp_path / "plain", engine)
    assert [one.mark for one in asked.evaluations] == [one.mark for one in plain.evaluations] == [12, 24]
    for one, other in zip(asked.evaluations, plain.evaluations, strict=True):
        assert one.metrics.keys() == other.metrics.keys() | set(CHAT_ANSWERS)
        assert not other.metrics.keys() & set(CHAT_ANSWERS)
        assert other.objective == pytest.approx(one.metrics["loss"], rel=1e-5)
        assert math.isnan(one.metrics["tool_call_match"]), "no row calls a tool"
    (answered,), (silent,) = asked.outcomes, plain.outcomes
    assert silent.samples, "people read generated answers in any case"
    outputs, references = zip(*((one.output, one.reference) for one in answered.samples), strict=True)
    expected = CHRF().corpus_score(outputs, [references]).score / 100
    assert asked.evaluations[-1].objective == pytest.approx(expected, abs=1e-9)
    assert 0 < expected < 1
    assert answered.test.objective == answered.test.metrics["chrf"]
    assert "chrf" not in silent.test.metrics


def test_held_out_rows_are_scored_at_the_end_of_a_verdicts_runs_alone(maker, tmp_path):
    ordinary = tiny.spec(tmp_path / "sweep", tiny.settings())
    run = replace(ordinary, folder=tmp_path / "verdict", held_out=True)
    base = tiny.spec(tmp_path, tiny.settings(), trial=BASE, marks=(0,), held_out=True)
    outcomes = [work(maker, spec).outcomes[0] for spec in (ordinary, run, base)]
    assert [one.ending for one in outcomes] == [Ending.FINISHED] * 3
    assert outcomes[0].test is None
    assert outcomes[0].best == outcomes[1].best
    for outcome in outcomes[1:]:
        test = outcome.test
        assert test.count == len(test.rows) == 8
        assert sum(test.rows) / 8 == pytest.approx(test.objective)
        assert test.metrics["rougeL"] == test.objective
        assert 0 < test.error == test.errors["rougeL"]


def test_a_run_that_is_not_finished_is_not_scored(maker, tmp_path):
    channel = work(
        maker,
        tiny.spec(tmp_path, tiny.settings(), held_out=True),
        decide=lambda progress: Decision.SUSPEND if progress.evaluation else Decision.CONTINUE,
    )
    assert [(one.ending, one.test) for one in channel.outcomes] == [(Ending.SUSPENDED, None)]


def test_waiting_and_the_end(maker, tmp_path):
    channel = work(maker, Wait(0.001), tiny.spec(tmp_path, tiny.settings()), Wait(0.001))
    assert len(channel.outcomes) == 1
    assert isinstance(channel.next_trial(), Done)


def test_an_engine_that_trains_needs_a_model():
    with pytest.raises(TypeError, match="engine auto needs a model and rows"):
        make_engine(tiny.config())


class Killed(BaseException):
    """Nothing that an engine may catch."""


@DECISIONS
def test_a_decision_lost_with_the_process_is_obeyed_when_the_mark_is_told_again(
    maker, tmp_path, decision, ending
):
    settings = tiny.settings()

    def die(progress):
        if progress.evaluation is not None:
            raise Killed("before the answer arrived")
        return Decision.CONTINUE

    with pytest.raises(Killed, match="before the answer arrived"):
        work(maker, tiny.spec(tmp_path, settings, marks=(12, 24)), decide=die)
    second = work(
        maker,
        tiny.spec(tmp_path, settings, attempt=2, marks=(12, 24)),
        decide=lambda progress: decision if progress.evaluation else Decision.CONTINUE,
    )
    (outcome,) = second.outcomes
    assert (outcome.ending, outcome.examples) == (ending, 0)
    assert marks(second) == [12]
