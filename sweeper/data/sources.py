"""Raw rows: from docstrings, a local file, or a data set in the hub's format.

Every source is read as a stream, one row at a time, so that a file may be larger than the memory.
"""

import csv
import difflib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sweeper.config import DataConfig
from sweeper.data import docstrings
from sweeper.errors import DataError, first_line

Row = Mapping[str, Any]
"""Column name to value, as the source has it."""

_MAX_FIELD = 100_000_000
"""Characters that one field of a .csv file may have. Python's own limit of 131,072 cuts long articles;
without any, a quote that is never closed takes the rest of the file into memory."""

_ADVICE = {
    ".json": "One JSON object a line makes a .jsonl file.",
    ".tsv": "Save it as .csv, with commas between the fields.",
    ".txt": "A table is needed: rows with an input and a target.",
    **dict.fromkeys((".xls", ".xlsx", ".ods"), "Save the sheet as .csv (UTF-8)."),
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".7z"), "Unpack it first."),
}
"""What to do with a file of another kind, by its extension."""

_BEGINNINGS = (
    (b"\x1f\x8b", "compressed (gzip); unpack it first"),
    (b"PK\x03\x04", "a zip archive or a spreadsheet; unpack it, or save the sheet as .csv"),
    (b"BZh", "compressed (bzip2); unpack it first"),
    (b"\xfd7zXZ", "compressed (xz); unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed (zstd); unpack it first"),
    (b"PAR1", "a .parquet file; rename it"),
    (b"\xff\xfe", "UTF-16; save it as UTF-8"),
    (b"\xfe\xff", "UTF-16; save it as UTF-8"),
)
"""How files begin that are no UTF-8 text, and what they are."""


@dataclass(frozen=True)
class Part:
    """One split as it was given, or everything where none was."""

    name: str
    """For messages: a file name, or the name of a hub split."""
    rows: Callable[[], Iterator[Row]]


@dataclass(frozen=True)
class Source:
    """Where the rows come from, in words, and the parts: train, and validation and test if given."""

    description: str
    parts: Mapping[str, Part]


def load(data: DataConfig) -> Source:
    """The source that `data` names; its rows are read when a part's `rows` is called.

    Raises DataError, here or while reading: a missing or unreadable file, an unknown extension, a missing
    column or split, packages that are not installed, a hub data set that can't be had.
    """
    if data.source == "docstrings":
        return _docstrings(data)
    return _files(data) if data.source == "file" else _hub(data)


def content_digest(data: DataConfig) -> str | None:
    """SHA-256 of the files' bytes as they are now; None for other sources and for absent files."""
    if data.source != "file":
        return None
    digest = hashlib.sha256()
    for path in sorted(_paths(data).values()):
        if not path.is_file():
            return None
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def stamp(data: DataConfig) -> str | None:
    """A digest that changes when the rows may have; None where that can't be told without reading them.

    Of files, the content; of installed packages and of a local folder in the hub's format, names, sizes and
    times of their files.
    """
    if data.source == "file":
        return content_digest(data)
    if data.source == "docstrings":
        files = docstrings.files(data.packages)
    else:
        files = sorted(Path(str(data.name)).rglob("*")) if Path(str(data.name)).is_dir() else []
        if not files:
            return None
    return stamp_of(files)


def stamp_of(files: Iterable[Path]) -> str | None:
    """A digest of names, sizes and times of these files; None if one is gone."""
    digest = hashlib.sha256()
    for path in files:
        try:
            status = path.stat()
        except OSError:
            return None
        digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def wanted_columns(data: DataConfig) -> dict[str, str]:
    """Column names by the option that names them, e.g. {"input": "article"}."""
    options = ("input", "target", "messages", "group", "stratify", "time", "slice")
    named = {option: getattr(data, option) for option in options} | {"audit.groups": data.audit.groups}
    return {option: column for option, column in named.items() if column is not None}


