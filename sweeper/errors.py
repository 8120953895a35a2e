"""Everything that sweeper raises on purpose.

    SweeperError                    exit code 1
    ├── InputError                  exit code 2: nothing was trained, nothing written to the study
    │   ├── ConfigError             the configuration, or a command; carries every fault found
    │   ├── DataError               the rows: missing, empty, too few, without labels, all cut off
    │   ├── AuditRefusal            exit code 3: the rows are readable, but too much is wrong with them
    │   ├── ModelError              the base model: absent, gated, without the LoRA target
    │   ├── ClusterError            the Ray cluster: out of reach, or without the sweep's folder
    │   ├── StudyError              the study: in use, changed under the same name, no database
    │   └── ExportError             nothing to export, or nowhere to
    ├── TrialError                  one trial failed; the sweep goes on
    │   ├── DivergedError           its loss or its objective is not finite
    │   └── OutOfMemoryError        a single row is too much for the device's memory
    ├── DeviceError                 a device that only another process can use again
    ├── StorageError                a disk is full, or the study database was away for too long
    ├── VerdictError                test scores that can't be compared
    ├── CardError                   a model card that would lack a section
    └── SweepFailed                 the sweep as a whole: too many failures in a row

Every message says what was given, what is allowed and what to do.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class SweeperError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class InputError(SweeperError):
    """The configuration or the input can't be used; nothing has been trained."""

    exit_code = 2


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a configuration or a command.

    `field` is the dotted path as a user writes it, `message` says what was given, what is
    allowed and what to do.
    """

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class ConfigError(InputError):
    """One or more faults in `where`: the configuration or the command; all reported together.

    `mended` are the overrides that work instead, where that is known of all of them.
    """

    def __init__(
        self, faults: Sequence[Fault], where: str = "configuration", mended: Sequence[str] = ()
    ) -> None:
        self.faults = tuple(faults)
        self.mended = tuple(mended)
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        lines = "\n".join(f"  {fault}" for fault in self.faults)
        super().__init__(f"{count} in the {where}\n{lines}")


class DataError(InputError):
    """The data set can't be used as configured."""


class AuditRefusal(InputError):
    """The audit found something as severe as data.audit.fail_on names, or more."""

    exit_code = 3


class ModelError(InputError):
    """The base model can't be loaded or doesn't fit the trial settings."""


class ClusterError(InputError):
    """The Ray cluster can't be reached, or its nodes lack what a worker needs."""


class StudyError(InputError):
    """The study can't be opened, or doesn't belong to this configuration."""


class ExportError(InputError):
    """A model can't be exported as asked for, or those it was meant for don't take it."""


class TrialError(SweeperError):
    """One trial failed, for the reason given; other trials are not affected."""


class DivergedError(TrialError):
    """The loss or the objective of a trial is not finite."""


class OutOfMemoryError(TrialError):
    """A trial finds no memory for one row at a time."""


class DeviceError(SweeperError):
    """A device is in a state that only the end of this process gets it out of."""


class StorageError(SweeperError):
    """A disk or a database gave out on the way; what it holds is sound, and the same command goes on."""


class VerdictError(SweeperError):
    """The test scores of the retrained settings can't be compared."""


class CardError(SweeperError):
    """Something that belongs on a model card is not known."""


class SweepFailed(SweeperError):
    """The sweep stopped without a usable result."""


def installing(extra: str) -> str:
    """How an extra of pyproject.toml is installed; PyPI's `sweeper` is another package."""
    return f"in sweeper's folder: pip install -c constraints.txt -e '.[{extra}]'"


def first_line(error: BaseException | None) -> str:
    """The first line of what an error says, of its driver's one for SQLAlchemy's; else its kind."""
    said = getattr(error, "orig", None) or error
    return next(iter(str(said).strip().splitlines()), type(said).__name__)
