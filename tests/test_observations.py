"""What a sweep sees in itself: each thing planted where it is so, and where it is not."""

import math
import random
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from sweeper.compose import compose, read_config
from sweeper.engines.replay import ReplayEngine
from sweeper.events import Measurement
from sweeper.layout import Layout
from sweeper.messages import BASE, Confusion, TrialState
from sweeper.observations import Losses, Seen, observations, of_trial, read
from sweeper.space import Space
from tests.sweeps import configure, open_coordinator

COMMAND = "python -m sweeper +experiment=summarize sweep.name=mine space.learning_rate.high=5e-3"
LEARNED = {"loss": 2.3}


@pytest.fixture
def plant(tmp_path):
    """Makes a sweep of trials with these objectives and, by name, what each is to have of anything else."""
    _, study, _ = open_coordinator(tmp_path)
    config, space = configure(tmp_path)
    base = replace(
        study.record(BASE),
        state=TrialState.FINISHED,
        objective=0.15,
        metrics={"loss": 3.0},
        errors={"loss": 0.05},
    )

    def made(objectives, error=0.01, params=(), **each) -> Seen:
        records = []
        for number, objective in enumerate(objectives):
            chosen = {"learning_rate": 2e-4 * (1 + number / 10), **(params[number] if params else {})}
            record = replace(
                base,
                number=number,
                params=chosen,
                settings=space.settings(chosen),
                objective=objective,
                error=error,
                metrics=LEARNED,
                errors={},
                **{name: values[number] for name, values in each.items()},
            )
            records.append(record)
        return Seen(
            goals=config.task.goals,
            records=[base, *records],
            space=space.entries,
            trial=space.trial,
            losses={},
            command=COMMAND,
            free_name="mine_2",
            max_new_tokens=48,
        )

    return made


def kinds(seen: Seen) -> list[str]:
    return [one.kind for one in observations(seen)]


def told(seen: Seen, kind: str):
    (found,) = [one for one in observations(seen) if one.kind == kind]
    return found


APART = [0.2 + 0.05 * i for i in range(6)]


def test_a_sweep_in_which_nothing_is_remarkable_says_nothing(plant):
    assert observations(plant(APART)) == []


def confusion(*rows: tuple[int, ...]) -> Confusion:
    return Confusion(tuple("abc"[: len(rows)]), rows)


def test_one_class_for_all_rows(plant):
    one, two = confusion((8, 0), (4, 0)), confusion((7, 1), (2, 2))
    seen = plant([0.3, 0.3, 0.31], confusion=[one, one, two])
    found = told(seen, "one class")
    assert found.text.startswith(
        "2 of 3 trials predict one class for all rows (`a`): the score says how frequent"
    )
    assert kinds(seen)[0] == "one class"
    assert "alike" not in kinds(seen), "they are, and this is why"
    (own,) = of_trial(seen.records[1], Losses())
    assert own.text == "It predicts `a` for all 12 validation rows."
    assert "one class" not in kinds(plant(APART[:3], confusion=[two] * 3))
    single = confusion((8, 0), (0, 0))
    assert of_trial(replace(seen.records[1], confusion=single), Losses()) == [], "the rows have no other"


def test_diverging_trials_and_the_learning_rates_from_which_on(plant):
    rates = [{"learning_rate": rate} for rate in (1e-4, 2e-4, 4e-4, 1e-3, 2e-3)]
    failed = [False, False, False, False, True]
    metrics = [LEARNED, LEARNED, LEARNED, {"loss": 4.0}, {}]

    def made(diverged, metrics):
        seen = plant(APART[:5], params=rates, diverged=diverged)
        trials = [replace(r, metrics=m) for r, m in zip(seen.records[1:], metrics, strict=True)]
        return replace(seen, records=[seen.records[0], *trials])

    found = told(made(failed, metrics), "diverging")
    assert found.sentence.startswith("2 of 5 trials diverged")
    assert found.sentence.endswith("with learning rates from 0.001 on, none below.")
    assert found.advice == "Lower the learning rate: space.learning_rate.high=0.0004."
    wanted = "python -m sweeper +experiment=summarize sweep.name=mine_2 space.learning_rate.high=0.0004"
    assert sorted(shlex.split(found.command)) == sorted(shlex.split(wanted))
    mixed = made([True, False, False, False, True], [{}, LEARNED, LEARNED, LEARNED, {}])
    assert "with learning rates from 0.0001 to 0.002" in told(mixed, "diverging").sentence
    assert told(mixed, "diverging").command == ""
    unclipped = [
        replace(r, settings=replace(r.settings, max_grad_norm=0.0)) if r.diverged else r
        for r in mixed.records
    ]
    assert told(mixed, "diverging").advice.endswith("or a lower max_grad_norm may help.")
    assert told(replace(mixed, records=unclipped), "diverging").advice.endswith(
        "or max_grad_norm=1 may help."
    )
    once = made([False, False, False, False, True], [LEARNED] * 4 + [{}])
    a_bit_worse = made([False] * 5, [LEARNED] * 3 + [{"loss": 3.2}] * 2)
    assert [kinds(once), kinds(a_bit_worse)] == [[], []]


