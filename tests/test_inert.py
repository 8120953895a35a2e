"""Configurations are data: what names code is refused, and none of it is imported on the way."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeper.compose import compose, read_config
from sweeper.errors import ConfigError

PACKAGE = "canary_package"
"""Tells when it is imported."""


@pytest.fixture(autouse=True)
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package in the working directory, which Python finds; nothing may import it."""
    sung = tmp_path / "sung"
    (tmp_path / PACKAGE).mkdir()
    (tmp_path / PACKAGE / "__init__.py").write_text(f"import pathlib; pathlib.Path({str(sung)!r}).touch()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield sung
    assert not sung.exists(), "code was run"
    assert PACKAGE not in sys.modules


def write(name: str, text: str) -> None:
    path = Path("conf") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_package_sings_where_it_is_imported(tmp_path, canary):
    __import__(PACKAGE)
    assert canary.exists()
    canary.unlink()
    del sys.modules[PACKAGE]


@pytest.mark.parametrize(
    "override",
    [
        f"hydra.searchpath=[pkg://{PACKAGE}]",
        f"+hydra.launcher._target_={PACKAGE}.X",
        f"++hydra.callbacks.x._target_={PACKAGE}.X",
        f"hydra.job_logging.handlers.file.class={PACKAGE}.X",
        "hydra/job_logging=none",
        "hydra/launcher@hydra.launcher=basic",
        "~hydra.help",
        "+data@hydra.x=file",
        "+data@data:hydra=file",
        "hydra=null",
    ],
)
def test_settings_of_hydra_are_refused(override):
    with pytest.raises(ConfigError, match="sets something of Hydra, which composes the configuration here"):
        compose(["+experiment=summarize", override])


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        (
            "experiment/mine.yaml",
            f"hydra: {{callbacks: {{x: {{_target_: {PACKAGE}.X}}}}}}",
            "experiment/mine",
        ),
        ("experiment/mine.yaml", "defaults: [{override /hydra/job_logging: none}]", "experiment/mine"),
        ("experiment/mine.yaml", "defaults: [{/data@hydra.x: file}]", "experiment/mine"),
        ("config.yaml", f"trial: {{}}\nhydra: {{searchpath: ['pkg://{PACKAGE}']}}", "config"),
        (
            "hydra/job_logging/default.yaml",
            f"handlers: {{x: {{class: {PACKAGE}.X}}}}",
            "hydra/job_logging/def",
        ),
    ],
)
def test_files_that_set_something_of_hydra_are_refused(name, text, place):
    write("experiment/mine.yaml", "sweep: {name: mine}\n")
    write(name, f"# @package _global_\n{text}\n")
    with pytest.raises(ConfigError, match=rf"conf/{place}.*: sets something of Hydra"):
        compose(["+experiment=mine"])


@pytest.mark.parametrize("key", ["_target_", "_args_", "_partial_", "_recursive_", "_convert_"])
@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("model: {KEY: X}", "model.KEY"),
        ("KEY: X", "KEY"),
        ("space: {learning_rate: {low: 1e-4, high: 1e-3, KEY: X}}", "space.learning_rate.KEY"),
        ("task: {also: [{metric: seconds, direction: minimize, KEY: X}]}", "task.also.0.KEY"),
        ("data: {audit: {terms: {KEY: [X]}}}", "data.audit.terms.KEY"),
        ("budget: {trials: {KEY: X}}", "budget.trials.KEY"),
    ],
)
def test_what_would_be_instantiated_is_refused_in_a_file(text, place, key):
    write("experiment/mine.yaml", "# @package _global_\n" + text.replace("KEY", key).replace("X", PACKAGE))
    with pytest.raises(ConfigError, match=rf"{place.replace('KEY', key)}: names code to run"):
        compose(["+experiment=mine"])


@pytest.mark.parametrize(
    "override",
    [
        f"+model._target_={PACKAGE}.X",
        f"model={{_target_: {PACKAGE}.X}}",
        f"++space.learning_rate={{_target_: {PACKAGE}.X, _args_: [1]}}",
        f"task.also=[{{_target_: {PACKAGE}.X}}]",
    ],
)
def test_what_would_be_instantiated_is_refused_on_the_command_line(override):
    with pytest.raises(ConfigError, match=r"names code to run|model: unknown name"):
        compose(["+experiment=summarize", override])


@pytest.mark.parametrize(
    "text",
    [
        "{input} ${oc.env:CANARY}",
        "{input} ${oc.env:CANARY,default}",
        "{input} ${oc.decode:${oc.env:CANARY}}",
        "{input} ${oc.select:${oc.env:CANARY}}",
        "{input} ${hydra:runtime.cwd}",
        "{input} ${now:%Y}",
        "{input} ${${model.name}:CANARY}",
        "{input} ${unheard_of:CANARY}",
    ],
)
def test_no_interpolation_reads_anything_but_settings(monkeypatch, text):
    """A secret in the prompt would be stored, shown, and pushed with the model card."""
    monkeypatch.setenv("CANARY", "c4nary")
    write("experiment/mine.yaml", f"# @package _global_\ntask: {{prompt: '{text}'}}\n")
    with pytest.raises(ConfigError, match=r"task\.prompt: can only refer to another setting") as refusal:
        compose(["+experiment=mine"])
    assert "c4nary" not in str(refusal.value)


def test_no_option_of_a_group_is_named_by_the_environment(monkeypatch):
    monkeypatch.setenv("CANARY", "c4nary")
    write(
        "experiment/mine.yaml",
        "# @package _global_\ndefaults: [{override /data: '${oc.env:CANARY}'}]\nsweep: {name: mine}\n",
    )
    with pytest.raises(ConfigError, match="Error resolving interpolation") as refusal:
        compose(["+experiment=mine"])
    assert "c4nary" not in str(refusal.value)


def test_settings_may_refer_to_each_other():
    overrides = ["sweep.seed=${trial.batch_size}", "sweep.name='${trial.method}_${sweep.seed}'", "space=lora"]
    config, _ = read_config(compose(["+experiment=summarize", *overrides]))
    assert (config.sweep.seed, config.sweep.name) == (8, "lora_8")


@pytest.mark.parametrize(
    "tag",
    [f"!!python/object/apply:{PACKAGE}.X []", f"!!python/name:{PACKAGE}.X", f"!!python/module:{PACKAGE}"],
)
def test_tags_of_yaml_make_nothing(tag):
    write("experiment/mine.yaml", f"# @package _global_\ntask: {{prompt: {tag} }}\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: is no YAML .* constructor for the tag"):
        compose(["+experiment=mine"])


@pytest.mark.parametrize(
    "override",
    ["+model.trust_remote_code=true", "++data.trust_remote_code=true", "+trust_remote_code=true"],
)
def test_remote_code_is_no_setting(override):
    with pytest.raises(ConfigError, match="trust_remote_code: unknown name"):
        read_config(compose(["+experiment=summarize", override]))


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..", "file/../../../secret"])
def test_groups_lead_nowhere_else(name):
    Path("secret.yaml").write_text("sweep: {name: c4nary}")
    with pytest.raises(ConfigError, match=r"data: there is no option `|is no override") as refusal:
        compose(["+experiment=summarize", f"data={name}"])
    assert "c4nary" not in str(refusal.value)
