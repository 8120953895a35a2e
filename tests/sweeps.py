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
from sweeper.pruners import make_pruner
from sweeper.space import Space
from sweeper.study import Study

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


def configure(folder: Path, *overrides: str) -> tuple[Config, Space]:
    """A checked configuration that writes below `folder`."""
    config, space = read_config(compose([*REPLAY, *overrides]))
    return replace(config, sweep=replace(config.sweep, folder=folder)), space


def open_study(folder: Path, *overrides: str) -> Study:
    config, space = configure(folder, *overrides)
    layout = Layout(folder, config.sweep.name)
    pruner = make_pruner(config.pruner, *pruning_range(config, space, 96))
    pins = {"pins": {"rows": 96}}
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
) -> tuple[Coordinator, Study, Recorder]:
    """A coordinator that has been opened, with 96 training rows."""
    config, _ = configure(folder, *overrides)
    layout = Layout(folder, config.sweep.name)
    study = open_study(folder, *overrides)
    recorder = recorder or Recorder()
    clock = clock or Clock()
    info = sweep_info(study, config, layout, Inputs(config, 96, "replayed", (), {"rows": 96}))
    coordinator = Coordinator(
        study,
        layout,
        info,
        config.budget,
        config.sampler,
        config.task.evaluation,
        96,
        [Journal(layout), recorder],
        clock=clock,
        now=now or clock,
    )
    coordinator.open()
    return coordinator, study, recorder
