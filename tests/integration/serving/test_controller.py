"""The controller over real processes: a node agent on its socket, simulated and llama.cpp replicas."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import msgspec
import pytest

from cloudcrest.compute.fabric.agent import NodeAgent
from cloudcrest.compute.fabric.local import LocalFabric
from cloudcrest.compute.fabric.process_host import ProcessHost
from cloudcrest.infra.lifeline import Lifeline
from cloudcrest.kernel.clock import SystemClock
from cloudcrest.kernel.ids import new_id
from cloudcrest.serving.api import DeploymentDocument, RegionStatus, ReplicaEndpoint, RouteDocument
from cloudcrest.serving.controller import Controller
from cloudcrest.serving.engines.api import EngineSettings
from cloudcrest.serving.engines.registry import create_engines
from cloudcrest.serving.fakes import FakeArtifacts
from cloudcrest.serving.settings import ServingSettings
from tests.support.replicas import deployment, gguf
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio

SIMULATED = deployment("simulated", options={"answer_tokens": 5})


class Region:
    """A region service's part around the controller: what it is told, and what it tells."""

    def __init__(self, fabric: LocalFabric, artifacts: FakeArtifacts, folder: Path) -> None:
        self.fabric = fabric
        self.artifacts = artifacts
        self.folder = folder
        self.routes: dict[str, RouteDocument] = {}
        self.status = RegionStatus()

    @asynccontextmanager
    async def running(self, *documents: DeploymentDocument) -> AsyncIterator[Controller]:
        controller = Controller(
            self.fabric,
            self.artifacts,
            create_engines(EngineSettings(runtimes_folder=self.folder)),
            "local",
            clock=SystemClock(),
            new_id=new_id,
            on_routes=self.take_routes,
            on_status=self.take_status,
            replica_secret="region-secret",
            settings=ServingSettings(drain_least_seconds=0.1, backoff_first_seconds=0.1, ready_probe_seconds=0.2),
        )
        controller.update(list(documents), [])
        task = asyncio.create_task(controller.run())
        try:
            yield controller
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def take_routes(self, routes: dict[str, RouteDocument]) -> None:
        self.routes = routes

    def take_status(self, status: RegionStatus) -> None:
        self.status = status

    async def endpoint(self, *, other_than: str = "") -> ReplicaEndpoint:
        """The one replica of the route, once there is one."""

        def look() -> ReplicaEndpoint | None:
            replicas = self.routes["dep_test"].replicas if "dep_test" in self.routes else ()
            return replicas[0] if len(replicas) == 1 and replicas[0].id != other_than else None

        found = await until_async(look, f"a replica is routed to: {self.status}")
        assert found is not None
        return found

    async def pid(self, replica_id: str) -> int:
        (process,) = [process for process in await self.fabric.list() if process.id == replica_id]
        assert process.pid is not None
        return process.pid


@pytest.fixture
async def region(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Region]:
    lifeline = Lifeline()
    host = ProcessHost(log_folder=tmp_path, working_folder=tmp_path, lifeline=lifeline, environment=os.environ)
    with tempfile.TemporaryDirectory() as folder:
        agent = NodeAgent(host, Path(folder) / "node.sock")
        await agent.start()
        yield Region(LocalFabric(Path(folder) / "node.sock"), FakeArtifacts(tmp_path / "m.gguf"), tmp_path)
        await agent.close()
    await host.close()
    lifeline.close()


async def ask(endpoint: ReplicaEndpoint) -> str:
    async with httpx2.AsyncClient(trust_env=False) as client:
        response = await client.post(
            f"{endpoint.url}/v1/chat/completions",
            json={"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5},
            headers={"authorization": f"Bearer {endpoint.token}"},
            timeout=30,
        )
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


async def test_a_killed_replica_leaves_the_route_and_comes_back(region: Region) -> None:
    async with region.running(SIMULATED):
        endpoint = await region.endpoint()
        assert await ask(endpoint)
        os.kill(await region.pid(endpoint.id), signal.SIGKILL)
        await until_async(lambda: not region.routes["dep_test"].replicas, "out of the route", seconds=5)
        assert await ask(await region.endpoint())
        (status,) = region.status.replicas
        assert (status.id, status.restarts) == (endpoint.id, 1)


async def test_replicas_outlive_the_region_service(region: Region) -> None:
    async with region.running(SIMULATED):
        before = await region.endpoint()
        pid = await region.pid(before.id)
    region.routes = {}
    async with region.running(SIMULATED):
        after = await region.endpoint()
        assert after == before
        assert await region.pid(after.id) == pid
        assert await ask(after)


async def test_a_change_is_rolled_out_and_a_deletion_stops_all(region: Region) -> None:
    async with region.running(SIMULATED) as controller:
        before = await region.endpoint()
        controller.update([msgspec.structs.replace(SIMULATED, generation=2, slots=9)], [])
        after = await region.endpoint(other_than=before.id)
        assert after.slots == 9
        assert await ask(after)
        controller.update([], [])

        async def gone() -> bool:
            return not await region.fabric.list()

        all_gone: Callable[[], bool | Awaitable[bool]] = gone
        await until_async(all_gone, "all replicas are stopped")
        assert region.routes == {}


async def test_a_real_model_serves(region: Region, chat_weights: Path) -> None:
    region.artifacts.path = chat_weights
    async with region.running(deployment("llamacpp", artifact=gguf(chat_weights))):
        assert await ask(await region.endpoint())


async def test_weights_that_cannot_be_loaded_are_the_reason(region: Region) -> None:
    region.artifacts.path.write_bytes(b"GGUF but not really")
    async with region.running(deployment("llamacpp", artifact=gguf(region.artifacts.path))):

        def reason() -> str:
            return next((replica.reason or "" for replica in region.status.replicas if replica.restarts), "")

        said = await until_async(reason, "the replica has failed and was tried again")
        assert "the engine exited with code 3" in said
        assert "gguf" in said.lower()
