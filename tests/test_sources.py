import bz2
import csv
import gzip
import io
import json
import lzma
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sweeper.config import PartsConfig
from sweeper.data import files
from sweeper.data.sources import content_digest, load
from sweeper.errors import DataError
from tests.rows import configure, pairs, write_jsonl

HOSTILE = [
    "plain",
    'quotes " and, commas',
    "two\nlines\r\nand a tab\t",
    "Ελληνικά русский العربية עברית हिन्दी ไทย 中文 日本語 한국어 🙂",
    "controls \x00\x01\x1b[31m\x7f",
    "x" * 1_000_000,
]


def read(config, split="train"):
    return list(load(config.data).parts[split].rows())


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_every_format_gives_back_what_was_written(tmp_path, suffix):
    rows = [{"text": text, "answer": f"{i}"} for i, text in enumerate(HOSTILE)]
    path = tmp_path / f"rows.{suffix}"
    if suffix == "jsonl":
        write_jsonl(path, rows)
    elif suffix == "csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["text", "answer"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    assert read(configure(path)) == rows


def test_a_byte_order_mark_and_blank_lines_are_no_data(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a", "answer": "b"}\n\n  \n')
    assert read(configure(path)) == [{"text": "a", "answer": "b"}]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_file_is_read_as_a_stream(tmp_path, suffix):
    texts, path = [f"{i} word " * 200 for i in range(20_000)], tmp_path / f"rows.{suffix}"
    if suffix == "jsonl":
        write_jsonl(path, ({"text": text, "answer": 1} for text in texts))
    elif suffix == "csv":
        path.write_text("text,answer\n" + "".join(f"{text},1\n" for text in texts))
    else:
        table = pa.table({"text": texts, "answer": texts})
        pq.write_table(table, path, row_group_size=1000, compression="none", use_dictionary=False)
    tracemalloc.start()
    assert sum(1 for _ in load(configure(path).data).parts["train"].rows()) == 20_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < path.stat().st_size / 10


ROWS = [{"text": f"Zeile {i} é 日本", "answer": f"a{i}"} for i in range(5000)]
LINES = "".join(f"{json.dumps(row)}\n" for row in ROWS).encode()


def written(kind: str) -> bytes:
    if kind in ("csv", "tsv"):
        text = io.StringIO()
        writer = csv.DictWriter(text, ["text", "answer"], delimiter="," if kind == "csv" else "\t")
        writer.writeheader()
        writer.writerows(ROWS)
        return text.getvalue().encode()
    return {
        "json": json.dumps(ROWS, ensure_ascii=False, indent=2).encode(),
        "dense.json": json.dumps(ROWS, separators=(",", ":")).encode(),
        "lines.json": LINES,
    }.get(kind, LINES)


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(data)
    return sink.getvalue().to_pybytes()


PACKED = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("kind", ["jsonl", "ndjson", "jl", "jsonlines", "json", "csv", "tsv"])
def test_text_is_read_under_all_its_names_and_compressed(tmp_path, kind, packed):
    path = tmp_path / f"rows.{kind}{packed}"
    path.write_bytes(PACKED[packed](written(kind)))
    assert read(configure(path)) == ROWS
    renamed = path.rename(tmp_path / f"renamed.{kind}")
    assert read(configure(renamed)) == ROWS, "what it is compressed by is told by its content"


@pytest.mark.parametrize("kind", ["dense.json", "lines.json"])
def test_json_is_a_list_or_an_object_a_line(tmp_path, kind):
    (tmp_path / kind).write_bytes(written(kind))
    assert read(configure(tmp_path / kind)) == ROWS


def test_a_list_is_read_as_a_stream(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"text": f"{i} word " * 200, "answer": 1} for i in range(5_000)]))
    tracemalloc.start()
    assert sum(1 for _ in load(configure(path).data).parts["train"].rows()) == 5_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < path.stat().st_size / 4


