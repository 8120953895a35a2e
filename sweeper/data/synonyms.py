"""A list of synonyms, given as a file."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sweeper.errors import DataError

_FORMS = (
    "right is a .tsv file with a word and its synonyms in each line, between tabs, "
    'or a .json file like {"quick": ["fast", "swift"]}'
)


def read_synonyms(path: Path) -> Mapping[str, tuple[str, ...]]:
    """Synonyms by casefolded word; a word that stands there twice has those of both.

    Raises DataError for a file that can't be read, has another form, or lists no synonym.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data.augment.synonyms: {path} can't be read ({error}); {_FORMS}") from error
    entries = _of_json(text, path) if path.suffix == ".json" else _of_tsv(text)
    found: dict[str, tuple[str, ...]] = {}
    for where, word, synonyms in entries:
        if len(word.split()) != 1 or not all(synonym.strip() for synonym in synonyms):
            raise DataError(f"data.augment.synonyms: {path}, {where}: not a word with synonyms; {_FORMS}")
        key = word.strip().casefold()
        others = (one.strip() for one in synonyms if one.strip().casefold() != key)
        found[key] = tuple(dict.fromkeys((*found.get(key, ()), *others)))
    found = {word: synonyms for word, synonyms in found.items() if synonyms}
    if not found:
        raise DataError(f"data.augment.synonyms: {path} lists no synonym; {_FORMS}")
    return found


def digest(path: Path) -> str:
    """Of the synonyms, however they are written down. Raises DataError as `read_synonyms` does."""
    told = json.dumps(sorted(read_synonyms(path).items()))
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:32]


_Entry = tuple[str, str, list[str]]
"""Where it stands, the word, its synonyms."""


def _of_tsv(text: str) -> Iterator[_Entry]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            word, *synonyms = line.split("\t")
            yield f"line {number}", word, synonyms or [""]


def _of_json(text: str, path: Path) -> Iterator[_Entry]:
    try:
        tree: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"data.augment.synonyms: {path} is no JSON ({error}); {_FORMS}") from error
    if not isinstance(tree, dict):
        raise DataError(f"data.augment.synonyms: {path} holds no object; {_FORMS}")
    for word, synonyms in tree.items():
        is_list = isinstance(synonyms, list) and all(isinstance(one, str) for one in synonyms)
        yield f"`{word[:40]}`", word, list(synonyms) if is_list else [""]
