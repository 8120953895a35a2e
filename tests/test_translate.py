"""Back-translation by models of a few thousand weights, which say nothing sensible."""

import json
import random
from dataclasses import replace
from functools import cache

import pytest
import torch
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from transformers import MarianConfig, MarianMTModel

from sweeper.config import BackTranslationConfig
from sweeper.data.augment import Augmenter, defining
from sweeper.data.texts import Form, Text
from sweeper.data.translate import BackTranslator, revisions
from sweeper.errors import DataError
from tests import tiny
from tests.test_augment import options

LONG = "red " * 40


@cache
def marian(seed, vocabulary):
    torch.manual_seed(seed)
    shape = MarianConfig(
        vocab_size=vocabulary, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        max_position_embeddings=32, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
        forced_eos_token_id=1,
    )  # fmt: skip
    return MarianMTModel(shape)


def folders(tmp_path):
    there, back = (tiny.save(marian(seed, len(tiny.tokenizer())), tmp_path / str(seed)) for seed in (1, 2))
    return BackTranslationConfig(there, back)


def test_sentences_are_translated_one_by_one_and_put_together_again(tmp_path):
    with tiny.one_thread():
        translator = BackTranslator(folders(tmp_path))
        texts = ["red cat.  blue dog!\n\n  one bird", "blue dog!", "", f"red cat. {LONG}"]
        found = translator.translate(texts)
        assert translator.translate(texts[1:2]) == found[1:2]
    first = found[0].split("  ")[0]
    assert found[0] == f"{first}  {found[1]}\n\n  {found[0].rsplit('  ', 1)[1]}"
    assert found[1] != texts[1]
    assert found[2] == ""
    assert found[3] == f"{first} {LONG.strip()} "


def with_its_own_tokenizer(folder, seed):
    """A model as it is published: two SentencePiece models and their common vocabulary beside the weights."""
    folder.mkdir()
    rng = random.Random(seed)
    sentences = [" ".join(rng.choices(tiny.WORDS, k=8)) + "." for _ in range(200)]
    for name in ("source", "target"):
        SentencePieceTrainer.train(
            sentence_iterator=iter(sentences), model_prefix=str(folder / name), vocab_size=30, minloglevel=2
        )
        (folder / f"{name}.model").rename(folder / f"{name}.spm")
    pieces = SentencePieceProcessor(model_file=str(folder / "source.spm"))
    known = [pieces.id_to_piece(number) for number in range(3, len(pieces))]
    vocabulary = {piece: number for number, piece in enumerate(["<pad>", "</s>", "<unk>", *known])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    config = {"tokenizer_class": "MarianTokenizer", "source_lang": "en", "target_lang": "de"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    marian(seed, len(vocabulary)).save_pretrained(folder)
    return folder


def test_models_with_their_own_tokenizer(tmp_path):
    folders = BackTranslationConfig(*(with_its_own_tokenizer(tmp_path / str(seed), seed) for seed in (6, 16)))
    with tiny.one_thread():
        (found,) = BackTranslator(folders).translate(["red cat. blue dog!"])
    assert found != "red cat. blue dog!"
    assert set(found) <= {*"".join(tiny.WORDS), *". !⁇"}, "pieces of words, put together again"
    assert "▁" not in found


def test_rows_are_translated_when_it_is_their_turn(tmp_path):
    augment = replace(options("back_translation", "swap"), back_translation=folders(tmp_path))
    rows = [(f"{n:016x}", Text(f"red cat sees {word}", "one")) for n, word in enumerate(tiny.WORDS * 2)]
    with tiny.one_thread():
        found = list(Augmenter(augment, Form("generate"), 7).copies(rows))
        assert list(Augmenter(augment, Form("generate"), 7).copies(rows)) == found
    assert {copy.method for copy in found} == {"back_translation", "swap"}
    assert [copy.text.target for copy in found] == ["one"] * len(rows)
    before = defining(augment)
    assert before["models"] == revisions(augment.back_translation)
    other = replace(augment.back_translation, back=augment.back_translation.there)
    assert defining(replace(augment, back_translation=other)) != before


def test_folders_that_hold_no_such_model(tmp_path):
    there = folders(tmp_path).there
    with pytest.raises(
        DataError, match=r"back_translation\.back: there is no folder .*nowhere; give one with"
    ):
        revisions(BackTranslationConfig(there, tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(DataError, match=r"back_translation\.there: .*has no \*\.safetensors"):
        revisions(BackTranslationConfig(tmp_path / "empty", there))
    other = tiny.save(tiny.llama(), tmp_path / "llama")
    with pytest.raises(
        DataError, match=r"can't be loaded as a MarianMT model .it is of the kind llama.; give"
    ):
        BackTranslator(BackTranslationConfig(other, there)).translate(["red"])


def test_a_tokenizer_that_needs_what_is_not_installed(tmp_path, monkeypatch):
    def absent(*args, **kwargs):
        raise ImportError("sentencepiece")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", absent)
    with pytest.raises(
        DataError, match=r"needs sentencepiece; install it in sweeper's folder: pip .* -e '\.\[translation\]'"
    ):
        BackTranslator(folders(tmp_path)).translate(["red"])
