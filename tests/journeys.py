"""Sweeps that are killed on their way, again and again, and looked at after every kill."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sweeper.failpoints import POINTS
from sweeper.preemption import INTERRUPTED
from tests.forks import Ended, Forks, Kill
from tests.invariants import Seen, faults, faults_at_rest, look

MAIN = "sweeper.__main__:main"


@dataclass
class Journey:
    """A folder in which the same command is run until it comes to its end."""

    forks: Forks
    folder: Path
    budgets: Mapping[str, int]
    """Most trials, by study."""
    workers: int = 1
    kills: list[str] = field(default_factory=list)
    """Where it was killed, one after the other."""
    reached: set[str] = field(default_factory=set)
    """Every point that was passed."""
    wrong: list[str] = field(default_factory=list)
    seen: Seen = field(default_factory=lambda: Seen({}))

    def run(
        self, arguments: Sequence[str], where: str = "", kill: Kill | None = None, function: str = MAIN
    ) -> Ended:
        """Run once, killed at `where`, and look at what is left."""
        log = self.folder / ".failpoints.log"
        for path in (log, log.with_suffix(".killed")):
            path.unlink(missing_ok=True)
        environment = {"SWEEPER_FAILPOINT": where, "SWEEPER_FAILPOINT_LOG": str(log)}
        ended = self.forks.run(function, arguments, self.folder, environment, kill)
        self.reached |= set(log.read_text().split()) if log.exists() else set()
        killed = log.with_suffix(".killed")
        if killed.exists():
            self.kills.append(killed.read_text().split()[1])
        elif ended.code < 0:
            self.kills.append("any time")
        now, root = look(self.folder / "sweeps"), self.folder / "sweeps"
        found = [f"processes {ended.orphans} were left"] if ended.orphans else []
        if ended.code < 0 or ended.code == INTERRUPTED:
            workers = 0 if ended.code == INTERRUPTED else self.workers
            found += faults(root, now, self.seen, self.budgets, workers)
        elif ended.code == 0:
            found += faults_at_rest(root, now, self.seen, self.budgets)
        else:
            found.append(f"it ended with {ended.code}:\n{ended.output[-3000:]}")
        self.seen = now
        self.wrong += [f"after the kills at {', '.join(self.kills)}: {one}" for one in found]
        return ended

    def run_through(
        self, arguments: Sequence[str], function: str = MAIN, points: Collection[str] = POINTS
    ) -> Ended:
        """Run until a run passes untouched, killed at each of the `points` where it never was before."""
        while True:
            left = set(points) - {kill.partition(":")[0] for kill in self.kills}
            ended = self.run(arguments, ",".join(sorted(left)), function=function)
            if ended.code >= 0 or self.wrong:
                return ended


TRAINED = (
    "+experiment=summarize", "model=custom", "model.name=model", "model.device=cpu", "model.dtype=float32",
    "data=file", "data.path=rows.jsonl", "data.keep_together=false", "data.cleaning=[]",
    "data.audit.fail_on=never", "data.sizes={train: 24, validation: 8, test: 4}", "task.prompt='{input}'",
    "task.chat_template=false", "task.generation.max_new_tokens=4", "task.evaluation.samples=1",
    "task.objective={metric: loss, direction: minimize}", "trial.learning_rate=5e-3",
    "space.learning_rate={low: 1e-3, high: 2e-2}", "space.batch_size.choices=[4,8]",
    "budget.trials=2", "pruner=none",
)  # fmt: skip
"""Tiny models really trained."""


def write_inputs(folder: Path) -> None:
    """A model of a few thousand weights and rows for it, as `TRAINED` names them."""
    from tests import tiny

    tiny.save(tiny.llama(), folder / "model")
    words = tiny.WORDS
    rows = [
        {"input": " ".join(words[(i * k + i // 12) % 12] for k in (1, 5, 7)), "target": words[i % 12]}
        for i in range(120)
    ]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
