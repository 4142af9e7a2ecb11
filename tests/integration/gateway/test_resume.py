"""Streams that survive: replicas are cut off, killed and replaced in the middle, and the client sees one answer."""

import asyncio
import json
import random
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from cloudcrest.gateway.fakes import MemorySpool
from cloudcrest.kernel.usage import Usage
from cloudcrest.serving.engines.simulated import SimulatedEngine
from tests.integration.gateway.cutting import Wire, wire
from tests.support.gateway_cloud import KEY, RunningGateway, feed_state, route_document, running_gateway
from tests.support.replicas import Replica, deployment, running
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio
NAME = "public-name"
RESUMES = 100


class Cloud:
    """A gateway before simulated replicas, each behind a wire that can be cut."""

    def __init__(self, gateway: RunningGateway, replicas: list[Replica], wires: list[Wire]) -> None:
        self.gateway = gateway
        self.replicas = replicas
        self.wires = wires
        self.client = httpx2.AsyncClient(
            base_url=gateway.url, headers={"authorization": f"Bearer {KEY}"}, timeout=60, trust_env=False
        )

    @property
    def spool(self) -> MemorySpool:
        return self.gateway.spool

    def cut(self, *after_bytes: int | None) -> None:
        """The next generations are cut after so many bytes, wherever they go."""
        cuts = iter(after_bytes)
        shared = self.wires[0].cuts
        shared.clear()
        shared.extend(cuts)

    async def stream(self, path: str = "/v1/chat/completions", **fields: Any) -> "Answer":
        body = {"model": NAME, "stream": True, "temperature": 0, "stream_options": {"include_usage": True}} | fields
        response = await self.client.post(path, json={name: value for name, value in body.items() if value is not None})
        return Answer(response.content)

    async def resumes(self) -> int:
        lines = (await self.client.get("/metrics")).text.splitlines()
        return sum(int(line.split()[-1]) for line in lines if line.startswith("cloudcrest_gateway_resumes_total{"))