@pytest.mark.parametrize(
    ("metric", "kind", "says", "advice"),
    [
        ("empty_answers", "empty answers", "60% to 100% of the answers are empty", "sample outputs"),
        ("unfinished_answers", "unfinished answers", "60% to 100% of the answers were cut off", "(now 48)"),
    ],
)
def test_answers_that_are_empty_or_cut_off(plant, metric, kind, says, advice):
    def made(*shares):
        seen = plant(APART[:3])
        trials = [
            replace(r, metrics={**LEARNED, metric: s}) for r, s in zip(seen.records[1:], shares, strict=True)
        ]
        return replace(seen, records=[seen.records[0], *trials])

    found = told(made(0.6, 1.0, 0.2), kind)
    assert f"In 2 of 3 trials {says}" in found.sentence
    assert advice in found.advice
    assert [one.kind for one in of_trial(made(0.6, 1, 0.2).records[1], Losses())] == [kind]
    assert kinds(made(0.4, 0.0, math.nan)) == []
    assert of_trial(made(0.4, 0.0, 0.0).records[1], Losses()) == []


def test_all_alike_and_whether_anything_was_learned(plant):
    values = [0.3, 0.305, 0.302, 0.308]
    learned = told(plant(values), "alike")
    assert learned.text.startswith(
        "All 4 settings are alike: rougeL differs by 0.008 at most, less than its standard"
    )
    assert "they have learned (validation loss 3.000 before, 2.300 after)" in learned.text
    assert learned.command == ""
    seen = plant(values)
    still = [replace(record, metrics={"loss": 2.99}) for record in seen.records[1:]]
    nothing = told(replace(seen, records=[seen.records[0], *still]), "alike")
    assert "no validation loss has moved from the base model's (3.000): nothing is learned." in nothing.text
    changed = read_config(compose(shlex.split(nothing.command)[3:]))[0]
    assert changed.space["learning_rate"]["high"] > 5e-3
    unmeasured = told(replace(seen, records=seen.records[1:]), "alike")
    assert re.search(r"less than its standard error \(0\.010\)\. Widen the ranges, or", unmeasured.text)
    assert "alike" not in kinds(plant([0.3, 0.305, 0.302, 0.32]))
    pruned = plant([0.3, 0.305, 0.302, 0.2], state=[TrialState.FINISHED] * 3 + [TrialState.PRUNED])
    assert "alike" not in kinds(pruned), "what was pruned was worse"
    assert "alike" not in kinds(plant(values[:2])), "two may well be"


def curve(losses, validation=(2.5, 2.4)) -> Losses:
    points = [Measurement(0, 1, 0.0, 10 * (i + 1), {"train_loss": loss}) for i, loss in enumerate(losses)] + [
        Measurement(0, 1, 0.0, i, {"validation_loss": loss, "objective": 0.2}, i)
        for i, loss in enumerate(validation)
    ]
    return Losses.of(points)


def noisy(values, scatter=0.02, seed=0):
    draw = random.Random(seed)
    return [value + draw.gauss(0, scatter) for value in values]


