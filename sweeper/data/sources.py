"""Raw rows: from docstrings, a local file, or a data set in the hub's format.

Every source is read as a stream, one row at a time, so that a file may be larger than the memory.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from sweeper.config import DataConfig, TaskConfig
from sweeper.config.prompt import INPUT, Prompt
from sweeper.config.types import expanded
from sweeper.data import docstrings, files, forms, readers
from sweeper.data.files import SPLIT_NAMES, SPLITS, near
from sweeper.data.readers import Row
from sweeper.errors import DataError, first_line

__all__ = ["Part", "Row", "Source", "content_digest", "load", "peek", "stamp", "wanted_columns"]

_MOST_NAMED = 4
"""Files of a part that are named one by one."""
_PEEKED = 20
"""Rows that tell the form of all."""


@dataclass(frozen=True)
class Part:
    """One split as it was given, or everything where none was."""

    name: str
    """For messages: its file or files, or the name of a hub split."""
    rows: Callable[[], Iterator[Row]]


@dataclass(frozen=True)
class Source:
    """Where the rows come from, in words, and the parts: train, and validation and test if given."""

    description: str
    parts: Mapping[str, Part]


Columns = Sequence[tuple[str, str]]
"""Columns that rows must have: the option that names it, and its name."""


def load(data: DataConfig, task: TaskConfig | None = None) -> Source:
    """The source that `data` names, with the columns that `task` wants; rows are read by a part's `rows`.

    Messages are in the form that `forms` gives them.

    Raises DataError, here or while reading: a missing or unreadable file, an unknown extension, a missing
    column or split, packages that are not installed, a hub data set that can't be had.
    """
    source = _load(data, wanted_columns(data, task))
    return Source(source.description, {split: _converted(part, data) for split, part in source.parts.items()})


def peek(data: DataConfig) -> tuple[list[Row], str]:
    """The first rows of the train part with all columns, and what they are called. Raises as `load`."""
    source = _load(replace(data, parts=replace(data.parts, column=None)), ())
    return list(islice(source.parts["train"].rows(), _PEEKED)), source.description


def _load(data: DataConfig, wanted: Columns) -> Source:
    if data.source == "docstrings":
        source = _docstrings(data, wanted)
    elif data.source == "hub" or _saved(data) is not None:
        source = _hub(data, wanted)
    else:
        source = _files(data, wanted)
    return source if data.parts.column is None else _divided(source, data.parts.column)


def _converted(part: Part, data: DataConfig) -> Part:
    return Part(part.name, lambda: iter(forms.converted(part.rows(), data, part.name)))


def content_digest(data: DataConfig) -> str | None:
    """SHA-256 of the files' bytes as they are now; None for other sources and for absent files."""
    if data.source != "file":
        return None
    if (folder := _saved(data)) is not None:
        return files.digest(files.saved_files(folder))
    try:
        return files.digest(path for part in sorted(_paths(data).values()) for path in part)
    except DataError:  # loading the rows tells
        return None


def stamp(data: DataConfig) -> str | None:
    """A digest that changes when the rows may have; None where that can't be told without reading them.

    Of files, the content; of installed packages and of a local folder in the hub's format, names, sizes and
    times of their files.
    """
    if data.source == "file":
        return content_digest(data)
    if data.source == "docstrings":
        return files.stamp(docstrings.files(data.packages))
    folder = _hub_folder(data)
    found = sorted(folder.rglob("*")) if folder.is_dir() else []
    return files.stamp(found) if found else None


def wanted_columns(data: DataConfig, task: TaskConfig | None = None) -> Columns:
    """The columns that rows must have, e.g. [("data.input", "article")]; the prompt's are among them."""
    options = ["input", "target", "group", "stratify", "time", "slice"]
    prompted: list[tuple[str, str]] = []
    if task is not None and task.kind != "chat":
        options.remove("input")
        for name, column in Prompt.parse(task.prompt).columns(data.input).items():
            prompted.append(("data.input" if name == INPUT and data.input else "task.prompt", column))
    named = [*prompted, *((f"data.{option}", getattr(data, option)) for option in options)]
    named += [("data.messages", column) for column in forms.columns(data)]
    named += [("data.audit.groups", data.audit.groups), ("data.parts.column", data.parts.column)]
    return list(dict.fromkeys((option, column) for option, column in named if column is not None))


def _check_columns(wanted: Columns, place: str, known: Sequence[str]) -> None:
    faults = []
    for option, column in wanted:
        if column not in known:
            alike = near(column, known)
            hint = f" (did you mean `{alike}`?)" if alike else ""
            hint += "; braces that are meant as such are doubled: {{...}}" if option == "task.prompt" else ""
            faults.append(f"{option}: {place} has no column `{column}`{hint}")
        elif known.count(column) > 1:
            raise DataError(
                f"{option}: {place} has {known.count(column)} columns `{column}`; rename all but one"
            )
    if faults:
        raise DataError("; ".join([*faults, f"it has: {', '.join(sorted(known))}"]))


def _docstrings(data: DataConfig, wanted: Columns) -> Source:
    found = docstrings.installed(data.packages)
    if not found:
        raise DataError(
            f"data.packages: none of {', '.join(data.packages)} is installed; install one, or name others "
            f"(`{docstrings.STDLIB}` is always there)"
        )
    _check_columns(wanted, "a docstring", list(docstrings.Docstring.__dataclass_fields__))

    def rows() -> Iterator[Row]:
        return (asdict(row) for row in docstrings.harvest(data.packages))

    return Source(f"docstrings of {', '.join(found)}", {"train": Part("docstrings", rows)})


