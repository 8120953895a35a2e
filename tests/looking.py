"""What tests of checks share: rows to look at, faults planted among them, and a table of what was found."""

import functools
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sweeper.data.docstrings import Docstring, harvest
from sweeper.data.findings import Batch, Check, Finding

_VOCABULARY = """
river mountain garden window kitchen winter summer morning village teacher student doctor market bridge letter
picture music story bread water forest animal flower street corner family friend brother sister silver golden
yellow purple orange bright quiet sudden narrow gentle simple honest clever hungry carry follow answer listen
travel wander gather finish begin promise remember forget believe discover
"""
_WORDS = _VOCABULARY.split()


@dataclass(frozen=True)
class Row:
    text: str
    target: str = "a plain answer"
    split: str = "train"
    group: str = ""


def prose(rng: random.Random, words: int = 60) -> str:
    return " ".join(rng.choice(_WORDS) for _ in range(words)).capitalize() + "."


def clean_rows(count: int, seed: int = 0) -> list[Row]:
    """Rows without fault, whose answers are made of words of their input."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        text = prose(rng, rng.randint(40, 90))
        made.append(Row(text, " ".join(rng.sample(text.rstrip(".").split(), 7))))
    return made


def look(check: Check, rows: Sequence[Row], size: int = 64) -> list[Finding]:
    """What `check` finds in `rows`; a row's id is its number."""
    for first in range(0, len(rows), size):
        some = rows[first : first + size]
        check.see(
            Batch(
                first,
                [str(first + place) for place in range(len(some))],
                [row.split for row in some],
                [row.text for row in some],
                [row.target for row in some],
                [row.group for row in some],
            )
        )
    return list(check.findings())


@functools.cache
def docstrings(package: str) -> list[Docstring]:
    """Real prose, read once for all tests of a process."""
    return list(harvest([package]))


def suspected(findings: Iterable[Finding]) -> set[int]:
    return {int(row) for finding in findings for row, _ in finding.suspects}


def table(name: str, found: set[int], planted: set[int], rows: int) -> tuple[float, float]:
    """Recall and the share of false alarms among faultless rows, which are printed as well."""
    recall = len(found & planted) / len(planted)
    alarms = len(found - planted) / (rows - len(planted))
    print(f"{name:28} planted {len(planted):4} recall {recall:6.1%} false alarms {alarms:6.2%}")
    return recall, alarms


HOSTILE = {
    "scripts": [
        Row("مرحبا بالعالم كيف حالك اليوم", "جيد"),
        Row("今日は天気がいいですね。散歩に行きましょう。", "散歩"),
        Row("这是一个测试句子用来检查程序。", "测试"),
        Row("สวัสดีชาวโลก วันนี้อากาศดี", "อากาศ"),
        Row("👩‍👩‍👧‍👦🎉🏳️‍🌈", "😀"),
        Row("नमस्ते दुनिया, आप कैसे हैं?", "ठीक"),
        Row("Ελληνικά και русский вместе", "да"),
        Row("می‌خواهم کتاب بخوانم", "کتاب"),
    ],
    "a million characters": [Row("word " * 200_000, "w" * 1_000_000), Row("<a " * 333_333, "&" * 1_000_000)],
    "a million odd characters": [Row("é\u200bÃ" * 333_333, "1,5" * 333_333), Row("\ud800" * 1_000_000)],
    "one": [Row("A single row.")],
    "none": [],
}
"""Rows that may break a check."""
