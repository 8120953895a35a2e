"""Everything shipped under conf/: each option composes by the very command that its first line shows."""

import shlex
from pathlib import Path
from typing import Any

import hydra
import pytest
from omegaconf import OmegaConf

from sweeper.config import Config
from sweeper.errors import ConfigError
from sweeper.loading import load
from sweeper.space import Space, check

CONF = Path(__file__).parents[1] / "conf"
FILES = sorted(CONF.rglob("*.yaml"))


def composed(*overrides: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The composed tree, and the option chosen of every group."""
    whole = [override.replace("+experiment=", "+experiment@_global_=") for override in overrides]
    with hydra.initialize_config_module("sweeper.conf", version_base="1.3"):
        tree = OmegaConf.to_container(
            hydra.compose("config", whole, return_hydra_config=True), throw_on_missing=False
        )
    choices = tree.pop("hydra")["runtime"]["choices"]
    return tree, {group.partition("@")[0]: option for group, option in choices.items()}


def loaded(*overrides: str) -> Config:
    return load(composed(*overrides)[0], check)


def opening(file: Path) -> list[str]:
    """A file's lines; of those that Hydra wants its own line to stand first in, from the second one on."""
    lines = file.read_text().splitlines()
    return lines[1:] if lines[0].startswith("# @package") else lines


def command(file: Path) -> list[str]:
    """The overrides in the first line of a file, `# python -m sweeper ...`."""
    words = shlex.split(opening(file)[0])
    assert words[:4] == ["#", "python", "-m", "sweeper"], f"{file} must open with the command that uses it"
    return words[4:]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONF)))
def test_an_option_composes_by_its_own_command(file: Path) -> None:
    tree, choices = composed(*command(file))
    if file.parent != CONF:
        assert choices[file.parent.name] == file.stem
    config = load(tree, check)
    assert Space.parse(config.space, config.trial).settings({}) == config.trial


def test_the_root_takes_one_option_of_every_group() -> None:
    groups = {file.parent.name for file in FILES if file.parent != CONF}
    assert set(composed()[1]) & groups == groups - {"experiment"}


def test_every_option_says_what_it_is_for() -> None:
    for file in FILES:
        lines = opening(file)
        assert lines[1].startswith("# "), f"{file} needs a comment under its command"


@pytest.mark.parametrize("experiment", ["summarize", "classify"])
def test_the_default_experiments_vary_something_within_a_short_budget(experiment: str) -> None:
    config = loaded(f"+experiment={experiment}")
    assert config.sweep.name == experiment
    assert len(Space.parse(config.space, config.trial).names) >= 3
    assert config.budget.trials >= 8


def test_entries_of_a_space_are_changed_on_the_command_line() -> None:
    config = loaded(
        "+experiment=summarize",
        "space.lora.rank.choices=[8,16]",
        "~space.batch_size",
        "+space.warmup={low: 0.0, high: 0.1, when: {scheduler: linear}}",
        "pruner=none",
    )
    space = Space.parse(config.space, config.trial)
    assert space.names == ("learning_rate", "warmup", "lora.rank", "lora.dropout")
    assert config.space["lora"]["rank"] == {"choices": [8, 16]}


def test_choices_merged_over_a_range_are_refused_with_a_way_out_that_works() -> None:
    choices = "+space.learning_rate.choices=[2e-4, 1e-3]"
    with pytest.raises(ConfigError, match="`low: null, high: null, log: null` to keep the choices"):
        loaded("+experiment=summarize", choices)
    nulls = [f"space.learning_rate.{key}=null" for key in ("low", "high", "log")]
    config = loaded("+experiment=summarize", choices, *nulls)
    assert Space.parse(config.space, config.trial).entries[0].choices == (2e-4, 1e-3)


def test_augmentation_and_weights_can_be_searched_where_they_have_what_they_need() -> None:
    searched = ["+space.augment_rate={low: 0.0, high: 0.5}", "+space.reweight={low: 0.0, high: 1.0}"]
    config = loaded("+experiment=classify", "data.slice=file", "data.augment.methods=[swap]", *searched)
    assert {"augment_rate", "reweight"} <= set(Space.parse(config.space, config.trial).names)
    groups_alone = (
        r"1 fault .*\n.*space\.reweight: needs groups; name their column, another one than the label"
    )
    with pytest.raises(ConfigError, match=groups_alone):
        loaded("+experiment=classify", "data.augment.methods=[swap]", *searched)
