"""What a trial's training has brought since its last report."""

import time
from dataclasses import dataclass, field


@dataclass
class Recent:
    """What was measured since the last report."""

    learning_rate: float | None = None
    nats: float = 0.0
    tokens: int = 0
    rows: int = 0
    seconds: float = 0.0
    since: float = field(default_factory=time.perf_counter)

    @property
    def age(self) -> float:
        return time.perf_counter() - self.since

    def add(self, nats: float, tokens: int, rows: int, seconds: float) -> None:
        self.nats += nats
        self.tokens += tokens
        self.rows += rows
        self.seconds += seconds

    def metrics(self) -> dict[str, float]:
        if not self.rows or self.learning_rate is None:
            return {}
        return {
            "train_loss": self.nats / self.tokens,
            "learning_rate": self.learning_rate,
            "examples_per_second": self.rows / self.seconds,
        }
