import json
import shutil

import pytest

from sweeper.config import LengthConfig
from sweeper.data.prepare import frozen, open_rows, open_test, prepare
from sweeper.errors import DataError
from tests.rows import CHATML, chat, configure, pairs, tokenizer, write_jsonl

COLUMNS = ["id", "slice", "group", "prompt", "answer", "input_ids", "labels", "prompt_ids", "label"]


def prepared(tmp_path, config, architecture="causal", template=None, **options):
    return prepare(config, tokenizer(template), architecture, tmp_path / "sweep" / "rows", **options)


def rows_at(tmp_path, rows, kind="generate", **options):
    return configure(write_jsonl(tmp_path / "rows.jsonl", rows), kind, **options)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_rows_are_split_tokenised_and_frozen(tmp_path):
    config = rows_at(tmp_path, pairs(30), sizes=(None, 4, 5), group=None, slice="g")
    found = prepared(tmp_path, config)
    test = open_test(tmp_path / "sweep" / "rows")
    assert (len(found.train), len(found.validation), len(test)) == (21, 4, 5)
    assert found.train.column_names == COLUMNS
    ids = [*found.train["id"], *found.validation["id"], *test["id"]]
    assert len(set(ids)) == 30
    assert found.manifest.splits["train"].tokens == sum(map(len, found.train["input_ids"]))
    row = found.train[0]
    assert row["slice"].startswith("g")
    assert row["answer"].startswith("answer ")
    assert tokenizer().decode(row["prompt_ids"]) == row["prompt"]
    assert row["label"] == -1
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir()) == ["rows"]


def test_the_same_seed_gives_the_same_rows_and_another_one_others(tmp_path):
    config = rows_at(tmp_path, pairs(30))
    first = prepared(tmp_path, config)
    before = contents(tmp_path / "sweep" / "rows")
    shutil.rmtree(tmp_path / "sweep")
    assert prepared(tmp_path, config).digest == first.digest
    assert contents(tmp_path / "sweep" / "rows") == before
    other = prepared(tmp_path, rows_at(tmp_path, pairs(30), seed=8))
    assert other.digest != first.digest
    assert set(other.validation["id"]) != set(first.validation["id"])


def test_frozen_rows_are_taken_untouched(tmp_path):
    config = rows_at(tmp_path, pairs(30))
    first = prepared(tmp_path, config)
    folder = tmp_path / "sweep" / "rows"
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert frozen(config, folder) == first.manifest
    assert prepared(tmp_path, config).digest == first.digest
    config.data.path.unlink()
    assert prepared(tmp_path, config).digest == first.digest  # the file may go, its rows are frozen
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_changed_file_or_tokenizer_is_noticed(tmp_path):
    config = rows_at(tmp_path, pairs(30))
    first = prepared(tmp_path, config)
    assert prepared(tmp_path, config, template=CHATML).manifest.tokenizer != first.manifest.tokenizer
    write_jsonl(config.data.path, pairs(40))
    second = prepared(tmp_path, config)
    assert second.digest != first.digest
    assert second.manifest.content != first.manifest.content


