"""Sweeps that are really trained, killed at random: `make torture SEED=1 KILLS=200`.

Every sweep draws its settings and its kills from the seed: at a point of `sweeper.failpoints`, or at any
time, the coordinator or one of its workers, now and then by SIGTERM. After each kill the same command goes
on, and the invariants of `tests.invariants` are looked at. A sweep whose proposals don't depend on who was
first has to end as one that nobody has killed.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from sweeper.failpoints import POINTS
from tests.forks import Forks, Kill
from tests.invariants import Seen
from tests.journeys import TRAINED, Journey, write_inputs

_MODELS = {
    "tiny": TRAINED,
    "smollm2": (
        *TRAINED,
        *("model=smollm2_135m", "task.max_input_tokens=24", "task.max_answer_tokens=8"),
        "trial.lora.target_modules=[q_proj,v_proj]",
    ),
}
_KINDS = {
    # What is swept, and whether its proposals depend on nothing but their number.
    "trainer, one after another": (("engine=trainer", "sampler=quasi_random", "pruner=none"), True),
    "trainer, proposed and pruned": (("engine=trainer", "sampler=tpe", "pruner=median"), False),
    "packed": (("engine=packed", "engine.slots=2", "sampler=random", "pruner=none"), True),
}
_TRIALS, _RUNS = 4, 4
"""Of a sweep and of its verdict."""
_COMMON = (f"budget.trials={_TRIALS}", "budget.finalists=1", "budget.seeds=2", "trial.epochs=2")
_MOST_KILLS = 12
"""Of one sweep."""


@dataclass
class _Tally:
    """What was done, and what went wrong."""

    sweeps: int = 0
    runs: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Whole:
    """A sweep that nobody has killed."""

    seen: Seen
    seconds: float
    points: int
    """How many it passed."""
    reached: frozenset[str]
    """Which."""


def main(words: list[str] | None = None) -> int:
    """Torture as `words` ask for; gives 1 if something did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--model", choices=_MODELS, default="tiny")
    parser.add_argument("--kind", choices=_KINDS, action="append", help="of sweeps; all of them by default")
    parser.add_argument("--workers", type=int, default=1, help="more than one: give executor=local, too")
    parser.add_argument("overrides", nargs="*", help="more of the sweeps' command line")
    asked, tally = parser.parse_args(words), _Tally()
    began, root = time.monotonic(), Path(tempfile.mkdtemp(prefix="torture-"))
    write_inputs(root)
    with Forks() as forks:
        wholes: dict[str, _Whole] = {}
        while sum(tally.kills.values()) < asked.kills and not tally.wrong:
            chance = random.Random(f"{asked.seed}/{tally.sweeps}")
            kind = chance.choice(asked.kind or list(_KINDS))
            _torture(root, forks, kind, chance, asked, wholes, tally)
            tally.sweeps += 1
    minutes = (time.monotonic() - began) / 60
    places = Counter(where.partition(":")[0] for where in tally.kills.elements())
    print(
        f"{places.total()} kills, at {len(places.keys() & POINTS.keys())} of {len(POINTS)} points and at any "
        f"time, in {tally.sweeps} sweeps, {tally.runs} runs and {minutes:.0f} minutes; "
        f"{len(tally.wrong)} faults"
    )
    if not tally.wrong:
        shutil.rmtree(root)
        return 0
    print(
        *tally.wrong,
        f"What is left lies in {root}. Again: --seed {asked.seed} --kills {asked.kills}",
        sep="\n",
    )
    return 1


def _torture(
    root: Path,
    forks: Forks,
    kind: str,
    chance: random.Random,
    asked: argparse.Namespace,
    wholes: dict[str, _Whole],
    tally: _Tally,
) -> None:
    """One sweep from its beginning to its end, through some kills."""
    overrides, is_exact = _KINDS[kind]
    command = [*_MODELS[asked.model], *_COMMON, *overrides, *asked.overrides]
    if kind not in wholes:
        journey = _journey(root, forks, kind, f"whole-{len(wholes)}", asked)
        ended = journey.run(command)
        tally.wrong += journey.wrong
        tally.runs += 1
        passed = (journey.folder / ".failpoints.log").read_text().count("\n")
        wholes[kind] = _Whole(journey.seen, ended.seconds, passed, frozenset(journey.reached))
        print(f"{kind}: {ended.seconds:.0f} s and {passed} points without a kill", flush=True)
    whole = wholes[kind]
    journey = _journey(root, forks, kind, f"sweep-{tally.sweeps}", asked)
    for _ in range(chance.randint(3, _MOST_KILLS)):
        where, kill = _draw(chance, whole)
        ended = journey.run(command, where, kill)
        tally.runs += 1
        if journey.wrong:
            break
        if ended.code == 0 and not (journey.folder / ".failpoints.killed").exists():
            break
    if not journey.wrong:
        journey.run(command)
        tally.runs += 1
    if not journey.wrong and is_exact and asked.workers == 1:
        journey.wrong += _differences(whole.seen, journey.seen)
    print(f"sweep {tally.sweeps}, {kind}, killed at {', '.join(journey.kills) or 'no time'}", flush=True)
    tally.kills.update(journey.kills)
    tally.wrong += [f"sweep {tally.sweeps}, {kind}: {one}" for one in journey.wrong]
    if not journey.wrong:
        shutil.rmtree(journey.folder)


def _journey(root: Path, forks: Forks, kind: str, name: str, asked: argparse.Namespace) -> Journey:
    folder = root / name
    folder.mkdir()
    for needed in ("model", "rows.jsonl"):
        (folder / needed).symlink_to(root / needed)
    at_once = 2 * asked.workers if kind == "packed" else asked.workers
    return Journey(forks, folder, {"summarize": _TRIALS, "summarize/verdict": _RUNS}, at_once)


def _draw(chance: random.Random, whole: _Whole) -> tuple[str, Kill | None]:
    """Where or when to kill: early, so that many kills go into one sweep."""
    how = chance.random()
    if how < 0.35:
        return ",".join(
            f"{name}:{chance.randint(1, 3)}" for name in chance.sample(sorted(whole.reached), 3)
        ), None
    if how < 0.6:
        return str(chance.randint(1, whole.points // 4)), None
    after = chance.uniform(0.0, 0.4 * whole.seconds)
    if how < 0.7:
        return "", Kill(after, signal=signal.SIGTERM)
    return "", Kill(after, victim=chance.choice(["coordinator", "worker"]))


def _differences(whole: Seen, seen: Seen) -> list[str]:
    """In what the trials of a killed sweep differ from those of one that nobody has killed."""
    found = []
    for key, expected in whole.trials.items():
        trial = seen.trials[key]
        if (trial.state, trial.params) != (expected.state, expected.params):
            found.append(
                f"{key}: {trial.state}, {trial.params}; {expected.state}, {expected.params} without kills"
            )
        for mark in expected.reports.keys() | trial.reports.keys():
            one, other = trial.reports.get(mark, 0.0), expected.reports.get(mark, 0.0)
            if abs(one - other) > 1e-4 * abs(other):
                found.append(f"{key}: {one} at {mark}, {other} without kills")
    return found


if __name__ == "__main__":
    sys.exit(main())
