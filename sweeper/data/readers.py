"""The rows of one file, as a stream; what can't be read is named by its line."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeper.data.files import JSON_LINES, kind, open_text
from sweeper.errors import DataError

Row = Mapping[str, Any]
"""Column name to value, as the source has it."""

Header = Callable[[Sequence[str]], None]
"""Hears the columns that a file has, and raises DataError if they are not the right ones."""

_MAX_FIELD = 100_000_000
"""Characters that a field of a table, or an object in a JSON list, may have. Python's own limit of 131,072
cuts long articles; without any, a quote that is never closed takes the rest of the file into memory."""

_CHUNK = 1 << 18
"""Characters read at once of a JSON list."""
_TAIL = 16
"""An error so near to the end of what was read may be due to what is still to be read, such as `fal`."""


def read(path: Path, hear: Header, columns: Sequence[str] | None) -> Iterator[Row]:
    """The rows of a file of one of `files.KINDS`.

    `hear` is told the columns: of a table before its first row, of JSON after its last one. `columns` are
    those that are needed, None for all; more may be given. Raises DataError for whatever can't be read.
    """
    try:
        yield from _READERS[kind(path)](path, hear, columns)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 (byte {error.object[error.start]:#04x}); save it as UTF-8"
        ) from error
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from error


def _read_json(path: Path, hear: Header, _: Sequence[str] | None) -> Iterator[Row]:
    """One object a line, or one list of objects."""
    known: set[str] = set()
    for place, row in _items(path) if _is_list(path) else _lines(path):
        if not isinstance(row, dict):
            what = " but a list; one" if isinstance(row, list) else "; one"
            raise DataError(f"{path}, {place} holds no JSON object{what} {{...}} a line is needed")
        known |= row.keys()
        yield row
    if known:
        hear(sorted(known))


def _is_list(path: Path) -> bool:
    """Whether the file is one list of objects, rather than an object a line."""
    with open_text(path, newline="\n") as file:
        begins = file.read(_CHUNK).lstrip()
    return begins.startswith("[") and begins[1:].lstrip()[:1] in ("{", "]")


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    with open_text(path, newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield f"line {number}", json.loads(line)
                except (ValueError, RecursionError) as error:
                    advice = "one object a line"
                    if kind(path) not in JSON_LINES:
                        advice += ", or one list of objects"
                    why = _why(error)
                    raise DataError(f"{path}, line {number} is no JSON ({why}); {advice}") from error


def _items(path: Path) -> Iterator[tuple[str, Any]]:
    """The objects of a list, each read by itself."""
    decoder, line = json.JSONDecoder(), 1
    with open_text(path, newline="\n") as file:
        text = file.read(_CHUNK)
        at = text.index("[") + 1
        line += text.count("\n", 0, at)
        separator, is_over = "", False
        while True:
            start = at
            while at < len(text) and text[at].isspace():
                at += 1
            line += text.count("\n", start, at)
            if at == len(text) and not is_over:
                more = file.read(_CHUNK)
                text, at, is_over = more, 0, not more
                continue
            if is_over and at == len(text):
                raise DataError(f"{path}, line {line}: the list is not closed; the file breaks off here")
            if text[at] == "]":
                if text[at + 1 :].strip() or file.read(_CHUNK).strip():
                    raise DataError(f"{path}, line {line}: something follows the list; one list is read")
                break
            if separator and text[at] != separator:
                raise DataError(f"{path}, line {line} is no JSON (',' or ']' is missing between two objects)")
            if separator:
                at, separator = at + 1, ""
                continue
            try:
                item, end = decoder.raw_decode(text, at)
            except (ValueError, RecursionError) as error:
                if _may_go_on(error, text) and not is_over and len(text) - at < _MAX_FIELD:
                    more = file.read(max(_CHUNK, len(text) - at))  # doubled: each is parsed anew
                    text, at, is_over = text[at:] + more, 0, not more
                    continue
                if isinstance(error, json.JSONDecodeError):
                    line += text.count("\n", at, error.pos)
                raise DataError(f"{path}, line {line} is no JSON ({_why(error)})") from error
            yield f"line {line}", item
            line += text.count("\n", at, end)
            at, separator = end, ","


def _may_go_on(error: Exception, text: str) -> bool:
    """Whether what was read may be the beginning of something right."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos >= len(text) - _TAIL


def _why(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "nested too deeply" if isinstance(error, RecursionError) else "a number without end"


def _read_table(path: Path, hear: Header, _: Sequence[str] | None) -> Iterator[Row]:
    """Fields between commas, in a .tsv file between tabs; those that a line lacks are None."""
    before, line = csv.field_size_limit(_MAX_FIELD), 1
    sign, name = ("\t", "tabs") if kind(path) == ".tsv" else (",", "commas")
    try:
        with open_text(path, newline="") as file:
            reader = csv.DictReader(file, strict=True, delimiter=sign)
            if reader.fieldnames is not None:
                _check_separator(reader.fieldnames, path, sign, name)
                hear(reader.fieldnames)
            line = reader.line_num + 1
            for row in reader:
                if None in row:
                    raise DataError(
                        f"{path}, line {reader.line_num} has more fields than the header; "
                        f"put fields that hold {name} in double quotes"
                    )
                line = reader.line_num + 1
                yield row
    except csv.Error as error:
        raise DataError(
            f"{path}, line {line} is no readable {kind(path)} ({error}); a field with {name}, quotes or line "
            'ends stands in double quotes, those within it doubled: "she said ""yes"""'
        ) from error
    finally:
        csv.field_size_limit(before)


def _check_separator(names: Sequence[str], path: Path, sign: str, name: str) -> None:
    other = next((one for one in ";\t|," if one != sign and one in names[0]), None)
    if len(names) == 1 and other is not None:
        raise DataError(f"{path} has {other!r} between its fields; save it with {name}")


def _read_parquet(path: Path, hear: Header, columns: Sequence[str] | None) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            hear(names)
            wanted = None if columns is None else [name for name in names if name in columns]
            for batch in file.iter_batches(batch_size=1000, columns=wanted):
                yield from map(without_gaps, batch.to_pylist())
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is no readable .parquet: {error}") from error


def without_gaps(row: Row) -> Row:
    """A row of an Arrow table without what Arrow fills in: all objects of a list have the same keys there."""
    return {column: _dense(value) for column, value in row.items()}


def _dense(value: Any) -> Any:
    if isinstance(value, list):
        return [_dense(one) for one in value]
    if isinstance(value, dict):
        return {key: _dense(one) for key, one in value.items() if one is not None}
    return value


_READERS: Mapping[str, Callable[[Path, Header, Sequence[str] | None], Iterator[Row]]] = {
    **dict.fromkeys((*JSON_LINES, ".json"), _read_json),
    **dict.fromkeys((".csv", ".tsv"), _read_table),
    ".parquet": _read_parquet,
}
