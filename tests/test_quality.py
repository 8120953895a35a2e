import random
from dataclasses import replace

import pytest

from sweeper.data.checks.quality import Controls, Empty, Encoding, Markup
from tests.looking import Row, clean_rows, look, suspected, table

ROWS = 1000


def spoilt(make, count, seed=1):
    """Faultless rows of which some had their text put through `make`, and which."""
    rows = clean_rows(ROWS)
    planted = set(random.Random(seed).sample(range(ROWS), count))
    for number in sorted(planted):
        rows[number] = replace(rows[number], text=make(rows[number].text, number))
    return rows, planted


def mojibake(text, number):
    words = ("café", "naïve \u2013 yes", "“quoted”", "Übermaß", "it\u2019s", "Ελλάδα", "日本語", "Москва")
    word = words[number % 8]
    wrong = word.encode().decode(("cp1252", "latin-1")[number % 2] if number % 8 < 2 else "latin-1")
    return f"{text} {wrong} {text}"


CASES = {
    "mojibake": (Encoding, mojibake, 80),
    "replacement character": (Encoding, lambda text, _: text + " caf\ufffd", 40),
    "lone surrogate": (Encoding, lambda text, _: "\udce9" + text, 40),
    "control character": (Controls, lambda text, number: text + "\x00\x1b\x85"[number % 3] + text, 40),
    "invisible character": (Controls, lambda text, number: "\ufeff\u200b\u202e"[number % 3] + text, 40),
    "tag": (
        Markup,
        lambda text, n: text + ("<br>", " <a href='x'>y</a>", "</div>", "<!-- x -->", "<P>")[n % 5],
        50,
    ),
    "entity": (Markup, lambda text, number: text + ("&nbsp;", "&amp;", "&#8217;", "&#x27;")[number % 4], 40),
    "empty input": (
        lambda: Empty("generate"),
        lambda _, n: ("", "  \n", "\u200b\ufeff", "\u00a0")[n % 4],
        40,
    ),
    "placeholder": (lambda: Empty("generate"), lambda _, n: ("null", "NaN", " N/A ")[n % 3], 30),
}


@pytest.mark.parametrize("case", CASES)
def test_planted_faults_are_found_and_nothing_else(case):
    check, make, count = CASES[case]
    rows, planted = spoilt(make, count)
    findings = look(check(), rows)
    recall, alarms = table(case, suspected(findings), planted, ROWS)
    assert recall >= 0.95
    assert alarms == 0
    (finding,) = findings
    assert finding.severity == "warning"
    assert finding.count == len(suspected(findings))
    assert f"{finding.count} rows have" in finding.message
    assert finding.of == ROWS


def test_accents_signs_and_code_are_no_faults():
    texts = [
        "Ça va très bien, señor Muñoz: 20 € à Zürich \u2013 “d\u2019accord”…",
        "Ñandú, Ångström, São Paulo, Đà Nẵng, Łódź, Ærø",
        "if a < b && b > c: x = List<String>; y &= mask; usage: run <name> <a>",
        'The class of all <td> cells; given a list of <tr>s, text in "<p>" and (<div>) elements',
        "line one\nline two\tand a tab\r\n",
        "ภาษา\u200bไทย",
    ]
    rows = [Row(text) for text in texts]
    for check in (Encoding, Controls, Markup):
        assert look(check(), rows) == []


def test_faults_of_answers_count_once_per_row():
    rows = [*clean_rows(50), Row("fine", "cafÃ© au lait"), Row("naÃ¯ve people", "cafÃ© au lait")]
    (finding,) = look(Encoding(), rows)
    assert suspected([finding]) == {50, 51}
    assert {example.text for example in finding.examples} == {"answer: cafÃ© au lait", "input: naÃ¯ve people"}


def test_many_broken_rows_are_an_error():
    rows, _ = spoilt(mojibake, 300)
    assert look(Encoding(), rows)[0].severity == "error"


def test_markup_everywhere_is_taken_to_be_meant():
    assert look(Markup(), [Row(f"<p>{row.text}</p>") for row in clean_rows(50)])[0].severity == "note"


def test_only_chats_do_without_an_answer():
    rows = [*clean_rows(50), Row("a question", " ")]
    assert look(Empty("chat"), rows) == []
    (finding,) = look(Empty("generate"), rows)
    assert finding.numbers == {"no answer": 1}
    assert finding.message.startswith("1 row has nothing")
    assert look(Empty("classify"), [Row("text", "none"), Row("other", "n/a")]) == []


@pytest.mark.parametrize(("gaps", "severity"), [(10, "warning"), (49, "warning"), (50, "error")])
def test_rows_that_are_left_out_anyway_refuse_a_sweep_only_if_they_are_half_of_all(gaps, severity):
    rows = [Row("text", "" if i < gaps else "answer") for i in range(100)]
    (finding,) = look(Empty("classify"), rows)
    assert (finding.count, finding.severity) == (gaps, severity)
