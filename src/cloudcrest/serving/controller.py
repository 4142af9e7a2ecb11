"""The controller: makes a region's replicas what the deployments say, and tells gateways and control plane how it is.

One step looks at the fabric, asks replicas how they are, decides (reconcile.py) and acts. Whatever takes time (a fetch,
a start, a probe) runs beside it, at most one thing per replica. Replicas outlive the region service: a new controller
adopts what it finds in the fabric, by its labels.
"""

import asyncio
import contextlib
import random
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import httpx2
import psutil
import structlog

from cloudcrest.catalog.api import ModelPullDocument, PullProgress
from cloudcrest.compute.api import Fabric, ProcessStatus
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import CloudcrestError, Unavailable
from cloudcrest.kernel.ids import NewId
from cloudcrest.kernel.units import format_bytes
from cloudcrest.serving.api import DeploymentDocument, RegionStatus, RouteDocument
from cloudcrest.serving.engines.api import Engine, Launch
from cloudcrest.serving.pulls import Artifacts, Pulls
from cloudcrest.serving.reasons import exit_reason
from cloudcrest.serving.reconcile import (
    Drain,
    Restart,
    Start,
    Stop,
    Wanted,
    backoff_seconds,
    failures_after,
    reconcile,
)
from cloudcrest.serving.replicas import Replica, replica_token, routes_of
from cloudcrest.serving.settings import ServingSettings

_log = structlog.get_logger(__name__)
_PORTS = (20_000, 32_000)
_PORT_TRIES = 100


def available_memory_bytes() -> int:
    """What this machine can still give out."""
    return int(psutil.virtual_memory().available)


def free_port() -> int:
    """A loopback port that is free now, below those that outgoing connections take.

    A replica that finds it taken nevertheless ends, and is tried again with another.
    """
    for _ in range(_PORT_TRIES):
        port = random.randrange(*_PORTS)  # noqa: S311 - any will do
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise Unavailable("no loopback port is free for a replica")


