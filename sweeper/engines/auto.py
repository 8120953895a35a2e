"""The engine `auto`: `packed` where a short probe of both says that it is faster, else `trainer`."""

import logging
import time
from collections.abc import Container

from sweeper.config import TrialSettings
from sweeper.engines.attempt import Workbench
from sweeper.engines.packed.engine import PackedEngine
from sweeper.engines.packed.probe import speed_alone
from sweeper.engines.trainer import Ahead, TrainerEngine, train_alone
from sweeper.messages import Channel, Done, Engine, TrialSpec, Wait

_LOG = logging.getLogger(__name__)


class AutoEngine:
    """Decides at the first trial that can be packed, with its settings, and stays with the decision."""

    def __init__(
        self,
        bench: Workbench,
        packed: PackedEngine,
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
        while not isinstance(work := channel.next_trial(), Done):
            if isinstance(work, Wait):
                time.sleep(work.seconds)
            elif work.is_base or self._packed.why_alone(work) or (engine := self._faster(work)) is None:
                train_alone(self._bench, channel, work)
            else:
                engine.run(Ahead(channel, work, then=channel.next_trial))
                return

    def _faster(self, spec: TrialSpec) -> Engine | None:
        """The engine to take, or None if the trial can't be probed: it is to end as it would on its own."""
        try:
            return self._packed if self._is_faster(spec.settings) else self._trainer
        except Exception as error:
            _LOG.warning("engine=auto: the probe with trial %d failed: %s", spec.trial, error)
            return None

    def _is_faster(self, settings: TrialSettings) -> bool:
        """True if packed trials go through more examples per second."""
        device = self._bench.base.device.type
        if device not in self._probed:
            _LOG.info("engine=auto: taking trainer; nothing to gain on device %s, not measured", device)
            return False
        together = self._packed.choose_slots(settings)
        alone = speed_alone(self._bench, settings)
        faster = together.examples_per_second > alone
        _LOG.info(
            "engine=auto: taking %s; packed %.4g examples per second in %d slots, trainer %.4g",
            "packed" if faster else "trainer",
            together.examples_per_second,
            together.slots,
            alone,
        )
        return faster