def _files(data: DataConfig, wanted: Columns) -> Source:
    parts = {
        split: Part(_named_files(paths), partial(_rows, paths, wanted, [data.tools or INPUT, INPUT]))
        for split, paths in _paths(data).items()
    }
    names = ", ".join(part.name for part in parts.values())
    return Source(f"{data.path} ({names})" if data.parts.train else names, parts)


def _paths(data: DataConfig) -> dict[str, list[Path]]:
    """The files of every part, in the order in which they are read."""
    if data.path is None:
        raise DataError("data.path: is needed for data.source=file")
    given = {split: name for split in SPLITS if (name := getattr(data.parts, split)) is not None}
    if not given:
        listed = data.path if isinstance(data.path, tuple) else (data.path,)
        found = [path for one in listed for path in files.expand(one, "data.path")]
        if twice := next((path for path in found if found.count(path) > 1), None):
            raise DataError(f"data.path: lists {twice} twice; name it once")
        return {"train": found}
    if "train" not in given:
        raise DataError("data.parts.train: is needed where another part is given; name its file")
    if isinstance(data.path, tuple):
        raise DataError("data.path: must be the folder with the files of data.parts, not a list")
    return {split: files.expand(data.path / name, f"data.parts.{split}") for split, name in given.items()}


def _named_files(paths: Sequence[Path]) -> str:
    names = [path.name for path in paths]
    return (
        ", ".join(names) if len(names) <= _MOST_NAMED else f"{names[0]} ... {names[-1]}, {len(names)} files"
    )


def _rows(paths: Sequence[Path], wanted: Columns, also: Sequence[str]) -> Iterator[Row]:
    """The rows of these files: what is wanted and what there is of `also`; all columns if none is wanted."""
    columns = [*(column for _, column in wanted), *also] if wanted else None
    for path in paths:
        yield from readers.read(path, partial(_check_columns, wanted, str(path)), columns)


def _divided(source: Source, column: str) -> Source:
    """The rows of its train part as the parts that their `column` names."""
    whole = source.parts["train"]

    def rows(split: str) -> Iterator[Row]:
        for number, row in enumerate(whole.rows(), start=1):
            value = str(row.get(column) or "")
            if (meant := SPLIT_NAMES.get(value.strip().lower())) is None:
                raise DataError(
                    f"data.parts.column: row {number} has {value[:40]!r} in column `{column}`; every "
                    f"row needs one of {', '.join(SPLIT_NAMES)}"
                )
            if meant == split:
                yield row

    parts = {split: Part(f"{whole.name} ({split})", partial(rows, split)) for split in SPLITS}
    return Source(f"{source.description}, divided by column `{column}`", parts)


def _hub(data: DataConfig, wanted: Columns) -> Source:
    splits, place = _open_hub(data), _place(data)
    names = {split: name for split in SPLITS if (name := getattr(data.parts, split)) is not None}
    if "train" not in names:
        names["train"] = next(iter(splits)) if len(splits) == 1 else "train"
    parts = {}
    for split, name in names.items():
        if name not in splits:
            raise DataError(f"data.parts.{split}: {place} has no split `{name}`; it has: {', '.join(splits)}")
        parts[split] = Part(name, _reading_hub(splits[name], wanted, f"split `{name}` of {place}"))
    version = f", revision {data.revision}" if data.revision else ""
    subset = f" ({data.subset})" if data.subset else ""
    return Source(f"{place}{subset}{version}", parts)


def _open_hub(data: DataConfig) -> Mapping[str, Any]:
    """Splits by name, streamed: nothing is copied into a cache."""
    import datasets

    folder = _hub_folder(data)
    name = str(folder) if folder.exists() else str(data.name)
    try:
        if files.is_saved(folder):
            found = datasets.load_from_disk(name)
            if isinstance(found, datasets.Dataset):
                return {"train": found}
        else:
            found = datasets.load_dataset(name, data.subset, revision=data.revision, streaming=True)
    except Exception as error:  # the libraries below raise dozens of kinds, all meaning the same to a user
        raise DataError(
            f"data.{'path' if _saved(data) else 'name'}: {name} can't be opened ({first_line(error)}). "
            "Check the name and data.subset; "
            "if it is gated, accept its terms on the hub and set HF_TOKEN; "
            "without a network give a local folder, or data.source=file"
        ) from error
    return dict(found)


def _reading_hub(split: Any, wanted: Columns, place: str) -> Callable[[], Iterator[Row]]:
    def rows() -> Iterator[Row]:
        features = split.features or {}
        classes = {column: kind.names for column, kind in features.items() if hasattr(kind, "int2str")}
        checked = False
        try:
            for row in split:
                if not checked:
                    _check_columns(wanted, place, sorted({*row, *features}))
                    checked = True
                named = {column: _named(value, classes.get(column)) for column, value in row.items()}
                yield readers.without_gaps(named)
        except DataError:
            raise
        except Exception as error:  # as above: a connection, a parser, a decoder
            raise DataError(f"{place} can't be read: {first_line(error)}") from error

    return rows


def _saved(data: DataConfig) -> Path | None:
    """The folder of `save_to_disk` that data.path names, if it does."""
    path = data.path if data.source == "file" and isinstance(data.path, Path) else None
    return path if files.is_saved(path) else None


def _place(data: DataConfig) -> str:
    """What a data set in the hub's format is called in messages."""
    return str(_saved(data) or data.name)


def _hub_folder(data: DataConfig) -> Path:
    """Where a data set in the hub's format lies, if it does on this machine."""
    moved = data.path if data.source == "hub" and isinstance(data.path, Path) else None
    return moved or _saved(data) or expanded(str(data.name))


def _named(value: Any, classes: Sequence[str] | None) -> Any:
    """The name of a class that the hub stores as its number; -1 stands for no label."""
    if classes is None or not isinstance(value, int):
        return value
    return classes[value] if 0 <= value < len(classes) else None
