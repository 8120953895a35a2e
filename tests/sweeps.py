"""Small sweeps for tests: a composed configuration, a study in a folder, a coordinator over them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sweeper.compose import compose, read_config
from sweeper.config import Config
from sweeper.coordinator import Coordinator
from sweeper.events import Listener, Measurement, SweepInfo, TrialRecord
from sweeper.inputs import Inputs, fingerprint
from sweeper.journal import Journal
from sweeper.launch import pruning_range, sweep_info
from sweeper.layout import Layout
from sweeper.space import Space
from sweeper.study.pruners import make_pruner
from sweeper.study.study import Study

JUDGED = ("+experiment=summarize", "engine=replay", "engine.speedup=1e6", "tracking=none")
REPLAY = (*JUDGED, "verdict=none")


@dataclass
class Recorder(Listener):
    """A listener that keeps what it hears."""

    heard: list[tuple[str, object]] = field(default_factory=list)

    def opened(self, sweep: SweepInfo, trials: Sequence[TrialRecord]) -> None:
        self.heard.append(("opened", tuple(trials)))

    def started(self, trial: TrialRecord) -> None:
        self.heard.append(("started", trial))

    def measured(self, point: Measurement) -> None:
        self.heard.append(("measured", point))

    def ended(self, trial: TrialRecord) -> None:
        self.heard.append(("ended", trial))

    def closed(self, trials: Sequence[TrialRecord], best: TrialRecord | None, reason: str) -> None:
        self.heard.append(("closed", (tuple(trials), best, reason)))

    def of(self, kind: str) -> list[object]:
        return [what for name, what in self.heard if name == kind]


def configure(folder: Path, *overrides: str, like: Sequence[str] = REPLAY) -> tuple[Config, Space]:
    """A checked configuration that writes below `folder`."""
    config, space = read_config(compose([*like, *overrides]))
    return replace(config, sweep=replace(config.sweep, folder=folder)), space


def open_study(folder: Path, *overrides: str, like: Sequence[str] = REPLAY, rows: int = 96) -> Study:
    config, space = configure(folder, *overrides, like=like)
    layout = Layout(folder, config.sweep.name)
    pruner = make_pruner(config.pruner, *pruning_range(config, space, rows))
    pins = {"pins": {"rows": rows}}
    return Study.open(
        layout.study_url, config, space, pruner, fingerprint(config, space) | pins, layout.folder
    )


@dataclass
class Clock:
    """Seconds that pass only when told to."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


def open_coordinator(
    folder: Path,
    *overrides: str,
    recorder: Recorder | None = None,
    clock: Clock | None = None,
    now: Clock | None = None,
    like: Sequence[str] = REPLAY,
    rows: int = 96,
    listeners: Sequence[Listener] = (),
) -> tuple[Coordinator, Study, Recorder]:
    """A coordinator that has been opened, with so many training rows; `listeners` are further ones."""
    config, _ = configure(folder, *overrides, like=like)
    layout = Layout(folder, config.sweep.name)
    study = open_study(folder, *overrides, like=like, rows=rows)
    recorder = recorder or Recorder()
    clock = clock or Clock()
    info = sweep_info(study, config, layout, Inputs(config, rows, "replayed", (), {"rows": rows}))
    coordinator = Coordinator(
        study,
        layout,
        info,
        config,
        rows,
        [Journal(layout), recorder, *listeners],
        clock=clock,
        now=now or clock,
    )
    coordinator.open()
    return coordinator, study, recorder
