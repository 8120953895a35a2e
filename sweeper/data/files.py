"""Which files a source consists of, and how their bytes become text: patterns, folders, compression.

Only streams: a file may be larger than the memory.
"""

import bz2
import difflib
import gzip
import hashlib
import io
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from glob import glob, has_magic
from pathlib import Path
from typing import Any, TextIO

from sweeper.errors import DataError

JSON_LINES = (".jsonl", ".ndjson", ".jl", ".jsonlines")
KINDS = (*JSON_LINES, ".json", ".csv", ".tsv", ".parquet")
"""Extensions of files that are read."""

COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
"""Extensions that may follow those of text; what a file is compressed by is told by its first bytes."""

_ADVICE = {
    ".txt": "A table is needed: rows with an input and a target.",
    ".arrow": "A folder that `save_to_disk` wrote is read as a whole.",
    **dict.fromkeys((".xls", ".xlsx", ".ods"), "Save the sheet as .csv (UTF-8)."),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".7z", ".rar"), "Unpack it first."),
}
"""What to do with a file of another kind, by its extension."""

_GZIP, _ZSTD, _BZIP2, _XZ = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ"

_BEGINNINGS = (
    (b"PK\x03\x04", "a zip archive or a spreadsheet; unpack it, or save the sheet as .csv"),
    (b"PAR1", "a .parquet file; rename it"),
    (b"\xff\xfe", "UTF-16; save it as UTF-8"),
    (b"\xfe\xff", "UTF-16; save it as UTF-8"),
)
"""How files begin that are no UTF-8 text, and what they are."""

_BEGINNING = 64
"""Bytes that tell what a file is."""

