import random

from sweeper.data.checks.language import SAMPLED, Languages, Spelling
from tests.looking import Row, clean_rows, look, suspected, table

GERMAN = (
    "Der Zug nach Hamburg hat heute leider eine halbe Stunde Verspätung, weil auf der Strecke gebaut wird. "
    "Wir bitten alle Reisenden um Geduld und wünschen eine gute Fahrt."
)
JAPANESE = "明日の会議は午後三時から始まりますので、資料を忘れずに持ってきてください。よろしくお願いします。"
ENGLISH = (
    "The committee will meet again on Thursday to discuss the proposal that was made by the council. "
    "Members who are unable to attend should write to the secretary before the end of the week.",
    "We walked along the river until it was dark, and then we sat down by the old bridge to eat the bread "
    "that my sister had bought in the village that morning.",
    "This function returns the largest value of the list, or nothing if the list is empty; values that can "
    "not be compared with each other raise an error.",
)


def english(count):
    return [Row(ENGLISH[number % 3], ENGLISH[(number + 1) % 3]) for number in range(count)]


def test_rows_in_another_language_are_found_and_unsure_ones_left_alone():
    rows = english(500)
    foreign, unsure = {7, 77, 177, 277, 377}, {10, 20, 30, 40}
    for number in foreign:
        rows[number] = Row((GERMAN, JAPANESE)[number % 2 == 0 or number > 300], rows[number].target)
    for number, text in zip(
        sorted(unsure), ("ok", "12345 67890 " * 9, "x = y[0] ** 2;" * 9, "😀" * 80), strict=True
    ):
        rows[number] = Row(text, rows[number].target)
    findings = look(Languages("generate", 0), rows)
    recall, alarms = table("languages", suspected(findings), foreign, len(rows))
    assert (recall, alarms) == (1, 0)
    (finding,) = findings
    assert finding.severity == "warning"
    assert "5 of 500 sampled inputs are clearly not in `en`" in finding.message
    assert finding.numbers["inputs in en"] > 0.9


def test_one_language_or_none_is_no_finding():
    assert look(Languages("generate", 0), english(50)) == []
    assert look(Languages("generate", 0), [Row("1 + 1", "2")] * 50) == []


def test_a_mixture_is_told_and_blames_no_row():
    rows = [Row((GERMAN, ENGLISH[0])[number % 2]) for number in range(100)]
    (finding,) = look(Languages("classify", 0), rows)
    assert finding.severity == "note"
    assert finding.suspects == ()
    assert "several languages" in finding.message


def test_a_sample_of_stated_size_is_looked_at():
    rows = [Row((GERMAN, ENGLISH[0])[number % 2]) for number in range(2 * SAMPLED)]
    (finding,) = look(Languages("classify", 0), rows, 500)
    assert finding.of == SAMPLED


def misspelt(text, rng):
    words = text.split()
    for place, word in enumerate(words):
        if len(word) > 3 and word.isalpha():
            cut = rng.randrange(1, len(word) - 1)
            words[place] = word[:cut] + rng.choice("qxzvk") + rng.choice("qxzvk") + word[cut:]
    return " ".join(words)


def test_misspelt_rows_are_found():
    rng = random.Random(0)
    rows = clean_rows(400)
    planted = set(rng.sample(range(400), 20))
    for number in planted:
        rows[number] = Row(misspelt(rows[number].text, rng), rows[number].target)
    rows = [
        Row(f"{row.text} {ENGLISH[0]}" if n not in planted else row.text, row.target)
        for n, row in enumerate(rows)
    ]
    findings = look(Spelling(0), rows)
    recall, alarms = table("spelling", suspected(findings), planted, 400)
    assert recall >= 0.95
    assert alarms == 0
    assert 0.03 < findings[0].numbers["spelling rate"] < 0.07
    assert findings[0].severity == "note"


def test_rows_in_another_language_are_not_misspelt():
    rows = english(100)
    rows[7:9] = [Row(GERMAN, GERMAN)] * 2
    assert look(Spelling(0), rows) == []


def test_many_misspelt_words_are_a_warning():
    rng = random.Random(0)
    rows = [Row(f"{ENGLISH[0]} {misspelt(ENGLISH[1], rng)}", "") for _ in range(50)]
    (finding,) = look(Spelling(0), rows)
    assert finding.severity == "warning"


def test_jargon_names_and_languages_without_a_word_list_are_no_errors():
    jargon = [
        Row(f"{text} The ndarray dtype of torch.nn is float32 in __init__ at Kubernetes.") for text in ENGLISH
    ]
    assert look(Spelling(0), jargon * 20) == []
    assert look(Spelling(0), [Row(JAPANESE)] * 50) == []
    assert look(Spelling(0), []) == []
