"""What a sweep sees in itself: one sentence for each thing a person would want to be told, and what helps.

Terminal and report tell the same, from what is stored: the trials in the study, the journal of their losses,
the command that began the sweep. Every threshold is a constant here, with its reason.
"""

import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, median, stdev
from typing import Any

from sweeper import provenance, space
from sweeper.config import Goals, TrialSettings
from sweeper.data.findings import excerpt
from sweeper.entry import Entry
from sweeper.events import Measurement, Scalar, TrialRecord
from sweeper.journal import measurements
from sweeper.layout import Layout
from sweeper.messages import BASE, TrialState
from sweeper.study.objectives import best_of, is_eligible
from sweeper.study.study import Study

MOSTLY = 0.5
"""Answers are mostly empty, or mostly without an end, from this share of the rows on."""

MUCH_WORSE = 0.1
"""A trial whose validation loss is above the base model's by more than this share of it, and by more than
three standard errors, has diverged: training of any use makes it smaller."""

LEAST_DIVERGED = 2
"""One trial that diverged is told where it failed; several are a part of the space."""

LEAST_ALIKE = 3
"""Different settings that have to be alike before all are said to be."""

MOVED = 0.02
"""A trial has learned something if its validation loss is away from the base model's by this share of it. A
learning rate that does nothing leaves it within a thousandth."""

LEAST_POINTS = 6
"""Training losses in the second half of a trial that a line can be laid through."""

STILL_FALLING = 0.05
"""The training loss is still falling if a line through the second half of the trial falls by this share of
its mean, and by `SURE` standard errors: a well decayed trial is flat there, but for its scatter."""

SURE = 4.0
"""Standard errors; of six points a slope by chance is as steep in less than one of a hundred trials."""

OUTER = 0.25
"""The best trials lean on an edge of a continuous range if all of them lie in this outer part of it."""

BY_CHANCE = 0.05
"""As many of the best are looked at as it takes for all to lie at the same edge by chance this seldom."""

NORMAL = 1.96
"""Standard errors of a 95 % interval."""

MOST_ROWS_TIMES = 100
"""A difference that needs more than this many times the validation rows is none in practice."""


@dataclass(frozen=True)
class Observation:
    """One thing that is so, and what can be done about it."""

    kind: str
    sentence: str
    advice: str = ""
    command: str = ""
    """For a shell: the sweep's own command, changed as advised, under another name; or empty."""

    @property
    def text(self) -> str:
        """Sentence and advice."""
        return f"{self.sentence} {self.advice}".strip()


@dataclass(frozen=True)
class Losses:
    """The losses of one trial."""

    training: tuple[tuple[int, float], ...] = ()
    """Examples seen and the mean since the point before, ascending."""
    validation: tuple[tuple[int, float], ...] = ()
    """Marks and the loss there, ascending."""

    @classmethod
    def of(cls, points: Iterable[Measurement]) -> "Losses":
        """From the points of a trial's journal; an example trained twice counts as it was the last time."""
        training: dict[int, float] = {}
        validation: dict[int, float] = {}
        for point in points:
            if "train_loss" in point.metrics and point.mark is None:
                training[point.examples] = point.metrics["train_loss"]
            if point.mark is not None and "validation_loss" in point.metrics:
                validation[point.mark] = point.metrics["validation_loss"]
        return cls(tuple(sorted(training.items())), tuple(sorted(validation.items())))

    @property
    def is_falling(self) -> bool:
        """Whether both losses were still falling at the end of the trial."""
        marks = [loss for _, loss in self.validation]
        if not self.training or not marks or marks[-1] > min(marks):
            return False
        half = self.training[-1][0] / 2
        points = [(x, y) for x, y in self.training if x > half]
        if len(points) < LEAST_POINTS or not all(math.isfinite(y) for _, y in points):
            return False
        slope, error = _line(points)
        fall = -slope * (points[-1][0] - points[0][0])
        return fall >= STILL_FALLING * fmean(y for _, y in points) and -slope >= SURE * error


