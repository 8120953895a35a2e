"""Every path that a sweep writes, in one class."""

import os
import shlex
import shutil
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from sweeper.failpoints import reach
from sweeper.messages import BASE

_VERDICT = "/verdict"


@dataclass(frozen=True)
class Layout:
    """The files of one sweep.

    ROOT/study.db   ROOT/mlflow.db        shared by all sweeps below ROOT
    ROOT/NAME/config.yaml                 the composed configuration, secrets masked
    ROOT/NAME/lock                        held by the living coordinator
    ROOT/NAME/holder.json                 which process that is
    ROOT/NAME/started.json                the command, the versions, the machine
    ROOT/NAME/rows/                       the frozen, prepared data (Arrow)
    ROOT/NAME/audit.json                  what was found in the data, for programs
    ROOT/NAME/audit.html                  the same for people
    ROOT/NAME/queue.csv                   rows for a person to decide on
    ROOT/NAME/trials/0007/metrics.jsonl   every measurement with its time
    ROOT/NAME/trials/0007/attempt-2/      checkpoints of the second attempt
    ROOT/NAME/trials/base/                the untouched base model
    ROOT/NAME/inbox/                      commands from other terminals
    ROOT/NAME/best/                       the best adapter, an ordinary PEFT folder
    ROOT/NAME/best/README.md              its model card
    ROOT/NAME/export/                     what was exported, if nowhere else
    ROOT/NAME/train/                      the winner trained on all rows: a sweep of one trial, NAME/train
    ROOT/NAME/report.html                 everything about the sweep, for people
    ROOT/NAME/verdict/trials/0003/        a run of its verdict; the rows are the sweep's own
    """

    root: Path
    name: str

    @property
    def folder(self) -> Path:
        return self.root / self.name

    @property
    def flag(self) -> str:
        """What a command line needs, beside the name, to find the sweep again; begins with a blank."""
        return "" if self.root == Path("sweeps") else f" --folder {shlex.quote(str(self.root))}"

    @property
    def sweep(self) -> "Layout":
        """This sweep, or the one that this verdict is about."""
        return Layout(self.root, self.name.removesuffix(_VERDICT))

    @property
    def verdict(self) -> "Layout":
        """The runs of the sweep's verdict: a study of its own, named after the sweep."""
        return Layout(self.root, f"{self.name}{_VERDICT}")

    @property
    def study_url(self) -> str:
        return f"sqlite:///{self.root / 'study.db'}"

    @property
    def tracking_url(self) -> str:
        return f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

    @property
    def holder(self) -> Path:
        return self.folder / "holder.json"

    @property
    def rows(self) -> Path:
        return self.sweep.folder / "rows"

    @property
    def audit(self) -> Path:
        return self.folder / "audit.json"

    @property
    def audit_page(self) -> Path:
        return self.folder / "audit.html"

    @property
    def queue(self) -> Path:
        return self.folder / "queue.csv"

    @property
    def inbox(self) -> Path:
        return self.folder / "inbox"

    @property
    def best(self) -> Path:
        return self.folder / "best"

    @property
    def card(self) -> Path:
        return self.best / "README.md"

    @property
    def exports(self) -> Path:
        return self.folder / "export"

    @property
    def training(self) -> "Layout":
        """Of the sweep `NAME/train`."""
        return Layout(self.root, f"{self.name}/train")

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @property
    def provenance(self) -> Path:
        return self.folder / "started.json"

    def trial(self, number: int) -> Path:
        return self.folder / "trials" / ("base" if number == BASE else f"{number:04d}")

    def metrics(self, number: int) -> Path:
        return self.trial(number) / "metrics.jsonl"

    @property
    def doomed(self) -> Path:
        """Where a deleted sweep's folder lies until it is gone."""
        return self.folder.with_name(f".{self.folder.name}.deleted")

    def clear_away(self) -> None:
        """Remove what killed processes have left half written or deleted; for the lock's holder alone."""
        shutil.rmtree(self.doomed, ignore_errors=True)
        for folder in (self.folder, self.inbox, self.verdict.folder):
            clear_unfinished(folder)

    @staticmethod
    def attempt(trial_folder: Path, attempt: int) -> Path:
        return trial_folder / f"attempt-{attempt}"


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that a reader sees the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        reach("file.written")
        os.replace(temporary, path)
    except OSError:  # half of it would only take room on a full disk
        temporary.unlink(missing_ok=True)
        raise
    reach("file.placed")


def clear_unfinished(folder: Path, name: str = "") -> None:
    """Remove what killed processes have left half written in a folder, of the file `name` or of all."""
    for path in folder.glob(f".{escape(name)}*"):
        writer = path.suffix[1:]
        if writer.isdecimal() and not is_alive(int(writer)):
            path.unlink(missing_ok=True)


def is_alive(process: int) -> bool:
    """Whether there is such a process on this host."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True
