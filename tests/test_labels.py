from sweeper.data.checks.labels import Balance, Spellings
from tests.looking import Row, look, suspected, table


def rows(counts, split="train"):
    return [Row(f"text {number}", label, split) for label, count in counts.items() for number in range(count)]


def test_even_classes_are_no_finding():
    assert look(Balance(), rows({"a": 40, "b": 50, "c": 60})) == []
    assert look(Balance(), []) == []


def test_rare_and_drowning_classes():
    rare, balance = look(Balance(), rows({"ham": 900, "spam": 95, "scam": 5}))
    assert (rare.check, rare.count, rare.severity) == ("rare labels", 5, "warning")
    assert "'scam'" in rare.message
    assert balance.severity == "warning"
    assert "'ham' is the label of 90%" in balance.message
    assert "180 times" in balance.message


def test_uneven_classes_that_do_not_drown_are_a_note():
    (balance,) = look(Balance(), rows({"a": 300, "b": 290, "c": 20}))
    assert balance.severity == "note"


def test_labels_that_training_lacks_are_an_error():
    given = [*rows({"a": 30, "b": 30}), *rows({"a": 10, "c": 4}, "test")]
    (finding,) = look(Balance(), given)
    assert (finding.severity, finding.count) == ("error", 4)
    assert "'c'" in finding.message
    assert finding.examples[0].split == "test"


def test_a_single_label_and_free_text_are_no_classes():
    (single,) = look(Balance(), rows({"a": 50}))
    assert (single.severity, single.count) == ("error", 50)
    assert "the same label, 'a'" in single.message
    many = [Row("text", f"value {number % 5000}") for number in range(20_000)]
    (free,) = look(Balance(), many, 1000)
    assert free.severity == "error"
    assert "5,000 different values in 20,000 rows" in free.message
    assert look(Spellings(), many, 1000) == []
    (endless,) = look(Balance(), [Row("text", str(number)) for number in range(12_000)], 1000)
    assert "over 10,000 different values" in endless.message


def test_spellings_of_one_label():
    usual = rows({"Spam": 400, "not spam": 300, "C": 40, "C++": 40, "C#": 40, "\uff28am": 50, "class_1": 300})
    planted_case = rows({"spam ": 9, "SPAM": 5, "Not-Spam": 8, "Ham": 3})
    planted_typed = rows({"not smap": 3, "clas_1": 2})
    innocent = rows({"class_2": 3, "Jam": 2})
    given = [*usual, *planted_case, *planted_typed, *innocent]
    planted = set(range(len(usual), len(usual) + len(planted_case) + len(planted_typed)))
    same, typed = look(Spellings(), given)
    recall, alarms = table("spellings of labels", suspected([same, typed]), planted, len(given))
    assert (recall, alarms) == (1, 0)
    assert (same.severity, same.count) == ("error", len(planted_case))
    assert "'Spam' (400) / 'spam' (9) / 'SPAM' (5)" in same.message
    assert (typed.severity, typed.count) == ("warning", len(planted_typed))
