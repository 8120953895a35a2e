import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sweeper import provenance
from sweeper.compose import compose, read_config
from sweeper.data import manifest
from sweeper.data.manifest import Manifest
from sweeper.data.sources import content_digest
from sweeper.inputs import fingerprint
from sweeper.layout import Layout
from sweeper.models import pretrained
from sweeper.relocation import located, same_model
from tests.rows import pairs, write_jsonl

OVERRIDES = (
    *("+experiment=summarize", "model=custom", "model.name=./tiny", "data=file", "data.input=text"),
    *("data.target=answer", "data.path=rows.jsonl", "data.augment.methods=[synonyms]"),
    "data.augment.synonyms=words.tsv",
)


def model(folder: Path, weights: bytes) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A sweep that was begun in the folder `project`; its configuration, its folder, its model's revision."""
    home = tmp_path / "project"
    model(home / "tiny", b"weights")
    write_jsonl(home / "rows.jsonl", pairs(3))
    (home / "words.tsv").write_text("quick\tfast\n")
    monkeypatch.chdir(home)
    config, space = read_config(compose(OVERRIDES))
    layout = Layout(home / "sweeps", "mine")
    layout.rows.mkdir(parents=True)
    content = content_digest(config.data)
    manifest.write(Manifest("", "", "", content, "", "causal", 3, {}, {}, {}, (), ()), layout.rows)
    provenance.write(layout, "")
    monkeypatch.chdir(tmp_path)
    return config, space, layout, pretrained.digest(home / "tiny")


def test_what_a_sweep_began_with_is_found_from_any_folder(project, tmp_path):
    config, space, layout, revision = project
    found = located(config, layout, revision)
    assert found.model.folder == str(tmp_path / "project" / "tiny")
    assert found.data.path == tmp_path / "project" / "rows.jsonl"
    assert found.data.augment.synonyms == tmp_path / "project" / "words.tsv"
    assert pretrained.resolve(replace(found.model)).revision == revision
    assert found.model.name == "./tiny"
    assert "folder" not in fingerprint(found, space)["model"]


def test_it_is_found_where_the_sweep_was_begun_wherever_its_folder_is(project, tmp_path):
    config, _, layout, revision = project
    shutil.move(layout.root, tmp_path / "elsewhere" / "sweeps")
    found = located(config, Layout(tmp_path / "elsewhere" / "sweeps", "mine"), revision)
    assert found.model.folder == str(tmp_path / "project" / "tiny")
    assert found.data.path == tmp_path / "project" / "rows.jsonl"


@pytest.mark.parametrize("is_absolute", [False, True])
def test_it_is_found_after_the_project_was_moved(project, tmp_path, is_absolute):
    config, _, _, revision = project
    if is_absolute:
        home = tmp_path / "project"
        data = replace(config.data, path=(home / "rows.jsonl",))
        config = replace(config, data=data, model=replace(config.model, name=str(home / "tiny")))
    shutil.move(tmp_path / "project", tmp_path / "moved")
    found = located(config, Layout(tmp_path / "moved" / "sweeps", "mine"), revision)
    assert found.model.folder == str(tmp_path / "moved" / "tiny")
    moved = tmp_path / "moved" / "rows.jsonl"
    assert found.data.path == ((moved,) if is_absolute else moved)


def test_what_has_the_name_alone_is_not_taken(project, tmp_path):
    config, _, layout, revision = project
    model(tmp_path / "tiny", b"other weights")
    write_jsonl(tmp_path / "rows.jsonl", pairs(2))
    found = located(config, layout, revision)
    assert found.model.folder == str(tmp_path / "project" / "tiny")
    assert found.data.path == tmp_path / "project" / "rows.jsonl"
    shutil.rmtree(tmp_path / "project" / "tiny")
    (tmp_path / "project" / "rows.jsonl").unlink()
    found = located(config, layout, revision)
    assert (found.model.folder, found.data.path) == (None, Path("rows.jsonl")), "as it is written"


@pytest.mark.parametrize("option", ["data.path=~/rows.jsonl", "data.review=~/q.csv", "sweep.folder=~/sweeps"])
def test_a_tilde_is_the_home_folder(option, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    name, value = option.split("=")
    config = read_config(compose(["+experiment=classify", "data=file", "data.path=a", f"{name}='{value}'"]))[
        0
    ]
    section, field = name.split(".")
    assert getattr(getattr(config, section), field) == Path("/home/ada") / value[2:]


def test_the_same_model_by_another_path_goes_on_with_the_sweep(project, tmp_path):
    config, space, _, revision = project
    begun = fingerprint(replace(config, data=replace(config.data, augment=NO_WORDS)), space)
    begun |= {"pins": {"revision": revision}}
    elsewhere = replace(config.model, name="project/tiny")
    same = same_model(replace(config, model=elsewhere), begun)
    assert (same.model.name, same.model.folder) == ("./tiny", "project/tiny")
    model(tmp_path / "other", b"other weights")
    other = replace(config, model=replace(config.model, name="other"))
    assert same_model(other, begun) == other


NO_WORDS = read_config(compose(OVERRIDES[:-2]))[0].data.augment
