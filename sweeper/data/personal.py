"""Personal data and secrets in texts: where they stand, the text without them, and what an audit says."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sweeper.data.findings import MOST_EXAMPLES, Batch, Example, Finding, excerpt
from sweeper.data.personal_kinds import addresses, cards, emails, ibans, phones
from sweeper.data.secret_kinds import Found, secrets

SUSPICION = {
    "private key": 1.0, "aws key": 1.0, "github token": 1.0, "hugging face token": 1.0, "openai key": 1.0,
    "slack token": 1.0, "jwt": 0.9, "api key": 1.0, "secret": 0.8, "iban": 0.9, "card": 0.9, "e-mail": 0.6,
    "phone": 0.5, "ip": 0.4,
}  # fmt: skip
"""Every kind, and how much a row with it deserves a look."""

_NOT_SECRET = ("iban", "card", "e-mail", "phone", "ip")
_MOST_SUSPECTS = 1000
"""Per kind; nobody looks through more."""
_CUT_OFF = 64
"""So much of a text's end is not shown where the text was cut: half a number isn't recognised."""


@dataclass(frozen=True)
class Span:
    """Personal data between two places of a text, end excluded."""

    start: int
    end: int
    kind: str
    """A key of SUSPICION."""


def find(text: str) -> list[Span]:
    """Personal data and secrets in `text`, in order, without overlaps. Takes time linear in the text."""
    spans: list[Span] = []
    taken: bytearray | None = None
    for start, end, kind in _candidates(text):
        if taken is None:
            taken = bytearray(len(text))
        if taken.find(1, start, end) < 0:
            taken[start:end] = b"\x01" * (end - start)
            spans.append(Span(start, end, kind))
    return sorted(spans, key=lambda span: span.start)


def mask(text: str) -> str:
    """`text` with its kind in brackets in the place of each finding, e.g. `write to [e-mail]`."""
    parts, done = [], 0
    for span in find(text):
        parts += [text[done : span.start], f"[{span.kind}]"]
        done = span.end
    return "".join(parts) + text[done:] if parts else text


def masked_part(text: str, start: int, end: int) -> str:
    """`text[start:end]` with personal data masked, also what only begins or ends there."""
    start, end = max(0, start), min(len(text), end)
    first = max(0, start - _CUT_OFF)
    parts, done = [], start
    for span in find(text[first : end + _CUT_OFF]):
        begins, ends = span.start + first, span.end + first
        if ends > start and begins < end:
            parts += [text[done : max(begins, done)], f"[{span.kind}]"]
            done = ends
    return "".join(parts) + text[done:end]


def masked_excerpt(text: str, length: int = 160) -> str:
    """The beginning of `text` on one line, personal data masked, `length` characters at most."""
    window = text[: 4 * length]
    shown = mask(window)
    if len(window) < len(text):
        shown = f"{shown[: max(0, len(shown) - _CUT_OFF)]}…"
    return excerpt(shown, length)


class Personal:
    """Counts the rows with personal data in input or answer."""

    def __init__(self) -> None:
        self._rows = 0
        self._concerned: Counter[str] = Counter()
        self._occurrences: Counter[str] = Counter()
        self._examples: dict[str, list[Example]] = {}
        self._suspects: dict[str, list[str]] = {}

    def see(self, batch: Batch) -> None:
        """Take notice of a batch."""
        self._rows += len(batch.ids)
        for row, split, *texts in zip(batch.ids, batch.splits, batch.inputs, batch.targets, strict=True):
            found = [find(text) for text in texts]
            kinds = Counter(span.kind for spans in found for span in spans)
            self._occurrences += kinds
            for kind in kinds:
                self._concerned[kind] += 1
                if self._concerned[kind] <= _MOST_SUSPECTS:
                    self._suspects.setdefault(kind, []).append(row)
                if self._concerned[kind] <= MOST_EXAMPLES:
                    text = next(
                        text
                        for text, spans in zip(texts, found, strict=True)
                        if any(span.kind == kind for span in spans)
                    )
                    self._examples.setdefault(kind, []).append(Example(row, split, _around(text, kind)))

    def findings(self) -> Sequence[Finding]:
        """One for every kind that occurs."""
        return [self._finding(kind) for kind in SUSPICION if self._concerned[kind]]

    def _finding(self, kind: str) -> Finding:
        rows, occurrences = self._concerned[kind], self._occurrences[kind]
        if kind in _NOT_SECRET:
            advice = "Mask it before training, or make sure that you may train on it."
        else:
            advice = (
                "Revoke it where it was given out, and mask it: a model may repeat what it was trained on."
            )
        return Finding(
            check="personal",
            severity="warning",
            message=f"{rows} of {self._rows} rows contain {kind} ({occurrences} occurrences)",
            advice=advice,
            count=rows,
            of=self._rows,
            examples=tuple(self._examples[kind]),
            suspects=tuple((row, SUSPICION[kind]) for row in self._suspects[kind]),
            numbers={f"{kind} occurrences": occurrences},
            ways=("personal",),
        )


def _candidates(text: str) -> Iterator[Found]:
    """What may be personal data; where two overlap, the first counts."""
    yield from secrets(text)
    for kind, finder in (
        ("e-mail", emails), ("iban", ibans), ("card", cards), ("ip", addresses), ("phone", phones),
    ):  # fmt: skip
        for start, end in finder(text):
            yield start, end, kind


def _around(text: str, kind: str) -> str:
    """The masked text from shortly before the first mask of this kind on."""
    masked = mask(text)
    start = max(0, masked.index(f"[{kind}]") - 60)
    return excerpt(("…" if start else "") + masked[start : start + 400])
