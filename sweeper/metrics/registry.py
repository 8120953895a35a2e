"""Which metrics there are: by task kind, and those that other packages add."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sweeper.config import METRICS, TaskConfig
from sweeper.config.metrics import CHAT_ANSWERS, MetricName, added_metric
from sweeper.errors import TrialError
from sweeper.metrics.answers import Answers, Texts
from sweeper.metrics.classification import measure as of_classes
from sweeper.metrics.generation import measure as of_texts
from sweeper.metrics.generation import measure_calls as of_calls
from sweeper.metrics.language import measure as of_losses
from sweeper.metrics.measured import Measured

_FAMILIES: Mapping[str, tuple[Callable[[Any], Mapping[str, Measured]], ...]] = {
    "generate": (of_texts, of_losses),
    "chat": (of_losses,),
    "classify": (of_classes, of_losses),
}
"""What measures the metrics of each task kind, several at once, for they share most of the work."""


def measure(task: TaskConfig, answers: Answers) -> dict[str, Measured]:
    """The usual metrics of `task.kind`, in the order of METRICS, those of a chat's answers where it has some,
    then the added ones that the task names.

    Raises TrialError if an added one fails.
    """
    families, names = _FAMILIES[task.kind], METRICS[task.kind]
    if task.kind == "chat" and isinstance(answers, Texts):
        families, names = (*families, of_texts, of_calls), (*names, *CHAT_ANSWERS)
    found = {name: one for family in families for name, one in family(answers).items()}
    measured = {name: found[name] for name in names}
    for parsed in map(MetricName.parse, task.named_metrics):
        if parsed.how != "rarest" and parsed.metric not in measured:
            measured[parsed.metric] = _added(parsed.metric, answers)
    return measured


def _added(name: str, answers: Answers) -> Measured:
    try:
        measured: Measured = added_metric(name).measure(answers)
        rows = np.arange(len(answers.loss_sums))
        float(measured.value(rows)), float(measured.error(rows))
    except Exception as error:
        raise TrialError(
            f"the metric `{name}` of another package failed ({type(error).__name__}: {error}); mend that "
            "package, or name another metric"
        ) from error
    return measured