def _check_columns(data: DataConfig, known: Sequence[str], place: str) -> None:
    faults = []
    for option, column in wanted_columns(data).items():
        if column not in known:
            near = difflib.get_close_matches(column, known, n=1)
            hint = f" (did you mean `{near[0]}`?)" if near else ""
            faults.append(f"data.{option}: {place} has no column `{column}`{hint}")
    if faults:
        raise DataError("; ".join([*faults, f"it has: {', '.join(sorted(known))}"]))


def _docstrings(data: DataConfig) -> Source:
    found = docstrings.installed(data.packages)
    if not found:
        raise DataError(
            f"data.packages: none of {', '.join(data.packages)} is installed; install one, or name others "
            f"(`{docstrings.STDLIB}` is always there)"
        )
    _check_columns(data, list(docstrings.Docstring.__dataclass_fields__), "a docstring")

    def rows() -> Iterator[Row]:
        return (asdict(row) for row in docstrings.harvest(data.packages))

    return Source(f"docstrings of {', '.join(found)}", {"train": Part("docstrings", rows)})


def _files(data: DataConfig) -> Source:
    parts = {}
    for split, path in _paths(data).items():
        if not path.is_file():
            raise DataError(_missing(data, path))
        reader = _READERS.get(path.suffix.lower())
        if reader is None:
            has = f"has the extension `{path.suffix}`" if path.suffix else "has no extension"
            advice = _ADVICE.get(path.suffix.lower(), "")
            raise DataError(f"data.path: {path} {has}; allowed: {', '.join(_READERS)}. {advice}".rstrip())
        parts[split] = Part(path.name, _reading(reader, path, data))
    names = ", ".join(part.name for part in parts.values())
    return Source(f"{data.path} ({names})" if data.parts.train else names, parts)


def _paths(data: DataConfig) -> dict[str, Path]:
    if data.path is None:
        raise DataError("data.path: is needed for data.source=file")
    given = {split: name for split, name in asdict(data.parts).items() if name is not None}
    if not given:
        return {"train": data.path}
    if "train" not in given:
        raise DataError("data.parts.train: is needed where another part is given; name its file")
    return {split: data.path / name for split, name in given.items()}


def _missing(data: DataConfig, path: Path) -> str:
    if path.is_dir():
        return (
            f"data.path: {path} is a folder; name its files in data.parts.train, data.parts.validation, ..."
        )
    near: list[str] = []
    if path.parent.is_dir():
        near = difflib.get_close_matches(path.name, sorted(p.name for p in path.parent.iterdir()), n=1)
    hint = f"did you mean `{path.parent / near[0]}`?" if near else "paths are relative to the working folder"
    return f"{'data.parts' if data.parts.train else 'data.path'}: there is no file {path}; {hint}"


Reader = Callable[[Path, DataConfig], Iterator[Row]]


def _reading(reader: Reader, path: Path, data: DataConfig) -> Callable[[], Iterator[Row]]:
    def rows() -> Iterator[Row]:
        try:
            yield from reader(path, data)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path} is not UTF-8 (byte {error.object[error.start]:#04x}); save it as UTF-8"
            ) from error
        except OSError as error:
            raise DataError(f"{path} can't be read: {error.strerror or error}") from error

    return rows


def _check_beginning(path: Path) -> None:
    """Refuse what is known by its first bytes to be no text, before anything else is said of it."""
    with path.open("rb") as file:
        begins = file.read(64)
    for magic, kind in _BEGINNINGS:
        if begins.startswith(magic):
            raise DataError(f"{path} is {kind}")
    if b"\0" in begins[:2]:
        raise DataError(f"{path} is UTF-16 or no text; save it as UTF-8")
    if path.suffix.lower() == ".jsonl" and begins.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        # One array of a large file would be read whole.
        raise DataError(f"{path}, line 1 holds no JSON object but a list; one {{...}} a line is needed")


def _read_jsonl(path: Path, data: DataConfig) -> Iterator[Row]:
    _check_beginning(path)
    known: set[str] = set()
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                reason = "nested too deeply" if isinstance(error, RecursionError) else "a number without end"
                reason = error.msg if isinstance(error, json.JSONDecodeError) else reason
                raise DataError(f"{path}, line {number} is no JSON ({reason}); one object a line") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number} holds no JSON object; one {{...}} a line is needed")
            known |= row.keys()
            yield row
    if known:
        _check_columns(data, sorted(known), str(path))


