"""Workers as Ray actors: Ray places them on devices, and tells when one of them or its node is lost.

The coordinator stays in this process, and asks: it hands a worker the reply to its last call and gets its
next one back. So nothing stands between the two that could be lost by itself, and the request that breaks
when a worker dies names that worker.
"""

import math
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.config import Config
from sweeper.coordinator import Coordinator
from sweeper.engines import needs_model
from sweeper.errors import SweeperError, SweepFailed
from sweeper.executors.actor import Call, Site, Worker
from sweeper.executors.cluster import cluster
from sweeper.executors.line import LOOK_SECONDS, STARTS, Line, broke_off, for_workers
from sweeper.layout import Layout, write_atomically


class RayExecutor:
    """As many workers as `executor.workers` says, or as the cluster's GPUs hold."""

    elsewhere = True

    def __init__(self, config: Config, layout: Layout) -> None:
        self._config = config
        self._layout = layout
        count, address = config.executor.workers, config.executor.address
        self.workers = min(count or 1, config.budget.trials)
        told = "workers" if count is None else f"{self.workers} worker{'s' if self.workers > 1 else ''}"
        where = f"the Ray cluster {address}" if address else "a Ray cluster of its own"
        self.about = f"{told} on {where}"

    def run(self, coordinator: Coordinator) -> None:
        """Train until the coordinator says Done to all workers, replacing those that are lost.

        Raises ClusterError if the cluster can't be used, ModelError or DataError if a worker
        can't load model or rows, SweepFailed if none comes up.
        """
        with cluster(self._config.executor) as ray, _proof(self._layout.folder) as site:
            crew = _Crew(ray, self._config, self._layout.rows, site, coordinator)
            try:
                while not crew.is_done:
                    crew.fill()
                    crew.answer()
                    crew.look_after()
            finally:
                crew.disband()
        if crew.error is not None:
            raise crew.error


@dataclass
class _Member:
    """A worker as the coordinator's process knows it."""

    actor: Any
    call: Any
    """Ray's promise of its next call."""
    line: Line | None = None
    """None until Ray has found it a device."""

    @property
    def has_loaded(self) -> bool:
        return self.line is not None and self.line.has_loaded


