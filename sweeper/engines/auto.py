"""The engine `auto`: `packed` where a short probe of both says that it is faster, else `trainer`."""

import logging
import time
from collections.abc import Callable, Container
from typing import TYPE_CHECKING

from sweeper.config import TrialSettings
from sweeper.engines import checkpoints
from sweeper.engines.attempt import Workbench
from sweeper.engines.trainer import Ahead, TrainerEngine, train_alone
from sweeper.messages import Channel, Done, Engine, Progress, TrialSpec, Wait

if TYPE_CHECKING:
    from sweeper.engines.packed.engine import PackedEngine

_LOG = logging.getLogger(__name__)

PACKED, TRAINER = "packed_examples_per_second", "trainer_examples_per_second"
"""Metrics of the trial that both were tried with, beside `packed_slots`."""


class AutoEngine:
    """Decides at the first trial that can be packed, with its settings, and stays with the decision.

    The speeds that were measured are reported as metrics of that trial.
    """

    def __init__(
        self,
        bench: Workbench,
        packed: "Callable[[], PackedEngine]",
        trainer: TrainerEngine,
        probed: Container[str] = ("cuda", "mps"),
    ) -> None:
        """`probed` are the kinds of devices on which packing may gain something.

        A CPU is none: a single trial keeps it busy, and the probe would be time lost.
        """
        self._bench = bench
        self._packed, self._trainer = packed, trainer
        self._probed = probed

    def run(self, channel: Channel) -> None:
        """Train trials until the channel says Done."""
        device = self._bench.base.device.type
        if device not in self._probed:
            _LOG.info("engine=auto: taking trainer; nothing to gain on device %s, not measured", device)
            self._trainer.run(channel)
            return
        packed = self._packed()
        while not isinstance(work := channel.next_trial(), Done):
            if isinstance(work, Wait):
                time.sleep(work.seconds)
                continue
            speeds = None if work.is_base or packed.why_alone(work) else self._probe(packed, work)
            if speeds is None:
                train_alone(self._bench, channel, work)
                continue
            # Whatever is answered, the trial is going to hear it again at its own first report.
            channel.report(_told(work, speeds))
            engine: Engine = packed if speeds[PACKED] > speeds[TRAINER] else self._trainer
            engine.run(Ahead(channel, work, then=channel.next_trial))
            return

    def _probe(self, packed: "PackedEngine", spec: TrialSpec) -> dict[str, float] | None:
        """What both were seen to do, or None if the trial can't be probed: it is to end as on its own."""
        try:
            return self._speeds(packed, spec.settings)
        except Exception as error:
            _LOG.warning("engine=auto: the probe with trial %d failed: %s", spec.trial, error)
            return None

    def _speeds(self, packed: "PackedEngine", settings: TrialSettings) -> dict[str, float]:
        from sweeper.engines.packed.probe import speed_alone

        # Alone first: what can't be tried alone leaves no number of slots behind.
        alone = speed_alone(self._bench, settings)
        together = packed.choose_slots(settings)
        return {
            PACKED: together.examples_per_second,
            TRAINER: alone,
            "packed_slots": float(together.slots),
        }


def _told(spec: TrialSpec, speeds: dict[str, float]) -> Progress:
    begun = checkpoints.newest(spec.folder)
    return Progress(spec.trial, spec.attempt, begun.state.examples if begun else 0, speeds)
