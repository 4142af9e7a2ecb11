"""Streams that survive on a real vLLM: cut off anywhere, they go on as they would have. Out of the default run.

Two wires lead to one vLLM, as to two replicas of a model. `pytest -m vllm`
"""

import json
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from cloudcrest.kernel.usage import Usage
from tests.integration.gateway.cutting import NAME, Cloud, wire
from tests.support.engines import running_vllm
from tests.support.gateway_cloud import feed_state, route_document, running_gateway
from tests.support.replicas import Replica

pytestmark = [pytest.mark.anyio, pytest.mark.vllm, pytest.mark.timeout(3600)]
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Tell me a story about bees."}], "max_tokens": 40}
BEGUN: dict[str, Any] = CHAT | {"messages": [*CHAT["messages"], {"role": "assistant", "content": "Once upon a"}]}
LINES: dict[str, Any] = CHAT | {"messages": [{"role": "user", "content": "Write a short poem, a line for each bee."}]}
TEXT: dict[str, Any] = {"prompt": "The bees of the valley", "max_tokens": 40}
TOKENS: dict[str, Any] = {"prompt": [504, 3511, 308, 34519, 28], "max_tokens": 40}
STOPPED: dict[str, Any] = CHAT | {"stop": ["."], "max_tokens": 400}
BOOK = {
    "type": "object",
    "properties": {"title": {"type": "string", "maxLength": 20}, "kind": {"enum": ["novel", "poem", "cookbook"]}},
    "required": ["title", "kind"],
    "additionalProperties": False,
}
SCHEMA: dict[str, Any] = {
    "messages": [{"role": "user", "content": "A book about bees, as JSON."}],
    "max_tokens": 90,
    "response_format": {"type": "json_schema", "json_schema": {"name": "book", "schema": BOOK}},
}
BODIES = {
    "chat": CHAT,
    "begun by the caller": BEGUN,
    "lines": LINES,
    "text": TEXT,
    "tokens": TOKENS,
    "stopped": STOPPED,
    "schema": SCHEMA,
}


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """One event loop for all, so that the replica can be shared."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module")
async def vllm(anyio_backend: object, chat_weights: Path) -> AsyncIterator[Replica]:
    async with running_vllm(chat_weights) as replica:
        yield replica


@pytest.fixture
async def cloud(vllm: Replica, tmp_path: Path) -> AsyncIterator[Cloud]:
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(wire(vllm.url)) for _ in "ab"]
        wires[1].cuts = wires[0].cuts
        state = feed_state([route_document(NAME, tuple(one.url for one in wires), engine="vllm", context_tokens=512)])
        gateway = await stack.enter_async_context(running_gateway(tmp_path, state, replica_pause_seconds=0.0))
        yield Cloud(gateway, [vllm], wires)


def path_of(body: dict[str, Any]) -> str:
    return "/v1/completions" if "prompt" in body else "/v1/chat/completions"


@pytest.mark.parametrize("name", BODIES)
async def test_wherever_it_is_cut_the_answer_is_the_uninterrupted_one(cloud: Cloud, name: str) -> None:
    chance, body = random.Random(name), BODIES[name]
    before = sum(one.answered_bytes for one in cloud.wires)
    whole = await cloud.stream(path_of(body), **body)
    size = sum(one.answered_bytes for one in cloud.wires) - before
    assert whole.is_whole
    for cuts in ([size // 2], [chance.randrange(size // 8, size * 2 // 3)], [size // 4, size // 4]):
        cloud.cut(*cuts)
        resumed = await cloud.stream(path_of(body), **body)
        assert resumed.outline()[:3] == whole.outline()[:3], cuts
        assert (resumed.ids, resumed.created) == ({event["id"] for event in resumed.events}, resumed.created)
        assert (len(resumed.ids), len(resumed.created), resumed.is_whole) == (1, 1, True)
        assert len(cloud.wires[0].cuts) == 0
        (usage,) = resumed.usages
        counts = ("prompt_tokens", "completion_tokens", "total_tokens")
        assert [usage[count] for count in counts] == [whole.usages[0][count] for count in counts]
        event = cloud.spool.ended[-1]
        assert event.outcome == "completed"
        assert event.usage == Usage(usage["prompt_tokens"], usage["completion_tokens"], event.usage.cached_input_tokens)
    assert await cloud.resumes() >= 3
    assert len(cloud.spool.opened) == len(cloud.spool.ended) == 4
    if name == "schema":
        assert json.loads(whole.text).keys() == {"title", "kind"}
