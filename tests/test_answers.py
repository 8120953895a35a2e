import random
from dataclasses import replace

from sweeper.data.checks.answers import Copies, Unrelated
from tests.looking import Row, clean_rows, look, prose, suspected, table

ROWS = 1000


def test_copies_and_passages_are_told_apart():
    rows = clean_rows(ROWS)
    same, passages = set(range(30)), set(range(300, 350))
    for number in same:
        rows[number] = replace(rows[number], target=f"  {rows[number].text.upper()}")
    for number in passages:
        rows[number] = replace(rows[number], target=" ".join(rows[number].text.split()[5:18]))
    copied, passage = look(Copies(), rows)
    recall, alarms = table("answer is the input", suspected([copied]), same, ROWS)
    assert (recall, alarms) == (1, 0)
    recall, alarms = table("answer is a passage", suspected([passage]), passages, ROWS)
    assert (recall, alarms) == (1, 0)
    assert (copied.severity, passage.severity) == ("warning", "note")
    assert passage.numbers["median share of answer words that the input has"] == 1


def test_input_and_answer_in_one_column_are_an_error():
    rows = [Row(row.text, row.text) for row in clean_rows(20)]
    assert look(Copies(), rows)[0].severity == "error"


def test_characters_are_words_where_none_are_spaced():
    text = "今日は天気がいいので公園を散歩しました"
    (finding,) = look(Copies(), [Row(text + "。明日は雨です", text)])
    assert finding.check == "answer is a passage"


def mixed(count, planted):
    """Rows about one thing each; where planted, the answer is about another row's."""
    rng = random.Random(0)
    rows = []
    for _ in range(count):
        own = ["".join(rng.choices("abcdefghijklmnop", k=8)) for _ in range(12)]
        rows.append(Row(f"{prose(rng, 40)} {' '.join(own)}", f"The garden with {' and '.join(own[:5])}"))
    for number in planted:
        rows[number] = Row(rows[number].text, rows[number - 1].target)
    return rows


def test_answers_of_other_rows_are_found_although_they_share_common_words():
    planted = set(range(5, 1500, 50))
    findings = look(Unrelated(), mixed(1500, planted))
    recall, alarms = table("answer shares nothing", suspected(findings), planted, 1500)
    assert recall >= 0.95
    assert alarms == 0
    assert findings[0].severity == "warning"


def test_nothing_in_common_everywhere_is_the_nature_of_the_task():
    rows = mixed(200, range(200))
    (finding,) = look(Unrelated(), rows)
    assert finding.severity == "note"
    assert "so do most" in finding.message


def test_short_inputs_that_share_nothing_by_nature_are_not_told():
    rng = random.Random(3)

    def words(count):
        return " ".join("".join(rng.choices("abcdefghijklmnop", k=8)) for _ in range(count))

    short = [Row(words(12), words(6)) for _ in range(60)]
    short += [Row(f"{text} {words(6)}", text) for text in (words(6) for _ in range(340))]
    long = [Row(f"{text} {words(40)}", text) for text in (words(6) for _ in range(400))]
    planted = Row(words(46), words(6))
    (finding,) = look(Unrelated(), [*short, *long, planted])
    assert suspected([finding]) == {800}
    assert finding.numbers["left out as their inputs are short"] == 400
    assert look(Unrelated(), short)[0].count == 60, "with nothing to compare them with"


def test_short_answers_are_not_judged():
    assert look(Unrelated(), [Row(row.text, "no idea at all") for row in clean_rows(50)]) == []
