"""How differences between two configurations are told."""

from sweeper.study.differences import differences


def test_differences_are_told_as_yaml_and_what_is_empty_is_not_set() -> None:
    before = {"a": {"on": True, "when": {}, "of": None}, "bounds": [{"metric": "chrf", "at_most": None}]}
    now = {"a": {"on": False, "rate": 2e-4, "to": []}, "bounds": [{"metric": "chrf"}], "text": "b: c\n"}
    assert differences(before, now) == [
        ("a.on", "true", "false"),
        ("a.rate", "(not set)", "0.0002"),
        ("text", "(not set)", '"b: c\\n"'),
    ]
