"""The model card of the best adapter: how it was found, on what, how good it is, and what it is not good for.

Every number comes from the facts of the sweep, and so from its databases. A card that would lack one of its
sections is not written.
"""

import math
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from sweeper.data.findings import excerpt, printable
from sweeper.data.manifest import cleaning, fates
from sweeper.errors import CardError
from sweeper.events import TrialRecord
from sweeper.loading import to_tree
from sweeper.report.effort import effort
from sweeper.report.facts import SweepFacts
from sweeper.report.parts import Line, Part, parts, worst
from sweeper.stored import as_yaml
from sweeper.terminal.tables import number, value

_NORMAL = 1.96
"""Standard errors to both sides of a 95 % interval."""
_MOST_LINES = 12
"""Of a way to tell rows apart: those with most rows."""

_LICENCES = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": "apache-2.0",
    "google/flan-t5-small": "apache-2.0",
    "Qwen/Qwen3-0.6B": "apache-2.0",
    "meta-llama/Llama-3.2-1B": "llama3.2",
}
"""Of the base models under conf/model, by name; as the hub calls them."""
_TASKS = {
    "causal": "text-generation",
    "seq2seq": "text2text-generation",
    "classifier": "text-classification",
}
"""The hub's names, by architecture."""


def card(facts: SweepFacts) -> str:
    """The card of the sweep's best trial: Markdown with metadata for the hub.

    Raises CardError if no trial has finished, or something that belongs on the card is not known.
    """
    best = facts.best
    if best is None:
        raise CardError(
            f"{facts.name} has no finished trial that meets its constraints, so there is nothing to write a "
            "card of; more trials (budget.trials) may find one"
        )
    _refuse_gaps(facts, best)
    environment = Environment(  # noqa: S701 - Markdown; `_shown` escapes it
        undefined=StrictUndefined, finalize=_shown, trim_blocks=True, lstrip_blocks=True
    )
    template = (resources.files("sweeper.report") / "templates" / "card.md.jinja").read_text("utf-8")
    body = environment.from_string(template).render(**_told(facts, best))
    # Jinja's blocks leave blank lines behind.
    text = re.sub(r"\n{3,}", "\n\n", body)
    return str(ModelCard(f"---\n{_metadata(facts, best).to_yaml()}\n---\n\n{text.strip()}\n"))


def _refuse_gaps(facts: SweepFacts, best: TrialRecord) -> None:
    known = {
        "data (rows/ is damaged or missing)": facts.rows,
        "the audit's findings (audit.json is damaged or missing)": facts.audit,
        "results (the trial has no metrics)": best.metrics,
        "device hours (no trial has noted any)": effort(facts.base, facts.trials, facts.verdict).total,
        "how to reproduce it (started.json is damaged or missing)": facts.noted,
    }
    missing = "; ".join(section for section, there in known.items() if not there)
    if missing:
        raise CardError(
            f"the model card of {facts.name} would lack: {missing}. The sweep's own command writes anew what "
            "is missing, but for frozen rows"
        )


def _told(facts: SweepFacts, best: TrialRecord) -> dict[str, Any]:
    """What the template puts in."""
    rows, maximize = facts.rows, facts.objective.direction == "maximize"
    found = [part for part in parts(facts) if part.lines]
    weakest = [(part, worst(part, maximize)) for part in found if len(part.lines) > 1]
    names = sorted(best.metrics, key=lambda name: (name != facts.metric, name))
    sides: dict[str, TrialRecord | None] = {"base model": facts.base}
    if facts.default is not None:
        sides["default settings"] = facts.default
    sides[f"trial {best.number}"] = best
    revision = facts.pins.get("revision")
    return {
        "facts": facts,
        "best": best,
        "is_lora": best.settings.method == "lora",
        "base": f"{facts.setting('model.name')}" + (f" ({revision})" if revision else ""),
        "chat": facts.setting("task.chat_template") or facts.setting("task.kind") == "chat",
        "prompt": _fenced(as_yaml({"task": {"prompt": facts.setting("task.prompt")}}), "yaml"),
        "settings": _fenced(as_yaml({"trial": to_tree(best.settings)}), "yaml"),
        "command": _fenced(facts.provenance.command, "sh"),
        "counts": ", ".join(f"{count} {state}" for state, count in facts.counts.items()),
        "space": [(one.name, one.range, value(best.params.get(one.name))) for one in facts.space],
        "splits": [
            (name, split.rows, split.cut_inputs, split.cut_answers, split.digest)
            for name, split in (rows.splits.items() if rows else ())
        ],
        "cleaning": cleaning(rows) if rows else "",
        "fates": ". ".join(fates(rows)) if rows else "",
        "gains": list(_gains(facts)),
        "metrics": [
            (name, *(_score(side, name) for side in sides.values()), _interval(best, name)) for name in names
        ],
        "normal": _NORMAL,
        "sides": list(sides),
        "parts": [(part, _lines(part, facts.default is not None)) for part in found],
        "weakest": [(part, line) for part, line in weakest if line is not None],
        "effort": effort(facts.base, facts.trials, facts.verdict),
        "licence": _LICENCES.get(str(facts.setting("model.name"))),
        "number": number,
        "table": _table,
    }


