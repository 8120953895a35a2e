"""Checks of amount: are there rows enough, and how much of them does the model see?"""

from collections import Counter
from collections.abc import Mapping, Sequence

from sweeper.data.checks.quality import Kind
from sweeper.data.findings import Batch, Finding, Severity
from sweeper.data.manifest import Manifest, SplitInfo, fates

ENOUGH: Mapping[Kind, int] = {"classify": 2000, "generate": 5000, "chat": 5000}
"""Training rows from which on a fine-tune usually is worth its time: several thousand, more where text is
to be written than where it is to be sorted. A rule of thumb, hence a warning and no error."""

_TOO_FEW = 50
"""Fewer training rows tell settings apart by chance only."""

_MEASURABLE = 100
"""Rows of validation or test: with fewer, a share of one half has an interval of over +-10 points."""

_MANY_CUT = 0.05

CUT_OFF = "cut off"
"""The check's name."""


class Amount:
    """Rows per split against the rule of thumb for the task."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._rows: Counter[str] = Counter()

    def see(self, batch: Batch) -> None:
        self._rows.update(batch.splits)

    def findings(self) -> Sequence[Finding]:
        """Too few rows for the task, and splits too small to measure anything by."""
        of = self._rows.total()
        numbers = {f"{split} rows": float(count) for split, count in self._rows.items()}
        train, enough = self._rows["train"], ENOUGH[self._kind]
        if not of:
            return (Finding("amount", "error", "There are no rows.", "Give a source that has some.", 0, 0),)
        found = []
        if train < enough:
            few = train < _TOO_FEW
            said = f"{train:,} training rows; for task.kind={self._kind} several thousand are usual"
            advice = (
                f"Collect more rows (rule of thumb: {enough:,}); with few rows prefer small ranks and short "
                "training, and mind the standard errors."
            )
            severity: Severity = "error" if few else "warning"
            found.append(
                Finding("amount", severity, said, advice, train, of, numbers=numbers, ways=("augment",))
            )
        for split in ("validation", "test"):
            if 0 < self._rows[split] < _MEASURABLE:
                said = f"{self._rows[split]} rows in {split}: a measured share is uncertain by over 10 points"
                advice = f"Give {split} {_MEASURABLE} rows or more."
                found.append(
                    Finding("amount", "warning", said, advice, self._rows[split], of, numbers=numbers)
                )
        return found


LEFT_OUT = "left out"
"""The check's name."""


def left_out(manifest: Manifest) -> Finding | None:
    """What became of the rows that were read; None where all could be used."""
    told, count = fates(manifest), sum(manifest.left_out.values())
    if not count:
        return None
    advice = "See whether these are rows that you want to be trained on; docs/data.md says how each is kept."
    numbers = {reason: float(count) for reason, count in manifest.left_out.items()}
    return Finding(LEFT_OUT, "note", ". ".join(told), advice, count, manifest.harvested, numbers=numbers)


def cut_off(splits: Mapping[str, SplitInfo]) -> Sequence[Finding]:
    """Rows and answers that are cut at the length limits of the task, per split."""
    found = []
    for split, info in splits.items():
        for what, count, option in (
            ("inputs", info.cut_inputs, "task.max_input_tokens"),
            ("answers", info.cut_answers, "task.max_answer_tokens"),
        ):
            if not count:
                continue
            share = count / info.rows
            said = f"{count:,} of {info.rows:,} {what} in {split} are cut off at the limit ({share:.1%})"
            if what == "answers":
                said += f"; the median answer has {info.answer_tokens} tokens"
            advice = f"Raise {option}, shorten the rows, or drop the longest."
            numbers = {"longest row in tokens": float(info.longest)}
            severity: Severity = "warning" if share >= _MANY_CUT else "note"
            found.append(
                Finding(CUT_OFF, severity, said, advice, count, info.rows, numbers=numbers, ways=("length",))
            )
    return found
