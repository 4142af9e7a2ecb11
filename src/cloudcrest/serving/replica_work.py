"""What is done with one replica: brought up in its place, asked how it is, tried again, drained, stopped."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import structlog

from cloudcrest.compute.api import Fabric, NodeFacts, Placer
from cloudcrest.compute.scheduler.model import Running, Spot
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import CloudcrestError, Unavailable
from cloudcrest.kernel.pauses import PAUSE_SECONDS, Pauses
from cloudcrest.serving.beside import Beside
from cloudcrest.serving.engines.api import Engine
from cloudcrest.serving.launching import Launcher
from cloudcrest.serving.places import SOURCE, workload_of
from cloudcrest.serving.preparation import Preparing
from cloudcrest.serving.probing import Prober
from cloudcrest.serving.reconcile import backoff_seconds, failures_after
from cloudcrest.serving.replicas import Replica
from cloudcrest.serving.settings import ServingSettings

_log = structlog.get_logger(__name__)


class ReplicaWork:
    """Works on the replicas that there are (`replicas`, by id; one that is gone is taken out), beside whoever steps.

    `wake` is called when something has changed. `listing`: how often the fabric has been asked what runs; a process is
    not missed before a listing that began after its start.
    """

    def __init__(
        self,
        replicas: dict[str, Replica],
        fabric: Fabric,
        placer: Placer,
        engines: Mapping[str, Engine],
        *,
        preparing: Callable[[NodeFacts], Preparing],
        is_here: Callable[[NodeFacts], bool],
        clock: Clock,
        secret: str,
        settings: ServingSettings,
        wake: Callable[[], None],
    ) -> None:
        self.listing = 0
        self._replicas = replicas
        self._fabric = fabric
        self._placer = placer
        self._engines = engines
        self._clock = clock
        self._settings = settings
        self._beside = Beside(wake)
        self._pauses = Pauses(clock, PAUSE_SECONDS)
        self._prober = Prober(engines, secret, clock=clock, settings=settings, on_failed=self.failed)
        self._launcher = Launcher(
            fabric, engines, preparing=preparing, is_here=is_here, clock=clock, secret=secret, on_change=wake
        )

    def begin(self, replica: Replica, spot: Spot) -> None:
        """It has its place: brings it up there."""
        document = replica.document
        since = self._clock.unix_seconds()
        workload = workload_of(replica.id, document, self._engines[document.engine], self._settings, since)
        replica.running = Running(workload, (spot,), since)
        replica.enter("fetching", self._clock.monotonic())
        self._start(replica.id, partial(self._bring_up, replica))

    def restart(self, replica: Replica) -> None:
        """Brings it up again, in the place that it has."""
        replica.restarts += 1
        replica.enter("fetching", self._clock.monotonic(), replica.reason)
        self._start(replica.id, partial(self._bring_up, replica))

    def drain(self, replica: Replica) -> None:
        """Takes it out of the route; it goes on with what it has begun."""
        replica.in_flight = None
        replica.leave_by_unix_seconds = self._clock.now().timestamp() + self._settings.drain_most_seconds
        replica.enter("draining", self._clock.monotonic(), "finishes its requests before it stops")

    def stop(self, replica: Replica) -> None:
        """Ends it, gives its place back and forgets it."""
        replica.enter("stopping", self._clock.monotonic())
        self._start(replica.id, partial(self._end, replica))

    def stop_stray(self, process_id: str) -> None:
        """Ends a process that nobody wants, unless that is being done or has just failed: where its node does not
        answer, trying ends at once.
        """
        if process_id not in self._beside and process_id not in self._pauses:
            self._start(process_id, partial(self._fabric.stop, process_id))

    def probe_due(self) -> None:
        """Asks the replicas whose turn it is. One that is being asked is not asked again."""
        now = self._clock.monotonic()
        for replica in self._replicas.values():
            if replica.id not in self._beside and self._prober.is_due(replica, now):
                replica.probed_at = now
                self._start(replica.id, partial(self._prober.probe, replica))

    async def probe(self, replica: Replica) -> None:
        """Asks one now."""
        await self._prober.probe(replica)

    def failed(self, replica: Replica, reason: str) -> None:
        """Puts a replica into backoff. A draining one is stopped for good."""
        now = self._clock.monotonic()
        if replica.phase == "draining":
            self.stop(replica)
            return
        healthy_seconds = now - replica.since if replica.phase == "ready" else None
        replica.failures = failures_after(replica.failures, healthy_seconds, self._settings)
        wait_seconds = backoff_seconds(replica.failures, self._settings)
        replica.retry_at = now + wait_seconds
        _log.warning("replica_failed", replica=replica.id, deployment=replica.document.id, reason=reason)
        had_process = replica.has_process
        replica.last_failure = reason
        replica.enter("backoff", now, reason)
        if had_process:
            self._start(replica.id, partial(self._fabric.stop, replica.id))

    async def settle(self) -> bool:
        """Waits for what is being done. False: nothing was."""
        return await self._beside.settle()

    async def close(self) -> None:
        """Gives up what is being done; processes are left running."""
        await self._beside.close()
        await self._prober.close()

    async def _bring_up(self, replica: Replica) -> None:
        node = self._placer.node(replica.node_id)
        if node is None:
            raise Unavailable(f"node '{replica.node_id}' is not there")
        await self._launcher.bring_up(replica, node)
        replica.visible_from = self.listing + 1
        replica.probed_at = float("-inf")
        again = f" again, after this: {replica.last_failure}" if replica.last_failure else ""
        replica.enter("starting", self._clock.monotonic(), f"is loading its weights{again}")

    async def _end(self, replica: Replica) -> None:
        """What runs on a node that is lost is a stray, should that come back."""
        try:
            await self._fabric.stop(replica.id)
        except CloudcrestError:
            if replica.leaving != "lost":
                raise
        self._replicas.pop(replica.id, None)
        self._placer.release(SOURCE, replica.id)

    def _start(self, replica_id: str, work: Callable[[], Awaitable[None]]) -> None:
        """Runs `work` for a replica, instead of what ran for it until now."""
        self._beside.start(replica_id, work, partial(self._went_wrong, replica_id))

    def _went_wrong(self, replica_id: str, error: Exception) -> None:
        replica = self._replicas.get(replica_id)
        if not isinstance(error, CloudcrestError):
            _log.error("replica_work_failed", replica=replica_id, exc_info=error)
        if replica is None:
            self._pauses.begin(replica_id)
            return
        if isinstance(error, CloudcrestError):
            if replica.phase == "stopping":
                replica.enter("draining", float("-inf"), error.message)
            else:
                self.failed(replica, str(error))
        elif replica.phase not in ("stopping", "backoff"):
            self.failed(replica, f"an unexpected error: {type(error).__name__}: {error}")
