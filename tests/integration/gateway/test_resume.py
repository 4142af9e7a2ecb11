"""Streams that survive: replicas are cut off, killed and replaced in the middle, and the client sees one answer."""

import asyncio
import json
import random
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from cloudcrest.kernel.usage import Usage
from cloudcrest.serving.engines.simulated import SimulatedEngine
from tests.integration.gateway.cutting import NAME, Cloud, wire
from tests.support.gateway_cloud import KEY, feed_state, route_document, running_gateway
from tests.support.replicas import deployment, running
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio
RESUMES = 100


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
        replicas = c.gateway.gateway.snapshot.routes[NAME].replicas
        at_it = replicas[0].in_flight
        c.replicas[0].process.kill()
        resumed = await asyncio.gather(*again)
        assert [answer.outline() for answer in resumed] == [answer.outline() for answer in wholes]
        assert 0 < await c.resumes() <= at_it  # one that had said nothing yet begins anew, and one may just have ended
        assert [event.outcome for event in c.spool.ended] == ["completed"] * 48
        assert len({event.id for event in c.spool.ended}) == 48
        assert [replica.in_flight for replica in replicas] == [0, 0]


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