@dataclass(frozen=True)
class Seen:
    """What is stored of a sweep, as far as anything follows from it."""

    goals: Goals
    records: Sequence[TrialRecord]
    """The base model included."""
    space: Sequence[Entry] = ()
    trial: TrialSettings | None = None
    """What every trial starts from."""
    losses: Mapping[int, Losses] | None = None
    command: str = ""
    """That began the sweep; "" where it is not known."""
    free_name: str = ""
    """For a sweep to come."""
    max_new_tokens: int | None = None

    @cached_property
    def base(self) -> TrialRecord | None:
        return next((one for one in self.records if one.number == BASE), None)

    @cached_property
    def trials(self) -> list[TrialRecord]:
        return [one for one in self.records if one.number != BASE and one.state.is_over]

    @cached_property
    def eligible(self) -> list[TrialRecord]:
        """Finished trials that could be best, the best first."""
        sign = -1 if self.goals.objective.direction == "maximize" else 1
        able = [one for one in self.trials if is_eligible(one, self.goals)]
        return sorted(able, key=lambda one: sign * (one.objective or 0.0))

    @cached_property
    def settings(self) -> list[TrialRecord]:
        """The first trial of every settings among `eligible`, in its order."""
        found: dict[TrialSettings, TrialRecord] = {}
        for one in self.eligible:
            found.setdefault(one.settings, one)
        return list(found.values())

    def again(self, changes: Mapping[str, str]) -> str:
        """The sweep's command with these overrides under another name; "" where that is not known."""
        words = shlex.split(self.command) if self.command else []
        if words[:3] != ["python", "-m", "sweeper"] or not self.free_name or not any("=" in w for w in words):
            return ""
        changes = {"sweep.name": self.free_name, **changes}
        kept = [word for word in words if word.partition("=")[0].lstrip("+") not in changes]
        return shlex.join([*kept, *(f"{name}={value}" for name, value in changes.items())])


def read(study: Study, layout: Layout, max_new_tokens: int | None = None) -> Seen:
    """What is stored of a sweep."""
    records = study.records()
    numbers = [one.number for one in records if one.number != BASE]
    noted = provenance.read(layout)
    return Seen(
        goals=study.goals,
        records=records,
        space=study.space.entries,
        trial=study.space.trial,
        losses={number: Losses.of(measurements(layout.metrics(number))) for number in numbers},
        command=noted.command if noted is not None else "",
        free_name=_free_name(layout),
        max_new_tokens=max_new_tokens,
    )


def of_trial(trial: TrialRecord, losses: Losses) -> list[Observation]:
    """What is to be said of one trial by itself when it has ended."""
    found = []
    if label := one_class(trial):
        rows = sum(map(sum, trial.confusion.counts)) if trial.confusion else 0
        found.append(
            Observation("one class", f"It predicts `{_short(label)}` for all {rows:,} validation rows.")
        )
    for kind, metric, what in _ANSWERS:
        share = trial.metrics.get(metric, 0.0)
        if share >= MOSTLY:
            found.append(Observation(kind, f"{share:.0%} of its answers {what}."))
    if trial.state is TrialState.FINISHED and losses.is_falling:
        found.append(Observation("still falling", "Its loss was still falling at its end."))
    return found


def observations(seen: Seen) -> list[Observation]:
    """All that is to be said of a sweep, the most important first."""
    first = [_one_class(seen), _diverging(seen), *_answers(seen)]
    says_one_class = first[0] is not None
    alike = None if says_one_class else _alike(seen)
    rest = [alike, _falling(seen), None if alike or says_one_class else _edges(seen), _rows(seen)]
    return [one for one in (*first, *rest, _repeats(seen)) if one is not None]


# One for each kind


def one_class(trial: TrialRecord) -> str:
    """The class that a trial predicts for all rows although they have several; else ""."""
    if trial.confusion is None:
        return ""
    taken = [sum(column) for column in zip(*trial.confusion.counts, strict=True)]
    there = sum(any(row) for row in trial.confusion.counts)
    used = [label for label, count in zip(trial.confusion.labels, taken, strict=True) if count]
    return used[0] if len(used) == 1 and there > 1 else ""


