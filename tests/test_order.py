"""What a trial sees, and in which order: batches, augmented copies, weights."""

import dataclasses
from collections import defaultdict

import pytest

from sweeper.engines.batches import Row, collate
from sweeper.engines.order import EffectiveBatches, augmented, epochs, read_training_rows, reweighted
from sweeper.engines.training import losses
from sweeper.messages import Decision, Ending
from tests import tiny


def row(label, group, number=0):
    return Row(f"{number}", "", "", [1], [1], [1], label, group)


def test_micro_batches_cut_the_same_order():
    order = epochs(10, 2, seed=3)
    whole, split = EffectiveBatches(order, 4, 4), EffectiveBatches(order, 4, 3)
    assert (
        [n for some in whole for n in some] == [n for some in split for n in some] == [*order[0], *order[1]]
    )
    assert (whole.per_step, split.per_step, len(split)) == (1, 2, 10)
    assert all(sorted(one) == list(range(10)) for one in order)
    assert order[0] != order[1]
    assert order != epochs(10, 2, seed=4)


def test_copies_take_the_place_of_the_share_of_rows_drawn_anew_in_each_pass():
    order, copies = epochs(100, 3, seed=1), [2] * 50 + [1] * 50
    owner = dict(zip(range(100, 250), [n for n in range(100) for _ in range(copies[n])], strict=True))
    found = augmented(order, copies, 0.3, seed=1)
    assert [sum(n >= 100 for n in one) for one in found] == [30, 30, 30]
    assert [[owner.get(n, n) for n in one] for one in found] == order
    drawn = [{owner[n] for n in one if n >= 100} for one in found]
    assert drawn[0] != drawn[1]
    more = augmented(order, copies, 0.6, seed=1)
    assert all(set(a) - set(range(100)) < set(b) for a, b in zip(found, more, strict=True))
    assert augmented(order, copies, 0.3, seed=1) == found != augmented(order, copies, 0.3, seed=2)
    both = {n for one in augmented(epochs(100, 20, 1), copies, 1.0, 1) for n in one}
    assert both == set(range(100, 250))
    assert augmented(order, copies, 0.0, seed=1) == order


def test_a_row_without_copies_stays():
    order = epochs(6, 1, seed=1)
    (found,) = augmented(order, [0, 1, 0, 2, 0, 0], 1.0, seed=1)
    assert sorted(found)[:4] == [0, 2, 4, 5]
    assert [6 if n == 1 else n for n in order[0] if n not in (3,)] == [n for n in found if n not in (7, 8)]


def test_weights_make_label_and_group_independent():
    # Worked out by hand: 4 of a with 3 yes, 4 of b with 1 yes; half of all are yes.
    rows = [row(1, "a")] * 3 + [row(0, "a")] + [row(1, "b")] + [row(0, "b")] * 3
    weights = [one.weight for one in reweighted(rows, 1.0)]
    assert weights == pytest.approx([2 / 3] * 3 + [2, 2] + [2 / 3] * 3)
    sums = defaultdict(float)
    for one, weight in zip(rows, weights, strict=True):
        sums[one.slice, one.label] += weight
    assert list(sums.values()) == pytest.approx([2.0] * 4)
    half = [one.weight for one in reweighted(rows, 0.5)]
    assert half[3] / half[0] == pytest.approx(3**0.5)
    assert sum(half) == pytest.approx(8)
    assert reweighted(rows, 0.0) is rows


def test_a_weight_multiplies_the_gradient_of_its_row():
    base = tiny.base("classifier")
    rows = read_training_rows(tiny.rows("classifier").train).rows[:4]
    weighted = [dataclasses.replace(one, weight=w) for one, w in zip(rows, (0.0, 0.5, 1.0, 2.5), strict=True)]
    alone = [losses(base.model, base, collate([one], "classifier", 0), 0.1) for one in rows]
    plain = collate(rows, "classifier", 0)
    assert "weights" not in plain
    loss, nats = losses(base.model, base, collate(weighted, "classifier", 0), 0.1)
    wanted = sum(one.weight * float(found) for one, (found, _) in zip(weighted, alone, strict=True))
    assert float(loss) == pytest.approx(wanted, rel=1e-5)
    assert float(nats) == pytest.approx(float(losses(base.model, base, plain, 0.1)[1]), rel=1e-5)


def test_a_weight_holds_for_every_token_of_a_row():
    base = tiny.base()
    rows = read_training_rows(tiny.rows().train).rows[:2]
    weighted = [dataclasses.replace(rows[0], weight=3.0), rows[1]]
    (one, _), (other, _) = (losses(base.model, base, collate([r], "causal", 0)) for r in rows)
    loss, _ = losses(base.model, base, collate(weighted, "causal", 0))
    assert float(loss) == pytest.approx(3 * float(one) + float(other), rel=1e-5)


def test_copies_weigh_what_their_rows_do():
    data = tiny.rows("classifier", pool=True)
    rows, order = read_training_rows(data.train, data.augmented).of_trial(
        tiny.settings(augment_rate=0.5, reweight=1.0), 1, 4
    )
    weights = {one.id: one.weight for one in rows}
    copies = [one for one in rows if "+" in one.id]
    assert len(rows) == 24 + 18 == 24 + len(copies)
    assert all(copy.weight == weights[copy.id.removesuffix("+1")] for copy in copies)
    assert len({one.weight for one in copies}) > 1
    assert 0 < sum(n >= 24 for rows in order for n in rows) <= 12


@pytest.mark.parametrize(
    ("kind", "changes"), [("causal", {"augment_rate": 0.5}), ("classifier", {"reweight": 1.0})]
)
def test_micro_batches_and_interruptions_change_nothing(tmp_path, kind, changes):
    data = tiny.rows(kind, pool=True)
    settings = tiny.settings(epochs=2, lora_dropout=0.0, **changes)

    def run(name, attempt=1, decide=lambda _: Decision.CONTINUE, micro_batch="null"):
        spec = tiny.spec(tmp_path / name, settings, attempt=attempt, marks=(24, 48))
        overrides = ("engine.report_seconds=1e-9", f"engine.micro_batch={micro_batch}")
        return tiny.run(spec, kind=kind, data=data, decide=decide, overrides=overrides)

    whole = run("whole")
    losses = [one.metrics["loss"] for one in whole.evaluations]
    assert [one.mark for one in whole.evaluations] == [24, 48]
    assert [one.metrics["loss"] for one in run("split", micro_batch=3).evaluations] == pytest.approx(
        losses, rel=1e-4
    )
    leave = run("parts", decide=lambda p: Decision.SUSPEND if p.examples == 32 else Decision.CONTINUE)
    assert leave.outcomes[0].ending is Ending.SUSPENDED
    second = run("parts", attempt=2)
    assert [one.metrics["loss"] for one in second.evaluations] == losses
    assert leave.train_losses | second.train_losses == whole.train_losses


def test_a_rate_without_a_pool_fails_the_trial(tmp_path):
    (outcome,) = tiny.run(tiny.spec(tmp_path, tiny.settings(augment_rate=0.5))).outcomes
    assert (outcome.ending, outcome.reason) == (
        Ending.FAILED, "augment_rate=0.5 and no augmented rows; name data.augment.methods"
    )  # fmt: skip
