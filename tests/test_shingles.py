"""Tokens, and sketches of them that are the same everywhere."""

import subprocess
import sys

import numpy as np

from sweeper.data.shingles import BANDS, MOST_TOKENS, Sketcher, normal, tokens


def test_case_spacing_and_unicode_form_make_no_difference() -> None:
    assert normal("  Caf\u00e9\n\t\uff21\uff22\uff23 ") == normal("cafe\u0301 abc")


def test_words_letters_of_unspaced_scripts_and_bare_symbols_are_tokens() -> None:
    assert tokens("don't x_1 größe 東京 ไทย") == ["don", "t", "x_1", "größe", "東", "京", "ไ", "ท", "ย"]
    assert tokens("!? 👍") == ["!", "?", "👍"]
    assert tokens("") == []


def test_a_repeated_word_counts_as_often_as_it_stands() -> None:
    sketches = Sketcher(0.8).sketch(["the cat the dog", "the", "", "dog cat the the"])
    assert sketches.sizes.tolist() == [4, 1, 0, 4]
    assert len(set(sketches.tokens[:4].tolist())) == 4
    assert sketches.tokens[:4].tolist() == sketches.tokens[5:].tolist()
    assert sketches.keys.shape == (4, BANDS)


def test_a_sketch_does_not_depend_on_its_batch() -> None:
    texts = ["one two three", "x " * 3000, "a b"]
    together = Sketcher(0.8).sketch(texts)
    alone = [Sketcher(0.8).sketch([text]) for text in texts]
    assert np.array_equal(together.keys, np.concatenate([sketch.keys for sketch in alone]))
    assert np.array_equal(together.tokens, np.concatenate([sketch.tokens for sketch in alone]))
    assert together.kept.tolist() == [3, MOST_TOKENS, 2]
    assert together.sizes.tolist() == [3, 3000, 2]


def test_sketches_are_the_same_in_every_process() -> None:
    code = "from sweeper.data.shingles import Sketcher; print(Sketcher(0.8).sketch(['a b c']).keys.sum())"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert printed == {f"{Sketcher(0.8).sketch(['a b c']).keys.sum()}\n".encode()}