def _one_class(seen: Seen) -> Observation | None:
    judged = [one for one in seen.trials if one.confusion is not None]
    found = {one.number: label for one in judged if (label := one_class(one))}
    if not found:
        return None
    which = ", ".join(f"`{_short(label)}`" for label in sorted(set(found.values()))[:3])
    verb = "predicts" if len(found) == 1 else "predict"
    return Observation(
        "one class",
        f"{_share(len(found), len(judged))} {verb} one class for all rows ({which}): the score says how "
        "frequent it is, nothing else.",
        "Other learning rates (space.learning_rate), more epochs or more rows of the other classes may help.",
    )


def has_diverged(trial: TrialRecord, base: TrialRecord | None) -> bool:
    """Whether a trial's loss was not finite, or came out much worse than the base model's."""
    if trial.diverged or base is None:
        return trial.diverged
    loss, before = trial.metrics.get("loss", math.nan), base.metrics.get("loss", math.nan)
    error = base.errors.get("loss", 0.0)
    return loss - before > max(MUCH_WORSE * before, 3 * error)


def _diverging(seen: Seen) -> Observation | None:
    diverged = [one for one in seen.trials if has_diverged(one, seen.base)]
    if len(diverged) < LEAST_DIVERGED:
        return None
    numbers = {one.number for one in diverged}
    rates = [one.settings.learning_rate for one in diverged]
    sane = [one.settings.learning_rate for one in seen.trials if one.number not in numbers]
    least, changes = min(rates), {}
    where = f"with learning rates from {least:.2g} to {max(rates):.2g}"
    clips = any(one.settings.max_grad_norm for one in diverged)
    advice = f"A longer warm-up or {'a lower max_grad_norm' if clips else 'max_grad_norm=1'} may help."
    if not sane or max(sane) < least:
        where = f"with learning rates from {least:.2g} on" + (", none below" if sane else "")
        changes = _lowered(seen, max(sane, default=least / 10))
        advice = f"Lower the learning rate: {_written(changes)}." if changes else advice
    return Observation(
        "diverging",
        f"{_share(len(diverged), len(seen.trials))} diverged (the loss not finite, or much worse than "
        f"the base model's), {where}.",
        advice,
        seen.again(changes) if changes else "",
    )


def _lowered(seen: Seen, high: float) -> dict[str, str]:
    """Overrides that have no learning rate above `high`, to two digits."""
    name, entry, default = "learning_rate", _entry(seen, "learning_rate"), f"{high:.2g}"
    is_above = seen.trial is None or seen.trial.learning_rate > float(default)
    start = {f"trial.{name}": default} if is_above else {}
    if entry is None:
        return start
    if entry.choices:
        kept = [choice for choice in sorted(entry.choices) if choice <= high] or [float(default)]
        return {f"space.{name}.choices": f"[{','.join(map(_value, kept))}]"} | (
            {f"trial.{name}": _value(kept[-1])} if start else {}
        )
    low = {} if entry.low < float(default) else {f"space.{name}.low": f"{high / 10:.2g}"}
    return {**low, f"space.{name}.high": default, **start}


_ANSWERS = (
    ("empty answers", "empty_answers", "are empty"),
    ("unfinished answers", "unfinished_answers", "were cut off at task.generation.max_new_tokens"),
)


def _answers(seen: Seen) -> Iterator[Observation]:
    for kind, metric, what in _ANSWERS:
        judged = [one for one in seen.trials if metric in one.metrics]
        found = [one.metrics[metric] for one in judged if one.metrics[metric] >= MOSTLY]
        if not found:
            continue
        most = " to ".join(dict.fromkeys(f"{share:.0%}" for share in (min(found), max(found))))
        advice = "Look at the sample outputs, and at whether the prompt is one that the model knows."
        if metric == "unfinished_answers":
            limit = f" (now {seen.max_new_tokens})" if seen.max_new_tokens else ""
            advice = (
                f"Raise task.generation.max_new_tokens{limit} where answers are longer; a model that has not "
                "learned to end needs longer trials."
            )
        yield Observation(kind, f"In {_share(len(found), len(judged))} {most} of the answers {what}.", advice)