def test_packages_installed_later_change_nothing(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    docs = "".join(
        f'def f{i}():\n    """Do what number {i} does.\n\n    {"It does this very well. " * 5}{i}"""\n'
        for i in range(20)
    )
    (tmp_path / "growing.py").write_text(docs)
    config = configure(
        None,
        source="docstrings",
        packages=("growing",),
        input="document",
        target="summary",
        group=None,
        keep_together=False,
        task={"max_answer_tokens": 40},
    )
    first = prepared(tmp_path, config)
    assert first.manifest.source == "docstrings of growing"
    (tmp_path / "growing.py").write_text(docs.replace("well", "badly"))
    assert prepared(tmp_path, config).digest == first.digest


def test_training_never_opens_the_test_rows(tmp_path):
    prepared(tmp_path, rows_at(tmp_path, pairs(30)))
    folder = tmp_path / "sweep" / "rows"
    (folder / "test.arrow").unlink()
    assert len(open_rows(folder).train) == 26
    with pytest.raises(
        DataError, match=r"has no test rows; prepare the sweep with data\.sizes\.test above 0"
    ):
        open_test(folder)


ALIKE = [
    {**row, "text": f"{copy} {row['text']} " + " ".join(f"w{i}x{j}" for j in range(12)), "day": i}
    for i, row in enumerate(pairs(60))
    for copy in ("one", "two", "three")
]
"""Sixty texts, three of each that differ in a word."""

WAYS = {
    "random": {},
    "stratified": {"stratify": "label"},
    "by group": {"group": "g"},
    "by time": {"time": "day"},
}


@pytest.mark.parametrize("way", WAYS)
def test_no_near_duplicate_straddles_a_split_and_no_test_row_reaches_a_worker(tmp_path, way):
    config = rows_at(tmp_path, ALIKE, sizes=(None, 12, 15), **{"group": None, "stratify": None} | WAYS[way])
    prepared(tmp_path, config)
    folder = tmp_path / "sweep" / "rows"
    test = open_test(folder)
    for_workers = [path for path in folder.iterdir() if path.name != "test.arrow"]
    assert sorted(path.name for path in for_workers) == ["manifest.json", "train.arrow", "validation.arrow"]
    assert not [row for row in test["id"] for path in for_workers if row.encode() in path.read_bytes()]
    (folder / "test.arrow").unlink()
    found = open_rows(folder)
    assert (len(test), len(found.validation)) == (15, 12)
    assert len(found.train) > 60
    texts = [set(split["answer"]) for split in (found.train, found.validation, test)]
    assert sum(map(len, texts)) == len(set.union(*texts))


def test_the_newest_rows_are_test_rows_and_the_next_validation_rows(tmp_path):
    rows = [{**row, "day": f"2024-{1 + i % 12:02}-{1 + i // 12:02}"} for i, row in enumerate(pairs(120))]
    found = prepared(tmp_path, rows_at(tmp_path, rows, sizes=(50, 20, 30), time="day", slice="day"))
    test = open_test(tmp_path / "sweep" / "rows")
    days = sorted(row["day"] for row in rows)
    assert sorted(test["slice"]) == days[90:]
    assert sorted(found.validation["slice"]) == days[70:90]
    assert max(found.train["slice"]) <= days[70]
    assert found.train["slice"][:] != sorted(found.train["slice"], reverse=True)


def test_training_rows_that_are_like_rows_of_a_given_part_are_left_out(tmp_path):
    for name, copy, some in (("a", "one", (0, 60)), ("b", "two", (0, 9)), ("c", "three", (5, 20))):
        rows = [row for row in ALIKE if row["text"].startswith(copy)]
        write_jsonl(tmp_path / f"{name}.jsonl", rows[slice(*some)])
    config = configure(tmp_path, parts=("a.jsonl", "b.jsonl", "c.jsonl"), sizes=(None, 4, 15))
    found = prepared(tmp_path, config)
    assert len(open_test(tmp_path / "sweep" / "rows")) == 15
    # Of the nine given validation rows, four are like a test row.
    assert found.manifest.dropped == {
        "near-duplicate of a test row": 15 + 4,
        "near-duplicate of a validation row": 4,
    }
    assert len(found.train) == 60 - 15 - 4


def test_copies_never_straddle_even_where_near_duplicates_may(tmp_path):
    config = rows_at(tmp_path, pairs(30) * 2, sizes=(None, 5, 5), keep_together=False, cleaning=())
    found = prepared(tmp_path, config)
    test = open_test(tmp_path / "sweep" / "rows")
    ids = [set(split["id"]) for split in (found.train, found.validation, test)]
    assert sum(map(len, ids)) == 30
    assert set(found.manifest.dropped) == {"copy of a test row", "copy of a validation row"}


def moulded(count):
    said = "what is the weather like in town {} on a day in May"
    return [{"text": said.format(i), "answer": "fine"} for i in range(count)]


def test_many_rows_of_one_mould_stay_for_training(tmp_path):
    found = prepared(tmp_path, rows_at(tmp_path, [*pairs(30), *moulded(60)], sizes=(None, 6, 6)))
    assert found.train["answer"][:].count("fine") == 60


def test_rows_that_are_all_alike_can_be_split_if_that_is_wanted(tmp_path):
    with pytest.raises(
        DataError, match=r"58 near-duplicate of a test row.*or set data\.keep_together=false if your"
    ):
        prepared(tmp_path, rows_at(tmp_path, moulded(60)))
    assert len(prepared(tmp_path, rows_at(tmp_path, moulded(60), keep_together=False)).train) == 56


def test_a_group_of_rows_that_cleaning_leaves_out_fills_no_split(tmp_path):
    long = [{"text": "long " * 50 + str(i), "answer": "a", "g": f"long {i % 5}"} for i in range(100)]
    config = rows_at(
        tmp_path,
        [*pairs(40), *long],
        sizes=(10, 8, 9),
        group="g",
        cleaning=("length",),
        length=LengthConfig(None, 100, None, None),
    )
    found = prepared(tmp_path, config)
    assert (len(found.train), len(found.validation)) == (10, 8)
    assert found.manifest.cleaned["length"].dropped == 100


def test_without_test_rows_none_are_kept_back(tmp_path):
    found = prepared(tmp_path, rows_at(tmp_path, pairs(30), sizes=(None, 4, 0)))
    assert len(found.train) == 26
    assert list(found.manifest.splits) == ["train", "validation"]


def test_nothing_prepared_nothing_opened(tmp_path):
    with pytest.raises(DataError, match="holds no prepared rows; run the sweep"):
        open_rows(tmp_path)


def test_a_failure_leaves_older_rows_as_they_are(tmp_path):
    first = prepared(tmp_path, rows_at(tmp_path, pairs(30)))
    before = contents(tmp_path / "sweep" / "rows")
    with pytest.raises(DataError, match="usable rows are too few"):
        prepared(tmp_path, rows_at(tmp_path, pairs(3)))
    assert contents(tmp_path / "sweep" / "rows") == before
    assert open_rows(tmp_path / "sweep" / "rows").digest == first.digest
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir()) == ["rows"]


