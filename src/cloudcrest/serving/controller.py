"""The controller: makes a region's replicas what the deployments say, and tells gateways and control plane how it is.

One step looks at the fabric, hears the placer's news, asks replicas how they are, decides (reconcile.py) and acts.
Whatever takes time (a fetch, a start, a probe) runs beside it, at most one thing per replica. Replicas outlive the
region service: a new controller adopts what it finds in the fabric, by its labels.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import structlog

from cloudcrest.catalog.api import ModelPullDocument
from cloudcrest.compute.api import Fabric, Placer, ProcessStatus
from cloudcrest.compute.fabric.machine import NODE_ID
from cloudcrest.compute.scheduler.model import Preempted
from cloudcrest.infra.stepping import run_steps
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import CloudcrestError
from cloudcrest.kernel.ids import NewId
from cloudcrest.serving.api import DeploymentDocument, RegionStatus, RouteDocument
from cloudcrest.serving.engines.api import Engine
from cloudcrest.serving.places import SOURCE, found_running, workload_of
from cloudcrest.serving.preparation import PREPARATION, Folders, Preparations, available_memory_bytes
from cloudcrest.serving.pulls import Artifacts, Pulls
from cloudcrest.serving.reasons import exit_reason
from cloudcrest.serving.reconcile import (
    Drain,
    Leaving,
    Restart,
    Start,
    Stop,
    Wanted,
    reconcile,
)
from cloudcrest.serving.replica_work import ReplicaWork
from cloudcrest.serving.replicas import Replica, routes_of
from cloudcrest.serving.settings import ServingSettings

_log = structlog.get_logger(__name__)
_PREPARING = ("fetching", "preparing")


class Controller:
    """Reconciles one region. `update` may be called at any time from the event loop; `run` does the rest.

    `replica_secret`: what replicas' tokens are derived from; the same after a restart, or replicas cannot be adopted.
    `on_routes` and `on_status` are called when what they are given has changed. `here`: the node that this process runs
    on; `folders`: where the others keep what replicas need (None: there are no others). Nothing is touched before the
    first `update`: a region that does not know what it should run leaves what runs alone.
    """

    def __init__(
        self,
        fabric: Fabric,
        placer: Placer,
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
        here: str = NODE_ID,
        folders: Folders | None = None,
        free_memory_bytes: Callable[[], int] = available_memory_bytes,
    ) -> None:
        self._fabric = fabric
        self._placer = placer
        self._engines = engines
        self._region = region
        self._clock = clock
        self._new_id = new_id
        self._on_routes = on_routes
        self._on_status = on_status
        self._secret = replica_secret
        self._settings = settings or ServingSettings()
        self._wake = asyncio.Event()
        self._deployments: dict[str, DeploymentDocument] | None = None
        self._replicas: dict[str, Replica] = {}
        self._pulls = Pulls(artifact_store, clock, self._settings, self._wake.set)
        preparing = Preparations(
            artifact_store, fabric, here, folders, settings=self._settings, free_memory_bytes=free_memory_bytes
        )
        self._work = ReplicaWork(
            self._replicas,
            fabric,
            placer,
            engines,
            preparing=preparing.on,
            is_here=preparing.is_here,
            clock=clock,
            secret=replica_secret,
            settings=self._settings,
            wake=self._wake.set,
        )
        self._is_adopted = False
        self._routes: dict[str, RouteDocument] | None = None
        self._status: RegionStatus | None = None
        placer.watch(SOURCE, self._wake.set)

    def update(self, deployments: list[DeploymentDocument], pulls: list[ModelPullDocument]) -> None:
        """Sets what is wanted; what is for other regions is left out."""
        self._deployments = {document.id: document for document in deployments if document.region == self._region}
        self._pulls.want(pull for pull in pulls if pull.region == self._region)
        self._wake.set()

    async def run(self) -> None:
        """Steps until cancelled. Replicas are left running, for the next controller to adopt."""
        try:
            await run_steps(self.step, self._wake, self._settings.poll_seconds)
        finally:
            await self._pulls.close()
            await self._work.close()

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
        self._hear()
        self._pulls.step()
        self._work.probe_due()
        now = self._clock.monotonic()
        known = [replica.known() for replica in self._replicas.values()]
        wanted = [
            Wanted(document.id, document.generation, document.replicas_min, document.replicas_max)
            for document in self._deployments.values()
        ]
        plan = reconcile(wanted, known, now, self._settings)
        for action in plan.actions:
            self._act(action)
        self._publish()
        return self._settings.poll_seconds if plan.look_again_at is None else plan.look_again_at - now

    async def settle(self) -> None:
        """Waits for all that runs beside the steps; for tests, which step by hand."""
        was_busy = True
        while was_busy:
            was_busy = await self._work.settle() or await self._pulls.settle()

    # what there is

    async def _observe(self) -> None:
        """Learns of exits, adopts what it finds at first, and stops strays."""
        self._work.listing += 1
        listing = self._work.listing
        ours = [each for each in await self._fabric.list() if each.labels.get("kind") in ("replica", PREPARATION)]
        processes = {process.id: process for process in ours if process.labels["kind"] == "replica"}
        if not self._is_adopted:
            await self._adopt(list(processes.values()))
            self._is_adopted = True
        for replica in list(self._replicas.values()):
            replica.leaving = "lost" if self._placer.is_lost(replica.node_id) and replica.running else replica.leaving
            if not replica.has_process or listing < replica.visible_from or replica.leaving == "lost":
                continue
            process = processes.get(replica.id)
            if process is None:
                self._work.failed(replica, exit_reason(None, ""))
            elif process.state == "exited":
                self._work.failed(replica, exit_reason(process.exit_code, process.log_tail))
        for process in ours:
            if self._is_stray(process):
                self._work.stop_stray(process.id)

    def _is_stray(self, process: ProcessStatus) -> bool:
        if process.labels["kind"] == "replica":
            return process.id not in self._replicas
        replica = self._replicas.get(process.labels.get("replica", ""))
        return replica is None or replica.phase not in _PREPARING

    async def _adopt(self, processes: Sequence[ProcessStatus]) -> None:
        """Takes over the replicas of the controller before. They are asked at once, so that no route is lost."""
        assert self._deployments is not None  # noqa: S101 - step() has seen it
        now, since = self._clock.monotonic(), self._clock.unix_seconds()
        adopted = []
        for process in processes:
            document = self._deployments.get(process.labels.get("deployment", ""))
            port = process.labels.get("port", "")
            if document is None or process.state != "running" or not port.isdigit():
                continue
            replica = Replica(process.id, document, generation=int(process.labels["generation"]), since=now)
            workload = workload_of(replica.id, document, self._engines[document.engine], self._settings, since)
            replica.running = found_running(process, workload, since)
            replica.address, replica.port = process.address, int(port)
            replica.enter("starting", now, "was running before the region service restarted")
            self._replicas[replica.id] = replica
            self._placer.adopt(SOURCE, replica.running)
            adopted.append(replica)
        await asyncio.gather(*(self._work.probe(replica) for replica in adopted))
        _log.info("replicas_adopted", count=len(adopted))

    def _hear(self) -> None:
        """Takes over the placer's news: who has a place, who waits and why, who is to leave."""
        news = self._placer.news(SOURCE)
        placed = {each.workload_id: each.spots[0] for each in news.placed}
        refused = {each.workload_id: each for each in news.refused}
        preempted = {each.workload_id: each for each in news.preempted}
        for replica in self._replicas.values():
            if replica.phase == "placing" and replica.id in placed:
                self._work.begin(replica, placed[replica.id])
            elif replica.phase == "placing":
                replica.waits(refused.get(replica.id))
            elif replica.leaving != "lost":
                replica.leaving = _leaving(preempted.get(replica.id))

    # what is done

    def _act(self, action: Start | Restart | Drain | Stop) -> None:
        if isinstance(action, Start):
            self._start(action)
        elif isinstance(action, Restart):
            self._work.restart(self._replicas[action.replica_id])
        elif isinstance(action, Drain):
            self._work.drain(self._replicas[action.replica_id])
        else:
            self._work.stop(self._replicas[action.replica_id])

    def _start(self, action: Start) -> None:
        """A new replica, which waits for a place."""
        assert self._deployments is not None  # noqa: S101 - step() has seen it
        document, now = self._deployments[action.deployment_id], self._clock.monotonic()
        replica = Replica(self._new_id("rep"), document, generation=document.generation, since=now)
        self._replicas[replica.id] = replica
        engine = self._engines[document.engine]
        since = self._clock.unix_seconds()
        self._placer.offer(SOURCE, workload_of(replica.id, document, engine, self._settings, since))

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


def _leaving(preempted: Preempted | None) -> Leaving:
    """Why it has to leave its place. For a drained node there is time; nobody waits for the place."""
    if preempted is None:
        return ""
    return "preempted" if preempted.by else "moves"