def test_a_loss_is_falling_by_more_than_its_scatter():
    steep = [3 - 0.05 * i for i in range(20)]
    flat = [3 * math.exp(-i) + 2 for i in range(20)]
    assert curve(noisy(steep)).is_falling
    assert not curve(noisy(flat)).is_falling
    assert not curve(noisy(steep, scatter=1.0)).is_falling, "that may be chance"
    assert not curve(noisy(steep), validation=(2.4, 2.5)).is_falling, "more training would overfit"
    assert not curve(noisy(steep[:8])).is_falling, "too few points"
    assert not curve([math.nan] * 20).is_falling
    by_chance = sum(curve(noisy([2.0] * 12, 0.5, seed)).is_falling for seed in range(300))
    assert by_chance <= 6


def test_still_falling_at_the_end(plant):
    falling, flat = curve(noisy([3 - 0.05 * i for i in range(20)])), curve([2.0] * 20)
    seen = plant(APART)
    seen = replace(seen, losses={5: falling, 4: falling, 3: flat})
    found = told(seen, "still falling")
    assert found.text == (
        "The loss was still falling at the end of 2 of 6 finished trials, the best included. "
        "Longer trials may be better: trial.epochs=2."
    )
    assert "trial.epochs=2" in found.command
    assert [one.kind for one in of_trial(seen.records[6], falling)] == ["still falling"]
    assert of_trial(seen.records[6], flat) == []
    assert kinds(replace(seen, losses={4: falling})) == [], "the best is not among them"
    epochs = Space.parse({"epochs": {"low": 1, "high": 3}}, seen.trial).entries
    assert kinds(replace(seen, space=epochs)) == [], "longer ones were tried"
    whole = [replace(one, settings=replace(one.settings, epochs=3)) for one in seen.records]
    assert told(replace(seen, space=epochs, records=whole), "still falling").advice.endswith(
        "space.epochs.high=4."
    )


def leaning(plant, places, good, **changes):
    """Trials at `places` (0 to 1) of the range of the learning rate, with objectives by `good`."""
    seen = plant([0.0] * len(places))
    entry = next(one for one in seen.space if one.name == "learning_rate")
    trials = []
    for record, place in zip(seen.records[1:], places, strict=True):
        rate = entry.low * (entry.high / entry.low) ** place
        trials.append(
            replace(
                record,
                params={"learning_rate": rate},
                settings=replace(record.settings, learning_rate=rate),
                objective=good(place),
                **changes,
            )
        )
    return replace(seen, records=[seen.records[0], *trials])


@pytest.mark.parametrize(
    ("tree", "sane", "advice"),
    [
        ({}, True, "trial.learning_rate=0.0002"),
        ({"low": 1e-4, "high": 1e-2, "log": True}, True, "space.learning_rate.high=0.0002"),
        ({"choices": [1e-4, 2e-4, 1e-3]}, True, "'space.learning_rate.choices=[0.0001,0.0002]'"),
        (
            {"low": 1e-4, "high": 1e-2, "log": True},
            False,
            "space.learning_rate.low=1e-05 space.learning_rate.high=0.0001 trial.learning_rate=0.0001",
        ),
        (
            {"choices": [1e-3, 2e-3]},
            False,
            "'space.learning_rate.choices=[0.0001]' trial.learning_rate=0.0001",
        ),
    ],
    ids=["fixed", "range", "choices", "no sane in the range", "no sane among the choices"],
)
def test_a_lower_learning_rate_is_advised_where_it_stands(plant, tree, sane, advice):
    """Trials diverged at 1e-3 and above; the default is 1e-3 where nothing varies, else in its range."""
    rates = [2e-4, 1e-3, 2e-3] if sane else [1e-3, 1e-3, 2e-3]
    seen = plant(
        APART[:3], params=[{"learning_rate": rate} for rate in rates], diverged=[not sane, True, True]
    )
    start = replace(seen.trial, learning_rate=2e-4 if sane and tree else 1e-3)
    entries = Space.parse({"learning_rate": tree} if tree else {}, start).entries
    found = told(replace(seen, space=entries, trial=start), "diverging")
    assert found.advice == f"Lower the learning rate: {advice}."
    words = shlex.split(found.command)
    assert set(shlex.split(advice)) < set(words)
    given = f"+space.learning_rate={{{', '.join(f'{k}: {v}' for k, v in tree.items())}}}"
    base = [
        "+experiment=summarize",
        "space=empty",
        "budget.trials=1",
        f"trial.learning_rate={start.learning_rate}",
    ]
    named = {word.partition("=")[0] for word in shlex.split(advice)}
    base = [word for word in base if word.partition("=")[0] not in named]
    read_config(compose([*base, *([given] if tree else []), *shlex.split(advice)]))


