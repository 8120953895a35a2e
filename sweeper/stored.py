"""Sweeps that are stored: their configuration and their study, found again by name."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweeper.compose import with_line_ends
from sweeper.config import Config, TrackingConfig
from sweeper.credentials import masked, opened
from sweeper.errors import StudyError
from sweeper.layout import Layout
from sweeper.loading import to_tree
from sweeper.study.study import Study


def names(folder: Path) -> list[str]:
    """The names of all sweeps in `folder`; of those that belong to another one like `summarize/train`."""
    found = [*folder.glob("*/config.yaml"), *folder.glob("*/*/config.yaml")]
    found_names = (path.parent.relative_to(folder).as_posix() for path in found)
    return sorted(name for name in found_names if not name.startswith("."))


def refused(folder: Path) -> list[str]:
    """The names of folders that starts have left which were refused, or cut short, before a study began."""
    begun = set(names(folder))
    found = (path.parent.name for path in folder.glob("*/lock"))
    return sorted(name for name in found if name not in begun and not name.startswith("."))


def stored(layout: Layout) -> tuple[dict[str, Any], Study]:
    """The stored configuration of a sweep, and its study for reading.

    Raises StudyError if there is no such sweep, or its configuration or study can't be read.
    """
    tree, url = stored_config(layout)
    return tree, Study.read(url, layout.name, layout.folder)


def stored_config(layout: Layout) -> tuple[dict[str, Any], str]:
    """The stored configuration of a sweep, and the URL of its study. Raises as `stored` does."""
    from omegaconf import OmegaConf
    from yaml import YAMLError

    if layout.name not in names(layout.root):
        known = ", ".join(names(layout.root)) or "none yet"
        raise StudyError(f"no sweep `{layout.name}` in {layout.root}/; known sweeps: {known}")
    try:
        tree: Any = OmegaConf.to_container(OmegaConf.load(layout.config))
        url = tree["sweep"]["study"]
    except (YAMLError, KeyError, TypeError, ValueError) as error:
        raise StudyError(
            f"{layout.config} is damaged; run the sweep's command again to write it anew"
        ) from error
    return tree, _study_url(url, layout)


def as_begun(config: Config, layout: Layout) -> Config:
    r"""The configuration with the prompt that its sweep began with, where it is the same line.

    Sweeps that an earlier version began have the characters \n in a prompt from the command line.
    """
    try:
        begun = str(stored_config(layout)[0]["task"]["prompt"])
    except (StudyError, KeyError, TypeError):
        return config
    is_same = begun != config.task.prompt and with_line_ends(begun) == config.task.prompt
    return replace(config, task=replace(config.task, prompt=begun)) if is_same else config


def study_url(config: Config, layout: Layout) -> str:
    """The study's URL; a password need not stand in a configuration: SWEEPER_STUDY goes before it.

    Raises StudyError for the masked URL of a stored sweep whose password this process has never heard.
    """
    return _study_url(config.sweep.study, layout)


def _study_url(configured: str | None, layout: Layout) -> str:
    if from_environment := os.environ.get("SWEEPER_STUDY"):
        return _whole(opened(from_environment, "SWEEPER_STUDY"))
    return _whole(opened(configured or layout.study_url, "sweep.study"))


_given: dict[str, str] = {}
"""Study URLs that this process was given, by what is stored of them."""


def _whole(url: str) -> str:
    if "***" not in url:
        _given[masked(url)] = url
    elif url not in _given:
        raise StudyError(f"the study {url} needs its password: set SWEEPER_STUDY to the whole URL")
    return _given[masked(url)]


def tracking_of(tracking: TrackingConfig) -> TrackingConfig:
    """`tracking` of a stored sweep; the secret in its URI is not stored, and taken from MLFLOW_TRACKING_URI.

    `@FILE` stays what it is. Raises StudyError if the secret isn't there.
    """
    uri = tracking.uri
    if uri is None or "***" not in uri:
        return tracking
    whole = os.environ.get("MLFLOW_TRACKING_URI")
    if not whole:
        raise StudyError(
            f"the secret in tracking.uri ({uri}) is not stored; set MLFLOW_TRACKING_URI to the whole URI"
        )
    return replace(tracking, uri=whole)


def public(config: Config) -> dict[str, Any]:
    """The configuration as a plain tree without secrets: passwords and tokens in URLs are masked."""
    tree: dict[str, Any] = to_tree(config)
    study = os.environ.get("SWEEPER_STUDY") or config.sweep.study
    if study is not None:
        tree["sweep"]["study"] = masked(study)
    if config.tracking.uri is not None:
        tree["tracking"]["uri"] = masked(config.tracking.uri)
    return tree


def as_yaml(tree: Mapping[str, Any]) -> str:
    """A plain tree as YAML text."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(dict(tree)))
