"""Prompts: what stands in braces, what goes, what stays; and rows of several columns from file to tokens."""

import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sweeper.compose import compose, read_config
from sweeper.config.prompt import Prompt
from sweeper.data.audit import audit
from sweeper.data.prepare import prepare
from sweeper.data.sources import wanted_columns
from sweeper.data.texts import Form, Text
from sweeper.errors import ConfigError, DataError
from sweeper.layout import Layout
from sweeper.stored import as_begun, as_yaml, public
from tests.rows import configure, tokenizer, write_jsonl

ALPACA = "{instruction}\n{#context}Context: {context}\n{/context}Answer:"


@pytest.mark.parametrize(
    ("written", "rendered"),
    [
        ("{a} and {b}", "A and B"),
        ('{"a": {"b": {a}}}', '{"a": {"b": A}}'),
        ('{{"a": {{"b": {a}}}}}', '{"a": {"b": A}}'),
        ("{{a}} {a}", "{a} A"),
        ("{ a } {1} {} {a!r} {a:>3}{a}", "{ a } {1} {} {a!r} {a:>3}A"),
        ("{#none}({none}){/none}{a}", "A"),
        ("{#a}({b}{a}{#none}x{/none}){/a}", "(BA)"),
        ("{two words}", "W"),
    ],
)
def test_names_are_replaced_and_other_braces_stay(written, rendered):
    values = {"a": "A", "b": "B", "none": " ", "two words": "W"}
    assert Prompt.parse(written).render(values) == rendered


def test_what_stands_in_a_column_is_not_read_again():
    assert Prompt.parse("{a}{b}").render({"a": "{b} {{", "b": "{#a}"}) == "{b} {{{#a}"


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("{#a}{a}", r"has a part \{#a\} without an end; put \{/a\}"),
        ("{a}{/a}", r"ends with \{/a\} without \{#a\}"),
        ("{#a}{#b}{/a}{/b}", r"ends with \{/a\} within the part \{#b\}"),
    ],
)
def test_parts_that_do_not_close_are_faults(written, why):
    with pytest.raises(ValueError, match=why):
        Prompt.parse(written)
    with pytest.raises(ConfigError, match=r"task\.prompt: .*"):
        read_config(compose(["+experiment=summarize", f"task.prompt='{written}'"]))


def test_the_answer_can_not_stand_in_the_prompt():
    with pytest.raises(
        ConfigError, match=r"task\.prompt: shows the answer itself: \{summary\} is the column"
    ):
        read_config(compose(["+experiment=summarize", "task.prompt='{input} {summary}'"]))


def rows(count):
    for i in range(count):
        yield {"instruction": f"do {i} {i * 7}", "context": f"with {i}" * (i % 2), "answer": f"  done {i}\n"}


def prepared(tmp_path, prompt, given=None, **data):
    path = write_jsonl(tmp_path / "rows.jsonl", given or rows(40))
    task = {"prompt": prompt, "max_input_tokens": 99, "max_answer_tokens": 99}
    config = configure(path, task=task, keep_together=False, **data)
    return prepare(config, tokenizer(), "causal", tmp_path / "rows"), config


def test_rows_of_several_columns_are_read_and_empty_ones_leave_their_part_out(tmp_path):
    found, _ = prepared(tmp_path, ALPACA, input=None)
    prompts = sorted(found.train["prompt"], key=len)
    assert all("Context" not in one for one in prompts if "with" not in one)
    assert any(one.count("\nContext: with") == 1 for one in prompts)
    assert all(one.startswith("do ") and one.endswith("Answer:") for one in prompts)
    answer = found.train[0]["answer"]
    assert answer.startswith("  done ")
    assert tokenizer().decode([i for i in found.train[0]["labels"] if i >= 0]) == f"{answer}<|im_end|>"


def test_a_row_without_a_column_that_is_no_optional_one_is_left_out_and_told(tmp_path):
    found, _ = prepared(tmp_path, "{instruction} {context}", input=None)
    assert found.manifest.dropped == {"no context": 20}
    assert found.manifest.first == {"no context": "row 1"}


def test_a_name_that_is_no_column_is_a_fault_with_the_nearest(tmp_path):
    with pytest.raises(
        DataError, match=r"task\.prompt: .* no column `instrucion` \(did you mean `instruction`"
    ):
        prepared(tmp_path, "{instrucion}", input=None)


def test_a_column_input_that_the_prompt_does_not_mean_is_told(tmp_path):
    given = [row | {"input": "more"} for row in rows(40)]
    found, _ = prepared(tmp_path, "{input}:", given, input="instruction")
    (warning,) = [one for one in found.manifest.warnings if "the rows have a column `input` too" in one]
    assert "{input} stands for the column `instruction`" in warning
    assert "more" not in found.train[0]["prompt"]
    with pytest.raises(
        DataError, match=r"task\.prompt: .*write \{instruction\} for the one and set data\.input"
    ):
        prepared(tmp_path, "{context}{input}", given, input="instruction")
    found, _ = prepared(tmp_path, "{instruction} {input}:", given, input=None)
    assert found.train[0]["prompt"].endswith(" more:")


