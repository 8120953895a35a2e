"""Personal data: recall and false alarms by kind, masks, hostile texts, and what the audit says."""

import random
import string
import time
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.data.findings import Batch
from sweeper.data.personal import SUSPICION, Personal, find, mask, masked_excerpt, masked_part
from tests.looking import docstrings

ALPHABET = string.ascii_letters + string.digits


def draw(rng: random.Random, kind: str) -> str:
    """One made-up piece of personal data."""

    def some(length: int, letters: str = ALPHABET) -> str:
        return "".join(rng.choices(letters, k=length))

    def digits(length: int) -> str:
        return some(length, string.digits)

    match kind:
        case "e-mail":
            return (
                f"{some(5).lower()}.{some(7).lower()}@{some(6).lower()}.{rng.choice(['com', 'de', 'co.uk'])}"
            )
        case "phone":
            return rng.choice(
                [f"+49 {rng.randint(151, 179)} {digits(7)}", f"(212) {rng.randint(200, 999)}-{digits(4)}",
                 f"0{rng.randint(30, 99)} {digits(7)}", f"+33{rng.randint(1, 9)}{digits(8)}"]
            )  # fmt: skip
        case "card":
            body = "4" + digits(14)
            doubled = [int(d) * (2 if i % 2 == 0 else 1) for i, d in enumerate(body)]
            return body + str(-sum(sum(divmod(d, 10)) for d in doubled) % 10)
        case "iban":
            account = digits(18)
            return f"DE{98 - int(account + '131400') % 97:02}{account}"
        case "ip":
            return f"{rng.randint(81, 95)}.{rng.randint(0, 255)}.{rng.randint(0, 255)}.{rng.randint(1, 254)}"
        case "aws key":
            return "AKIA" + some(16, string.ascii_uppercase + "234567")
        case "github token":
            return "ghp_" + some(36)
        case "hugging face token":
            return "hf_" + some(34, string.ascii_letters)
        case "openai key":
            return "sk-" + some(48)
        case "slack token":
            return f"xoxb-{digits(12)}-{some(24)}"
        case "jwt":
            return f"eyJ{some(30)}.eyJ{some(60)}.{some(43)}"
        case "api key":
            return "AIza" + some(35)
        case "private key":
            return f"-----BEGIN PRIVATE KEY-----\n{some(800)}\n-----END PRIVATE KEY-----"
        case _:
            return f"api_key={some(16)}{digits(1)}{some(15)}"


@pytest.fixture(scope="module")
def prose() -> list[str]:
    """Real docstrings: versions, floats, shapes, code. These packages name no authors' addresses in them."""
    packages = ["json", "email", "logging", "rich", "hydra", "optuna", "pandas"]
    return [row.document for package in packages for row in docstrings(package)]


def test_recall_and_false_alarms(prose: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(0)
    false = Counter(span.kind for text in prose for span in find(text))
    table = [f"{'kind':20} planted recall  false alarms in {len(prose)} docstrings"]
    for kind in SUSPICION:
        hits = 0
        for _ in range(100):
            text, data = rng.choice(prose)[:500], draw(rng, kind)
            planted = f"{text} Note: {data} and {text}"
            hits += any(
                span.kind == kind and planted[span.start : span.end] in data
                for span in find(planted)
                if span.start >= len(text)
            )
        table.append(f"{kind:20} {100:7} {hits / 100:6.2f}  {false[kind]}")
        assert hits >= 97, kind
        assert false[kind] <= 0.001 * len(prose), kind
    with capsys.disabled():
        print("", *table, sep="\n")


@pytest.mark.parametrize("kind", SUSPICION)
def test_a_mask_names_the_kind_and_hides_the_rest(kind: str) -> None:
    data = draw(random.Random(1), kind)
    masked = mask(f"Before {data} after.")
    assert masked == f"Before {'api_key=' if kind == 'secret' else ''}[{kind}] after."


def test_of_two_that_overlap_the_surer_one_counts() -> None:
    token = "ghp_" + "q7Zp2LxV9mKt4RwYb8Ns3GhD6cJfXa5QeT1u"
    assert mask(f"token={token}") == "token=[github token]"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(list(SUSPICION)) | st.text(max_size=20), max_size=6), st.integers(0, 99))
