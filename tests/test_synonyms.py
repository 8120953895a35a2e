import json

import pytest

from sweeper.data.synonyms import digest, read_synonyms
from sweeper.errors import DataError


def write(tmp_path, text, name="list.tsv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_both_forms_say_the_same(tmp_path):
    tsv = write(tmp_path, "\ufeffQuick\tfast\tswift\n\nquick\tfast\tquick\trapid\nbig\tvery large\n")
    tree = {"quick": ["fast", "swift", "rapid"], "BIG": ["very large"]}
    written = write(tmp_path, json.dumps(tree), "list.json")
    assert read_synonyms(tsv) == {"quick": ("fast", "swift", "rapid"), "big": ("very large",)}
    assert read_synonyms(written) == read_synonyms(tsv)
    assert digest(written) == digest(tsv) != digest(write(tmp_path, "quick\tfast", "other.tsv"))


FAULTS = [
    ("list.tsv", b"\xff\xfe", "list.tsv can't be read"),
    ("list.tsv", "quick\tfast\nbig\n", "line 2: not a word with synonyms; right is a .tsv file"),
    ("list.tsv", "very big\tlarge", "line 1: not a word with synonyms"),
    ("list.tsv", "quick\t \n", "line 1: not a word with synonyms"),
    ("list.tsv", "quick\tquick", "lists no synonym"),
    ("list.tsv", "", "lists no synonym"),
    ("list.json", "{", "is no JSON"),
    ("list.json", "[" * 100_000, "is no JSON"),
    ("list.json", "[1]", "holds no object"),
    ("list.json", '{"quick": "fast"}', "`quick`: not a word with synonyms"),
    ("list.json", '{"quick": [1]}', "`quick`: not a word with synonyms"),
]


@pytest.mark.parametrize(("name", "text", "message"), FAULTS)
def test_a_file_that_is_no_list_of_synonyms(tmp_path, name, text, message):
    with pytest.raises(DataError, match=rf"data\.augment\.synonyms: .*{message}"):
        read_synonyms(write(tmp_path, text, name))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"none\.tsv can't be read"):
        read_synonyms(tmp_path / "none.tsv")
