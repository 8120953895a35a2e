from collections import Counter
from random import Random

import pytest

from sweeper.data.words import Changes, bare, bare_words

TEXT = "The quick brown fox,\n  jumps over\tthe lazy dog.\n"
SYNONYMS = {"quick": ("fast",), "dog": ("hound", "cur"), "fox": ("vixen",)}


def changed(method, text=TEXT, kept=(), share=0.25, seed=1, synonyms=SYNONYMS):
    return Changes(share, synonyms).apply(method, text, kept, Random(seed))


def test_a_swap_moves_words_and_leaves_the_blanks():
    for seed in range(20):
        found = changed("swap", seed=seed)
        assert found != TEXT
        assert Counter(found.split()) == Counter(TEXT.split())
        assert [c for c in found if c.isspace()] == [c for c in TEXT if c.isspace()]


def test_a_deletion_takes_the_share_of_words_and_a_blank_each():
    for seed in range(20):
        found = changed("deletion", seed=seed)
        assert len(found.split()) == 7
        assert not Counter(found.split()) - Counter(TEXT.split())
    assert changed("deletion", "first last", seed=3) in ("first", "last")
    assert changed("deletion", "alone") == "alone"


def test_an_insertion_adds_synonyms_or_else_words_of_the_text():
    copies = Counter(bare(word) for word in changed("insertion", synonyms={}).split())
    assert copies.total() == 11
    assert set(copies) == {bare(word) for word in TEXT.split()}
    assert Counter(changed("insertion", "dog").split()) in (
        Counter(["dog", word]) for word in SYNONYMS["dog"]
    )
    assert changed("insertion", "! ?") == "! ?"


def test_synonyms_take_case_and_punctuation_of_the_word():
    assert changed("synonyms", "Quick, quick! (QUICK)", share=0.5, seed=0).casefold().count("fast") == 2
    found = changed("synonyms", 'A "Fox."', share=0.5)
    assert found == 'A "Vixen."'
    assert changed("synonyms", "FOX!") == "VIXEN!"
    assert changed("synonyms", "nothing known") == "nothing known"


@pytest.mark.parametrize("method", ["deletion", "swap", "synonyms"])
def test_words_of_the_answer_stay_where_they_are(method):
    kept = bare_words('The dog "jumps over"')
    for seed in range(30):
        found = changed(method, kept=kept, share=0.5, seed=seed)
        assert [w for w in found.split() if bare(w).casefold() in kept] == [
            "The",
            "jumps",
            "over",
            "the",
            "dog.",
        ]
    assert changed(method, kept=bare_words(TEXT)) == TEXT


@pytest.mark.parametrize(
    "text", ["", " \n", "。".join("日本語") * 9, "a" + "!?" * 300_000 + "b", "x " * 100_000]
)
@pytest.mark.parametrize("method", ["insertion", "deletion", "swap", "synonyms"])
def test_whatever_the_text_it_comes_back(method, text):
    found = changed(method, text, share=0.1)
    assert text.strip() == "" or found.strip()