def _alike(seen: Seen) -> Observation | None:
    known = [one for one in seen.settings if one.error]
    ended = [one for one in seen.trials if one.state is TrialState.PRUNED]
    values = [one.objective for one in (*known, *ended) if one.objective is not None]
    if len(known) < LEAST_ALIKE or len(known) < len(seen.settings):
        return None
    spread, error = max(values) - min(values), median(one.error or 0.0 for one in known)
    if spread > error:
        return None
    name = seen.goals.objective.metric
    sentence = (
        f"All {len(known)} settings are alike: {name} differs by {spread:.3f} at most, less than its "
        f"standard error ({error:.3f}), "
    )
    before = seen.base.metrics.get("loss", math.nan) if seen.base is not None else math.nan
    losses = [one.metrics["loss"] for one in known if "loss" in one.metrics]
    if math.isnan(before) or not losses:
        return Observation("alike", f"{sentence[:-2]}.", "Widen the ranges, or vary other settings.")
    furthest = max(losses, key=lambda loss: abs(loss - before))
    if abs(furthest - before) < MOVED * abs(before):
        entry = _entry(seen, "learning_rate")
        changes = _widened(seen, entry, is_high=True) if entry is not None else {}
        return Observation(
            "alike",
            f"{sentence}and no validation loss has moved from the base model's ({before:.3f}): nothing is "
            "learned.",
            "Higher learning rates or longer trials may help.",
            seen.again(changes) if changes else "",
        )
    return Observation(
        "alike",
        f"{sentence}though they have learned (validation loss {before:.3f} before, {furthest:.3f} after): "
        "what varies makes no difference in these ranges.",
        "Widen the ranges, vary other settings, or keep the cheapest.",
    )


def _falling(seen: Seen) -> Observation | None:
    if seen.losses is None or not seen.eligible:
        return None
    finished = [one for one in seen.trials if one.state is TrialState.FINISHED]
    falling = [one.number for one in finished if seen.losses.get(one.number, Losses()).is_falling]
    best = best_of(seen.records, seen.goals)
    if best is None or best.number not in falling:
        return None
    epochs, entry = best.settings.epochs, _entry(seen, "epochs")
    changes = {"trial.epochs": str(2 * epochs)}
    if entry is not None:
        if not entry.choices and epochs < entry.high:
            return None  # the space has longer ones, and they were not better
        changes = _widened(seen, entry, is_high=True)
    advice = (
        f"Longer trials may be better: {_written(changes)}." if changes else "Longer trials may be better."
    )
    return Observation(
        "still falling",
        "The loss was still falling at the end of "
        f"{_share(len(falling), len(finished), 'finished trials')}, the best included.",
        advice,
        seen.again(changes) if changes else "",
    )


def _edges(seen: Seen) -> Observation | None:
    if seen.goals.also:  # what is best is then a matter of several
        return None
    changes: dict[str, str] = {}
    where = []
    for entry in seen.space:
        for is_high in (False, True):
            if _leans(seen, entry, is_high) and (wider := _widened(seen, entry, is_high)):
                end = _ends(entry)[is_high]
                where.append(f"the {'upper' if is_high else 'lower'} end of {entry.name} ({_value(end)})")
                changes |= wider
    if not where:
        return None
    return Observation(
        "edge",
        f"The best trials lie at {' and at '.join(where)}: what is beyond may be better.",
        f"Widen it: {_written(changes)}.",
        seen.again(changes),
    )