class Controller:
    """Reconciles one region. `update` may be called at any time from the event loop; `run` does the rest.

    `replica_secret`: what replicas' tokens are derived from; the same after a restart, or replicas cannot be adopted.
    `on_routes` and `on_status` are called when what they are given has changed. Nothing is touched before the first
    `update`: a region that does not know what it should run leaves what runs alone.
    """

    def __init__(
        self,
        fabric: Fabric,
        artifact_store: Artifacts,
        engines: Mapping[str, Engine],
        region: str,
        *,
        clock: Clock,
        new_id: NewId,
        on_routes: Callable[[dict[str, RouteDocument]], None],
        on_status: Callable[[RegionStatus], None],
        replica_secret: str,
        settings: ServingSettings | None = None,
        free_memory_bytes: Callable[[], int] = available_memory_bytes,
    ) -> None:
        self._fabric = fabric
        self._artifacts = artifact_store
        self._engines = engines
        self._region = region
        self._clock = clock
        self._new_id = new_id
        self._on_routes = on_routes
        self._on_status = on_status
        self._secret = replica_secret
        self._settings = settings or ServingSettings()
        self._free_memory_bytes = free_memory_bytes
        self._client = httpx2.AsyncClient(trust_env=False, limits=httpx2.Limits(max_keepalive_connections=64))
        self._wake = asyncio.Event()
        self._deployments: dict[str, DeploymentDocument] | None = None
        self._replicas: dict[str, Replica] = {}
        self._work: dict[str, asyncio.Task[None]] = {}
        self._pulls = Pulls(artifact_store, clock, self._settings, self._wake.set)
        self._is_adopted = False
        self._listing = 0
        self._routes: dict[str, RouteDocument] | None = None
        self._status: RegionStatus | None = None

    def update(self, deployments: list[DeploymentDocument], pulls: list[ModelPullDocument]) -> None:
        """Sets what is wanted; what is for other regions is left out."""
        self._deployments = {document.id: document for document in deployments if document.region == self._region}
        self._pulls.want(pull for pull in pulls if pull.region == self._region)
        self._wake.set()

    async def run(self) -> None:
        """Steps until cancelled. Replicas are left running, for the next controller to adopt."""
        task = asyncio.current_task()
        try:
            # Asked each time: before Python 3.12, `asyncio.wait_for` below us can swallow a cancellation.
            while task is None or not task.cancelling():
                self._wake.clear()
                due_in_seconds = await self.step()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, min(self._settings.poll_seconds, due_in_seconds))):
                        await self._wake.wait()
        finally:
            await self._pulls.close()
            for task in self._work.values():
                task.cancel()
            await asyncio.gather(*self._work.values(), return_exceptions=True)
            await self._client.aclose()

    async def step(self) -> float:
        """One look and what follows from it. Returns in how many seconds something is due at the latest."""
        if self._deployments is None:
            return self._settings.poll_seconds
        try:
            await self._observe()
        except CloudcrestError as error:
            _log.warning("fabric_unavailable", error=error.message)
            self._publish()
            return 1.0
        self._pulls.step()
        self._probe_due()
        now = self._clock.monotonic()
        known = [replica.known() for replica in self._replicas.values()]
        wanted = [
            Wanted(document.id, document.generation, document.replicas_min, document.replicas_max)
            for document in self._deployments.values()
        ]
        plan = reconcile(wanted, known, now, self._settings)
        for action in plan.actions:
            self._act(action, now)
        self._publish()
        return self._settings.poll_seconds if plan.look_again_at is None else plan.look_again_at - now

    async def settle(self) -> None:
        """Waits for all that runs beside the steps; for tests, which step by hand."""
        while running := [*self._work.values(), *self._pulls.running()]:
            await asyncio.gather(*running, return_exceptions=True)
            await asyncio.sleep(0)

    async def _observe(self) -> None:
        """Learns of exits, adopts what it finds at first, and stops strays."""
        self._listing += 1
        listing = self._listing
        processes = {
            process.id: process for process in await self._fabric.list() if process.labels.get("kind") == "replica"
        }
        if not self._is_adopted:
            await self._adopt(list(processes.values()))
            self._is_adopted = True
        for replica in list(self._replicas.values()):
            if not replica.has_process or listing < replica.visible_from:
                continue
            process = processes.get(replica.id)
            if process is None:
                self._failed(replica, exit_reason(None, ""))
            elif process.state == "exited":
                self._failed(replica, exit_reason(process.exit_code, process.log_tail))
        for process_id in processes.keys() - self._replicas.keys():
            if process_id not in self._work:
                self._beside(process_id, partial(self._fabric.stop, process_id))

    async def _adopt(self, processes: Sequence[ProcessStatus]) -> None:
        """Takes over the replicas of the controller before. They are asked at once, so that no route is lost."""
        assert self._deployments is not None  # noqa: S101 - step() has seen it
        now = self._clock.monotonic()
        adopted = []
        for process in processes:
            document = self._deployments.get(process.labels.get("deployment", ""))
            port = process.labels.get("port", "")
            if document is None or process.state != "running" or not port.isdigit():
                continue
            replica = Replica(process.id, document, generation=int(process.labels["generation"]), since=now)
            replica.port = int(port)
            replica.enter("starting", now, "was running before the region service restarted")
            self._replicas[replica.id] = replica
            adopted.append(replica)
        await asyncio.gather(*(self._probe(replica) for replica in adopted))
        _log.info("replicas_adopted", count=len(adopted))

    def _act(self, action: Start | Restart | Drain | Stop, now: float) -> None:
        if isinstance(action, Start):
            assert self._deployments is not None  # noqa: S101 - step() has seen it
            document = self._deployments[action.deployment_id]
            replica = Replica(self._new_id("rep"), document, generation=document.generation, since=now)
            self._replicas[replica.id] = replica
            self._beside(replica.id, partial(self._bring_up, replica))
        elif isinstance(action, Restart):
            replica = self._replicas[action.replica_id]
            replica.restarts += 1
            replica.enter("fetching", now, replica.reason)
            self._beside(replica.id, partial(self._bring_up, replica))
        elif isinstance(action, Drain):
            replica = self._replicas[action.replica_id]
            replica.in_flight = None
            grace_seconds = self._settings.drain_most_seconds
            replica.leave_by_unix_seconds = self._clock.now().timestamp() + grace_seconds
            replica.enter("draining", now, "finishes its requests before it stops")
        else:
            replica = self._replicas[action.replica_id]
            replica.enter("stopping", now)
            self._beside(replica.id, partial(self._stop, replica))

    async def _bring_up(self, replica: Replica) -> None:
        """Weights, runtime, process; how far it is shows in the replica."""
        document = replica.document
        engine = self._engines[document.engine]

        def report_pull(progress: PullProgress) -> None:
            replica.pull = progress
            self._wake.set()

        def report_progress(text: str) -> None:
            replica.reason = text
            self._wake.set()

        engine.validate(document)
        path: Path | None = None
        if engine.artifact_format is not None:
            path = await self._artifacts.fetch(document.model, engine.artifact_format, report_pull)
        replica.enter("preparing", self._clock.monotonic(), replica.reason)
        await engine.prepare(document, report_progress)
        self._require_memory(document, engine, path)
        # A process of this id that has ended is still known to the fabric.
        await self._fabric.stop(replica.id)
        replica.port = free_port()
        token = replica_token(self._secret, replica.id)
        launch = Launch(replica_id=replica.id, port=replica.port, token=token, artifact_path=path)
        await self._fabric.start(engine.process_spec(document, launch))
        replica.visible_from = self._listing + 1
        replica.probed_at = float("-inf")
        again = f" again, after this: {replica.last_failure}" if replica.last_failure else ""
        replica.enter("starting", self._clock.monotonic(), f"is loading its weights{again}")

    def _require_memory(self, document: DeploymentDocument, engine: Engine, path: Path | None) -> None:
        needed_bytes = document.memory_bytes or engine.memory_bytes(document, path)
        free_bytes = self._free_memory_bytes()
        if needed_bytes > free_bytes:
            raise Unavailable(f"needs {format_bytes(needed_bytes)} memory, {format_bytes(free_bytes)} free")

    async def _stop(self, replica: Replica) -> None:
        await self._fabric.stop(replica.id)
        self._replicas.pop(replica.id, None)

    def _probe_due(self) -> None:
        """Asks the replicas whose turn it is. One that is being asked is not asked again."""
        now = self._clock.monotonic()
        for replica in self._replicas.values():
            is_steady = replica.phase == "ready"
            every = self._settings.ready_probe_seconds if is_steady else self._settings.starting_probe_seconds
            if replica.has_process and replica.id not in self._work and now - replica.probed_at >= every:
                replica.probed_at = now
                self._beside(replica.id, partial(self._probe, replica))

    async def _probe(self, replica: Replica) -> None:
        engine = self._engines[replica.document.engine]
        phase = replica.phase
        probe = await engine.probe(self._client, replica.url, replica_token(self._secret, replica.id))
        now = self._clock.monotonic()
        if replica.phase != phase:
            return
        if phase == "draining":
            replica.in_flight = probe.in_flight
        elif probe.is_ready:
            replica.unanswered = 0
            replica.pull = None
            if phase == "starting":
                _log.info("replica_ready", replica=replica.id, deployment=replica.document.id)
                replica.last_failure = None
                replica.enter("ready", now)
        elif phase == "ready" and probe.is_alive:
            # It answers that it cannot serve (an upstream that refuses us): out of the route, but no reason to restart.
            replica.enter("starting", now, probe.reason)
        elif phase == "ready":
            replica.unanswered += 1
            if replica.unanswered >= self._settings.unanswered_probes:
                self._failed(replica, f"stopped answering: it {probe.reason}")
        else:
            if probe.is_alive and not replica.last_failure:
                replica.reason = probe.reason
            if now - replica.since >= engine.start_timeout_seconds:
                self._failed(replica, f"was not ready after {engine.start_timeout_seconds:.0f} s: it {probe.reason}")

    def _failed(self, replica: Replica, reason: str) -> None:
        """Puts a replica into backoff. A draining one is stopped for good."""
        now = self._clock.monotonic()
        if replica.phase == "draining":
            self._act(Stop(replica.id), now)
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
            self._beside(replica.id, partial(self._fabric.stop, replica.id))

    def _beside(self, replica_id: str, work: Callable[[], Awaitable[None]]) -> None:
        """Runs `work` for a replica beside the steps, instead of what ran for it until now."""
        previous = self._work.pop(replica_id, None)
        if previous is not None and previous is not asyncio.current_task():
            previous.cancel()

        async def guarded() -> None:
            replica = self._replicas.get(replica_id)
            try:
                await work()
            except CloudcrestError as error:
                if replica is not None and replica.phase != "stopping":
                    self._failed(replica, str(error))
                elif replica is not None:
                    replica.enter("draining", float("-inf"), error.message)
            except Exception as error:  # noqa: BLE001 - one replica's fault must not stop the others' controller
                _log.error("replica_work_failed", replica=replica_id, exc_info=error)
                if replica is not None and replica.phase not in ("stopping", "backoff"):
                    self._failed(replica, f"an unexpected error: {type(error).__name__}: {error}")
            finally:
                if self._work.get(replica_id) is asyncio.current_task():
                    del self._work[replica_id]
                self._wake.set()

        self._work[replica_id] = asyncio.create_task(guarded())

    def _publish(self) -> None:
        """Tells what has changed."""
        assert self._deployments is not None  # noqa: S101 - step() has seen it
        replicas = sorted(self._replicas.values(), key=lambda replica: replica.id)
        routes = routes_of(self._deployments.values(), replicas, self._secret)
        if routes != self._routes:
            self._routes = routes
            self._on_routes(routes)
        status = RegionStatus(tuple(replica.status() for replica in replicas), dict(self._pulls.progress))
        if status != self._status:
            self._status = status
            self._on_status(status)
