"""Two data sets with faults planted in known numbers, and which row has which fault.

`written` is for task.kind=generate, `labelled` for classify. Texts are made of the words of real languages,
drawn as often as they occur there, so that rows share as many words as rows of prose do.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sweeper.data.cells import content, row_digest
from sweeper.data.files import SPLITS
from tests.rows import configure
from tests.test_personal import draw

Words = list[str]

_COMMON = 300
"""The most frequent words of a language; answers are made of others."""


@cache
def language(code: str) -> tuple[Words, list[int]]:
    """Words of three letters and more, the most frequent first, and how often they occur."""
    from spellchecker import SpellChecker

    known = SpellChecker(language=code, distance=1).word_frequency.dictionary
    words = sorted((w for w in known if len(w) > 2 and w.isalpha()), key=lambda w: (-known[w], w))[:8000]
    return words, [known[word] for word in words]


def prose(rng: random.Random, count: int, code: str = "en") -> Words:
    """`count` words, every 15th the end of a sentence."""
    words, weights = language(code)
    said = rng.choices(words, weights, k=count)
    for end in range(14, count, 15):
        said[end] += "."
    return said


def telling(rng: random.Random, words: Words, count: int = 8) -> str:
    """An answer of words that are not all too common, in another order than the text has them."""
    common = set(language("en")[0][:_COMMON])
    rare = sorted({word.rstrip(".") for word in words} - common)
    rng.shuffle(rare)
    return " ".join(rare[:count])


@dataclass
class Planted:
    """Rows by split, and the faults among them."""

    rows: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    faults: dict[str, set[str]] = field(default_factory=dict)
    """Row ids by fault."""

    def add(self, row: dict[str, Any], *faults: str, split: str = "train") -> str:
        """Put a row into a split; its id."""
        self.rows[split].append(row)
        found = content(row, _CONFIG.data, _CONFIG.task)
        id_ = row_digest(found.text, found.target).hex()
        for fault in faults:
            self.faults.setdefault(fault, set()).add(id_)
        return id_

    def mark(self, ids: Sequence[str], fault: str) -> None:
        """These rows have this fault too."""
        self.faults.setdefault(fault, set()).update(ids)

    @property
    def count(self) -> int:
        return sum(map(len, self.rows.values()))


_CONFIG = configure(None)


def written() -> Planted:
    """Rows of prose with an answer each."""
    rng, made = random.Random(20), Planted()

    def plain(words: Words | None = None, **more: Any) -> dict[str, Any]:
        words = words or prose(rng, rng.randint(50, 90))
        group = rng.choice("abc")
        answer = telling(rng, words, 13 if group == "c" else 8)  # of this group the longer ones
        return {"text": " ".join(words), "answer": answer, "g": group, **more}

    for _ in range(750):
        made.add(plain())
    for _ in range(12):
        made.add(plain(g="d"), "representation")
    for split, count in (("validation", 60), ("test", 140)):
        for _ in range(count):
            made.add(plain(), split=split)
    _copies(rng, made, plain)
    _texts(rng, made, plain)
    _answers(rng, made, plain)
    _personal(rng, made, plain)
    return made


Plain = Callable[..., dict[str, Any]]


def _edited(rng: random.Random, words: Words, kept: float) -> Words:
    """A copy that has this share of its words in common with `words`, or the next possible above."""
    rare = language("en")[0][_COMMON:]
    places = set(rng.sample(range(len(words)), int(len(words) * (1 - kept) + 1e-9)))
    return [rng.choice(rare) if place in places else word for place, word in enumerate(words)]


def _copies(rng: random.Random, made: Planted, plain: Plain) -> None:
    for _ in range(20):
        row = plain()
        made.add(row)
        made.add({**row, "text": f" {row['text'].upper().replace(' ', '  ')}"}, "duplicates")
    for share in (95, 90, 80, 70, 60):
        for _ in range(40):
            words = prose(rng, 80)
            ids = [made.add(plain(some)) for some in (words, _edited(rng, words, share / 100))]
            made.mark(ids, f"near_duplicates {share} %")
    for how, kept in (("leakage exact", 1.0), ("leakage near", 0.9)):
        for number in range(20):
            words, split = prose(rng, 80), SPLITS[1 + number % 2]
            train = plain(words)
            made.add(train, how)  # what is to be dropped is the training row
            made.add({**train, "text": " ".join(_edited(rng, words, kept))}, split=split)
    for _ in range(15):
        row = plain()
        made.add(row, split="validation")
        made.add(row, "overlap", split="test")
    for _ in range(15):
        words = prose(rng, 80)
        ids = [made.add(plain(words)) for _ in range(2)]
        made.mark(ids, "contradictions")


def _spoilt(words: Words, place: int, what: str) -> str:
    return " ".join([*words[:place], what, *words[place:]])


def _texts(rng: random.Random, made: Planted, plain: Plain) -> None:
    wrong = ["café", "naïve \u2013 yes", "São Paulo", "Übermaß", "it\u2019s", "Ελλάδα", "日本語", "Zürich"]
    faults = {
        "encoding mojibake": [text.encode().decode("cp1252") for text in wrong],
        "encoding lost": ["caf\ufffd", "\udce9t\udce9"],
        "control characters": ["a\x00b", "\x1b[0m", "\x7f", "\x08"],
        "invisible characters": ["a\u200bb", "\ufeffa", "\u202ea"],
        "html": [
            "<br>", "<a href='x'>y</a>", "two</div>", "<!-- x -->", "end.<p>Then", "A&nbsp;B", "&amp;",
            "&#8217;",
        ],
    }  # fmt: skip
    for fault, pieces in faults.items():
        for number in range(24):
            words = prose(rng, 70)
            row = plain(words)
            row["text"] = _spoilt(words, rng.randrange(70), pieces[number % len(pieces)])
            made.add(row, fault)
    for number in range(20):
        row = plain()
        field = ("text", "answer")[number % 2]
        row[field] = ("", None, "\u00a0\n")[number % 3]
        made.add(row, "empty", *(["length outliers"] if row[field] else []))
    for placeholder in ("null", "NaN", " N/A ", "none", "undefined"):
        made.add(plain(text=placeholder), "empty", "length outliers")
    for _ in range(5):
        words = prose(rng, 60)
        made.add(plain(words, text={"body": " ".join(words)}), "types wrong")
    for number in range(10):
        made.add(plain(answer=number + 2000), "types mixed", "length outliers")
    for code in ("de", "fr"):
        for _ in range(10):
            made.add(plain(prose(rng, 70, code)), "languages")
    for _ in range(20):
        words = [_misspelt(rng, word) for word in prose(rng, 60)]
        made.add(plain(words), "spelling")


def _misspelt(rng: random.Random, word: str) -> str:
    """`word` with two neighbours exchanged and a letter doubled."""
    if len(word) < 4:
        return word
    at = rng.randrange(1, len(word) - 2)
    return f"{word[:at]}{word[at + 1]}{word[at]}{rng.choice('aeiou')}{word[at + 2 :]}"


def _answers(rng: random.Random, made: Planted, plain: Plain) -> None:
    for _ in range(20):
        row = plain(prose(rng, 80))
        made.add(
            {**row, "answer": row["text"].capitalize()},
            "answer is the input",
            "length outliers",
            "cut answers",
        )
    for _ in range(20):
        words = prose(rng, 80)
        made.add(plain(words, answer=" ".join(words[20:32])), "answer is a passage")
    others = [plain() for _ in range(30)]
    for row, other in zip(others, others[1:] + others[:1], strict=True):
        words = set(row["text"].replace(".", "").split())
        foreign = [word for word in other["answer"].split() if not _akin(word, words)]
        made.add({**row, "answer": " ".join(foreign)}, "answer shares nothing")
    for number in range(20):
        if number % 2:
            words = rng.sample(language("en")[0][_COMMON:], 5)
            made.add(plain(words, answer=" ".join(words[:0:-1])), "length outliers")
        else:
            made.add(plain(prose(rng, 1500)), "length outliers", "cut inputs")
    for _ in range(16):
        made.add(plain(answer="2024-11-30"), "length outliers")
    for _ in range(6):
        made.add(plain(answer=f"{rng.randint(1, 28)}.11.2024"), "mixed formats", "length outliers")
    for _ in range(25):
        words = prose(rng, 400)
        made.add(plain(words, answer=telling(rng, words, 60)), "cut answers", "length outliers")


def _akin(word: str, words: set[str]) -> bool:
    return any(other[:5] == word[:5] for other in words)


KINDS = (
    "private key", "aws key", "github token", "hugging face token", "openai key", "slack token", "jwt",
    "api key", "secret", "iban", "card", "e-mail", "phone", "ip",
)  # fmt: skip


def _personal(rng: random.Random, made: Planted, plain: Plain) -> None:
    for kind in KINDS:
        for number in range(6):
            words = prose(rng, 70)
            row = plain(words)
            where = ("text", "answer")[number % 3 == 2]
            row[where] = f"{row[where]} Write: {draw(rng, kind)} today"
            fault = f"personal {kind}"
            also = ["length outliers", "cut answers"] if kind == "private key" and where == "answer" else []
            made.add(row, fault, *also)


TOPICS = ("medicine", "cooking", "sports")


def labelled() -> Planted:
    """Texts of three topics, whose labels are to be told from their words."""
    rng, made = random.Random(21), Planted()
    rare = language("en")[0][_COMMON:6000]
    own = {topic: rare[number::40][:60] for number, topic in enumerate([*TOPICS, "chess", "travel"])}

    def text(topic: str) -> str:
        words = prose(rng, 40) + rng.choices(own[topic], k=12)
        rng.shuffle(words)
        return " ".join(words)

    def row(topic: str, label: str | None = None, group: str | None = None) -> dict[str, Any]:
        return {"text": text(topic), "answer": label or topic, "g": group or rng.choice(["north", "south"])}

    for topic in TOPICS:
        for _ in range(280):
            made.add(row(topic))
    for _ in range(120):
        made.add(row("sports", group="east"))  # of the other groups a third are
    for _ in range(45):
        topic = rng.choice(TOPICS)
        made.add(row(topic, rng.choice([other for other in TOPICS if other != topic])), "flipped labels")
    for label, topic, count in (
        ("Sports", "sports", 8), ("COOKING.", "cooking", 6), ("medcine", "medicine", 4),
        ("spotrs", "sports", 3),
    ):  # fmt: skip
        for _ in range(count):
            made.add(
                row(topic, label),
                "spellings of labels",
                "rare labels",
                *(["flipped labels"] if count > 4 else []),
            )
    for _ in range(7):
        made.add(row("chess"), "rare labels")
    for topic in TOPICS:
        for split in ("validation", "test"):
            for _ in range(40):
                made.add(row(topic), split=split)
    for _ in range(5):
        made.add(row("travel"), "labels without training rows", split="test")
    for _ in range(4):
        first = row("medicine")
        ids = [made.add(first)]
        ids.append(made.add({**first, "answer": "cooking"}, "flipped labels"))
        made.mark(ids, "contradictions")
    return made
