"""The look at the rows before anything is trained: every check sees every row once, as its source has it.

Only what a person has decided on (`data.review`) is seen as it was decided. Nothing is kept in memory but
what the checks keep; excerpts of the rows wait in a temporary file for the review queue.
"""

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from pydantic import TypeAdapter, ValidationError

import sweeper
from sweeper.advice import of_finding
from sweeper.config import Config, TaskConfig
from sweeper.config.prompt import INPUT, Prompt
from sweeper.config.types import expanded
from sweeper.data import files, sources
from sweeper.data.cells import as_text, content
from sweeper.data.checks.amount import CUT_OFF, LEFT_OUT, cut_off
from sweeper.data.checks.calls import Calls
from sweeper.data.checks.duplicates import Duplicates
from sweeper.data.checks.entities import Entities
from sweeper.data.checks.lengths import Histogram, Lengths
from sweeper.data.checks.registry import checks
from sweeper.data.checks.types import Types
from sweeper.data.files import SPLITS
from sweeper.data.findings import MOST_EXAMPLES, Batch, Check, Finding, Severity
from sweeper.data.manifest import SplitInfo, defining
from sweeper.data.personal import Personal, mask, masked_excerpt
from sweeper.data.queue import MOST_QUEUED, Suspect, suspects
from sweeper.data.review import read_review
from sweeper.data.texts import Form
from sweeper.errors import DataError
from sweeper.failpoints import reach
from sweeper.layout import write_atomically
from sweeper.loading import to_tree

_FORMAT = 3
"""Changes whenever the same rows would be judged differently by the same version."""

_BATCH_ROWS = 1000
_BATCH_CHARACTERS = 4_000_000
"""A batch ends early here: a row may have a million characters."""

_TEXT, _ANSWER = 160, 120
"""Characters shown of a row in the review queue; four times as many are looked through for what to mask."""

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

Progress = Callable[[str, int, int | None], None]
"""Hears what is being done, how much of it is done, and of how much (None: unknown)."""


@dataclass(frozen=True)
class Audit:
    """What is to be known of the rows."""

    key: str
    """Digest of the configuration that it follows from, and of the version that looked."""
    digest: str
    """Of the rows' content and of `key`."""
    stamp: str | None
    """`sources.stamp` of the source; None where it has none."""
    source: str
    """In words."""
    rows: Mapping[str, int]
    """Rows looked at, by split as it was given."""
    findings: tuple[Finding, ...]
    """The most severe first, then the one with most rows."""
    lengths: Mapping[str, Histogram]
    """Characters of `input` and of `answer`."""
    queue: tuple[Suspect, ...]
    """The rows most worth a look, the most suspicious first."""
    decided: int
    """Rows that a person's decisions have met."""
    tokens: Mapping[str, int] = field(default_factory=dict)
    """By split, of the rows that were prepared for the sweep; empty before they are."""

    @property
    def numbers(self) -> dict[str, float]:
        """The audit in numbers, by name: rows, findings of every severity, rows concerned by every check.

        A row may be in several findings of a check: the one with most rows counts, a lower bound.
        """
        counts = Counter(finding.severity for finding in self.findings)
        told: dict[str, float] = {f"{name}s": counts[name] for name in SEVERITIES}
        told |= {f"rows_{split}": count for split, count in self.rows.items()}
        told |= {f"tokens_{split}": count for split, count in self.tokens.items()}
        for finding in self.findings:
            told[finding.check] = max(told.get(finding.check, 0), finding.count)
        return told

    @property
    def totals(self) -> str:
        """E.g. `1 error, 0 warnings, 2 notes`."""
        counts = {name: sum(one.severity == name for one in self.findings) for name in SEVERITIES}
        return ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items())

    def at_least(self, severity: Severity) -> list[Finding]:
        """The findings as severe as this, or more."""
        allowed = SEVERITIES[: SEVERITIES.index(severity) + 1]
        return [finding for finding in self.findings if finding.severity in allowed]


