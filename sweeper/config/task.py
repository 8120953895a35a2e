"""conf/task: what the model is to learn and how it is judged."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from sweeper.config.metrics import COSTS
from sweeper.config.types import AUTO, STRICT, Finite, Length, NonNegative, Positive


@dataclass(frozen=True)
class ObjectiveConfig:
    """What a sweep optimises and prunes on."""

    __pydantic_config__ = STRICT

    metric: str
    direction: Literal["maximize", "minimize"]

    def better(self, a: float, b: float) -> bool:
        """True if `a` is strictly better than `b`."""
        return a > b if self.direction == "maximize" else a < b


@dataclass(frozen=True)
class ConstraintConfig:
    """A bound that the best trial has to keep: one of `at_least` and `at_most`."""

    __pydantic_config__ = STRICT

    metric: str
    at_least: Finite | None = None
    at_most: Finite | None = None

    def __str__(self) -> str:
        return f"{self.metric} {self.bound}"

    @property
    def bound(self) -> str:
        """As a person writes it, e.g. `≥ 0.6`."""
        return f"≤ {self.at_most:g}" if self.at_least is None else f"≥ {self.at_least:g}"

    def missed_by(self, value: float) -> float:
        """How far `value` lies beyond the bound: zero or less within it, infinite for NaN."""
        if math.isnan(value):
            return math.inf
        if self.at_least is not None:
            return self.at_least - value
        return value - self.at_most if self.at_most is not None else 0.0


@dataclass(frozen=True)
class Goals:
    """What trials are judged by."""

    __pydantic_config__ = STRICT

    objective: ObjectiveConfig
    also: tuple[ObjectiveConfig, ...] = ()
    constraints: tuple[ConstraintConfig, ...] = ()

    @property
    def objectives(self) -> tuple[ObjectiveConfig, ...]:
        return (self.objective, *self.also)

    @property
    def further(self) -> tuple[str, ...]:
        """Metrics and costs that trials are judged by beside the objective, once each."""
        named = [one.metric for one in self.also] + [one.metric for one in self.constraints]
        return tuple(dict.fromkeys(name for name in named if name != self.objective.metric))

    def missed(self, metrics: Mapping[str, float]) -> dict[ConstraintConfig, float]:
        """The constraints that `metrics` don't meet, and by how much each."""
        margins = {one: one.missed_by(metrics.get(one.metric, math.nan)) for one in self.constraints}
        return {one: by for one, by in margins.items() if by > 0}

    def better(self, a: Mapping[str, float], b: Mapping[str, float]) -> bool:
        """True if a trial is better stopped where it has the metrics `a` than where it has `b`.

        A mark that meets all constraints is better than one that doesn't; among others the objective decides.
        """
        fails_a, fails_b = bool(self.missed(a)), bool(self.missed(b))
        if fails_a != fails_b:
            return fails_b
        return self.objective.better(a[self.objective.metric], b[self.objective.metric])


@dataclass(frozen=True)
class GenerationConfig:
    """How answers are generated for evaluation; greedy unless beams are asked for."""

    __pydantic_config__ = STRICT

    max_new_tokens: Length
    """auto: as many as task.max_answer_tokens."""
    num_beams: Positive


@dataclass(frozen=True)
class EvaluationConfig:
    """When and how a trial is evaluated."""

    __pydantic_config__ = STRICT

    marks_per_epoch: Positive
    """Evaluations per pass over the training rows; trials may be pruned at each."""
    batch_size: Positive
    """Rows per forward pass in evaluation; has no influence on the scores."""
    samples: NonNegative
    """Validation rows whose outputs are kept for people to read."""
    slice_rows: Positive
    """Rows that a slice or the rarest class needs to count for metrics such as `worst_slice.rougeL`."""
    metrics: tuple[str, ...]
    """Metrics to measure beside the usual ones and those that the task is judged by: names such as
    `slice_gap.rougeL`, or of metrics that installed packages add."""


@dataclass(frozen=True)
class TaskConfig:
    """What the model is to learn and how it is judged."""

    __pydantic_config__ = STRICT

    kind: Literal["generate", "classify", "chat"]
    prompt: str
    """Text with columns in braces, `sweeper.config.prompt`; "": told by the form of the rows. Not used for
    task.kind=chat."""
    chat_template: bool
    """Have prompt and answer as a user's and an assistant's turn of the tokenizer's chat template."""
    max_input_tokens: Length
    """The input text is cut to this many tokens; the template around it is never cut. auto: what the rows
    need (`sweeper.data.lengths`)."""
    max_answer_tokens: Length
    """Answers are cut to this many tokens in training. For task.kind=chat the whole conversation
    is cut to the sum of both. auto: what the rows need."""
    objective: ObjectiveConfig
    generation: GenerationConfig
    evaluation: EvaluationConfig
    also: tuple[ObjectiveConfig, ...] = ()
    """Further objectives: metrics, or costs of a trial such as `seconds`."""
    constraints: tuple[ConstraintConfig, ...] = ()
    """What the best trial has to meet."""
    system_turn: Literal["keep", "fold"] = "keep"
    """fold: what the system says begins the first user turn, for templates without a system role."""

    @property
    def goals(self) -> Goals:
        return Goals(self.objective, self.also, self.constraints)

    @property
    def named_metrics(self) -> tuple[str, ...]:
        """Every metric that the task names, once, the objective's first; costs are none."""
        judged = [name for name in self.goals.further if name not in COSTS]
        return tuple(dict.fromkeys([self.objective.metric, *judged, *self.evaluation.metrics]))

    @property
    def lengths(self) -> dict[str, int]:
        """All three lengths by name; AUTO for those that are to follow from the rows."""
        return {
            "max_input_tokens": self.max_input_tokens,
            "max_answer_tokens": self.max_answer_tokens,
            "max_new_tokens": self.generation.max_new_tokens,
        }

    def with_lengths(self, found: Mapping[str, int]) -> "TaskConfig":
        """With the lengths that are `found` in the place of those that are to follow from the rows."""
        left = [name for name, given in self.lengths.items() if given == AUTO]
        every = self.lengths | {name: found.get(name, AUTO) for name in left}
        return replace(
            self,
            max_input_tokens=every["max_input_tokens"],
            max_answer_tokens=every["max_answer_tokens"],
            generation=replace(self.generation, max_new_tokens=every["max_new_tokens"]),
        )