def test_no_group_is_in_two_splits(tmp_path):
    found = prepared(tmp_path, rows_at(tmp_path, pairs(100), sizes=(10, 8, 9), group="g"))
    groups = [set(found.train["group"]), set(found.validation["group"])]
    groups.append(set(open_test(tmp_path / "sweep" / "rows")["group"]))
    assert sum(map(len, groups)) == len(set.union(*groups))
    assert all(len(split) >= 2 for split in groups)


def test_strata_keep_their_shares(tmp_path):
    config = rows_at(
        tmp_path, pairs(400), "classify", sizes=(40, 20, 20), target="label", stratify="label", group=None
    )
    found = prepared(tmp_path, config, "classifier")
    assert found.labels == ("a", "b")
    for rows, share in ((found.train, 10), (found.validation, 5)):
        assert abs(rows["label"][:].count(1) - share) <= 1


def test_integer_labels_are_classes(tmp_path):
    rows = [{"text": f"text {i}", "answer": i % 3} for i in range(30)]
    found = prepared(
        tmp_path, rows_at(tmp_path, rows, "classify", group=None, stratify=None, slice=None), "classifier"
    )
    assert found.labels == ("0", "1", "2")
    assert all(str(row["label"]) == row["answer"] for row in found.train)


def test_given_parts_are_kept_and_what_is_missing_is_split_off(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", pairs(20))
    write_jsonl(
        tmp_path / "b.jsonl", [{**row, "text": f"test text, another {i}"} for i, row in enumerate(pairs(5))]
    )
    config = configure(tmp_path, parts=("a.jsonl", None, "b.jsonl"), sizes=(None, 3, 4))
    found = prepared(tmp_path, config)
    assert (len(found.train), len(found.validation)) == (17, 3)
    test = open_test(tmp_path / "sweep" / "rows")
    assert len(test) == 4
    assert all("test text" in prompt for prompt in test["prompt"])


def test_training_rows_whose_group_is_in_a_given_part_are_left_out(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", pairs(20))
    write_jsonl(tmp_path / "b.jsonl", [{**row, "text": f"test {row['text']}"} for row in pairs(3)])
    config = configure(tmp_path, parts=("a.jsonl", None, "b.jsonl"), sizes=(None, 2, 3), group="g")
    found = prepared(tmp_path, config)
    assert found.manifest.dropped == {"group also in a given split": 6}
    assert not {"g0", "g1", "g2"} & {*found.train["group"], *found.validation["group"]}


def test_chats_are_prepared_for_generation_and_loss(tmp_path):
    rows = [chat("hi", f"hello {i}", "bye", f"see you {i}") for i in range(9)]
    found = prepared(tmp_path, rows_at(tmp_path, rows, "chat"), template=CHATML)
    row = found.train[0]
    assert row["answer"].startswith("see you ")
    assert tokenizer().decode(row["prompt_ids"]).endswith("bye<|im_end|>\n<|im_start|>assistant\n")
    assert len(row["input_ids"]) == len(row["labels"])


def test_too_few_rows(tmp_path):
    with pytest.raises(
        DataError, match=r"4 usable rows are too few; needed: 1 for train, 2 for validation, 2 for test"
    ):
        prepared(tmp_path, rows_at(tmp_path, pairs(4)))
    with pytest.raises(
        DataError, match=r"1 usable rows .2 no answer left out. are too few.*Lower data\.sizes"
    ):
        prepared(tmp_path, rows_at(tmp_path, [*pairs(1), *[{"text": "a", "answer": ""}] * 2]))
    write_jsonl(tmp_path / "a.jsonl", pairs(20))
    write_jsonl(tmp_path / "b.jsonl", [{"text": "one", "answer": "row"}])
    with pytest.raises(DataError, match="1 usable rows are too few; needed: 2 for test"):
        prepared(tmp_path, configure(tmp_path, parts=("a.jsonl", None, "b.jsonl")))


def test_too_few_groups(tmp_path):
    rows = [{**row, "g": "one" if i else "other"} for i, row in enumerate(pairs(20))]
    with pytest.raises(
        DataError, match=r"the 2 groups of `g` can't be shared out: .*or set data\.group=null"
    ):
        prepared(tmp_path, rows_at(tmp_path, rows, group="g"))


def test_the_manifest_tells_what_happened(tmp_path):
    config = rows_at(tmp_path, [*pairs(20), *pairs(2), {"text": "a", "answer": ""}])
    found = prepared(tmp_path, config)
    told = json.loads((tmp_path / "sweep" / "rows" / "manifest.json").read_text())
    assert told["harvested"] == 23
    assert told["dropped"] == {"no answer": 1}
    assert sum(told["cleaned"]["exact_duplicates"].values()) == 2
    assert told["cleaned"]["encoding"] == {"changed": 0, "dropped": 0, "flagged": 0}
    assert told["source"] == "rows.jsonl"
    assert told["splits"]["train"]["rows"] == len(found.train)
    assert len(found.digest) == 32


def beside(tmp_path, rows, rows_now=None):
    """Rows of a sweep that takes few, and those of a training on all that it leaves."""
    options = {"group": "g", "stratify": None, "slice": "g"}
    few = rows_at(tmp_path, rows, sizes=(6, 6, 5), **options)
    first = prepared(tmp_path, few)
    every = rows_at(tmp_path, rows_now or rows, sizes=(None, 6, 5), **options)
    folder = tmp_path / "sweep" / "rows"
    second = prepare(every, tokenizer(), "causal", tmp_path / "train" / "rows", beside=folder)
    return first, second, open_test(folder), open_test(tmp_path / "train" / "rows")


def grouped(count=60):
    return [row | {"g": f"g{i % 12}"} for i, row in enumerate(pairs(count))]


def test_beside_other_rows_validation_and_test_stay_and_train_gets_all_the_rest(tmp_path):
    first, second, test, same_test = beside(tmp_path, grouped())
    assert second.validation["id"] == first.validation["id"]
    assert same_test["id"] == test["id"]
    assert set(first.train["id"]) < set(second.train["id"])
    assert not set(second.train["id"]) & {*first.validation["id"], *test["id"]}
    elsewhere = {*first.validation["group"], *test["group"]}
    assert not set(second.train["group"]) & elsewhere, "no group is in two splits"
    assert set(second.train["group"]) | elsewhere == {f"g{i}" for i in range(12)}


def test_without_being_told_another_size_shares_groups_out_anew(tmp_path):
    """What `beside` is there for."""
    options = {"group": "g", "stratify": None, "slice": "g"}
    few, every = (rows_at(tmp_path, grouped(), sizes=(n, 6, 5), **options) for n in (6, None))
    first = prepared(tmp_path, few)
    second = prepare(every, tokenizer(), "causal", tmp_path / "train" / "rows")
    assert set(first.validation["id"]) != set(second.validation["id"])


def test_rows_that_the_source_has_lost_are_missed(tmp_path):
    with pytest.raises(
        DataError, match=r"\d of \d validation rows of the sweep are not in its source any more"
    ):
        beside(tmp_path, grouped(), [row | {"answer": "another"} for row in grouped()])


def test_rows_that_would_be_encoded_otherwise_are_refused(tmp_path):
    few = rows_at(tmp_path, pairs(30), sizes=(6, 4, 4), group=None)
    prepared(tmp_path, few)
    other = rows_at(tmp_path, pairs(30), sizes=(None, 4, 4), group=None, task={"prompt": "Now: {input}"})
    with pytest.raises(DataError, match="the validation rows would not be those of the sweep any more"):
        prepare(other, tokenizer(), "causal", tmp_path / "train" / "rows", beside=tmp_path / "sweep" / "rows")
