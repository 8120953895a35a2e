"""One setting that may vary: its values, its condition, and how Optuna is asked for it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

Scalar = bool | int | float | str

_TOLERANCE = Decimal("1e-8")
"""Of a step; Optuna's own."""


@dataclass(frozen=True)
class Entry:
    """One setting that may vary: a range or choices, and the condition under which it does."""

    name: str
    """Dotted, as Optuna knows it, e.g. `lora.rank`."""
    kind: type
    """bool, int, float or str."""
    choices: tuple[Any, ...] = ()
    """Empty for a range."""
    low: Any = None
    high: Any = None
    """The range includes both ends; equal ends are a fixed value."""
    log: bool = False
    step: Any = None
    """Distance between values; None: 1 for integers, continuous for floats."""
    when: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)
    """Active if each of these settings has one of these values."""

    def is_active(self, values: Mapping[str, Scalar]) -> bool:
        """Whether the entry varies in a trial whose settings have `values`, by dotted name."""
        return all(values[name] in allowed for name, allowed in self.when.items())

    def suggest(self, trial: "BaseTrial") -> Scalar:
        """Ask Optuna for a value."""
        if self.choices:
            return self.exact(trial.suggest_categorical(self.name, self.choices))
        if self.kind is int:
            return trial.suggest_int(self.name, self.low, self.high, step=self.step or 1, log=self.log)
        return self.exact(trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log))

    @property
    def count(self) -> int | None:
        """Number of values; None if there are infinitely many."""
        if self.choices:
            return len(self.choices)
        if self.low == self.high:
            return 1
        if self._step is None:
            return None
        return int((decimal(self.high) - decimal(self.low)) // self._step) + 1

    def nth(self, index: int) -> Scalar:
        """Value number `index` of a finite entry, from 0; 0.15, not 0.15000000000000002."""
        if self.choices:
            return self.choices[index]  # type: ignore[no-any-return]
        return self.kind(decimal(self.low) + index * (self._step or 0))  # type: ignore[no-any-return]

    def at(self, share: float) -> Scalar:
        """The value at `share`, in [0, 1), of the way through the entry; equal shares are equally likely."""
        if self.log and self.kind is int:
            low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
            return int(min(max(round(math.exp(low + share * (high - low))), self.low), self.high))
        if self.count is not None:
            return self.nth(int(share * self.count))
        if self.log:
            return float(min(max(self.low * (self.high / self.low) ** share, self.low), self.high))
        return float(min(self.low + share * (self.high - self.low), self.high))

    def exact(self, value: Any) -> Scalar:
        """`value` as the setting's own type, without the rounding errors that stepping has left in it."""
        if not self.choices and self._step is not None:
            index = (decimal(value) - decimal(self.low)) / self._step
            if abs(index - round(index)) < _TOLERANCE:
                return self.nth(round(index))
        return self.kind(value)  # type: ignore[no-any-return]

    def contains(self, value: Any) -> bool:
        """Whether the entry can take `value`."""
        if self.choices:
            return value in self.choices
        if not self.low <= value <= self.high:
            return False
        return self._step is None or (decimal(value) - decimal(self.low)) % self._step == 0

    @property
    def range(self) -> str:
        """The allowed values, for people."""
        if self.choices:
            return "choices " + ", ".join(str(choice) for choice in self.choices)
        return f"{self.low} .. {self.high}" + (f" in steps of {self.step}" if self.step else "")

    @property
    def _step(self) -> Decimal | None:
        if self.step is not None:
            return decimal(self.step)
        return Decimal(1) if self.kind is int else None


def decimal(value: Any) -> Decimal:
    """A number as it is written, so that steps add up as a person adds them."""
    return Decimal(str(value))