def _leans(seen: Seen, entry: Entry, is_high: bool) -> bool:
    """Whether the best trials lie at one end of a range, too many for chance, and are better than others."""
    numbers = _numbers(entry)
    if numbers is None:
        return False
    having = [one for one in seen.settings if entry.name in one.params]
    if entry.count is not None and entry.count <= 1 / OUTER:
        share, end = 1 / entry.count, _ends(entry)[is_high]
        at_end = [one.params[entry.name] == end for one in having]
    else:
        share = OUTER
        places = [_place(entry, one.params[entry.name]) for one in having]
        at_end = [place >= 1 - OUTER if is_high else place <= OUTER for place in places]
    top = math.ceil(math.log(BY_CHANCE / 2) / math.log(share)) if share < 1 else len(having)
    others = [one.objective for one, at in zip(having, at_end, strict=True) if not at]
    if len(having) < 2 * top or not others or not all(at_end[:top]):
        return False
    ahead = abs(fmean(one.objective or 0.0 for one in having[:top]) - fmean(v or 0.0 for v in others))
    return ahead > (having[0].error or 0.0)


def _rows(seen: Seen) -> Observation | None:
    if seen.goals.also or len(seen.settings) < 2:
        return None
    best, second = seen.settings[:2]
    gap = abs((best.objective or 0.0) - (second.objective or 0.0))
    if best.rows and len(best.rows) == len(second.rows):
        rows = len(best.rows)
        apart = [a - b for a, b in zip(best.rows, second.rows, strict=True)]
        error = stdev(apart) / math.sqrt(rows) if rows > 1 else 0.0
        on, how = f" on {rows:,} validation rows", "row by row"
    elif best.error and second.error:
        rows, error = None, math.hypot(best.error, second.error)
        on, how = "", "the rows not paired"
    else:
        return None
    if not error or gap > NORMAL * error:
        return None
    sentence = (
        f"Trials {best.number} and {second.number}, the best two, can't be told apart{on}: they differ by "
        f"{gap:.3g} ± {NORMAL * error:.3g} (95 %, {how})."
    )
    times = (NORMAL * error / gap) ** 2 if gap else math.inf
    if times > MOST_ROWS_TIMES:
        return Observation("rows", sentence, "They are as good as each other: take the cheaper one.")
    needed = f"{math.ceil(times)} times as many" if rows is None else f"{_rounded_up(rows * times):,}"
    return Observation(
        "rows", sentence, f"About {needed} would do if the difference stays (data.sizes.validation)."
    )


def _repeats(seen: Seen) -> Observation | None:
    groups = [group for group in same_settings(seen.trials) if len(group) > 1]
    if not groups:
        return None
    group = max(groups, key=len)
    known = [one.objective for one in group if one.objective is not None]
    spread = (
        f": {seen.goals.objective.metric} {min(known):.3f} to {max(known):.3f}, which is chance"
        if len(known) > 1
        else ""
    )
    further = f"; {len(groups) - 1} more settings were trained several times" if len(groups) > 1 else ""
    *first, last = (str(one.number) for one in group)
    return Observation(
        "repeats", f"Trials {', '.join(first)} and {last} have the same settings{spread}{further}."
    )


def repeats(trials: Iterable[TrialRecord]) -> dict[int, int]:
    """Trials with the settings of an earlier one, by number, and the number of that one."""
    groups = same_settings(one for one in trials if one.number != BASE)
    return {one.number: group[0].number for group in groups for one in group[1:]}


def same_settings(trials: Iterable[TrialRecord]) -> list[list[TrialRecord]]:
    """Trials by their settings, in the order of the first of each."""
    groups: dict[TrialSettings, list[TrialRecord]] = {}
    for one in trials:
        groups.setdefault(one.settings, []).append(one)
    return list(groups.values())


# Ranges


def _entry(seen: Seen, name: str) -> Entry | None:
    return next((one for one in seen.space if one.name == name), None)


def _numbers(entry: Entry) -> list[float] | None:
    """The two ends of a range, or choices that are numbers, ascending; None for others."""
    values = list(entry.choices) if entry.choices else [entry.low, entry.high]
    if len(values) < 2 or any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
        return None
    return sorted(values) if values[0] != values[-1] else None