def test_columns_of_the_prompt_are_read_from_tables(tmp_path):
    pq.write_table(pa.Table.from_pylist(list(rows(40))), tmp_path / "rows.parquet")
    task = {"prompt": ALPACA, "max_input_tokens": 99, "max_answer_tokens": 99}
    config = configure(tmp_path / "rows.parquet", task=task, keep_together=False, input=None)
    found = prepare(config, tokenizer(), "causal", tmp_path / "rows")
    assert any("Context: with" in one for one in found.train["prompt"])


def test_a_list_in_a_column_of_the_prompt_is_named(tmp_path):
    given = [*rows(3), {"instruction": "a", "context": ["b"], "answer": "c"}]
    with pytest.raises(DataError, match=r"row 4 has a list in column `context`; text or a number"):
        prepared(tmp_path, ALPACA, given, input=None)


def test_the_audit_reads_the_texts_without_the_json_around_them(tmp_path):
    given = [{"instruction": "write to jane.roe@acme.org", "context": "x", "answer": "y"}] * 60
    _, config = prepared(tmp_path, ALPACA, list(rows(40)), input=None)
    write_jsonl(tmp_path / "rows.jsonl", given)
    found = {one.check: one for one in audit(config).findings}
    assert "instruction" not in found["duplicates"].examples[0].text


def test_texts_come_apart_and_together_again():
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    talk = Text(json.dumps({"messages": chat, "tools": [{"name": "t"}]}), "")
    for form, row, parts in (
        (Form("generate"), Text("a", "b"), ["a", "b"]),
        (Form("classify"), Text("a", "b"), ["a"]),
        (Form("generate", True), Text('{"p": "a", "q": "b"}', "c"), ["a", "b", "c"]),
        (Form("classify", True), Text('{"p": "a", "q": "b"}', "c"), ["a", "b"]),
        (Form("chat"), talk, ["a", "b"]),
    ):
        assert [text for _, text in form.split(row)] == parts
        assert form.join(row, parts) == row


def test_a_review_fixes_columns_as_json(tmp_path):
    _, config = prepared(tmp_path, ALPACA, input=None)
    from sweeper.data.cells import content

    id_ = content(next(rows(1)), config.data, config.task).digest.hex()
    queue = tmp_path / "queue.csv"
    queue.write_text(
        f'id,decision,fixed_input\nrow:{id_},fix,"{{""instruction"": ""new"", ""context"": """"}}"\n'
    )
    found, _ = prepared(tmp_path, ALPACA, input=None, review=queue)
    everything = [*found.train["prompt"], *found.validation["prompt"], *found.open_test()["prompt"]]
    assert "new\nAnswer:" in everything
    queue.write_text(f"id,decision,fixed_input\nrow:{id_},fix,new\n")
    with pytest.raises(DataError, match=r"row 2: fixed_input must be a JSON object of the prompt's columns"):
        prepared(tmp_path, ALPACA, input=None, review=queue)


@pytest.mark.parametrize(
    ("given", "prompt"),
    [
        (r"'{input}\nAnswer:\t'", "{input}\nAnswer:\t"),
        (r'"{input}\\nabla"', "{input}\\nabla"),
        ("'{input}\nx'", "{input}\nx"),
    ],
)
def test_escapes_of_a_prompt_on_the_command_line_are_what_they_mean(given, prompt, caplog):
    config, _ = read_config(compose(["+experiment=summarize", f"task.prompt={given}"]))
    assert config.task.prompt == prompt
    assert ("is read as a line end" in caplog.text) == (given == r"'{input}\nAnswer:\t'")


def test_escapes_elsewhere_stay():
    config, _ = read_config(compose(["+experiment=summarize", r"model.name='a\nb'", "model.embedded=false"]))
    assert config.model.name == r"a\nb"


def test_a_sweep_goes_on_with_the_prompt_that_it_began_with(tmp_path):
    layout = Layout(tmp_path, "old")
    layout.folder.mkdir()
    line = ["+experiment=summarize", r"task.prompt='{input}\nAnswer:'"]
    now = read_config(compose(line))[0]
    begun = replace(now, task=replace(now.task, prompt=r"{input}\nAnswer:"))
    assert as_begun(now, layout) == now
    layout.config.write_text(as_yaml(public(begun)))
    assert as_begun(now, layout) == begun
    other = replace(now, task=replace(now.task, prompt="{input}"))
    assert as_begun(other, layout) == other


def test_a_column_that_the_prompt_does_not_name_is_not_asked_for():
    config = configure(None, task={"prompt": "{question} {hint}"}, input="text")
    assert wanted_columns(config.data, config.task) == [
        ("task.prompt", "question"),
        ("task.prompt", "hint"),
        ("data.target", "answer"),
    ]
