"""The verdict: are the best settings really better than the default ones, on rows that no trial has seen?"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SideFacts:
    """One setting in a verdict: its runs on the test rows."""

    name: str
    """What a sentence calls it: "trial 5", "the default settings"."""
    scores: tuple[float, ...]
    """A test score per seed."""
    seconds: float
    """Of one run."""
    failed: int = 0


@dataclass(frozen=True, kw_only=True)
class CandidateFacts(SideFacts):
    """A finalist against the default settings; positive gains are better, whatever the direction."""

    trial: int
    """The trial whose settings it has."""
    outcome: str
    """`gain`, `tie`, `worse` or `not enough seeds`."""
    gain: float
    """NaN where a side has no finished run."""
    low: float
    high: float
    """Interval of the gain, corrected for all comparisons; infinite without enough seeds."""
    p: float
    """Corrected for all comparisons."""
    shrinkage: float | None = None
    """Gain on validation rows less gain on test rows."""


@dataclass(frozen=True)
class VerdictFacts:
    """The verdict: the default settings and the finalists, retrained and scored on rows nobody saw."""

    sentence: str
    outcome: str
    """As `CandidateFacts.outcome`, of the verdict as a whole."""
    level: float
    """Of the intervals, all together: 0.95."""
    rows: int
    """Test rows."""
    default: SideFacts
    candidates: tuple[CandidateFacts, ...]
    seeds: tuple[int, ...] = ()
