"""Scores over parts of the rows: base, default and best beside each other."""

from dataclasses import replace

from sweeper.messages import SliceScores
from sweeper.report.parts import parts, worst
from tests.telling import told


def test_sides_stand_beside_each_other_with_most_rows_first():
    facts = told()
    first, second = parts(facts)
    assert (first.title, first.metric, second.title) == ("By data.slice", "rougeL", "By length of the input")
    assert [(line.value, line.rows) for line in first.lines] == [("plain", 25), ("torch", 25)]
    assert first.lines[0].base == (facts.base.objective - 0.01, 0.03)
    assert first.lines[0].best == (facts.best.objective - 0.01, 0.03)


def test_a_value_that_one_side_lacks_stays():
    facts = told()
    only = SliceScores("slice", "rare", 3, {"rougeL": 0.1})
    best = replace(facts.best, slices=(only,))
    first = parts(replace(facts, best=best))[0]
    rare = next(line for line in first.lines if line.value == "rare")
    assert (rare.base, rare.best) == (None, (0.1, None))
    assert worst(first, maximize=True) == rare


def test_labels_are_told_by_f1_where_the_objective_has_no_value_for_one():
    facts = told()
    label = SliceScores("label", "cat", 9, {"precision": 0.5, "f1": 0.6})
    facts = replace(facts, base=None, best=replace(facts.best, slices=(label,)))
    facts = replace(facts, trials=(replace(facts.trials[0], slices=()), *facts.trials[1:]))
    (part,) = parts(facts)
    assert (part.title, part.metric, part.lines[0].best) == ("By label", "f1", (0.6, None))


def test_what_is_left_out_is_counted():
    facts = told()
    many = tuple(SliceScores("slice", f"s{i}", i, {"rougeL": 0.1}) for i in range(75))
    part = parts(replace(facts, best=replace(facts.best, slices=many), base=None))[0]
    assert part.lines[0].value == "s74"
    assert len(part.lines) + part.left_out >= 75


def test_the_worst_is_the_largest_where_less_is_better():
    facts = told()
    slices = tuple(SliceScores("slice", v, 5, {"rougeL": s}) for v, s in (("a", 0.1), ("b", 0.3)))
    part = parts(replace(facts, best=replace(facts.best, slices=slices)))[0]
    assert worst(part, maximize=True).value == "a"
    assert worst(part, maximize=False).value == "b"


def test_a_sweep_without_scores_by_part_has_none():
    facts = told(trials=0, base=None, best=None)
    assert parts(facts) == []
