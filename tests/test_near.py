"""Near-duplicates: recall and false alarms by overlap, and texts made to be slow."""

import math
import time
import tracemalloc
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.data.near import NearDuplicates, clusters

Generator = np.random.Generator
WORDS = 20_000


def prose(rng: Generator, rows: int, length: int) -> list[list[str]]:
    """Rows of words that are as unequally frequent as in language (Zipf)."""
    frequency = 1 / np.arange(1, WORDS + 1)
    drawn = rng.choice(WORDS, size=(rows, length), p=frequency / frequency.sum())
    return [[f"w{word}" for word in row] for row in drawn]


def edited(rng: Generator, row: list[str], kept: float, how: str) -> list[str]:
    """A copy that has the share `kept` of its tokens in common with `row`, or the next possible above."""
    length = len(row)
    if how == "replace":
        places = set(rng.choice(length, size=math.floor(length * (1 - kept) + 1e-9), replace=False).tolist())
        return [f"new{rng.integers(10**9)}" if place in places else word for place, word in enumerate(row)]
    if how == "every nth":
        step = round(1 / (1 - kept))
        return [f"new{rng.integers(10**9)}" if place % step == 0 else word for place, word in enumerate(row)]
    # 2 |A n B| / (|A| + |B|) = kept, with B a part of A or the other way round
    fewer = math.ceil(length * kept / (2 - kept)) if how == "delete" else length
    if how == "delete":
        return [row[place] for place in np.sort(rng.choice(length, size=fewer, replace=False))]
    more = math.floor(length * (2 - kept) / kept) - length
    places_of_new = set(rng.choice(length + more, size=more, replace=False).tolist())
    old = iter(row)
    return [f"new{rng.integers(10**9)}" if i in places_of_new else next(old) for i in range(length + more)]


def planted(
    how: str, length: int, kept: float, seed: int = 0, rows: int = 2000, pairs: int = 200
) -> np.ndarray:
    """[pairs] whether each copy was found; all further links are counted as the last element."""
    rng = np.random.default_rng(seed)
    texts = prose(rng, rows, length)
    texts += [edited(rng, texts[number], kept, how) for number in range(pairs)]
    codes = clusters(" ".join(words) for words in texts)
    found = codes[:pairs] == codes[rows:]
    links = len(codes) - len(np.unique(codes))
    return np.append(found, links - found.sum())


@pytest.mark.parametrize("length", [10, 300])  # rows of 80: test_planted
def test_recall_and_false_alarms(length: int, capsys: pytest.CaptureFixture[str]) -> None:
    table = [f"rows of {length} tokens: found of 200 copies with a share of tokens in common, other links"]
    for how in ("replace", "every nth", "delete", "insert"):
        for kept in (0.9, 0.8, 0.7):
            if how == "every nth" and kept < 0.8:
                continue
            *found, others = planted(how, length, kept, rows=1000 if length < 100 else 200)
            table.append(f"{how:10} {kept:.0%}  {np.mean(found):6.1%}  {others}")
            assert others <= 0.01 * 400
            if kept >= 0.8:
                assert np.mean(found) >= 0.95
            elif length > 10:  # of ten tokens, rounding makes 0.7 to 0.67 or 0.74
                assert np.mean(found) <= 0.01
    with capsys.disabled():
        print("", *table, sep="\n")


@pytest.mark.parametrize("threshold", [0.6, 0.7, 0.9, 1.0])
def test_the_threshold_is_kept(threshold: float) -> None:
    rng = np.random.default_rng(1)
    base = prose(rng, 200, 100)
    for kept in (0.5, 0.55, 0.65, 0.75, 0.85, 0.95, 1.0):
        texts = [" ".join(row) for row in [*base, *(edited(rng, row, kept, "replace") for row in base)]]
        codes = clusters(texts, threshold)
        share = np.mean(codes[:200] == codes[200:])
        assert share >= 0.95 if kept >= threshold else share <= 0.01