def test_spans_are_in_order_and_apart_and_nothing_planted_outlives_the_mask(
    parts: list[str], seed: int
) -> None:
    rng = random.Random(seed)
    planted = [draw(rng, part) for part in parts if part in SUSPICION]
    others = [part for part in parts if part not in SUSPICION]
    text = ", ".join(["", *planted, *others])
    spans = find(text)
    assert all(a.end <= b.start for a, b in pairwise(spans))
    assert all(0 <= span.start < span.end <= len(text) for span in spans)
    assert not any(data in mask(text) for data in planted)


@pytest.mark.parametrize(
    "piece",
    ["a", "1", "1 ", "1-", "a@", "@", "a.", "a@a.", "eyJ", "eyJaaaaaaaa.", "-----BEGIN PRIVATE KEY-----",
     "key=", "key=a1", "::1", "2001:", "1.1.1.", "+1 ", "(0", "sk-", "token ", "DE89 3704 ", "://a:a",
     "4111 ", "\n", "é", "0 1", "a1@b.co ", "password", "-----BEGIN PRIVATE KEY-----\n" + "A" * 50,
     "a://@", "a:a"],
)  # fmt: skip
def test_a_million_hostile_characters_take_seconds_at_most(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    start = time.process_time()
    find(text)
    assert time.process_time() - start < 5


def test_an_excerpt_never_shows_half_a_number() -> None:
    card = "4111 1111 1111 1111"
    for before in range(580, 660):
        shown = masked_excerpt(
            "api_key=" + "q7Zp2LxV9mKt4RwYb8Ns3GhD6cJfXa5QeT1u" * 6 + " " + "x" * before + card + " y" * 50
        )
        assert "4111" not in shown
        assert len(shown) <= 160
    assert masked_excerpt("short\ntext") == "short text"


def test_the_audit_tells_each_kind_with_masked_examples() -> None:
    check = Personal()
    check.see(
        Batch(
            0,
            ["a", "b"],
            ["train", "test"],
            ["x jo@web.de and al@web.de", "nothing"],
            ["", "jo@web.de"],
            ["", ""],
        )
    )
    check.see(Batch(2, ["c"], ["train"], ["at 93.184.216.34"], ["fine"], [""]))
    mail, address = check.findings()
    assert (mail.count, mail.of, mail.severity, mail.numbers) == (2, 3, "warning", {"e-mail occurrences": 3})
    assert [(e.row, e.split, e.text) for e in mail.examples] == [
        ("a", "train", "x [e-mail] and [e-mail]"),
        ("b", "test", "[e-mail]"),
    ]
    assert mail.suspects == (("a", 0.6), ("b", 0.6))
    assert address.message == "1 of 3 rows contain ip (1 occurrences)"


def test_rows_without_personal_data_give_no_finding() -> None:
    check = Personal()
    check.see(Batch(0, ["a"], ["train"], ["version 1.2.3 of 127.0.0.1"], ["0.5"], [""]))
    assert check.findings() == []


def test_five_examples_at_most() -> None:
    check = Personal()
    check.see(Batch(0, list("abcdefg"), ["train"] * 7, ["jo@web.de"] * 7, [""] * 7, [""] * 7))
    assert [len(finding.examples) for finding in check.findings()] == [5]


@pytest.mark.parametrize("start", range(0, 60, 7))
def test_a_part_shows_no_half_of_a_secret(start: int) -> None:
    text = f"write to somebody.with.a.long.name@company.com or use hf_{'aB3' * 11} today, {'x ' * 40}"
    shown = masked_part(text, start, start + 20)
    assert "somebody" not in shown
    assert "company" not in shown
    assert "aB3" not in shown
    assert masked_part(text, 0, 9) == "write to [e-mail]"[:9]
    assert masked_part(text, 110, 120) == text[110:120]
