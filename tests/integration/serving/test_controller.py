"""The controller over real processes: a node agent on its socket, simulated and llama.cpp replicas."""

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx2
import msgspec
import pytest

from cloudcrest.serving.api import ReplicaEndpoint
from tests.support.region import Region, running_region
from tests.support.replicas import deployment, gguf
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio

SIMULATED = deployment("simulated", options={"answer_tokens": 5})


@pytest.fixture
async def region(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Region]:
    async with running_region(tmp_path) as made:
        yield made


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