def _metadata(facts: SweepFacts, best: TrialRecord) -> ModelCardData:
    name, is_lora = str(facts.setting("model.name")), best.settings.method == "lora"
    task = _TASKS.get(facts.rows.architecture if facts.rows else "", "text-generation")
    return ModelCardData(
        base_model=name if re.fullmatch(r"[\w.-]+/[\w.-]+", name) else None,  # the hub knows its own alone
        library_name="peft" if is_lora else "transformers",
        license=_LICENCES.get(name, "unknown"),
        pipeline_tag=task,
        tags=["sweeper", "hyperparameter-search", *(["lora"] if is_lora else [])],
        model_name=facts.name,
        eval_results=list(_eval_results(facts, best, task)),
    )


def _eval_results(facts: SweepFacts, best: TrialRecord, task: str) -> Iterator[EvalResult]:
    """Every metric on the validation rows; the objective on the test rows too, where the verdict has it."""

    def result(split: str, metric: str, score: float) -> EvalResult:
        return EvalResult(
            task_type=task,
            dataset_type="sweeper",
            dataset_name=printable(excerpt(facts.rows.source if facts.rows else "", 100)),
            dataset_split=split,
            dataset_revision=facts.rows.digest if facts.rows else None,
            metric_type=metric,
            metric_value=round(score, 6),
        )

    for name, score in best.metrics.items():
        if math.isfinite(score):
            yield result("validation", name, score)
    for one in facts.verdict.candidates if facts.verdict else ():
        if one.trial == best.number and one.scores:
            yield result("test", facts.metric, sum(one.scores) / len(one.scores))


def _gains(facts: SweepFacts) -> Iterator[tuple[str, ...]]:
    for one in facts.verdict.candidates if facts.verdict else ():
        interval = f"{one.low:+.4f} to {one.high:+.4f}"
        optimism = "" if one.optimism is None else f"{one.optimism:+.4f}"
        yield one.name, f"{one.gain:+.4f}", interval, f"{one.p:.3g}", one.outcome, optimism


def _lines(part: Part, has_default: bool) -> list[tuple[str, ...]]:
    def score(pair: tuple[float, float | None] | None) -> str:
        return number(*pair) if pair else ""

    def line(one: Line) -> tuple[str, ...]:
        default = [score(one.default)] if has_default else []
        return one.value, f"{one.rows:,}", score(one.base), *default, score(one.best)

    return [line(one) for one in part.lines[:_MOST_LINES]]


def _score(record: TrialRecord | None, metric: str) -> str:
    if record is None or metric not in record.metrics:
        return ""
    return number(record.metrics[metric], record.errors.get(metric))


def _interval(record: TrialRecord, metric: str) -> str:
    error = record.errors.get(metric)
    if error is None:
        return ""
    middle = record.metrics[metric]
    return f"{middle - _NORMAL * error:.3f} to {middle + _NORMAL * error:.3f}"


def _shown(thing: Any) -> Any:
    """What a row or a configuration holds, on one line, with nothing in it read as Markdown or HTML."""
    if isinstance(thing, Markup) or not isinstance(thing, str):
        return thing
    line = printable(re.sub(r"\s+", " ", thing))
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", line)


def _table(heads: Sequence[str], lines: Sequence[Sequence[Any]]) -> Markup:
    rows = [
        [_shown(head) for head in heads],
        ["---"] * len(heads),
        *([_shown(cell) for cell in line] for line in lines),
    ]
    return Markup("\n".join(f"| {' | '.join(map(str, row))} |" for row in rows))  # noqa: S704 - Markdown


def _fenced(text: str, language: str) -> Markup:
    """A block of code, in a fence longer than any in `text`."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return Markup(f"{fence}{language}\n{printable(text.rstrip())}\n{fence}")  # noqa: S704 - Markdown
