"""The winner's settings on all training rows at full length: a study of one trial, `NAME/train`."""

from dataclasses import dataclass, replace

from sweeper.compose import read_config
from sweeper.config import Config, PrunerConfig, SamplerConfig, VerdictConfig
from sweeper.errors import StudyError
from sweeper.events import TrialRecord
from sweeper.layout import Layout
from sweeper.relocation import located
from sweeper.space import Space
from sweeper.stored import stored, tracking_of
from sweeper.study.objectives import why_no_best
from sweeper.study.study import Study


@dataclass(frozen=True)
class Retraining:
    """What is trained, and where."""

    layout: Layout
    """Of `NAME/train`."""
    config: Config
    space: Space
    """Empty: the settings are those of `winner`."""
    winner: TrialRecord


def retraining(layout: Layout) -> Retraining:
    """The best trial of a sweep, to be trained on every row that validation and test leave.

    Raises StudyError if there is no such sweep, or no best trial in it.
    """
    if "/" in layout.name:
        raise StudyError(f"`{layout.name}` is no sweep to train the winner of, but belongs to one")
    tree, study = stored(layout)
    config = located(read_config(tree)[0], layout, study.fingerprint["pins"].get("revision", ""))
    winner = study.best()
    if winner is None:
        raise StudyError(f"sweep `{layout.name}`: {why_no_best(study.records(), study.goals)}")
    config = replace(
        config,
        trial=winner.settings,
        space={},
        sampler=SamplerConfig("random"),
        pruner=PrunerConfig("none"),
        data=replace(config.data, sizes=replace(config.data.sizes, train=None)),
        # Beside the sweep's own runs.
        tracking=replace(tracking_of(config.tracking), experiment=config.tracking.experiment or layout.name),
        budget=replace(config.budget, trials=1, minutes=None, device_hours=None),
        verdict=VerdictConfig("none"),
    )
    return Retraining(layout.training, config, Space.parse({}, config.trial), winner)


def refuse_another_winner(study: Study, retraining: Retraining) -> None:
    """Raise StudyError if `study` was begun with the settings of a trial that is not the best any more."""
    begun = [record.retrains for record in study.records() if record.retrains is not None]
    name, best = retraining.layout.name, retraining.winner.number
    if begun and begun[0] != best:
        raise StudyError(
            f"`{name}` has the settings of trial {begun[0]}, and trial {best} is the best by now; "
            f"`python -m sweeper delete {name}` makes room for it"
        )
