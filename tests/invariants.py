"""What has to hold of a folder of sweeps whenever its processes are gone, killed or not.

Looked at from outside: the databases through sqlite3, the files as they lie.
"""

import json
import math
import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import safe_open

from sweeper.engines import checkpoints

OVER = ("COMPLETE", "PRUNED", "FAIL")


@dataclass(frozen=True)
class Seen:
    """One look at a folder of sweeps."""

    trials: Mapping[tuple[str, int], "Trial"]
    """By study and number."""


@dataclass(frozen=True)
class Trial:
    state: str
    values: tuple[float | None, ...]
    reports: Mapping[int, float]
    params: Mapping[str, float]
    attempt: int
    outcome: Mapping[str, object] | None = field(repr=False)
    stored: str = field(repr=False)
    """Everything that the study has of it."""
    journal: bytes = field(repr=False)
    """Its metrics.jsonl."""

    @property
    def is_over(self) -> bool:
        return self.state in OVER


def look(root: Path) -> Seen:
    """What is in ROOT/study.db and beside it."""
    found = {}
    if not (root / "study.db").exists():
        return Seen({})
    with closing(sqlite3.connect(root / "study.db", timeout=60)) as database:
        if database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'trials'").fetchone() == (0,):
            return Seen({})
        for trial, study, number, state in database.execute(
            "SELECT trial_id, study_name, number, state FROM trials JOIN studies USING (study_id)"
        ).fetchall():
            rows = {
                table: database.execute(
                    f"SELECT * FROM {table} WHERE trial_id = ? ORDER BY 1",  # noqa: S608 - names from below
                    (trial,),
                ).fetchall()
                for table in (
                    "trials",
                    "trial_values",
                    "trial_intermediate_values",
                    "trial_params",
                    "trial_user_attributes",
                    "trial_system_attributes",
                )
            }
            attributes = {key: json.loads(value) for _, _, key, value in rows["trial_user_attributes"]}
            journal = root / study / "trials" / f"{number:04d}" / "metrics.jsonl"
            found[study, number] = Trial(
                state,
                tuple(row[3] for row in rows["trial_values"]),
                {row[2]: row[3] for row in rows["trial_intermediate_values"]},
                {row[2]: row[3] for row in rows["trial_params"]},
                attributes.get("attempt", 0),
                attributes.get("outcome"),
                json.dumps(rows),
                journal.read_bytes() if journal.exists() else b"",
            )
    return Seen(found)


def faults(root: Path, now: Seen, before: Seen, budgets: Mapping[str, int], workers: int = 1) -> list[str]:
    """What does not hold after a kill; `before` is the look before that."""
    return [
        *_unsound(root),
        *_overspent(now, budgets),
        *_unfinished_values(now),
        *_changed(now, before),
        *_too_many_running(now, before, workers),
        *_unloadable(root, now),
        *_run_twice(root),
    ]


def faults_at_rest(root: Path, now: Seen, before: Seen, budgets: Mapping[str, int]) -> list[str]:
    """What does not hold after a run that came to its end."""
    count = Counter(study for study, _ in now.trials)
    return [
        *faults(root, now, before, budgets, workers=0),
        *(f"{key} is {trial.state}" for key, trial in now.trials.items() if not trial.is_over),
        *(f"{study} has {count[study]} of {n} trials" for study, n in budgets.items() if count[study] != n),
        *_differs_in_mlflow(root, now),
        *_leftovers(root),
    ]


def _unsound(root: Path) -> list[str]:
    found = []
    for path in (root / "study.db", root / "mlflow.db"):
        if path.exists():
            with closing(sqlite3.connect(path, timeout=60)) as database:
                told = database.execute("PRAGMA integrity_check").fetchall()
                told += database.execute("PRAGMA foreign_key_check").fetchall()
            if told != [("ok",)]:
                found.append(f"{path} is damaged: {told[:3]}")
    return found


def _overspent(now: Seen, budgets: Mapping[str, int]) -> list[str]:
    count = Counter(study for study, _ in now.trials)
    return [
        f"{study} has {count[study]} trials, more than {n}"
        for study, n in budgets.items()
        if count[study] > n
    ]


def _unfinished_values(now: Seen) -> list[str]:
    return [
        f"{key} is finished with the values {trial.values}"
        for key, trial in now.trials.items()
        if trial.state == "COMPLETE"
        and not (trial.values and all(value is not None and math.isfinite(value) for value in trial.values))
    ]


