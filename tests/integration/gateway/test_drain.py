"""Replicas that are drained: what streams on them goes on elsewhere before they are stopped, and nobody notices."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import time
from typing import Any

import httpx2
import msgspec
import pytest

from cloudcrest.kernel.usage import Usage
from cloudcrest.serving.api import RouteDocument
from cloudcrest.serving.engines.simulated import SimulatedEngine
from cloudcrest.serving.records import EngineOptions
from tests.support.gateway_cloud import KEY, RunningGateway, feed_state, route_document, running_gateway
from tests.support.region import running_region
from tests.support.replicas import deployment, running
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio
CHAT = "/v1/chat/completions"
NAME = "public-name"


class Cloud:
    """A gateway and a client with a key."""

    def __init__(self, gateway: RunningGateway, client: httpx2.AsyncClient) -> None:
        self.gateway = gateway
        self.client = client

    async def stream(self, number: int, **fields: Any) -> "Answer":
        body = {
            "model": NAME,
            "stream": True,
            "temperature": 0,
            "stream_options": {"include_usage": True},
            "messages": [{"role": "user", "content": f"Tell me story number {number}."}],
        } | fields
        return Answer((await self.client.post(CHAT, json=body)).content)

    async def resumes(self, reason: str) -> int:
        lines = (await self.client.get("/metrics")).text.splitlines()
        found = [line for line in lines if f'resumes_total{{reason="{reason}"}}' in line]
        return sum(int(line.split()[-1]) for line in found)

    def replicas(self) -> list[str]:
        """Which replica each request ended at."""
        return [event.replica_id for event in self.gateway.spool.ended]


class Answer:
    """What a client got."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        events = [json.loads(line[6:]) for line in content.splitlines() if line.startswith(b"data: {")]
        self.errors = [event for event in events if "error" in event]
        choices = [choice for event in events for choice in event.get("choices", ())]
        self.texts = {choice["index"]: "" for choice in choices}
        for choice in choices:
            self.texts[choice["index"]] += choice["delta"].get("content") or ""
        self.ids = {event["id"] for event in events if "id" in event}
        self.usage = [event["usage"] for event in events if event.get("usage")]
        self.is_whole = content.endswith(b"data: [DONE]\n\n") and not self.errors

    def outline(self) -> tuple[Any, ...]:
        """What two runs of the same request have in common."""
        return self.texts, len(self.ids), self.usage, self.is_whole


@asynccontextmanager
async def client_of(gateway: RunningGateway) -> AsyncIterator[Cloud]:
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx2.AsyncClient(base_url=gateway.url, headers=headers, timeout=60, trust_env=False) as client:
        yield Cloud(gateway, client)


@asynccontextmanager
async def two_replicas(folder: Path, **settings: Any) -> AsyncIterator[Cloud]:
    async with AsyncExitStack() as stack:
        document = deployment("simulated", options={"decode_tokens_per_second": 30.0, "answer_tokens": 60})
        replicas = [await stack.enter_async_context(running(SimulatedEngine(), document)) for _ in range(2)]
        route = route_document(NAME, tuple(each.url for each in replicas), engine="simulated", context_tokens=512)
        gateway = await stack.enter_async_context(running_gateway(folder, feed_state([route]), **settings))
        yield await stack.enter_async_context(client_of(gateway))


def drain(cloud: Cloud, *names: str, seconds: float) -> None:
    """Publishes that these replicas leave in so many seconds."""
    route = cloud.gateway.state.documents["route"][NAME]
    replicas = [
        each | ({"leave_by_unix_seconds": time() + seconds} if each["id"] in names else {})
        for each in route["replicas"]
    ]
    cloud.gateway.state.documents["route"][NAME] = route | {"replicas": replicas}
    cloud.gateway.gateway.snapshot.update(cloud.gateway.state, {"route"})


async def at_work(cloud: Cloud) -> str:
    """The replica that has the one request, once it has said something."""
    route = cloud.gateway.gateway.snapshot.routes[NAME]

    def look() -> str | None:
        busy = [each.name for each in route.replicas if each.in_flight]
        return busy[0] if busy and cloud.gateway.spool.marks else None

    found = await until_async(look, "it streams")
    assert found is not None
    return found


async def test_a_stream_moves_before_its_replica_leaves_and_reads_as_one(tmp_path: Path) -> None:
    async with two_replicas(tmp_path) as c:
        whole = await c.stream(1)
        c.gateway.spool.marks.clear()
        streaming = asyncio.create_task(c.stream(1))
        busy = await at_work(c)
        drain(c, busy, seconds=1.0)
        moved = await streaming
        assert moved.outline() == whole.outline()
        assert await c.resumes("drained") == 1
        first, second = c.gateway.spool.ended
        assert (second.outcome, second.usage) == ("completed", first.usage)
        assert second.replica_id != busy
        assert (await c.stream(2)).is_whole
        assert c.replicas()[-1] != busy


async def test_a_stream_that_ends_in_time_stays_where_it_is(tmp_path: Path) -> None:
    async with two_replicas(tmp_path) as c:
        streaming = asyncio.create_task(c.stream(1))
        busy = await at_work(c)
        drain(c, busy, seconds=60.0)
        assert (await streaming).is_whole
        assert c.replicas() == [busy]
        assert await c.resumes("drained") == 0


@pytest.mark.parametrize("fields", [{"n": 2}, {"logprobs": True, "top_logprobs": 1}, {"stream": False}])
async def test_what_cannot_go_on_elsewhere_is_left_to_end(tmp_path: Path, fields: dict[str, Any]) -> None:
    async with two_replicas(tmp_path) as c:
        names = [each.name for each in c.gateway.gateway.snapshot.routes[NAME].replicas]
        body = {"model": NAME, "messages": [{"role": "user", "content": "hi"}], "stream": True} | fields
        asking = asyncio.create_task(c.client.post(CHAT, json=body))
        await until_async(lambda: c.gateway.spool.opened, "it is at work")
        drain(c, names[0], seconds=0.5)
        response = await asking
        assert response.status_code == 200
        assert b'"error"' not in response.content
        assert c.gateway.spool.ended[0].outcome == "completed"
        assert await c.resumes("drained") == 0


async def test_without_another_replica_a_stream_stays(tmp_path: Path) -> None:
    async with two_replicas(tmp_path) as c:
        streaming = asyncio.create_task(c.stream(1))
        busy = await at_work(c)
        drain(c, "rep_0", "rep_1", seconds=0.5)
        assert (await streaming).is_whole
        assert c.replicas() == [busy]
        refused = await c.client.post(CHAT, json={"model": NAME, "messages": [{"role": "user", "content": "hi"}]})
        assert refused.status_code == 503


async def test_a_rolling_change_under_load_is_not_to_be_seen(tmp_path: Path) -> None:
    """Two generations of two replicas each, replaced while eight streams run at any time."""
    options: EngineOptions = {"decode_tokens_per_second": 25.0, "answer_tokens": 75}
    first = msgspec.structs.replace(
        deployment("simulated", slots=8, options=options), replicas_min=2, replicas_max=3, id="dep_test"
    )
    async with (
        running_region(tmp_path) as region,
        region.running(first, drain_most_seconds=2.0) as controller,
        running_gateway(tmp_path, feed_state([]), leave_ahead_seconds=1.0) as gateway,
        client_of(gateway) as c,
    ):

        def ready(generation_of: set[str]) -> bool:
            route = gateway.gateway.snapshot.routes.get(NAME)
            names = {each.name for each in route.replicas} if route is not None else set()
            return len(names) == 2 and not names & generation_of

        def heard(routes: dict[str, RouteDocument]) -> None:
            gateway.set_documents("route", routes)

        region.heard = heard
        heard(region.routes)
        await until_async(lambda: ready(set()), "both replicas are ready")
        wholes = await asyncio.gather(*[c.stream(number) for number in range(8)])
        assert all(whole.is_whole for whole in wholes)
        old = {each.name for each in gateway.gateway.snapshot.routes[NAME].replicas}
        is_replaced = asyncio.Event()

        async def keep_asking(number: int) -> list[Answer]:
            answers = [await c.stream(number)]
            while not is_replaced.is_set():
                answers.append(await c.stream(number))
            return answers

        asking = [asyncio.create_task(keep_asking(number)) for number in range(8)]
        controller.update([msgspec.structs.replace(first, generation=2, slots=9)], [])
        await until_async(lambda: ready(old) and len(region.status.replicas) == 2, "the new serve, the old are gone")
        is_replaced.set()
        answers = await asyncio.gather(*asking)
        for whole, again in zip(wholes, answers, strict=True):
            for answer in again:
                assert answer.outline() == whole.outline()
        assert await c.resumes("drained") > 0
        assert await c.resumes("lost") == 0
        ended = gateway.spool.ended
        assert len(ended) == len({event.id for event in ended}) == 8 + sum(map(len, answers))
        assert {event.outcome for event in ended} == {"completed"}
        assert {event.usage for event in ended} == {
            Usage(whole.usage[0]["prompt_tokens"], whole.usage[0]["completion_tokens"]) for whole in wholes
        }