LISTS = [
    (b'[\n{"text": "a", "answer": "b"},\n{"text": 1 2}]', r"line 3 is no JSON \(Expecting ',' delimiter\)"),
    (b'[{"text": "a", "answer": "b"}\n{"text": "a"}]', r"line 2 is no JSON .*missing between two objects"),
    (b'[{"text": "a", "answer": "b"},\n\n', "line 3: the list is not closed"),
    (b'[{"text": "a", "answer": "b"},\n{"text": "', "line 2 is no JSON .Unterminated string"),
    (b'[{"text": "a", "answer": "b"}, 1]', "line 1 holds no JSON object"),
    (b'[{"text": "a", "answer": "b"}]\n[{"text": "c"}]', "line 1: something follows the list; one list is"),
    (b'{\n"text": "a"}', "line 1 is no JSON .*one object a line, or one list of objects"),
]


@pytest.mark.parametrize(("content", "message"), LISTS)
def test_a_broken_list_is_named_by_its_line(tmp_path, content, message):
    (tmp_path / "rows.json").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(configure(tmp_path / "rows.json"))


def shards(folder, **counts):
    folder.mkdir(exist_ok=True)
    start = 0
    for name, count in counts.items():
        write_jsonl(folder / f"{name}.jsonl", ROWS[start : start + count])
        start += count
    return folder


def test_several_files_are_read_in_the_order_of_their_names(tmp_path):
    folder = shards(tmp_path / "shards", a=3, b=2, c=1)
    (folder / "README.md").write_text("no rows")
    (folder / ".hidden.jsonl").write_text("no rows")
    listed = (folder / "a.jsonl", folder / "b.jsonl", folder / "c.jsonl")
    for path in (folder, folder / "*.jsonl", tmp_path / "**/*.jsonl", listed):
        assert read(configure(path)) == ROWS[:6]
    assert read(configure((folder / "c.jsonl", folder / "[ab].jsonl"))) == ROWS[5:6] + ROWS[:5]
    assert load(configure(folder).data).description == "a.jsonl, b.jsonl, c.jsonl"
    digests = {content_digest(configure(path).data) for path in (folder, folder / "*.jsonl", listed)}
    assert len(digests) == 1
    deep = folder / "deep" / "deeper"
    deep.mkdir(parents=True)
    shutil.copy(folder / "a.jsonl", deep)
    every = [path.relative_to(folder) for path in files.expand(folder / "**/*.jsonl", "data.path")]
    assert every == [Path("a.jsonl"), Path("b.jsonl"), Path("c.jsonl"), Path("deep/deeper/a.jsonl")]
    write_jsonl(folder / "c.jsonl", ROWS[:1])
    assert content_digest(configure(folder).data) not in digests


def test_a_name_with_the_signs_of_a_pattern_is_a_name_where_there_is_such_a_file(tmp_path):
    for name in ("rows [1].jsonl", "rows (1).jsonl", "a=b.jsonl", "données été.jsonl", "what?.jsonl"):
        write_jsonl(tmp_path / name, ROWS[:2])
        assert read(configure(tmp_path / name)) == ROWS[:2]


def test_many_files_are_named_by_the_first_and_the_last(tmp_path):
    folder = shards(tmp_path, **{f"s{i}": 1 for i in range(6)})
    assert load(configure(folder).data).description == "s0.jsonl ... s5.jsonl, 6 files"


def test_a_file_of_several_that_lacks_a_column_is_named(tmp_path):
    folder = shards(tmp_path, a=2)
    write_jsonl(folder / "b.jsonl", [{"text": "a", "Answer ": "b"}])
    with pytest.raises(DataError, match=r"b\.jsonl has no column `answer` \(did you mean `Answer `\?\)"):
        read(configure(folder))