def test_codes_are_numbered_as_they_occur_and_blank_texts_are_like_nothing() -> None:
    assert clusters(["a b", "", "c d", "A  B", " ", "d e f"]).tolist() == [0, 1, 2, 0, 3, 4]
    assert clusters([]).tolist() == []
    assert clusters([""]).tolist() == [0]


def test_likeness_is_passed_on() -> None:
    words = [f"w{number}" for number in range(20)]
    chain = [" ".join([*words[: 20 - n], *(f"x{i}" for i in range(n))]) for n in (0, 4, 8, 12)]
    assert clusters(chain).tolist() == [0, 0, 0, 0]
    assert clusters([chain[0], chain[3]]).tolist() == [0, 1]


def test_other_scripts() -> None:
    chinese = "机器学习是人工智能的一个分支它使计算机能够从数据中学习规律并作出预测"
    assert clusters([chinese, chinese.replace("预测", "判断"), "今天天气很好我们去公园散步吧"]).tolist() == [
        0,
        0,
        1,
    ]


def test_a_twin_of_every_kind_is_named() -> None:
    text = "the quick brown fox jumps over the lazy dog today"
    near = NearDuplicates()
    near.add([text, text.replace("lazy", "tired"), text.replace("quick", "fast"), "something else"])
    near.add([text.upper()])
    matches = near.match(np.array([0, 1, 1, 1, 0]), 2)
    assert matches.codes.tolist() == [0, 0, 0, 1, 0]
    assert matches.twins[0, 0] == -1  # an equal text is no near-duplicate
    assert matches.twins[0, 1] in (1, 2)
    assert matches.twins[1, 0] == 0
    assert matches.twins[1, 1] == 2
    assert matches.twins[3].tolist() == [-1, -1]


@pytest.mark.parametrize("threshold", [0.5, 1.01, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"a threshold of .* give one above 0.5, at most 1"):
        clusters(["a"], threshold)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet="ab c", max_size=12), max_size=12), st.randoms())
def test_the_order_of_texts_makes_no_difference(texts: list[str], random: Random) -> None:
    order = list(range(len(texts)))
    random.shuffle(order)
    codes, shuffled = clusters(texts), clusters(texts[i] for i in order)
    together = codes[order][:, None] == codes[order][None]
    assert np.array_equal(together, shuffled[:, None] == shuffled[None])


def copies(number: int) -> list[str]:
    return ["the same words again and again " * 10] * number


def almost_copies(number: int) -> list[str]:
    return [" ".join(f"w{i}" if i != n % 75 else f"other{n}" for i in range(75)) for n in range(number)]


def one_template(number: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(edited(rng, [f"w{i}" for i in range(75)], 0.68, "replace")) for _ in range(number)]


@pytest.mark.parametrize(
    ("make", "different"),
    [(copies, 1), (almost_copies, 1), (one_template, 5000)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_many_alike_take_time_in_proportion(make: object, different: int) -> None:
    assert callable(make)
    texts = make(5000)
    start = time.process_time()
    assert len(np.unique(clusters(texts))) == different
    assert time.process_time() - start < 5


def test_a_million_characters_and_sampled_long_texts() -> None:
    rng = np.random.default_rng(0)
    long = prose(rng, 3, 200_000)
    texts = [" ".join(long[0]), " ".join(edited(rng, long[0], 0.85, "replace")), " ".join(long[1])]
    texts += [" ".join(edited(rng, long[0], 0.6, "replace")), "a" * 1_000_000, "short"]
    start = time.process_time()
    assert clusters(texts).tolist() == [0, 0, 1, 2, 3, 4]
    assert time.process_time() - start < 10


def test_memory_stays_small() -> None:
    texts = [" ".join(row) for row in prose(np.random.default_rng(0), 2000, 75)]
    clusters(texts[:10])  # what is imported and cached counts once
    tracemalloc.start()
    clusters(texts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * 2**20
