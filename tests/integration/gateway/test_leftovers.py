"""What a finished request leaves in a worker's memory: nothing."""

import gc
from pathlib import Path

import httpx2
import pytest

from cloudcrest.gateway.call import Call
from cloudcrest.gateway.protocol import ServerConnection
from cloudcrest.gateway.relay import Relay
from tests.integration.gateway.scripted import cloud
from tests.support.gateway_cloud import COMPLETION, json_answer, stream_answer
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_request_leaves_nothing_for_the_collector(tmp_path: Path, is_stream: bool) -> None:
    # The collector hardly ever runs in a worker: what only it can free would pile up to hundreds of MiB.
    answer = stream_answer(["a", "b", "c"]) if is_stream else json_answer(COMPLETION)
    async with cloud(tmp_path, answer) as c:
        await c.chat(stream=is_stream)
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                await c.chat(stream=is_stream)
            left = [kept for kept in gc.get_objects() if isinstance(kept, Call | Relay)]
        finally:
            gc.enable()
        # The last one may still be held by the connection that it was answered on.
        assert len(left) <= 2


async def test_a_connection_leaves_nothing_for_the_collector(tmp_path: Path) -> None:
    async with cloud(tmp_path, json_answer(COMPLETION)) as c:
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                async with httpx2.AsyncClient(base_url=c.running.url, trust_env=False) as client:
                    assert (await client.get("/healthz")).status_code == 200
            state = c.running.gateway.state
            await until_async(lambda: len(state.connections) <= 1, "the closed connections are known to be closed")
            left = [kept for kept in gc.get_objects() if isinstance(kept, ServerConnection)]
        finally:
            gc.enable()
        assert len(left) <= 2
