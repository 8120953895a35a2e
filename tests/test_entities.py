"""Personal data by Presidio: an extra, looked for on planted rows where it is installed."""

import importlib.util
from dataclasses import replace

import pytest

from sweeper.compose import compose, read_config
from sweeper.data.audit import audit
from sweeper.data.checks.entities import Entities
from sweeper.data.findings import Batch
from sweeper.errors import ConfigError, DataError
from tests.rows import configure, pairs, write_jsonl

IS_INSTALLED = importlib.util.find_spec("presidio_analyzer") is not None
needs_presidio = pytest.mark.skipif(
    not IS_INSTALLED, reason="pip install -c constraints.txt -e '.[presidio]'"
)

PLANTED = {
    "us_ssn": ("Her social security number is 536-90-4399.", "536-90-4399"),
    "uk_nhs": ("The patient's NHS number is 9434765919.", "9434765919"),
    "crypto": ("Pay to 1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa please.", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"),
}
OURS = ["Write to ada.lovelace@gmail.com today.", "Call +1 415 555 2671 at noon.", "See https://python.org."]


def found_in(texts, spacy=None):
    check = Entities(spacy, seed=7)
    names = [f"{n:016x}" for n in range(len(texts))]
    check.see(Batch(0, names, ["train"] * len(texts), texts, [""] * len(texts), [""] * len(texts)))
    return {finding.message.split(" contain ")[1].split()[0]: finding for finding in check.findings()}


@needs_presidio
def test_planted_numbers_are_found_and_never_shown():
    plain = [f"The red house number {n} was sold to {n + 2} people in {1900 + n}." for n in range(40)]
    found = found_in([*plain, *(text for text, _ in PLANTED.values()), *OURS])
    assert found.keys() == PLANTED.keys(), "and nothing else, nothing that is found without Presidio"
    for kind, finding in found.items():
        text, number = PLANTED[kind]
        assert (finding.count, finding.of) == (1, 46)
        assert [example.text for example in finding.examples] == [text.replace(number, f"[{kind}]")]
        assert "data.audit.spacy=FOLDER" in finding.advice


@needs_presidio
def test_a_spacy_model_in_a_folder_knows_names(tmp_path):
    import spacy

    model = spacy.blank("en")
    model.add_pipe("entity_ruler").add_patterns([{"label": "PERSON", "pattern": "Ada Lovelace"}])
    model.to_disk(tmp_path / "names")
    found = found_in(["Ada Lovelace wrote notes.", "She wrote notes."], tmp_path / "names")
    assert [one.text for one in found["person"].examples] == ["[person] wrote notes."]
    assert "spacy" not in found["person"].advice


@needs_presidio
def test_a_folder_that_is_no_spacy_model(tmp_path):
    with pytest.raises(
        DataError, match=r"data\.audit\.spacy: .*nowhere is no folder of a spaCy model.*download"
    ):
        Entities(tmp_path / "nowhere", 7)
    (tmp_path / "config.cfg").write_text("[nlp]\n")
    with pytest.raises(DataError, match=r"data\.audit\.spacy: .* can't be loaded"):
        Entities(tmp_path, 7)


@needs_presidio
def test_the_audit_looks_with_presidio_where_it_is_asked_to(tmp_path):
    rows = [*pairs(60), {"text": PLANTED["us_ssn"][0], "answer": "yes"}]
    config = configure(write_jsonl(tmp_path / "rows.jsonl", rows))
    assert "presidio" not in {finding.check for finding in audit(config).findings}
    asked = replace(config, data=replace(config.data, audit=replace(config.data.audit, presidio=True)))
    cache = tmp_path / "audit.json"
    assert "presidio" in {finding.check for finding in audit(asked, cache).findings}
    assert "536-90-4399" not in cache.read_text()


@pytest.mark.skipif(IS_INSTALLED, reason="Presidio is installed here")
def test_without_presidio_the_audit_says_how_to_get_it_before_it_reads_a_row(tmp_path):
    config = configure(write_jsonl(tmp_path / "rows.jsonl", pairs(60)))
    asked = replace(config, data=replace(config.data, audit=replace(config.data.audit, presidio=True)))
    steps: list[str] = []
    with pytest.raises(
        DataError,
        match=r"install it in sweeper's folder: pip install -c constraints.txt -e '\.\[presidio\]', or",
    ):
        audit(asked, progress=lambda what, done, of: steps.append(what))
    assert steps == []


def test_a_model_that_nobody_would_use_is_a_fault():
    with pytest.raises(
        ConfigError, match=r"data\.audit\.spacy: is given, and only data\.audit\.presidio=true"
    ):
        read_config(compose(["+experiment=summarize", "data.audit.spacy=folder"]))
