"""A region's controller over real processes: a node agent on its socket, and what the controller tells."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from cloudcrest.bootstrap.region_placement import Published, rules
from cloudcrest.catalog.settings import CatalogSettings
from cloudcrest.compute.api import Fabric
from cloudcrest.compute.fabric.agent import NodeAgent
from cloudcrest.compute.fabric.local import LocalFabric
from cloudcrest.compute.fabric.process_host import ProcessHost
from cloudcrest.compute.placement.placer import LivePlacer
from cloudcrest.compute.placement.settings import PlacementSettings
from cloudcrest.compute.scheduler.packing.best_fit import BestFit
from cloudcrest.infra.lifeline import Lifeline
from cloudcrest.kernel.clock import SystemClock
from cloudcrest.kernel.ids import new_id
from cloudcrest.serving.api import DeploymentDocument, RegionStatus, ReplicaEndpoint, RouteDocument
from cloudcrest.serving.controller import Controller
from cloudcrest.serving.engines.api import EngineSettings
from cloudcrest.serving.engines.registry import create_engines
from cloudcrest.serving.fakes import FakeArtifacts
from cloudcrest.serving.preparation import Folders
from cloudcrest.serving.settings import ServingSettings
from tests.support.waiting import until_async


def live_placer(fabric: Fabric) -> LivePlacer:
    """A placer that does not wait long, by the rules of a region where nothing has been set."""
    return LivePlacer(
        fabric,
        BestFit(),
        rules(Published(), SystemClock().now()),
        clock=SystemClock(),
        settings=PlacementSettings(nodes_seconds=0.1, lost_seconds=0.5),
    )


class Region:
    """A region service's part around the controller: what it is told, and what it tells."""

    def __init__(self, fabric: Fabric, artifacts: FakeArtifacts, folder: Path) -> None:
        self.fabric = fabric
        self.artifacts = artifacts
        self.folder = folder
        self.routes: dict[str, RouteDocument] = {}
        self.status = RegionStatus()
        self.heard: Callable[[dict[str, RouteDocument]], None] = lambda _: None

    @asynccontextmanager
    async def running(
        self, *documents: DeploymentDocument, drain_most_seconds: float = 120.0, placer: LivePlacer | None = None
    ) -> AsyncIterator[Controller]:
        """A controller at work; with a `placer` that others share, whoever gave it runs that."""
        runs_placer = placer is None
        placer = self.placer = placer or live_placer(self.fabric)
        controller = Controller(
            self.fabric,
            placer,
            self.artifacts,
            create_engines(EngineSettings(runtimes_folder=self.folder)),
            "local",
            clock=SystemClock(),
            new_id=new_id,
            on_routes=self.take_routes,
            on_status=self.take_status,
            replica_secret="region-secret",
            folders=Folders(self.folder / "models", self.folder / "runtimes", CatalogSettings()),
            settings=ServingSettings(
                drain_least_seconds=0.1,
                drain_most_seconds=drain_most_seconds,
                backoff_first_seconds=0.1,
                ready_probe_seconds=0.2,
            ),
        )
        controller.update(list(documents), [])
        tasks = [asyncio.create_task(controller.run())]
        if runs_placer:
            tasks.append(asyncio.create_task(placer.run()))
        try:
            yield controller
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def take_routes(self, routes: dict[str, RouteDocument]) -> None:
        self.routes = routes
        self.heard(routes)

    def take_status(self, status: RegionStatus) -> None:
        self.status = status

    async def endpoint(self, *, other_than: str = "") -> ReplicaEndpoint:
        """The one replica of the route, once there is one."""

        def look() -> ReplicaEndpoint | None:
            listed = self.routes["dep_test"].replicas if "dep_test" in self.routes else ()
            replicas = [each for each in listed if each.leave_by_unix_seconds is None]
            return replicas[0] if len(replicas) == 1 and replicas[0].id != other_than else None

        found = await until_async(look, f"a replica is routed to: {self.status}")
        assert found is not None
        return found

    async def pid(self, replica_id: str) -> int:
        (process,) = [process for process in await self.fabric.list() if process.id == replica_id]
        assert process.pid is not None
        return process.pid


@asynccontextmanager
async def running_region(folder: Path) -> AsyncIterator[Region]:
    """A region without a controller yet, over processes of its own."""
    lifeline = Lifeline()
    host = ProcessHost(log_folder=folder, working_folder=folder, lifeline=lifeline, environment=os.environ)
    with tempfile.TemporaryDirectory() as short:  # a socket's path has few characters
        agent = NodeAgent(host, Path(short) / "node.sock")
        await agent.start()
        yield Region(LocalFabric(Path(short) / "node.sock"), FakeArtifacts(folder / "m.gguf"), folder)
        await agent.close()
    await host.close()
    lifeline.close()