def _ends(entry: Entry) -> tuple[Any, Any]:
    values = sorted(entry.choices) if entry.choices else [entry.low, entry.high]
    return values[0], values[-1]


def _place(entry: Entry, value: Any) -> float:
    """Where a value lies in its range: 0 at the lower end, 1 at the upper one."""
    low, high = _ends(entry)
    if entry.choices:
        return sorted(entry.choices).index(value) / (len(entry.choices) - 1)
    if entry.log:
        return math.log(value / low) / math.log(high / low)
    return float((value - low) / (high - low))


def _widened(seen: Seen, entry: Entry, is_high: bool) -> dict[str, str]:
    """Overrides that widen a range at one end: by half its width, on a log scale at most tenfold.

    Empty where nothing lies beyond, e.g. below a dropout of 0.
    """
    low, high = _ends(entry)
    if entry.choices:
        values = sorted(entry.choices)
        nearest, last = (values[-2], values[-1]) if is_high else (values[1], values[0])
        grows = (
            min(values) > 0
            and len(values) > 2
            and math.isclose(values[-1] / values[-2], values[1] / values[0])
        )
        further = entry.kind(last * last / nearest if grows or len(values) == 2 else last + (last - nearest))
        choices = sorted({*entry.choices, further})
        wider: Mapping[str, Any] = {"choices": choices}
        changes = {f"space.{entry.name}.choices": f"[{','.join(map(_value, choices))}]"}
    else:
        if entry.log:
            factor = min(max(2.0, math.sqrt(high / low)), 10.0)
            end = high * factor if is_high else low / factor
            end = float(f"{end:.0e}") if entry.kind is float else max(1, round(end))
        else:
            width = (high - low) / 2
            if entry.kind is int or entry.step:
                step = entry.step or 1
                width = step * max(1, round(width / step))
            end = entry.kind(float(f"{high + width if is_high else low - width:.10g}"))
            end = end if is_high else max(end, 0)
        if end == (high if is_high else low):
            return {}
        wider = {
            "low": low,
            "high": high,
            "log": entry.log,
            "step": entry.step,
            ("high" if is_high else "low"): end,
        }
        changes = {f"space.{entry.name}.{'high' if is_high else 'low'}": _value(end)}
    tree: Any = {name: v for name, v in wider.items() if v is not None}
    for key in reversed(entry.name.split(".")):
        tree = {key: tree}
    return {} if seen.trial is None or space.check(tree, seen.trial) else changes


# Words and numbers


def _share(count: int, of: int, what: str = "trials") -> str:
    return f"{count} of {of} {what if of != 1 else what.removesuffix('s')}"


def _short(label: str) -> str:
    return excerpt(label, 40)


def _value(value: Scalar) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _written(changes: Mapping[str, str]) -> str:
    return " ".join(shlex.quote(f"{name}={value}") for name, value in changes.items())


def _rounded_up(number: float) -> int:
    """To two digits: more are not known."""
    digit: int = 10 ** max(0, math.floor(math.log10(number)) - 1)
    return math.ceil(number / digit) * digit


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Slope of the least squares line and its standard error."""
    n, middle = len(points), fmean(x for x, _ in points)
    level = fmean(y for _, y in points)
    width = sum((x - middle) ** 2 for x, _ in points)
    slope = sum((x - middle) * (y - level) for x, y in points) / width
    left = sum((y - level - slope * (x - middle)) ** 2 for x, y in points)
    return slope, math.sqrt(left / (n - 2) / width)


def _free_name(layout: Layout) -> str:
    """A name that no sweep beside this one has: NAME_2, NAME_3, ..."""
    name, number = layout.name, 2
    if found := re.fullmatch(r"(.+)_(\d+)", name):
        name, number = found[1], int(found[2]) + 1
    while (layout.root / f"{name}_{number}").exists():
        number += 1
    return f"{name}_{number}"