SPLITS = ("train", "validation", "test")

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    **dict.fromkeys(("validation", "valid", "val", "dev", "development", "eval"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What people call the three splits."""


def kind(path: Path) -> str:
    """The extension that tells how to read the file, in lower case: of `a.csv.gz` it is `.csv`."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSED else suffix


def is_saved(path: Path | None) -> bool:
    """Whether `save_to_disk` of `datasets` wrote this folder, from one data set or from several splits."""
    if path is None:
        return False
    whole = (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    return whole or (path / "dataset_dict.json").is_file()


def saved_files(path: Path) -> list[Path]:
    """The files with the rows in such a folder."""
    return sorted(path.rglob("*.arrow"))


def expand(path: Path, option: str) -> list[Path]:
    """The files that one path stands for, sorted by name: itself, the matches of a pattern such as
    `shards/*.jsonl`, or the files of a folder, all of one kind.

    `option` is the name of the setting, for messages. Raises DataError: there is no such file, a folder or
    pattern without files, with files of several kinds, or with several splits.
    """
    if path.is_dir():
        return _in_folder(path, option)
    if path.exists() or not has_magic(str(path)):
        return [_known(path, option)]
    found = sorted(Path(name) for name in glob(str(path), recursive=True) if os.path.isfile(name))
    if not found:
        raise DataError(f"{option}: no file matches {path}; patterns are relative to the working folder")
    _refuse_splits(found, str(path), option)
    return [_known(one, option) for one in found]


def digest(files: Iterable[Path]) -> str | None:
    """SHA-256 of the files' bytes, in order; None if one is absent."""
    every = hashlib.sha256()
    for path in files:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            every.update(hashlib.file_digest(file, "sha256").digest())
    return every.hexdigest()


def stamp(files: Iterable[Path]) -> str | None:
    """A digest of names, sizes and times of these files; None if one is gone."""
    every = hashlib.sha256()
    for path in files:
        try:
            status = path.stat()
        except OSError:
            return None
        every.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return every.hexdigest()


@contextmanager
def open_text(path: Path, newline: str) -> Iterator[TextIO]:
    """The text of a file, decompressed if need be, without a byte order mark.

    Raises DataError for what is known by its first bytes to be no text, before anything else is said of it,
    and for a compressed file that breaks off; decoding may raise UnicodeDecodeError.
    """
    try:
        with path.open("rb") as raw:
            stream = _decompressed(raw)
            begins = stream.read(_BEGINNING)
            for magic, what in _BEGINNINGS:
                if begins.startswith(magic):
                    raise DataError(f"{path} is {what}")
            if b"\0" in begins[:2]:
                raise DataError(f"{path} is UTF-16 or no text; save it as UTF-8")
            raw.seek(0)
            with io.TextIOWrapper(_decompressed(raw), encoding="utf-8-sig", newline=newline) as text:
                yield text
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is compressed and damaged ({error}); copy it anew") from error


def near(name: str, known: Sequence[str]) -> str | None:
    """The nearest of the known names: first one that differs in case and blanks alone."""
    alike = next((one for one in known if _folded(one) == _folded(name)), None)
    return alike or next(iter(difflib.get_close_matches(name, known, n=1)), None)


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def _decompressed(raw: Any) -> Any:
    begins = raw.read(len(_XZ))
    raw.seek(0)
    if begins.startswith(_ZSTD):
        import pyarrow

        return pyarrow.CompressedInputStream(raw, "zstd")
    openers: dict[bytes, Callable[[Any], Any]] = {_GZIP: gzip.open, _BZIP2: bz2.open, _XZ: lzma.open}
    return next((opens(raw) for magic, opens in openers.items() if begins.startswith(magic)), raw)


def _in_folder(path: Path, option: str) -> list[Path]:
    files = sorted(one for one in path.iterdir() if one.is_file() and not one.name.startswith((".", "_")))
    found = [one for one in files if kind(one) in KINDS]
    kinds = sorted({kind(one) for one in found})
    if not found:
        raise DataError(
            f"{option}: the folder {path} holds no file of rows ({', '.join(KINDS)}); one in the hub's "
            f"format is read by data=hub data.name={path}"
        )
    _refuse_splits(found, f"the folder {path}", option)
    if len(kinds) > 1:
        raise DataError(
            f"{option}: the folder {path} has files of several kinds ({', '.join(kinds)}); name one kind: "
            f"data.path='{path}/*{kinds[0]}'"
        )
    return found


def _refuse_splits(files: Sequence[Path], where: str, option: str) -> None:
    """Raise DataError where files are parts by their names: read as one, test rows would be trained on."""
    parts: dict[str, list[str]] = {}
    for file in files:
        words = [word for word in re.split(r"[^a-z]+", file.name.lower()) if word in SPLIT_NAMES]
        if words:
            parts.setdefault(SPLIT_NAMES[words[0]], []).append(file.name)
    if len(parts) > 1:
        named = " ".join(f"data.parts.{split}={names[0]}" for split, names in parts.items())
        raise DataError(
            f"{option}: {where} has several splits by the names of its files; say which is which: "
            f"data.path={files[0].parent} {named}"
        )


def _known(path: Path, option: str) -> Path:
    if not path.is_file():
        raise DataError(f"{option}: {_missing(path)}")
    if kind(path) not in KINDS or (kind(path) == ".parquet" and path.suffix.lower() != ".parquet"):
        has = f"has the extension `{path.suffix}`" if path.suffix else "has no extension"
        advice = _ADVICE.get(kind(path)) or ("Unpack it first." if path.suffix.lower() in COMPRESSED else "")
        allowed = f"{', '.join(KINDS)}, text also compressed ({', '.join(COMPRESSED)})"
        raise DataError(f"{option}: {path} {has}; allowed: {allowed}. {advice}".rstrip())
    return path


def _missing(path: Path) -> str:
    alike = None
    if path.parent.is_dir():
        alike = near(path.name, sorted(one.name for one in path.parent.iterdir()))
    hint = f"did you mean `{path.parent / alike}`?" if alike else "paths are relative to the working folder"
    return f"there is no file {path}; {hint}"
