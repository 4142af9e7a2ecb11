"""What a finished request leaves in a worker's memory: nothing."""

import gc
from pathlib import Path

import pytest

from cloudcrest.gateway.call import Call
from cloudcrest.gateway.relay import Relay
from tests.integration.gateway.scripted import cloud
from tests.support.gateway_cloud import COMPLETION, json_answer, stream_answer

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