def test_files_that_can_not_be_read_together(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"data\.path: no file matches .*\*\.jsonl; patterns are relative"):
        load(configure(tmp_path / "empty" / "*.jsonl").data)
    with pytest.raises(DataError, match=r"the folder .* holds no file of rows .*data=hub data\.name="):
        load(configure(tmp_path / "empty").data)
    folder = shards(tmp_path / "parts", train=3, dev=2)
    with pytest.raises(DataError, match=r"has several splits .*data\.parts\.validation=dev\.jsonl"):
        load(configure(folder).data)
    with pytest.raises(DataError, match=r"has several splits .*data\.parts\.train=train\.jsonl"):
        load(configure(folder / "*.jsonl").data)
    shards(tmp_path / "mixed", a=1)
    (tmp_path / "mixed" / "b.csv").write_text("text,answer\na,b\n")
    with pytest.raises(DataError, match=r"files of several kinds \(\.csv, \.jsonl\); name one kind"):
        load(configure(tmp_path / "mixed").data)
    twice = (folder / "train.jsonl", folder / "train.jsonl")
    with pytest.raises(DataError, match=r"data\.path: lists .*train\.jsonl twice"):
        load(configure(twice).data)
    with pytest.raises(DataError, match=r"must be the folder with the files of data\.parts, not a list"):
        load(configure(twice, parts=("train.jsonl", None, None)).data)


def divided(path, **more):
    parts = PartsConfig(None, None, None, "split")
    return replace(configure(path, **more), data=replace(configure(path, **more).data, parts=parts))


def test_a_column_divides_the_rows(tmp_path):
    names = ["train", "dev", "train ", "TEST", "valid"]
    rows = [{**row, "split": name} for row, name in zip(ROWS, names, strict=False)]
    config = divided(write_jsonl(tmp_path / "rows.jsonl", rows))
    assert [len(read(config, split)) for split in ("train", "validation", "test")] == [2, 2, 1]
    assert load(config.data).description == "rows.jsonl, divided by column `split`"
    write_jsonl(tmp_path / "rows.jsonl", [*rows, {"text": "a", "answer": "b", "split": "fold 3"}])
    with pytest.raises(DataError, match=r"row 6 has 'fold 3' in column `split`; every row needs one of"):
        read(config)


@pytest.mark.parametrize("source", ["hub", "file"])
def test_one_data_set_saved_to_disk(tmp_path, source):
    datasets.Dataset.from_list(pairs(5)).save_to_disk(tmp_path / "set")
    config = configure(tmp_path / "set") if source == "file" else hub(tmp_path / "set")
    assert read(config) == pairs(5)
    assert load(config.data).description == str(tmp_path / "set")
    assert (content_digest(config.data) is None) == (source == "hub")


BROKEN = [
    (
        "rows.jsonl",
        b'{"text": "a", "answer": "b"}\n{"text": \n',
        r"rows.jsonl, line 2 is no JSON .*one object a",
    ),
    ("rows.jsonl", b'["text"]\n', "line 1 holds no JSON object but a list"),
    ("rows.jsonl", b"1\n", "line 1 holds no JSON object; one"),
    ("rows.jsonl", b'{"text": ' + b"[" * 100_000, "line 1 is no JSON .nested too deeply"),
    ("rows.jsonl", b'{"text": ' + b"9" * 5000 + b"}", "line 1 is no JSON .a number without end"),
    ("rows.jsonl", gzip.compress(b"{}" * 99, mtime=0)[:20], "is compressed and damaged .*copy it anew"),
    ("rows.jsonl", '{"text": "a"}'.encode("utf-16"), "is UTF-16; save it as UTF-8"),
    ("rows.jsonl", '{"text": "a"}'.encode("utf-16-le"), "is UTF-16 or no text; save it as UTF-8"),
    ("rows.jsonl", '{"text": "é"}'.encode("latin-1"), "is not UTF-8 .byte 0xe9.; save it as UTF-8"),
    (
        "rows.jsonl",
        b'{"texts": "a", "answer": "b"}\n',
        r"no column `text` \(did you mean `texts`\?\); it has: answer",
    ),
    (
        "rows.jsonl",
        b'{"a": "a", "b": "b"}\n',
        r"^data\.input: \S* has no column `text`; data\.target: \S* has no column `answer`; it has: a, b$",
    ),
    ("rows.csv", b"text,answer\na,b,c\n", "line 2 has more fields than the header"),
    ("rows.csv", b'text,answer\n"a" b,c\n', "line 2 is no readable .csv .*those within it doubled"),
    ("rows.csv", b'text,answer\na,b\n"c,d\ne,f\n', "line 3 is no readable .csv .unexpected end"),
    ("rows.csv", b"text,text,answer\na,b,c\n", "data.input: .* has 2 columns `text`; rename all but one"),
    ("rows.csv", b"text;answer\na;b\n", "has ';' between its fields; save it with commas"),
    ("rows.csv", b"text\tanswer\na\tb\n", r"has '\\t' between its fields"),
    ("rows.csv", b"PK\x03\x04", "is a zip archive or a spreadsheet; unpack it"),
    ("rows.csv", "text,answer\né,b\n".encode("latin-1"), "is not UTF-8"),
    ("rows.parquet", b"nothing of the kind", "is no readable .parquet"),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN)