class _Crew:
    """The workers there are, those that wait for a device included, and what becomes of the lost ones."""

    def __init__(self, ray: Any, config: Config, rows: Path, site: Site, coordinator: Coordinator) -> None:
        self.error: SweeperError | None = None
        """Why the sweep can't go on."""
        self._ray = ray
        self._executor = config.executor
        self._trials = config.budget.trials
        self._coordinator = coordinator
        self._members: list[_Member] = []
        self._in_vain = 0
        self._is_over = False
        self._looked = 0.0
        needs = _needs(config, ray.cluster_resources())
        self._on_gpus = needs["num_gpus"] > 0
        actor: Any = ray.remote(Worker)
        self._actor = actor.options(max_restarts=0, max_task_retries=0, **needs)
        self._work = (for_workers(config), rows, site)

    @property
    def is_done(self) -> bool:
        """Whether no trial will be handed out and all workers that have loaded have come to their end."""
        is_over = self._is_over or bool(self._coordinator.stopped)
        return is_over and not any(member.has_loaded for member in self._members)

    def fill(self) -> None:
        """Ask Ray for the workers that are missing; one appears as soon as there is a device for it."""
        now = time.monotonic()
        if self._is_over or self._coordinator.stopped or now < self._looked + LOOK_SECONDS:
            return
        self._looked = now
        for _ in range(self._wanted() - len(self._members)):
            actor = self._actor.remote(*self._work)
            self._members.append(_Member(actor, actor.listen.remote()))

    def answer(self) -> None:
        """Answer all workers that have called, or wait a moment for one that does."""
        members = {member.call: member for member in self._members}
        if not members:
            time.sleep(LOOK_SECONDS)
            return
        self._ray.wait(list(members), timeout=LOOK_SECONDS)
        come, _ = self._ray.wait(list(members), num_returns=len(members), timeout=0)
        for call in come:
            self._answer(members[call])

    def look_after(self) -> None:
        """Give up those that hang; one that waits for its device may do so for ever."""
        for member in list(self._members):
            how = member.line.hangs(self._executor.silence_seconds or math.inf) if member.line else ""
            if how and not self._has_called(member):
                self._lose(member, how)

    def _has_called(self, member: _Member) -> bool:
        """Whether its call waits here: for a database, the coordinator itself may have been silent."""
        return bool(self._ray.wait([member.call], timeout=0)[0])

    def disband(self) -> None:
        """End all workers, those too that Ray has found no device for."""
        for member in self._members:
            self._ray.kill(member.actor)
        self._members.clear()

    def _answer(self, member: _Member) -> None:
        try:
            call: Call | None = self._ray.get(member.call)
        except self._ray.exceptions.RayTaskError as error:
            self._end(error.cause)
            self._lose(member, "broke off")
        except self._ray.exceptions.RayError as error:
            self._lose(member, f"was lost: {_in_words(error)}")
        else:
            if call is None:
                self._lose(member, "came to its end")
            else:
                member.call = member.actor.answer.remote(self._reply(member, *call))

    def _reply(self, member: _Member, verb: str, *said: Any) -> Any:
        if member.line is None:  # it has arrived
            member.line = Line(self._coordinator)
            return None
        reply = getattr(member.line, verb)(*said)
        self._is_over = self._is_over or member.line.is_done
        return reply

    def _lose(self, member: _Member, how: str) -> None:
        """Give back the trials of a worker that is gone; `fill` replaces it."""
        self._members.remove(member)
        self._ray.kill(member.actor)
        if member.line is not None:
            member.line.cut(f"its worker {how}")
        has_trained = member.line is not None and member.line.has_trained
        self._in_vain = 0 if has_trained else self._in_vain + 1
        if self._in_vain >= STARTS * self._wanted() and not self._is_over:
            lost = f"{self._in_vain} workers in a row were lost before they took a trial; the last"
            self._end(SweepFailed(f"{lost} {how}. Ray's logs are in /tmp/ray; the same command goes on."))

    def _end(self, error: Exception) -> None:
        """Have the other workers save their trials, for the same error awaits them."""
        if not isinstance(error, SweeperError):
            error = broke_off(error)
        self.error = self.error or error
        self._coordinator.stop("a worker could not go on")

    def _wanted(self) -> int:
        """Workers there are to be, no more than trials; counted anew, for nodes come and go."""
        wanted = self._executor.workers
        if wanted is None:
            gpus = int(self._ray.cluster_resources().get("GPU", 0)) if self._on_gpus else 0
            wanted = max(1, gpus * (self._executor.workers_per_device or 1))
        return min(wanted, self._trials)


@contextmanager
def _proof(folder: Path) -> Iterator[Site]:
    """Write a file that only nodes can read that share `folder`.

    Its name is new each time: no node has heard of it, and believes what it once knew.
    """
    word = secrets.token_hex(8)
    site = Site(Path.cwd(), folder.absolute() / f".shared-{word}", word)
    write_atomically(site.proof, word)
    try:
        yield site
    finally:
        site.proof.unlink(missing_ok=True)


def _needs(config: Config, resources: Mapping[str, float]) -> dict[str, float]:
    """What Ray is asked for on behalf of each worker: a GPU or a share of one, else one core."""
    device = config.model.device
    if needs_model(config) and (device == "cuda" or (device == "auto" and resources.get("GPU", 0) > 0)):
        return {"num_cpus": 0, "num_gpus": 1 / (config.executor.workers_per_device or 1)}
    return {"num_cpus": 1, "num_gpus": 0}


def _in_words(error: Exception) -> str:
    """Why Ray lost a worker: the last line of what it says, without its guesses at the cause."""
    return str(error).strip().rpartition("\n")[2].partition(" Worker exit detail")[0]