def _read_csv(path: Path, data: DataConfig) -> Iterator[Row]:
    _check_beginning(path)
    before, line = csv.field_size_limit(_MAX_FIELD), 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if reader.fieldnames is not None:
                _check_header(data, reader.fieldnames, str(path))
            line = reader.line_num + 1
            for row in reader:
                if None in row:
                    raise DataError(
                        f"{path}, line {reader.line_num} has more fields than the header; "
                        "put fields that hold commas in double quotes"
                    )
                line = reader.line_num + 1
                yield row
    except csv.Error as error:
        raise DataError(
            f"{path}, line {line} is no readable .csv ({error}); a field with commas, quotes or line ends "
            'stands in double quotes, those within it doubled: "she said ""yes"""'
        ) from error
    finally:
        csv.field_size_limit(before)


def _check_header(data: DataConfig, names: Sequence[str], path: str) -> None:
    if len(names) == 1 and (other := next((sign for sign in ";\t|" if sign in names[0]), None)):
        raise DataError(f"{path} has {other!r} between its fields; save it with commas")
    for option, column in wanted_columns(data).items():
        if names.count(column) > 1:
            raise DataError(
                f"data.{option}: {path} has {names.count(column)} columns `{column}`; rename all but one"
            )
    _check_columns(data, names, path)


def _read_parquet(path: Path, data: DataConfig) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_columns(data, file.schema_arrow.names, str(path))
            columns = sorted(set(wanted_columns(data).values()))
            for batch in file.iter_batches(batch_size=1000, columns=columns):
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is no readable .parquet: {error}") from error


_READERS: Mapping[str, Reader] = {".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}


def _hub(data: DataConfig) -> Source:
    splits = _open_hub(data)
    names = {split: name for split, name in asdict(data.parts).items() if name is not None}
    names.setdefault("train", "train")
    parts = {}
    for split, name in names.items():
        if name not in splits:
            raise DataError(
                f"data.parts.{split}: {data.name} has no split `{name}`; it has: {', '.join(splits)}"
            )
        parts[split] = Part(name, _reading_hub(splits[name], data, name))
    version = f", revision {data.revision}" if data.revision else ""
    subset = f" ({data.subset})" if data.subset else ""
    return Source(f"{data.name}{subset}{version}", parts)


def _open_hub(data: DataConfig) -> Mapping[str, Any]:
    """Splits by name, streamed: nothing is copied into a cache."""
    import datasets

    name = str(data.name)
    try:
        if (Path(name) / "dataset_dict.json").is_file():
            found = datasets.load_from_disk(name)
        else:
            found = datasets.load_dataset(name, data.subset, revision=data.revision, streaming=True)
    except Exception as error:  # the libraries below raise dozens of kinds, all meaning the same to a user
        raise DataError(
            f"data.name: {name} can't be opened ({first_line(error)}). Check the name and data.subset; "
            "if it is gated, accept its terms on the hub and set HF_TOKEN; "
            "without a network give a local folder, or data.source=file"
        ) from error
    return dict(found)


def _reading_hub(split: Any, data: DataConfig, name: str) -> Callable[[], Iterator[Row]]:
    def rows() -> Iterator[Row]:
        features = split.features or {}
        classes = {column: kind.names for column, kind in features.items() if hasattr(kind, "int2str")}
        checked = False
        try:
            for row in split:
                if not checked:
                    _check_columns(data, sorted({*row, *features}), f"split `{name}` of {data.name}")
                    checked = True
                yield {column: _named(value, classes.get(column)) for column, value in row.items()}
        except DataError:
            raise
        except Exception as error:  # as above: a connection, a parser, a decoder
            raise DataError(f"split `{name}` of {data.name} can't be read: {first_line(error)}") from error

    return rows


def _named(value: Any, classes: Sequence[str] | None) -> Any:
    """The name of a class that the hub stores as its number; -1 stands for no label."""
    if classes is None or not isinstance(value, int):
        return value
    return classes[value] if 0 <= value < len(classes) else None
