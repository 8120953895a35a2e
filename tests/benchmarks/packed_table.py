"""What the benchmark of the packed engine found, for people: a Markdown table and a plot.

python -m tests.benchmarks.packed_table bench-packed/results.json
"""

import html
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_COLUMNS = (
    *("shape", "tokens per trial-step", "best K", "tokens/s", "times `trainer`", "times plain peft"),
    *("times processes", "`auto`, times `trainer`", "s for all trials: packed, `trainer`"),
    "peak GB: packed, `trainer`",
)
_COLOURS = ("#2f6db3", "#0b7a5f", "#c2600c", "#7a5bb5")
_TEXT = 12
"""Pixels between two names."""
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 640, 360, 56, 48, 40, 90


def markdown(machine: str, jobs: Sequence[Mapping[str, Any]]) -> str:
    """One row a job: its best K against every other side. What was not measured says so."""
    lines = [f"{machine}, {_repeats(jobs)}", "", f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]
    lines += [_row(job) for job in sorted(jobs, key=lambda job: (_shape(job), job["tokens"]))]
    return "\n".join(lines) + "\n"


def _repeats(jobs: Sequence[Mapping[str, Any]]) -> str:
    told = sorted({f"{j['trials']} trials of {j['steps']} steps, medians of {j['repeats']}" for j in jobs})
    return "; ".join(told)


def _shape(job: Mapping[str, Any]) -> float:
    """How large a model is, for the order of rows."""
    number = "".join(letter for letter in job["shape"] if letter.isdigit() or letter == ".")
    return float(number or 0) * (1e9 if job["shape"].endswith("B") else 1e6)


def _row(job: Mapping[str, Any]) -> str:
    results = job["results"]
    best = best_packed(results)
    processes = [name for name in results if name.endswith("processes")]
    most = max(processes, key=lambda name: results[name]["tokens_per_second"], default="")
    fast = results[best]["tokens_per_second"] if best else None
    cells = [
        job["shape"],
        f"{job['tokens']:,}",
        best.removeprefix("packed ") or "none fits",
        f"{fast:,.0f}" if fast else "-",
        _times(fast, results.get("trainer")),
        _times(fast, results.get("plain")),
        _times(fast, results.get(most)),
        _times((results.get("auto") or {}).get("tokens_per_second"), results.get("trainer")),
        _both(results, best, "seconds", 1),
        _both(results, best, "peak_bytes", 1e9),
    ]
    return f"| {' | '.join(cells)} |"


def best_packed(results: Mapping[str, Any]) -> str:
    """The fastest number of slots; "" if none was measured."""
    packed = [name for name in results if name.startswith("packed")]
    return max(packed, key=lambda name: results[name]["tokens_per_second"], default="")


def _times(fast: float | None, other: Mapping[str, float] | None) -> str:
    return f"{fast / other['tokens_per_second']:.2f}" if fast and other else "not measured"


def _both(results: Mapping[str, Any], best: str, name: str, unit: float) -> str:
    sides = (results.get(side) for side in (best, "trainer"))
    return ", ".join(f"{one[name] / unit:.1f}" if one else "-" for one in sides)


def svg(machine: str, jobs: Sequence[Mapping[str, Any]]) -> str:
    """Times `trainer` at the best K over tokens per trial-step, a line for each shape."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for job in sorted(jobs, key=lambda job: (_shape(job), job["tokens"])):
        results = job["results"]
        if (best := best_packed(results)) and "trainer" in results:
            times = results[best]["tokens_per_second"] / results["trainer"]["tokens_per_second"]
            curves.setdefault(job["shape"], []).append((job["tokens"], times))
    points = [point for curve in curves.values() for point in curve]
    tokens = sorted({x for x, _ in points}) or [1]
    highest = max(1.5, *(y for _, y in points)) if points else 1.5

    def place(x: float, y: float) -> tuple[float, float]:
        span = math.log(tokens[-1] / tokens[0]) or 1.0
        across = math.log(x / tokens[0]) / span
        return (
            _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - y / highest * (_HEIGHT - _BOTTOM - _TOP),
        )

    parts = [_text(_LEFT, 20, f"Training speed of the best K, times one trial after another: {machine}", 12)]
    for y in sorted({0.0, 1.0, *range(2, math.ceil(highest), max(1, math.ceil(highest) // 5)), highest}):
        left, right, at = _LEFT, _WIDTH - _RIGHT, place(tokens[0], y)[1]
        parts.append(f'<path d="M{left} {at:.1f}H{right}" stroke="#{"22272e" if y == 1 else "e7e9ec"}"/>')
        parts.append(_text(8, at + 4, f"{y:.3g}"))
    parts += [_text(place(x, 0)[0] - 12, _HEIGHT - _BOTTOM + 18, f"{x:,}") for x in tokens]
    parts.append(_text(_LEFT, _HEIGHT - 8, "tokens per trial-step"))
    ends: list[float] = []
    for colour, (shape, curve) in zip(_COLOURS, curves.items(), strict=False):
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in curve))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for point in curve:
            x, y = place(*point)
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
        x, y = place(*curve[-1])
        while any(abs(y - other) < _TEXT for other in ends):
            y += _TEXT
        ends.append(y)
        parts.append(_text(x + 8, y + 4, shape))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif">'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


def _text(x: float, y: float, text: str, size: int = 11) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="#22272e">{html.escape(text)}</text>'


def write(folder: Path, tree: Mapping[str, Any]) -> None:
    """results.json, table.md and plot.svg in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(tree, indent=1) + "\n")
    (folder / "table.md").write_text(markdown(tree["machine"], tree["jobs"]))
    (folder / "plot.svg").write_text(svg(tree["machine"], tree["jobs"]))


if __name__ == "__main__":
    found = Path(sys.argv[1])
    write(found.parent, json.loads(found.read_text()))
    print((found.parent / "table.md").read_text())
