"""audit.html: readable by people, harmless whatever stands in the rows."""

import re
from dataclasses import replace

import pytest

from sweeper.data.audit import Audit
from sweeper.data.checks.lengths import Histogram
from sweeper.data.findings import Example, Finding, printable
from sweeper.data.page import render
from sweeper.data.queue import Suspect
from tests.pages import HOSTILE, Elements, browser


def made(text: str = "text") -> Audit:
    finding = Finding(
        check=text,
        severity="error",
        message=text,
        advice=text,
        count=3,
        of=1200,
        examples=(Example(text, text, text),),
        numbers={text: 0.25},
    )
    return Audit(
        key="k",
        digest="d1",
        stamp=None,
        source=text,
        rows={"train": 1000, "test": 200},
        findings=(finding,),
        lengths={"input": Histogram((10, 20, 30), (5, 10, 0)), "answer": Histogram((0,), (1,))},
        queue=(Suspect(text, 0.75, text, text, text, text),),
        decided=2,
    )


def test_the_page_says_what_was_found():
    page = Elements(render(made("seen"), "mine", "sweeps/mine/queue.csv"))
    text = " ".join(page.text.split())
    for said in (
        "Audit of mine",
        "seen: 1,000 train, 200 test rows.",
        "2 of them were decided on",
        "1 error, 0 warnings, 0 notes",
        "seen, 3 of 1,200 rows (0.2 %)",
        "data.review=sweeps/mine/queue.csv",
        "10 to 19 characters: 5 rows",
        "30 and more characters: 0 rows",
        "0.75",
    ):
        assert said in text
    heights = [float(attributes["height"]) for tag, attributes in page.found if tag == "rect"]
    assert heights == [80, 160, 0, 160]


def labels(*edges: int) -> list[str]:
    audit = replace(made(), lengths={"input": Histogram(edges, (1,) * len(edges))})
    return re.findall(r"<text [^>]*>(.*?)</text>", render(audit, "mine", "queue.csv"))


def test_bars_are_labelled_by_both_ends_where_there_is_room():
    assert labels(30, 50, 70) == ["30 to 49", "50 to 69", "≥ 70"]
    assert labels(700, 1000, 2000) == ["700 to 999", "1k to 2k", "≥ 2k"]
    assert labels(50) == ["≥ 50"]
    assert labels(*range(10, 100, 10)) == [str(edge) for edge in range(10, 100, 10)]


def test_hostile_rows_add_nothing_to_the_page():
    harmless, hostile = (Elements(render(made(text), "mine", "queue.csv")) for text in ("a", HOSTILE))
    assert [tag for tag, _ in hostile.found] == [tag for tag, _ in harmless.found]
    assert [attributes for _, attributes in hostile.found] == [attributes for _, attributes in harmless.found]
    assert "{{ 7 * 7 }}" in hostile.text
    page = render(made(HOSTILE), "mine", "queue.csv")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)
    assert "&lt;1b&gt;[2J" in page


def test_the_page_needs_nothing_from_elsewhere():
    page = render(made("a"), "mine", "queue.csv")
    assert "default-src 'none'" in page
    tags = {tag for tag, _ in Elements(page).found}
    assert not tags & {"script", "link", "img", "iframe", "object", "base", "form"}
    assert not re.search(r"(src|href|url)\s*[=(]", page)


def test_no_findings_are_said_to_be_none():
    empty = Audit("k", "d", None, "rows", {"train": 1}, (), {}, (), 0)
    assert "Nothing was found." in render(empty, "mine", "queue.csv")


@pytest.mark.parametrize("text", ["plain", "tab\tand\nline", "Ünïcödé 中文 🙂"])
def test_ordinary_text_is_printed_as_it_is(text):
    assert printable(text) == text


def test_what_steers_is_printed_as_its_code():
    assert printable("\x1b[31m\r\x9b\u202e\ud800") == "<1b>[31m<0d><9b><202e><d800>"


def test_a_browser_shows_it_and_runs_nothing(tmp_path):
    path = tmp_path / "audit.html"
    path.write_text(render(made(HOSTILE), "mine", "queue.csv"), encoding="utf-8")
    with browser() as tab:
        for width in (1280, 390):
            seen = tab.open(path, width)
            assert tab.evaluate("document.title") == "Audit of mine"
            assert "Rows most worth a look" in tab.evaluate("document.body.innerText")
            assert (seen.requests, seen.faults) == ([path.as_uri()], [])
