import random
import time

import pytest

from sweeper.data.checks.mislabeled import Mislabeled
from tests import looking
from tests.looking import Row, look, prose, suspected, table

PACKAGES = ("numpy", "pandas", "sqlalchemy")


@pytest.fixture(scope="module")
def docstrings():
    rows = [Row(row.text, row.package) for package in PACKAGES for row in looking.docstrings(package)]
    random.Random(0).shuffle(rows)
    return rows


def flipped(rows, share):
    rng = random.Random(1)
    planted = set(rng.sample(range(len(rows)), round(share * len(rows))))
    others = {label: [other for other in PACKAGES if other != label] for label in PACKAGES}
    return planted, [
        Row(row.text, rng.choice(others[row.target])) if number in planted else row
        for number, row in enumerate(rows)
    ]


def test_flipped_labels_of_real_docstrings_come_first(docstrings):
    planted, rows = flipped(docstrings, 0.05)
    (finding,) = look(Mislabeled(0), rows)
    ranked = [int(row) for row, _ in finding.suspects]
    table("suspected label errors", set(ranked), planted, len(rows))
    for k in (50, len(planted) // 2, min(len(planted), len(ranked))):
        precision = sum(row in planted for row in ranked[:k]) / k
        print(f"precision at {k}: {precision:.3f} ({len(planted)} flipped of {len(rows)})")
        assert precision >= 0.8
    assert len(ranked) >= 0.9 * len(planted)
    assert finding.examples[0].text.startswith("labelled '")
    scores = [score for _, score in finding.suspects]
    assert scores == sorted(scores, reverse=True)
    assert look(Mislabeled(0), rows, 500) == [finding]


def test_right_labels_raise_hardly_an_alarm(docstrings):
    findings = look(Mislabeled(0), docstrings)
    assert len(suspected(findings)) <= 0.01 * len(docstrings)


def test_labels_that_words_do_not_tell_are_not_judged():
    rng = random.Random(0)
    assert look(Mislabeled(0), [Row(prose(rng), rng.choice("abc")) for _ in range(600)]) == []


def test_too_few_rows_and_too_many_or_small_classes_are_not_judged():
    rng = random.Random(0)
    # Words that speak for their label, and a few rows that have the other one.
    plain = [Row(f"{word} {prose(rng)} {word}", word) for word in ("apple", "pear") for _ in range(60)]
    plain[::20] = [Row(row.text, {"apple": "pear", "pear": "apple"}[row.target]) for row in plain[::20]]
    assert look(Mislabeled(0), plain)
    assert look(Mislabeled(0), plain[15:-15]) == [], "90 rows"
    texts = [prose(rng) for _ in range(3000)]
    begun = time.perf_counter()
    assert look(Mislabeled(0), [Row(text, str(number % 1000)) for number, text in enumerate(texts)]) == []
    assert look(Mislabeled(0), [Row(text, str(number % 500)) for number, text in enumerate(texts)]) == []
    assert time.perf_counter() - begun < 2
