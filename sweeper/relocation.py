"""Model and rows of a sweep found again: from another working folder, and after the project was moved.

A path of a stored sweep is looked for as it is written, where the sweep was begun, and beside the folder of
all sweeps. What counts is the content: of a model its revision, of rows their digest.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweeper import provenance
from sweeper.config import Config, DataConfig
from sweeper.config.types import expanded
from sweeper.layout import Layout

_COMMIT = re.compile(r"[0-9a-f]{40}")


def located(config: Config, layout: Layout, revision: str) -> Config:
    """A stored configuration with model and rows where they are now; what is not found stays as written.

    `revision` is that of the model that the sweep was begun with.
    """
    from sweeper.data import manifest, sources
    from sweeper.models import pretrained

    places = _places(layout)
    model, data = config.model, config.data
    if not model.embedded and _COMMIT.fullmatch(revision) is None:
        written = [expanded(name) for name in (model.folder, model.name) if name is not None]
        found = _first(written, places, lambda path: path.is_dir() and pretrained.digest(path) == revision)
        model = replace(model, folder=model.folder if found is None else str(found))
    if data.source == "hub" and not Path(str(data.name)).is_dir():
        found = _first([expanded(str(data.name))], places, Path.is_dir)
        data = replace(data, path=found)
    elif data.source == "file" and data.path is not None:
        try:
            content = manifest.read(layout.rows).content
        except (OSError, ValueError):
            content = None
        listed = data.path if isinstance(data.path, tuple) else (data.path,)
        for paths in zip(*(_candidates(path, places) for path in listed), strict=False):
            path = paths if isinstance(data.path, tuple) else paths[0]
            if content is not None and sources.content_digest(replace(data, path=path)) == content:
                data = replace(data, path=path)
                break
    return replace(config, model=model, data=_files_located(data, places))


def same_model(config: Config, fingerprint: Mapping[str, Any]) -> Config:
    """The configuration with the model's name in `fingerprint`, if its folder holds the very same model."""
    from sweeper.models import pretrained

    model, name = config.model, fingerprint["model"]["name"]
    revision = fingerprint.get("pins", {}).get("revision", "")
    folder = expanded(model.folder or model.name)
    if model.name == name or model.embedded or _COMMIT.fullmatch(revision) or not folder.is_dir():
        return config
    if pretrained.digest(folder) != revision:
        return config
    return replace(config, model=replace(model, name=name, folder=str(folder)))


def _files_located(data: DataConfig, places: list[Path]) -> DataConfig:
    """With the review and what augmentation takes where they are now: their content is in the fingerprint."""

    def now(path: Path | None) -> Path | None:
        return path if path is None else _first([path], places, Path.exists) or path

    models = data.augment.back_translation
    translation = replace(models, there=now(models.there), back=now(models.back))
    augment = replace(data.augment, synonyms=now(data.augment.synonyms), back_translation=translation)
    audit = replace(data.audit, spacy=now(data.audit.spacy), toxicity=now(data.audit.toxicity))
    return replace(data, review=now(data.review), augment=augment, audit=audit)


def _places(layout: Layout) -> list[Path]:
    """Folders that relative paths may be relative to."""
    noted = provenance.read(layout)
    begun = [Path(noted.folder)] if noted is not None and noted.folder else []
    return list(dict.fromkeys([Path.cwd(), *begun, layout.root.resolve().parent]))


def _candidates(path: Path, places: list[Path]) -> Iterator[Path]:
    """Where a path may lead now; of an absolute one, its end below one of the places, too."""
    yield path
    if not path.is_absolute():
        yield from (place / path for place in places)
        return
    for first in range(1, len(path.parts)):
        yield from (place.joinpath(*path.parts[first:]) for place in places)


def _first(paths: list[Path], places: list[Path], fits: Callable[[Path], bool]) -> Path | None:
    every = (one for path in paths for one in _candidates(path, places))
    return next((one for one in every if fits(one)), None)