PLACES = [0.02, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.98]


def test_the_best_lie_at_an_edge_and_the_command_widens_it(plant):
    seen = leaning(plant, PLACES, lambda place: 0.2 + 0.3 * place)
    found = told(seen, "edge")
    (high,) = re.findall(r"space.learning_rate.high=([\d.e-]+\d)", found.advice)
    assert "the upper end of learning_rate (0.01)" in found.sentence
    config, _ = read_config(compose(shlex.split(found.command)[3:]))
    assert (config.sweep.name, config.space["learning_rate"]["high"]) == ("mine_2", float(high))
    assert float(high) > 0.01
    low = told(leaning(plant, PLACES, lambda place: 0.5 - 0.3 * place), "edge")
    assert "space.learning_rate.low=" in low.command


@pytest.mark.parametrize(
    ("places", "good"),
    [
        (PLACES, lambda place: 0.5 - abs(place - 0.5)),
        (PLACES, lambda place: 0.3 + 0.004 * place),
        (PLACES[::2], lambda place: 0.2 + 0.3 * place),
        ([0.7, *PLACES[:6], 0.9], lambda place: 0.2 + (place == 0.9)),
    ],
    ids=["in the middle", "no better there", "too few", "one alone"],
)
def test_the_best_lie_at_no_edge(plant, places, good):
    assert "edge" not in kinds(leaning(plant, places, good))


@pytest.mark.parametrize(
    "given",
    [
        "'+space.weight_decay={low: 0.001, high: 0.1, log: true}'",
        "'+space={weight_decay: {low: 0.001, high: 0.1}}'",
    ],
)
def test_a_range_from_the_command_line_is_widened_by_the_command_too(plant, given):
    seen = leaning(plant, PLACES, lambda place: 0.2 + 0.3 * place)
    decay = Space.parse({"weight_decay": {"low": 0.001, "high": 0.1}}, replace(seen.trial, weight_decay=0.01))
    trials = [
        replace(record, params={"weight_decay": 0.001 + 0.099 * place})
        for record, place in zip(seen.records[1:], PLACES, strict=True)
    ]
    seen = replace(
        seen,
        records=[seen.records[0], *trials],
        space=decay.entries,
        trial=decay.trial,
        command=f"python -m sweeper +experiment=summarize trial.weight_decay=0.01 {given}",
    )
    config, _ = read_config(compose(shlex.split(told(seen, "edge").command)[3:]))
    assert config.space["weight_decay"]["high"] == 0.1495


def test_an_edge_beyond_which_there_is_nothing_is_none(plant):
    seen = leaning(plant, PLACES, lambda place: 0.2 + 0.3 * place)
    dropout = Space.parse({"lora": {"dropout": {"low": 0.0, "high": 0.4}}}, seen.trial).entries
    trials = [
        replace(r, params={"lora.dropout": 0.4 * (1 - place)})
        for r, place in zip(seen.records[1:], PLACES, strict=True)
    ]
    assert "edge" not in kinds(replace(seen, space=dropout, records=[seen.records[0], *trials]))


def test_choices_have_an_edge_too(plant):
    seen = plant([0.2, 0.21, 0.22, 0.4, 0.41, 0.42, 0.2, 0.21])
    ranks = Space.parse({"lora": {"rank": {"choices": [8, 16, 32, 64]}}}, seen.trial).entries
    at = (8, 16, 32, 64, 64, 64, 8, 16)
    trials = [replace(r, params={"lora.rank": rank}) for r, rank in zip(seen.records[1:], at, strict=True)]
    found = told(replace(seen, space=ranks, records=[seen.records[0], *trials]), "edge")
    assert found.advice == "Widen it: 'space.lora.rank.choices=[8,16,32,64,128]'."
    more = Space.parse({"lora": {"rank": {"choices": [4, 8, 16, 32, 64]}}}, seen.trial).entries
    many = replace(seen, space=more, records=[seen.records[0], *trials])
    assert "edge" in kinds(many), "of five, two lie in the upper quarter"
    words = Space.parse({"scheduler": {"choices": ["constant", "linear"]}}, seen.trial).entries
    assert "edge" not in kinds(replace(many, space=words)), "words have no ends"


