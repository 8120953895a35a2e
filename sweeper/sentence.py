"""How a verdict reads: one sentence with its numbers."""

import math

from sweeper.comparison import MIN_SEEDS, Compared, Comparison, Outcome


def sentence(comparison: Comparison) -> str:
    """The verdict in one sentence: what was found, how sure that is, and which of the tied is cheapest."""
    if comparison.winner is not None:
        text = _gain(comparison, comparison.winner)
    elif comparison.outcome is Outcome.TIE:
        text = _tie(comparison)
    elif comparison.outcome is Outcome.WORSE:
        text = _worse(comparison)
    else:
        text = _not_enough(comparison)
    promised = [one.validation_gain for one in comparison.compared]
    if promised and all(gain is not None and gain <= 0 for gain in promised):
        text += f"; on the validation rows no trial was better than {comparison.default}"
    return text[0].upper() + text[1:] + "."


def _gain(comparison: Comparison, winner: Compared) -> str:
    text = f"{winner.name} beats {comparison.default} by {_amount(comparison, winner)}"
    text += f" {_basis(comparison, winner)}"
    cheapest = comparison.cheapest
    if cheapest is not None and cheapest.name != winner.name:
        costs = f"{_seconds(cheapest.seconds)} against {_seconds(winner.seconds)} a run"
        text += f"; {cheapest.name}, a real gain too, can't be told from it and costs less ({costs})"
    return text + _gaps(comparison, winner)


def _tie(comparison: Comparison) -> str:
    if not comparison.compared:
        return f"no real gain: there was no trial to compare with {comparison.default}"
    best = _best(comparison, Outcome.TIE)
    if best.gain == 0:
        found = f"{best.name} scores as {comparison.default} do"
    else:
        word = "better" if best.gain > 0 else "worse"
        found = f"{best.name} is {word} than {comparison.default} by {_amount(comparison, best)}"
        found += ", within the noise"
    text = f"no real gain: {found} {_basis(comparison, best)}"
    cheapest = comparison.cheapest
    if cheapest is not None:
        verb = "are" if cheapest.name == comparison.default else "is"
        text += f"; of the tied, {cheapest.name} {verb} cheapest ({_seconds(cheapest.seconds)} a run)"
    return text + _gaps(comparison, best)


def _worse(comparison: Comparison) -> str:
    best = _best(comparison, Outcome.WORSE)
    who = f"{best.name} is" if len(comparison.compared) == 1 else f"even the closest, {best.name}, is"
    difference = f"worse than {comparison.default} by {_amount(comparison, best)}"
    return f"no gain: {who} {difference} {_basis(comparison, best)}{_gaps(comparison, best)}"


def _not_enough(comparison: Comparison) -> str:
    most = max(comparison.compared, key=lambda one: one.seeds)
    default = _runs(comparison.default_seeds, comparison.default_failed)
    return (
        f"not enough seeds for a verdict: finished were {default} of {comparison.default} and "
        f"{_runs(most.seeds, most.failed)} of {most.name}, and either side needs {MIN_SEEDS}"
    )


def _best(comparison: Comparison, outcome: Outcome) -> Compared:
    return max((one for one in comparison.compared if one.outcome is outcome), key=lambda one: one.gain)


def _amount(comparison: Comparison, one: Compared) -> str:
    """The size of a difference: 0.031 rougeL, or a 0.031 lower loss."""
    size = f"{abs(one.gain):.{_decimals(one)}f}"
    if comparison.direction == "maximize":
        return f"{size} {comparison.metric}"
    return f"a {size} {'lower' if one.gain > 0 else 'higher'} {comparison.metric}"


def _basis(comparison: Comparison, one: Compared) -> str:
    """What the amount told rests on; the interval is that of the amount, which is never negative."""
    low, high = (-one.high, -one.low) if one.gain < 0 else (one.low, one.high)
    decimals = _decimals(one)
    several = len(comparison.compared)
    parts = [
        f"{comparison.level * 100:.4g} % interval {low:.{decimals}f} to {high:.{decimals}f}",
        *([f"corrected for {several} comparisons"] if several > 1 else []),
        f"{one.seeds} seeds"
        if one.seeds == comparison.default_seeds
        else f"{one.seeds} seeds against {comparison.default_seeds}",
        f"{comparison.test_rows:,} test rows",
    ]
    return f"({', '.join(parts)})"


def _decimals(one: Compared) -> int:
    """As many as give the interval's half-width two digits, and each end that isn't zero one."""
    numbers = [abs(number) for number in (one.low, one.high, one.gain) if number != 0]
    half = (one.high - one.low) / 2
    needed = [2 - _exponent(half)] if half > 0 else [3]
    return min(max(0, *needed, *(1 - _exponent(number) for number in numbers)), 8)


def _exponent(number: float) -> int:
    """Digits before the decimal point; 0 for 0.31, -1 for 0.031."""
    return math.floor(math.log10(number)) + 1


def _gaps(comparison: Comparison, one: Compared) -> str:
    """What is missing from the picture: failed runs of the two sides told about, finalists left out."""
    text = ""
    for name, seeds, failed in (
        (one.name, one.seeds, one.failed),
        (comparison.default, comparison.default_seeds, comparison.default_failed),
    ):
        if failed:
            text += f"; {failed} of {failed + seeds} runs of {name} failed"
    left_out = [other.name for other in comparison.compared if other.outcome is Outcome.NOT_ENOUGH_SEEDS]
    if left_out:
        text += f"; {', '.join(left_out)}: too few finished runs to compare"
    return text


def _runs(finished: int, failed: int) -> str:
    text = f"{finished} run" if finished == 1 else f"{finished} runs"
    return f"{text} ({failed} failed)" if failed else text


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
