"""A request's time: when it is over the engine stops, the caller is told why, and what was said is charged exactly."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cloudcrest.identity.api import Limits
from cloudcrest.kernel.usage import Usage
from cloudcrest.serving.engines.simulated import SimulatedEngine
from tests.integration.gateway import scripted
from tests.integration.gateway.scripted import CHAT, HELLO, error_of
from tests.support.gateway_cloud import KEY, Received, feed_state, route_document, running_gateway, stream_answer
from tests.support.replicas import deployment, running
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio


def in_time(milliseconds: int) -> dict[str, str]:
    return {"authorization": f"Bearer {KEY}", "x-request-timeout-ms": str(milliseconds)}


async def test_an_answer_that_has_not_begun_in_time_is_an_error_that_is_not_asked_again(tmp_path: Path) -> None:
    async with scripted.cloud(tmp_path, lambda _: None, route={"engine": "upstream"}) as c:
        for fields in ({}, {"stream": True}):
            response = await c.client.post(CHAT, json=HELLO | fields, headers=in_time(100))
            assert response.status_code == 504
            error = error_of(response)
            assert (error["type"], error["code"]) == ("timeout_error", "deadline_exceeded")
            assert "0.1 s" in error["message"]
            assert response.headers["x-should-retry"] == "false"
            async with asyncio.timeout(5):
                await c.upstreams[0].received[-1].is_gone.wait()
        await c.settled()
        assert [(event.outcome, event.usage.output_tokens) for event in c.spool.ended] == [("timed_out", 0)] * 2


@pytest.mark.parametrize("limited", ["key_limits", "limits"])
async def test_a_key_or_an_organization_has_less_time_than_the_platform_gives(tmp_path: Path, limited: str) -> None:
    limits: dict[str, Any] = {limited: Limits(request_timeout_seconds=1)}
    async with scripted.cloud(tmp_path, lambda _: None, **limits) as c:
        response = await c.chat()
        assert (response.status_code, error_of(response)["code"]) == (504, "deadline_exceeded")
        assert "1 s" in error_of(response)["message"]


async def test_a_request_that_says_no_time_is_refused(tmp_path: Path) -> None:
    async with scripted.cloud(tmp_path, stream_answer(["a"])) as c:
        headers = in_time(1) | {"x-request-timeout-ms": "soon"}
        response = await c.client.post(CHAT, json=HELLO, headers=headers)
        assert (response.status_code, error_of(response)["param"]) == (400, "x-request-timeout-ms")


async def test_the_platforms_time_covers_retries_of_a_lost_replica(tmp_path: Path) -> None:
    def die(request: Received) -> None:
        request.transport.close()

    settings: dict[str, Any] = {"request_timeout_seconds": 0.5, "replica_wait_seconds": 60}
    async with scripted.cloud(tmp_path, die, **settings) as c:
        response = await c.chat()
        assert (response.status_code, error_of(response)["code"]) == (504, "deadline_exceeded")
        await c.settled()
        assert c.spool.ended[0].outcome == "timed_out"


@pytest.mark.parametrize("choices", [1, 2])
async def test_a_stream_whose_time_is_over_says_so_and_charges_what_it_sent(tmp_path: Path, choices: int) -> None:
    document = deployment("simulated", options={"decode_tokens_per_second": 50.0, "answer_tokens": 10_000})
    async with running(SimulatedEngine(), document) as replica:
        route = route_document("m", (replica.url,), engine="simulated", context_tokens=16_384)
        async with (
            running_gateway(tmp_path, feed_state([route])) as gateway,
            httpx2.AsyncClient(base_url=gateway.url, timeout=20, trust_env=False) as client,
        ):
            body = HELLO | {"stream": True, "temperature": 0, "n": choices}
            response = await client.post(CHAT, json=body, headers=in_time(700))
            events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
            assert "[DONE]" not in response.text
            assert events[-1]["error"]["code"] == "deadline_exceeded"
            texts = [""] * choices
            for event in events[:-1]:
                for choice in event["choices"]:
                    texts[choice["index"]] += choice["delta"].get("content") or ""
            await until_async(lambda: gateway.spool.ended, "it is charged")
            (ended,) = gateway.spool.ended
            tokens = sum([await _tokens(client, replica.url, replica.token, text) for text in texts])
            assert ended.outcome == "timed_out"
            assert ended.usage == Usage(ended.usage.input_tokens, tokens)
            assert tokens > 10


async def _tokens(client: Any, url: str, token: str, text: str) -> int:
    answer = await client.post(f"{url}/tokenize", json={"content": text}, headers={"authorization": f"Bearer {token}"})
    return len(answer.json()["tokens"])
