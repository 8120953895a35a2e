"""conf/task: what the model is to learn and how it is judged."""

from dataclasses import dataclass
from typing import Literal

from sweeper.config.types import STRICT, NonNegative, Positive


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
class GenerationConfig:
    """How answers are generated for evaluation; greedy unless beams are asked for."""

    __pydantic_config__ = STRICT

    max_new_tokens: Positive
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
    """Template around the input; must contain `{input}`. Not used for task.kind=chat."""
    chat_template: bool
    """Wrap the prompt as a user turn of the tokenizer's chat template."""
    max_input_tokens: Positive
    """The input text is cut to this many tokens; the template around it is never cut."""
    max_answer_tokens: Positive
    """Answers are cut to this many tokens in training. For task.kind=chat the whole conversation
    is cut to the sum of both."""
    objective: ObjectiveConfig
    generation: GenerationConfig
    evaluation: EvaluationConfig

    @property
    def named_metrics(self) -> tuple[str, ...]:
        """Every metric that the task names, once, the objective's first."""
        return tuple(dict.fromkeys([self.objective.metric, *self.evaluation.metrics]))