def test_rows_that_would_tell_the_best_two_apart_are_those_of_paired_differences(plant):
    draw = random.Random(3)
    rows = 60
    hard = [draw.random() for _ in range(rows)]
    first = tuple(0.5 + 0.5 * h + draw.gauss(0, 0.1) for h in hard)
    second = tuple(one - 0.01 + 0.1 * (-1) ** i for i, one in enumerate(first))
    means = [sum(second) / rows, sum(first) / rows, 0.2]
    seen = plant(means, error=0.03, rows=[second, first, (0.2,) * rows])
    found = told(seen, "rows")
    apart = [a - b for a, b in zip(first, second, strict=True)]
    gap = sum(apart) / rows
    spread = math.sqrt(sum((a - gap) ** 2 for a in apart) / (rows - 1))
    needed = (1.96 * spread / gap) ** 2
    assert f"can't be told apart on {rows} validation rows" in found.sentence
    said = int(re.search(r"About ([\d,]+)", found.advice)[1].replace(",", ""))
    assert needed <= said <= 1.1 * needed + 10
    sharp = (*(one - 0.01 for one in first[:-1]), first[-1])
    told_apart = plant([sum(sharp) / rows, means[1], 0.2], error=0.03, rows=[sharp, first, (0.2,) * rows])
    assert "rows" not in kinds(told_apart), "row by row they are apart, whatever their errors"
    unpaired = told(plant([0.30, 0.32, 0.1], error=0.02), "rows")
    assert "the rows not paired" in unpaired.sentence
    assert unpaired.advice.startswith("About 8 times as many would do")
    equal = told(plant([0.3, 0.3, 0.1], error=0.02), "rows")
    assert equal.advice == "They are as good as each other: take the cheaper one."
    assert "rows" not in kinds(plant([0.2, 0.3, 0.1], error=0.02))
    assert "rows" not in kinds(plant([0.30, 0.32, 0.1], error=None)), "nothing is known of the rows"


def test_the_same_settings_several_times(plant):
    same = [{"learning_rate": 2e-4}] * 3
    seen = plant([0.3, 0.2, 0.25, 0.5, 0.6], params=[*same, {}, {}])
    assert told(seen, "repeats").text == (
        "Trials 0, 1 and 2 have the same settings: rougeL 0.200 to 0.300, which is chance."
    )
    assert kinds(plant(APART)) == []


def test_a_command_that_is_not_known_is_not_made_up(plant):
    seen = leaning(plant, PLACES, lambda place: 0.2 + 0.3 * place)
    for command in ("", "python -m sweeper train mine", "python other.py a=b"):
        assert told(replace(seen, command=command), "edge").command == ""


def test_what_is_stored_tells_the_same(tmp_path):
    """A replayed sweep, whose trials diverge from a learning rate of 0.05 on, read back from its folder."""
    wide = ("space.learning_rate.low=0.01", "space.learning_rate.high=0.5", "trial.learning_rate=0.02")
    coordinator, study, _ = open_coordinator(tmp_path, *wide, "budget.trials=8", "budget.failures_in_row=9")
    config, _ = configure(tmp_path, *wide)
    ReplayEngine(config, sleep=lambda seconds: None).run(coordinator)
    coordinator.close()
    seen = read(study, Layout(tmp_path, "summarize"))
    found = told(seen, "diverging")
    failed = [one for one in study.records() if one.state is TrialState.FAILED]
    assert found.sentence.startswith(f"{len(failed)} of 8 trials diverged")
    assert len(failed) > 1
    assert any(one.training for one in seen.losses.values())
    assert seen.free_name == "summarize_2"
    Path(tmp_path / "summarize_2").mkdir()
    assert read(study, Layout(tmp_path, "summarize")).free_name == "summarize_3"