def audit(
    config: Config,
    cache: Path | None = None,
    progress: Progress = lambda what, done, of: None,
    make: Callable[[Config], Sequence[Check]] = checks,
    frozen: bool = False,
) -> Audit:
    """Look at all rows of `config.data`, or take what was found in them before.

    `cache` is an audit.json: taken if it is of the same configuration, version and content, else written
    anew. `frozen`: the rows of the sweep were prepared before; what was found then counts, whatever has
    changed since.

    Raises DataError: a source that can't be read or holds no rows, decisions on rows that don't exist.
    """
    known = read_audit(cache)
    if known is not None and (frozen or is_of(known, config)):
        return known
    key, stamp = _key(config), sources.stamp(config.data)
    source = sources.load(config.data, config.task)
    seen = _Seen(config)
    all_checks, form = list(make(config)), Form.of(config.task)
    lengths, is_chat = Lengths(), config.task.kind == "chat"
    with tempfile.TemporaryFile("w+", encoding="utf-8") as excerpts:
        for batch in seen.batches(source):
            said = replace(batch, inputs=[form.shown(text) for text in batch.inputs])
            lengths.see(said)
            whole = replace(batch, inputs=[form.shown_whole(text) for text in batch.inputs])
            for check in all_checks:
                # Who asked and who answered matters to some alone, and what stands in tool calls to others.
                as_it_is = is_chat and isinstance(check, Duplicates | Calls)
                check.see(batch if as_it_is else whole if isinstance(check, Personal) else said)
            _note(said, excerpts)
            progress("Reading the rows", seen.read, None)
        if not seen.read:
            raise DataError(f"{source.description} holds no rows; give a source that does")
        seen.review.check_met()
        found = [*seen.types.findings()]
        for number, check in enumerate(all_checks):
            progress("Comparing the rows", number, len(all_checks))
            found += check.findings()
        hide = _hider(all_checks)
        queue = tuple(_with_texts(suspects(found, seen.review.kept), excerpts, hide))
    result = Audit(
        key=key,
        digest=hashlib.sha256((key + seen.digest).encode()).hexdigest()[:32],
        stamp=stamp,
        source=source.description,
        rows={split: seen.rows[split] for split in SPLITS if seen.rows[split]},
        findings=tuple(sorted((_bounded(one, hide) for one in found), key=_rank)),
        lengths=lengths.histograms(),
        queue=queue,
        decided=seen.review.counts.total(),
    )
    if cache is not None:
        write_audit(result, cache)
    return result


def is_of(known: Audit, config: Config) -> bool:
    """Whether an audit of these rows now, with these options, would find the same."""
    return known.key == _key(config) and known.stamp is not None and known.stamp == sources.stamp(config.data)


def completed(result: Audit, splits: Mapping[str, SplitInfo], left: Finding | None = None) -> Audit:
    """The audit with what only prepared splits tell: tokens, what was `left` out; nothing told so before."""
    others = [finding for finding in result.findings if finding.check not in (CUT_OFF, LEFT_OUT)]
    found = [*others, *map(_bounded, [*cut_off(splits), *([left] if left else [])])]
    tokens = {split: info.tokens for split, info in splits.items()}
    return replace(result, findings=tuple(sorted(found, key=_rank)), tokens=tokens)


def advised(result: Audit, config: Config) -> Audit:
    """The audit for people: each advice with the ways out that `config` leaves open.

    It is not written down so: what is cleaned, and what trials are judged by, may be changed after an audit.
    """
    told = (replace(one, advice=of_finding(one.advice, one.ways, config), ways=()) for one in result.findings)
    return replace(result, findings=tuple(told))


