"""The note of what MLflow has: a finished sweep need not ask it, nor a resumed one send everything again."""

import json
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sweeper.credentials import masked
from sweeper.events import TrialRecord
from sweeper.layout import Layout, write_atomically


@dataclass
class Sent:
    """What MLflow is known to have, kept in tracked.json in the sweep's folder.

    `identity` ties the folder to its runs: another sweep of the same name, on another machine or after
    a deletion, gets runs of its own.
    """

    identity: str
    uri: str
    """Password masked; what was sent elsewhere doesn't count."""
    closed: bool = False
    begun: int = 0
    """No trial from this number on has a run."""
    trials: dict[str, str] = field(default_factory=dict)
    """Final state by trial number."""

    @staticmethod
    def path(layout: Layout) -> Path:
        return layout.folder / "tracked.json"

    @classmethod
    def read(cls, layout: Layout, uri: str) -> "Sent":
        """What is known of the runs of a sweep, or of a verdict, whose runs are the sweep's."""
        try:
            sent = cls(**json.loads(cls.path(layout).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            is_verdict = layout != layout.sweep
            identity = cls.read(layout.sweep, uri).identity if is_verdict else uuid.uuid4().hex
            return cls(identity, masked(uri))
        return sent if sent.uri == masked(uri) else cls(sent.identity, masked(uri))

    def write(self, layout: Layout) -> None:
        write_atomically(self.path(layout), json.dumps(asdict(self)))

    def has(self, trial: TrialRecord) -> bool:
        return trial.state.is_over and self.trials.get(str(trial.number)) == trial.state.value