def _changed(now: Seen, before: Seen) -> list[str]:
    over = {key: trial for key, trial in before.trials.items() if trial.is_over}
    gone = [f"{key} is gone" for key in over.keys() - now.trials.keys()]
    there = over.keys() & now.trials.keys()
    stored = [f"{key} is over and has changed" for key in there if over[key].stored != now.trials[key].stored]
    again = [
        f"{key} is over and was trained again"
        for key in there
        if over[key].journal != now.trials[key].journal
    ]
    return [*gone, *stored, *again]


def _too_many_running(now: Seen, before: Seen, workers: int) -> list[str]:
    """What a kill has left RUNNING stays so until a run comes as far as to open that study again."""
    opened = {
        study
        for (study, number), trial in now.trials.items()
        if (study, number) not in before.trials or before.trials[study, number].stored != trial.stored
    }
    running = [key for key, trial in now.trials.items() if trial.state == "RUNNING" and key[0] in opened]
    return [f"running with {workers} workers: {running}"] if len(running) > workers else []


def _unloadable(root: Path, now: Seen) -> list[str]:
    """Checkpoints and adapters that somebody counts on, and that can't be loaded."""
    found = []
    for (study, number), trial in now.trials.items():
        folder = root / study / "trials" / f"{number:04d}"
        if not trial.is_over and any(folder.glob("attempt-*/step-*")):
            newest = checkpoints.newest(folder)
            if newest is None:
                found.append(f"{folder} has no checkpoint that can be used")
            else:
                found += _unreadable(newest.folder)
        adapter = (trial.outcome or {}).get("adapter") if trial.is_over else None
        if adapter is not None:
            found += _unreadable(root / study / str(adapter))
    for best in root.glob("*/best"):
        found += _unreadable(best)
    return found


def _unreadable(folder: Path) -> list[str]:
    files = list(folder.glob("*.safetensors"))
    if not files:
        return [f"{folder} has no weights"]
    found = []
    for file in files:
        try:
            with safe_open(file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - it is no dictionary
                    tensors.get_tensor(name)
        except Exception as error:
            found.append(f"{file}: {error}")
    return found


def _mlflow(root: Path) -> list[tuple[str, str, str]]:
    """Every living run of a trial: its id, the trial that it is of, its status."""
    if not (root / "mlflow.db").exists():
        return []
    with closing(sqlite3.connect(root / "mlflow.db", timeout=60)) as database:
        return database.execute(
            "SELECT run_uuid, value, status FROM runs JOIN tags USING (run_uuid) "
            "WHERE key = 'sweeper.trial' AND lifecycle_stage = 'active'"
        ).fetchall()


def _run_twice(root: Path) -> list[str]:
    count = Counter(trial for _, trial, _ in _mlflow(root))
    return [f"MLflow has {n} runs of {trial}" for trial, n in count.items() if n > 1]


def _differs_in_mlflow(root: Path, now: Seen) -> list[str]:
    """Trials whose run in MLflow doesn't say what the study says."""
    if not (root / "mlflow.db").exists():
        return []
    runs = {trial: (run, status) for run, trial, status in _mlflow(root)}
    found = []
    with closing(sqlite3.connect(root / "mlflow.db", timeout=60)) as database:
        for (study, number), trial in now.trials.items():
            run, status = runs.get(f"{study}/{number}", ("", "no run"))
            expected = "FAILED" if trial.state == "FAIL" else "FINISHED"
            if status != expected:
                found.append(f"{study}/{number} is {trial.state}, and in MLflow {status}")
            told = database.execute(
                "SELECT key, step, value FROM metrics WHERE run_uuid = ? AND key IN "
                "('objective', 'best_objective') AND NOT is_nan",
                (run,),
            ).fetchall()
            curve = {step: value for key, step, value in told if key == "objective"}
            if curve != trial.reports or len(told) - len(curve) > 1:
                found.append(f"{study}/{number} reported {trial.reports}, and to MLflow {told}")
            best = [value for key, _, value in told if key == "best_objective"]
            if trial.state == "COMPLETE" and best != [trial.values[0]]:
                found.append(f"{study}/{number} is worth {trial.values}, and in MLflow {best}")
    return found


def _leftovers(root: Path) -> list[str]:
    """What is only there while something is at work."""
    known = (".lock", ".setup", ".output", ".log", ".killed")
    hidden = [path for path in root.rglob(".*") if path.suffix not in known and not path.name.endswith(known)]
    heavy = [*root.rglob("attempt-*/step-*"), *root.rglob("holder.json")]
    return [f"{path} was left" for path in (*hidden, *heavy)]