class Answer:
    """A stream as its client sees it."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.events = [json.loads(line[6:]) for line in content.splitlines() if line.startswith(b"data: {")]
        chunks = [event for event in self.events if "choices" in event]
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        self.ids = {chunk["id"] for chunk in chunks}
        self.created = {chunk["created"] for chunk in chunks}
        self.roles = [choice["delta"]["role"] for choice in choices if "role" in choice.get("delta", {})]
        self.texts = [choice["delta"].get("content") if "delta" in choice else choice["text"] for choice in choices]
        self.text = "".join(text for text in self.texts if text)
        self.finish_reasons = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
        self.usages = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
        self.error = next((event["error"] for event in self.events if "error" in event), None)
        self.is_whole = content.endswith(b"data: [DONE]\n\n") and content.count(b"[DONE]") == 1

    def outline(self) -> tuple[Any, ...]:
        """What two runs of the same request have in common."""
        return self.text, self.roles, self.finish_reasons, self.usages, len(self.ids), len(self.created), self.is_whole


@asynccontextmanager
async def cloud(
    folder: Path, replicas: int = 2, *, speed: float = 0.0, slots: int = 3, **settings: Any
) -> AsyncIterator[Cloud]:
    async with AsyncExitStack() as stack:
        document = deployment(
            "simulated", slots=slots, options={"decode_tokens_per_second": speed, "answer_tokens": 40}
        )
        made = await asyncio.gather(
            *[stack.enter_async_context(running(SimulatedEngine(), document)) for _ in range(replicas)]
        )
        wires = [await stack.enter_async_context(wire(replica.url)) for replica in made]
        for one in wires:
            one.cuts = wires[0].cuts
        route = route_document(NAME, tuple(one.url for one in wires), engine="simulated", context_tokens=512)
        gateway = await stack.enter_async_context(
            running_gateway(folder, feed_state([route]), **{"replica_pause_seconds": 0.0, **settings})
        )
        yield Cloud(gateway, list(made), wires)


def chat(number: int = 0) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Tell me story number {number}."}]


async def test_a_hundred_resumes_at_random_cuts_give_the_uninterrupted_answer(tmp_path: Path) -> None:
    chance = random.Random(7)
    async with cloud(tmp_path) as c:
        number = 0
        while await c.resumes() < RESUMES:
            number += 1
            fields: dict[str, Any] = {"messages": chat(number), "max_tokens": chance.choice([None, 17, 40, 400])}
            if number % 5 == 0:
                fields |= {"stop": [chance.choice(["a", " b", "e r", "zzz"])]}
            if number % 7 == 0:
                fields["messages"] = [*chat(number), {"role": "assistant", "content": "Once upon"}]
            path = "/v1/chat/completions"
            if number % 4 == 0:
                path = "/v1/completions"
                del fields["messages"]
                fields["prompt"] = [1, 2, 3] if number % 8 == 0 else f"Story {number} begins"
            c.cut()
            before = sum(one.answered_bytes for one in c.wires)
            whole = await c.stream(path, **fields)
            size = sum(one.answered_bytes for one in c.wires) - before
            c.cut(*[chance.randrange(1, size) for _ in range(chance.choice([1, 1, 2, 3]))])
            resumed = await c.stream(path, **fields)
            assert resumed.outline() == whole.outline(), (number, fields)
            assert len(resumed.ids) == 1
            events = c.spool.ended[-2:]
            assert (
                events[0].usage
                == events[1].usage
                == Usage(whole.usages[0]["prompt_tokens"], whole.usages[0]["completion_tokens"])
            )
        assert len(c.spool.opened) == len(c.spool.ended) == 2 * number
        assert {event.outcome for event in c.spool.ended} == {"completed"}


async def test_killed_mid_stream_the_openai_client_sees_one_answer(tmp_path: Path) -> None:
    async with cloud(tmp_path, speed=200) as c:
        async with openai.AsyncOpenAI(base_url=c.gateway.url + "/v1", api_key=KEY, max_retries=0) as client:
            whole = await c.stream(messages=chat())
            ask: Any = {"model": NAME, "messages": chat(), "temperature": 0}
            usage_wanted: Any = {"stream": True, "stream_options": {"include_usage": True}}
            chunks = []
            async for chunk in await client.chat.completions.create(**ask, **usage_wanted):
                chunks.append(chunk)
                if len(chunks) == 12:
                    for replica in c.replicas:
                        if await replica.in_flight():
                            replica.process.kill()
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole.text
        assert len({chunk.id for chunk in chunks}) == 1
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.to_dict() == whole.usages[0]
        assert await c.resumes() == 1
        assert [event.outcome for event in c.spool.ended] == ["completed"] * 2


async def test_all_streams_of_a_killed_replica_go_on_at_once(tmp_path: Path) -> None:
    async with cloud(tmp_path, speed=60, slots=32) as c:
        wholes = await asyncio.gather(*[c.stream(messages=chat(number)) for number in range(24)])
        again = [asyncio.create_task(c.stream(messages=chat(number))) for number in range(24)]
        sent = sum(one.answered_bytes for one in c.wires)
        await until_async(
            lambda: sum(one.answered_bytes for one in c.wires) > sent + 24 * 2_000, "all stream", pause_seconds=0.01
        )
        c.replicas[0].process.kill()
        resumed = await asyncio.gather(*again)
        assert [answer.outline() for answer in resumed] == [answer.outline() for answer in wholes]
        assert await c.resumes() >= 6
        assert [event.outcome for event in c.spool.ended] == ["completed"] * 48
        assert len({event.id for event in c.spool.ended}) == 48
        assert [replica.in_flight for replica in c.gateway.gateway.snapshot.routes[NAME].replicas] == [0, 0]


async def test_a_whole_answer_whose_replica_dies_is_made_again_elsewhere(tmp_path: Path) -> None:
    async with cloud(tmp_path) as c:
        body = {"model": NAME, "messages": chat(), "temperature": 0}
        whole = (await c.client.post("/v1/chat/completions", json=body)).json()
        c.cut(1, 150, 400)
        again = (await c.client.post("/v1/chat/completions", json=body)).json()
        assert (again["choices"], again["usage"]) == (whole["choices"], whole["usage"])
        assert c.spool.ended[1].usage == c.spool.ended[0].usage
        assert len(c.spool.ended) == 2


async def test_several_choices_start_over_only_while_none_of_one_is_out(tmp_path: Path) -> None:
    async with cloud(tmp_path) as c:
        c.cut(100, 100)
        answer = await c.stream(messages=chat(), n=2, seed=1)
        assert answer.is_whole
        c.cut(1200)
        answer = await c.stream(messages=chat(), n=2, seed=1)
        assert answer.error is not None


async def test_with_every_replica_gone_the_stream_ends_in_an_error_that_says_why(tmp_path: Path) -> None:
    async with cloud(tmp_path, speed=50, replica_wait_seconds=0.5) as c:
        body = {"model": NAME, "messages": chat(), "stream": True}
        lines = []
        async with c.client.stream("POST", "/v1/chat/completions", json=body) as response:
            async for line in response.aiter_lines():
                lines.append(line)
                if len(lines) == 12:
                    for replica in c.replicas:
                        replica.process.kill()
        last = json.loads(lines[-2].removeprefix("data: ") or lines[-1])
        assert last["error"]["code"] == "engine_error"
        assert "no replica" in last["error"]["message"]
        await until_async(lambda: len(c.spool.ended) == 1, "it is counted")
        (event,) = c.spool.ended
        assert (event.outcome, event.usage.is_estimate) == ("engine_error", True)
        assert event.usage.output_tokens >= 4


async def test_a_stream_waits_for_its_only_replica_to_come_back(tmp_path: Path) -> None:
    async with cloud(tmp_path, 1, speed=100) as c:
        whole = await c.stream(messages=chat())
        streaming = asyncio.create_task(c.stream(messages=chat()))
        await until_async(lambda: c.wires[0].generations == 2 and c.wires[0].answered_bytes > 6_000, "it streams")
        document = deployment("simulated", options={"answer_tokens": 40})
        c.replicas[0].process.send_signal(signal.SIGTERM)
        async with running(SimulatedEngine(), document) as replica, wire(replica.url) as other:
            route = route_document(NAME, (other.url,), engine="simulated", context_tokens=512)
            c.gateway.set_documents("route", {NAME: route})
            resumed = await streaming
        assert resumed.outline() == whole.outline()


async def test_a_client_that_leaves_after_a_resume_pays_for_exactly_what_it_got(tmp_path: Path) -> None:
    async with cloud(tmp_path, speed=100) as c:
        c.cut(2_500)
        body = {"model": NAME, "messages": chat(), "stream": True}
        got = 0
        async with c.client.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = response.aiter_lines()
            while got < 30:
                got += '"content":" ' in await anext(lines)
        await until_async(lambda: len(c.spool.ended) == 1, "it is counted")
        whole = await c.stream(messages=chat())
        (event,) = c.spool.ended[:1]
        assert await c.resumes() == 1
        assert (event.outcome, event.usage.is_estimate) == ("cancelled", False)
        assert event.usage.input_tokens == whole.usages[0]["prompt_tokens"]
        assert got <= event.usage.output_tokens < 40


async def test_a_client_that_leaves_while_a_resume_waits_ends_it(tmp_path: Path) -> None:
    async with cloud(tmp_path, 1, speed=50) as c:
        body = {"model": NAME, "messages": chat(), "stream": True}
        async with c.client.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = response.aiter_lines()
            for _ in range(10):
                await anext(lines)
            c.replicas[0].process.kill()
            async with asyncio.timeout(5):
                while await c.resumes() == 0:
                    pass
        await until_async(lambda: len(c.spool.ended) == 1, "it is counted")
        assert c.spool.ended[0].outcome == "cancelled"
        assert c.gateway.gateway.snapshot.routes[NAME].replicas[0].in_flight == 0