def read_audit(path: Path | None) -> Audit | None:
    """The audit in a file, None if there is none that can be read."""
    try:
        return None if path is None else TypeAdapter(Audit).validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def write_audit(result: Audit, path: Path) -> None:
    """Write it for programs: the fields of `Audit` as JSON, with its numbers."""
    tree = to_tree(result) | {"numbers": result.numbers}
    write_atomically(path, json.dumps(tree, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    reach("audit.written")


class _Seen:
    """Reads a source batch by batch, and keeps count."""

    def __init__(self, config: Config) -> None:
        self._data = config.data
        self._task = config.task
        self._group = config.data.audit.groups or config.data.slice
        self._hash = hashlib.sha256()
        self.review = read_review(config.data.review)
        self.types = Types(config)
        self.rows: Counter[str] = Counter()
        self.read = 0
        """Rows read, those that a person dropped among them."""

    @property
    def digest(self) -> str:
        """Of all rows' content, in order."""
        return self._hash.hexdigest()

    def batches(self, source: sources.Source) -> Iterator[Batch]:
        """All rows, split by split, once each."""
        rows: list[_Line] = []
        first = characters = 0
        for split in SPLITS:
            if split not in source.parts:
                continue
            for row in source.parts[split].rows():
                self.read += 1
                raw = content(row, self._data, self._task)
                self._hash.update(raw.digest)
                decided = self.review.apply(raw, split)
                if decided is None:
                    continue
                self.rows[split] += 1
                group = as_text(row.get(self._group)) if self._group is not None else ""
                self.types.see(row, decided, split)
                rows.append((raw.digest.hex(), split, decided.text, decided.target, group or ""))
                characters += len(decided.text) + len(decided.target)
                if len(rows) == _BATCH_ROWS or characters > _BATCH_CHARACTERS:
                    yield _batch(first, rows)
                    first, characters, rows = first + len(rows), 0, []
        if rows:
            yield _batch(first, rows)


_Line = tuple[str, str, str, str, str]
"""Id, split, input, target, group."""


def _batch(first: int, rows: Sequence[_Line]) -> Batch:
    ids, splits, inputs, targets, groups = zip(*rows, strict=True)
    return Batch(first, ids, splits, inputs, targets, groups)


def _key(config: Config) -> str:
    data, task = defining(config.data), config.task
    for option in ("sizes", "cleaning", "length", "keep_together", "augment"):
        del data[option]  # what becomes of the rows later
    audit: dict[str, Any] = to_tree(config.data.audit)
    del audit["fail_on"]  # a matter of what follows from an audit
    for model in ("spacy", "toxicity"):
        if audit[model] is not None:
            audit[model] = files.stamp(sorted(expanded(audit[model]).rglob("*")))
    tree = {
        "format": [_FORMAT, sweeper.__version__],
        "seed": config.sweep.seed,
        "data": data,
        "audit": audit,
        "task": [task.kind, task.max_input_tokens, task.max_answer_tokens, *_columns_of(task)],
    }
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:32]


def _columns_of(task: TaskConfig) -> list[list[str]]:
    """The columns that the prompt reads beside that of data.input, which stands in the key."""
    names = () if task.kind == "chat" else Prompt.parse(task.prompt).names
    return [] if names in ((), (INPUT,)) else [list(names)]


def _rank(finding: Finding) -> tuple[int, int]:
    return SEVERITIES.index(finding.severity), -finding.count


def _hider(all_checks: Sequence[Check]) -> Callable[[str], str]:
    """Masks what only one of the checks knows for personal data."""
    entities = next((check for check in all_checks if isinstance(check, Entities)), None)
    return str if entities is None else entities.mask


def _bounded(finding: Finding, hide: Callable[[str], str] = str) -> Finding:
    """Without personal data, without what no JSON can hold, and without more than anybody looks at."""
    numbers = {name: value for name, value in finding.numbers.items() if abs(value) < float("inf")}
    return replace(
        finding,
        message=mask(finding.message),
        examples=tuple(replace(one, text=mask(hide(one.text))) for one in finding.examples[:MOST_EXAMPLES]),
        suspects=finding.suspects[:MOST_QUEUED],
        numbers=numbers,
    )


def _note(batch: Batch, excerpts: IO[str]) -> None:
    for id_, split, text, target in zip(batch.ids, batch.splits, batch.inputs, batch.targets, strict=True):
        row = [id_, split, text[: 4 * _TEXT + 1], target[: 4 * _ANSWER + 1]]
        excerpts.write(f"{json.dumps(row, ensure_ascii=False)}\n")


def _with_texts(queue: Sequence[Suspect], excerpts: IO[str], hide: Callable[[str], str]) -> Iterator[Suspect]:
    """The suspects with what can be read of them; of rows with the same id, the first."""
    wanted = {suspect.id for suspect in queue}
    found: dict[str, list[str]] = {}
    excerpts.seek(0)
    for line in excerpts if wanted else ():
        if line[2:18] in wanted:  # the id, in front of what is costly to parse
            id_, *texts = json.loads(line)
            found.setdefault(id_, texts)
    for suspect in queue:
        if suspect.id in found:
            split, text, answer = found[suspect.id]
            # Masked only now: few rows come this far.
            text, answer = masked_excerpt(hide(text), _TEXT), masked_excerpt(hide(answer), _ANSWER)
            yield replace(suspect, split=split, text=text, answer=answer)
