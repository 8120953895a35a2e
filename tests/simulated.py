"""Simulated workers: hundreds of them in one loop, on simulated time, against a coordinator at its real cost.

The coordinator serves one call after another, as it does in earnest. A call that comes while another one is
being served waits; what a call takes is measured, and passes on the simulated clock as well.
"""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from sweeper.engines.replay import ReplayEngine
from sweeper.messages import Channel, Decision, Done, Ending, Evaluation, Outcome, Progress, TrialSpec, Wait
from tests.sweeps import Clock

_ENDINGS = {
    Decision.CONTINUE: Ending.FINISHED,
    Decision.PRUNE: Ending.PRUNED,
    Decision.CANCEL: Ending.CANCELLED,
    Decision.SUSPEND: Ending.SUSPENDED,
}


@dataclass(frozen=True)
class Call:
    """One call of a worker, in seconds."""

    verb: str
    service: float
    """What the coordinator took, by the clock on the wall."""
    processor: float
    """The same in processor time of its thread: what other processes do is not in it."""
    waited: float
    """From the call to its answer, calls before it included."""


@dataclass
class Crew:
    """Workers that play learning curves on a channel whose time is `clock`."""

    channel: Channel
    engine: ReplayEngine
    clock: Clock
    speedup: float = 1.0
    """Recorded seconds are divided by this."""
    calls: list[Call] = field(default_factory=list)

    def work(self, count: int) -> None:
        """Play `count` workers until the channel says Done to each."""
        waiting = [(self.clock.seconds, index, self._worker(index)) for index in range(count)]
        heapify(waiting)
        free = self.clock.seconds
        while waiting:
            asked, index, worker = heappop(waiting)
            self.clock.seconds = max(asked, free)
            wall, processor = time.perf_counter(), time.thread_time()
            step = next(worker, None)
            service, processor = time.perf_counter() - wall, time.thread_time() - processor
            free = self.clock.seconds + service
            if step is not None:
                verb, pause = step
                self.calls.append(Call(verb, service, processor, free - asked))
                heappush(waiting, (free + pause, index, worker))

    def _worker(self, index: int) -> Iterator[tuple[str, float]]:
        """One worker; gives back each call that it made, and the seconds until its next one."""
        chance = random.Random(index)
        while not isinstance(order := self.channel.next_trial(), Done):
            if isinstance(order, Wait):
                yield "next_trial", order.seconds
                continue
            outcome = yield from self._play(order, chance)
            self.channel.finish(outcome)
            yield "finish", 0.0
        yield "next_trial", 0.0

    def _play(self, spec: TrialSpec, chance: random.Random) -> Iterator[tuple[str, float]]:
        curve = self.engine.curve(spec)
        settings, metric = spec.settings, self.engine.goals.objective.metric
        decision, best = Decision.CONTINUE, None
        examples, verb = 0, "next_trial"
        for mark in spec.marks:
            seconds = curve.seconds * (mark - examples) / max(curve.examples, 1)
            yield verb, seconds / self.speedup * chance.uniform(0.8, 1.2)
            verb, examples = "report", mark
            share = mark / spec.examples if spec.examples else 0.0
            value = curve.at(share)
            evaluation = Evaluation(mark, value, curve.error, {metric: value, "loss": 3.0 - value})
            best = evaluation if best is None or value > best.objective else best
            trained = {"train_loss": 3.0 - value, "learning_rate": settings.learning_rate}
            decision = self.channel.report(Progress(spec.trial, spec.attempt, mark, trained, evaluation))
            if decision is not Decision.CONTINUE:
                break
        yield verb, 0.0
        ending = _ENDINGS[decision]
        reason = f"pruned at example {examples}" if ending is Ending.PRUNED else ""
        cost = {"train_seconds": curve.seconds, "evaluation_seconds": 0.0}
        return Outcome(spec.trial, spec.attempt, ending, examples, "replay", reason, best, cost=cost)


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest of the values that at least `share` of them don't exceed."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]