def test_what_can_not_be_read_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(configure(tmp_path / name))


def test_a_parquet_file_without_the_column(tmp_path):
    pq.write_table(pa.table({"text": ["a"], "label": [1]}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"data\.target: .*rows\.parquet has no column `answer`.*label, text"):
        read(configure(tmp_path / "rows.parquet"))


def test_an_unreadable_file(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "rows.jsonl", pairs(1))

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    config = configure(path)
    source = load(config.data)
    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(DataError, match="can't be read: Permission denied"):
        list(source.parts["train"].rows())


def test_where_the_file_is_not(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", pairs(1))
    with pytest.raises(DataError, match=r"no file .*row\.jsonl; did you mean `.*rows\.jsonl`"):
        load(configure(tmp_path / "row.jsonl").data)
    with pytest.raises(DataError, match="relative to the working folder"):
        load(configure(tmp_path / "nowhere" / "row.jsonl").data)
    with pytest.raises(DataError, match=r"data\.path: is needed"):
        load(configure(None).data)


def test_extensions_that_are_not_read(tmp_path):
    for name, message in (
        (
            "a.txt",
            "extension `.txt`; allowed: .jsonl, .*, text also compressed .* A table is needed",
        ),
        ("a.txt.gz", "extension `.gz`; allowed: .* A table is needed"),
        ("a.parquet.gz", "extension `.gz`; allowed: .* Unpack it first"),
        ("a.tar", "extension `.tar`; allowed: .* Unpack it first"),
        ("a.xlsx", r"extension `.xlsx`; allowed: .* Save the sheet as \.csv"),
        ("a", "has no extension; allowed: .jsonl"),
    ):
        (tmp_path / name).write_text("[]")
        with pytest.raises(DataError, match=message):
            load(configure(tmp_path / name).data)


def test_given_parts_are_files_below_the_path(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", pairs(3))
    write_jsonl(tmp_path / "b.jsonl", pairs(2))
    config = configure(tmp_path, parts=("a.jsonl", None, "b.jsonl"))
    assert len(read(config, "train")) == 3
    assert len(read(config, "test")) == 2
    assert "a.jsonl, b.jsonl" in load(config.data).description
    with pytest.raises(DataError, match=r"data\.parts\.train: is needed where another"):
        load(configure(tmp_path, parts=(None, None, "b.jsonl")).data)
    with pytest.raises(DataError, match=r"data\.parts\.train: there is no file"):
        load(configure(tmp_path, parts=("c.jsonl", None, None)).data)


def test_the_digest_follows_the_content(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", pairs(3))
    config = configure(path)
    before = content_digest(config.data)
    assert before == content_digest(config.data)
    write_jsonl(path, pairs(4))
    assert content_digest(config.data) != before
    path.unlink()
    assert content_digest(config.data) is None
    assert content_digest(configure(None, source="docstrings", packages=("stdlib",)).data) is None


def hub(name, **more):
    return configure(None, source="hub", name=str(name), **more)


def test_a_folder_in_the_format_of_the_hub(tmp_path):
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    for split, count in (("train", 5), ("test", 2)):
        datasets.Dataset.from_list(pairs(count)).to_parquet(
            folder / "data" / f"{split}-00000-of-00001.parquet"
        )
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    config = hub(folder, parts=("train", None, "test"), revision=None)
    assert read(config, "train") == pairs(5)
    assert len(read(config, "test")) == 2
    assert load(config.data).description == str(folder)
    with pytest.raises(
        DataError, match=r"data\.parts\.validation: .* has no split `valid`; it has: train, test"
    ):
        load(hub(folder, parts=("train", "valid", None)).data)
    with pytest.raises(
        DataError, match=r"data\.input: split `train` of .* has no column `txt` \(did you mean"
    ):
        read(hub(folder, input="txt"))
    with pytest.raises(DataError, match=r"can't be opened .*data\.subset"):
        load(hub(folder, subset="large").data)


def test_classes_of_the_hub_come_by_their_names(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "answer": datasets.ClassLabel(names=["no", "yes"])}
    )
    rows = {"text": ["a", "b", "c"], "answer": [1, 0, -1]}
    train = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": train}).save_to_disk(tmp_path / "set")
    assert [row["answer"] for row in read(hub(tmp_path / "set"))] == ["yes", "no", None]


def test_a_broken_file_of_a_hub_folder(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": \n')
    with pytest.raises(DataError, match=r"split `train` of .* can't be read"):
        read(hub(tmp_path))


def test_a_hub_set_that_can_not_be_had_says_what_to_do():
    with pytest.raises(DataError, match=r"nobody/nothing can't be opened .*HF_TOKEN.*local folder"):
        load(hub("nobody/nothing").data)


def test_code_in_a_data_set_is_never_run(tmp_path):
    (tmp_path / "set.py").write_text("raise SystemExit('code was run')")
    with pytest.raises(DataError, match="can't be opened"):
        load(hub(tmp_path / "set.py").data)


def test_docstrings_need_one_package_that_is_there():
    with pytest.raises(
        DataError, match=r"none of no_such_package, sys is installed.*`stdlib` is always there"
    ):
        load(configure(None, source="docstrings", packages=("no_such_package", "sys")).data)
    with pytest.raises(
        DataError, match=r"data\.input: a docstring has no column `sumary` \(did you mean `summary`"
    ):
        load(configure(None, source="docstrings", packages=("stdlib",), input="sumary").data)


def test_docstrings_are_rows_like_any_other():
    config = configure(
        None, source="docstrings", packages=("peft", "absent"), input="document", target="summary"
    )
    source = load(config.data)
    assert source.description == "docstrings of peft"
    row = next(source.parts["train"].rows())
    assert {"document", "summary", "text", "package", "file", "name"} == set(row)
    assert json.dumps(row)


@pytest.mark.parametrize("names", [("rows_train.jsonl", "rows_test.jsonl"), ("a-dev.jsonl", "a-train.jsonl")])
def test_splits_are_told_by_any_word_of_a_name(tmp_path, names):
    for name in names:
        write_jsonl(tmp_path / name, [{"text": "a", "answer": "b"}])
    with pytest.raises(DataError, match="has several splits by the names of its files"):
        files.expand(tmp_path, "data.path")


def test_a_table_leaves_the_limit_of_fields_as_it_was(tmp_path):
    before = csv.field_size_limit()
    (tmp_path / "rows.csv").write_text(f'text,answer\n"{"x" * (before + 1)}",b\n')
    assert len(read(configure(tmp_path / "rows.csv"))[0]["text"]) == before + 1
    assert csv.field_size_limit() == before


def test_a_list_of_json_may_have_blanks_before_it(tmp_path):
    (tmp_path / "rows.json").write_text(f"\n  {json.dumps(ROWS[:2])}")
    assert read(configure(tmp_path / "rows.json")) == ROWS[:2]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_the_column_of_messages_is_read_or_missed(tmp_path, suffix):
    rows = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "of": "x"}
    ]
    path = tmp_path / f"rows.{suffix}"
    if suffix == "jsonl":
        write_jsonl(path, rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    config = configure(path, "chat", messages="messages", group="of")
    (row,) = load(config.data, config.task).parts["train"].rows()
    assert row["messages"] == rows[0]["messages"]
    config = configure(path, "chat", messages="mesages", group="of")
    with pytest.raises(
        DataError, match=r"^data\.messages: .* `mesages` \(did you mean `messages`\?\); it has"
    ):
        list(load(config.data, config.task).parts["train"].rows())
