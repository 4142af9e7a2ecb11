"""Requests that wait for room at a limit in place of a refusal."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cloudcrest.gateway import waiting
from cloudcrest.gateway.waiting import Bounds
from cloudcrest.identity.api import Limits
from tests.integration.gateway.scripted import CHAT, HELLO, Cloud, cloud, error_of
from tests.support.gateway_cloud import (
    COMPLETION,
    KEY,
    Received,
    ScriptedUpstream,
    feed_state,
    json_answer,
    key_document,
    route_document,
)
from tests.support.gateway_workers import running_workers
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio
ONE = Limits(concurrent_requests=1)


class Held:
    """A script that answers one request for each `release`."""

    def __init__(self) -> None:
        self.permits = asyncio.Semaphore(0)
        self.prompts: list[str] = []

    async def __call__(self, request: Received) -> None:
        self.prompts.append(request.json["messages"][0]["content"])
        await self.permits.acquire()
        json_answer(COMPLETION)(request)


async def ask(c: Cloud, prompt: str, wait: str = "30", **fields: Any) -> httpx2.Response:
    headers = {"authorization": f"Bearer {KEY}", "x-cloudcrest-max-wait": wait}
    body = HELLO | {"messages": [{"role": "user", "content": prompt}]} | fields
    return await c.client.post(CHAT, json=body, headers=headers)


async def waiting_count(c: Cloud, count: int) -> None:
    room = c.running.gateway.waiting
    await until_async(lambda: len(room) == count, f"{count} wait")


async def test_they_are_answered_one_after_another_and_told_how_long_they_waited(tmp_path: Path) -> None:
    held = Held()
    async with cloud(tmp_path, held, key_limits=ONE) as c:
        asked = []
        for number in range(4):
            asked.append(asyncio.create_task(ask(c, str(number), stream=False)))
            await (waiting_count(c, number) if number else until_async(lambda: held.prompts, "the first is at work"))
        assert (await ask(c, "no patience", "0")).status_code == 429
        for _ in asked:
            held.permits.release()
        answers = await asyncio.gather(*asked)
        assert [answer.status_code for answer in answers] == [200] * 4
        assert held.prompts == ["0", "1", "2", "3"]
        assert "x-cloudcrest-waited" not in answers[0].headers
        assert float(answers[3].headers["x-cloudcrest-waited"]) > 0
        text = (await c.client.get("/metrics")).text
        assert 'cloudcrest_gateway_waits_total{outcome="admitted"} 3' in text
        await c.settled()


async def test_a_wait_ends_with_the_limits_own_refusal(tmp_path: Path) -> None:
    limits = Limits(concurrent_requests=1, requests_per_minute=100)
    async with cloud(tmp_path, held := Held(), key_limits=limits) as c:
        first = asyncio.create_task(ask(c, "first"))
        await until_async(lambda: held.prompts, "the first is at work")
        answer = await ask(c, "second", "0.2")
        assert (answer.status_code, error_of(answer)["code"]) == (429, "rate_limit_exceeded")
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["x-ratelimit-limit-requests"] == "100"
        assert float(answer.headers["x-cloudcrest-waited"]) >= 0.2
        held.permits.release()
        assert (await first).status_code == 200
        # What was refused took nothing.
        held.permits.release()
        last = await ask(c, "third")
        assert last.headers["x-ratelimit-remaining-requests"] == "98"


async def test_a_client_that_goes_leaves_the_queue(tmp_path: Path) -> None:
    async with cloud(tmp_path, held := Held(), key_limits=ONE) as c:
        first = asyncio.create_task(ask(c, "first"))
        await until_async(lambda: held.prompts, "the first is at work")
        gone = asyncio.create_task(ask(c, "gone"))
        await waiting_count(c, 1)
        gone.cancel()
        with suppress(asyncio.CancelledError):
            await gone
        await waiting_count(c, 0)
        held.permits.release()
        assert (await first).status_code == 200
        assert held.prompts == ["first"]


async def test_a_key_can_say_that_its_requests_wait(tmp_path: Path) -> None:
    limits = Limits(concurrent_requests=1, max_wait_seconds=30)
    async with cloud(tmp_path, held := Held(), key_limits=limits) as c:
        asked = [asyncio.create_task(c.chat()) for _ in range(2)]
        await waiting_count(c, 1)
        held.permits.release()
        held.permits.release()
        assert [(await each).status_code for each in asked] == [200, 200]


async def test_a_key_revoked_meanwhile_and_a_deadline_end_the_wait(tmp_path: Path) -> None:
    async with cloud(tmp_path, held := Held(), limits=ONE) as c:
        first = asyncio.create_task(ask(c, "first"))
        await until_async(lambda: held.prompts, "the first is at work")
        headers = {"authorization": f"Bearer {KEY}", "x-cloudcrest-max-wait": "30", "x-request-timeout-ms": "200"}
        late = await c.client.post(CHAT, json=HELLO, headers=headers)
        assert (late.status_code, error_of(late)["code"]) == (504, "deadline_exceeded")
        waits = asyncio.create_task(ask(c, "second"))
        await waiting_count(c, 1)
        c.running.set_documents("key", {})
        assert (await waits).status_code == 401
        held.permits.release()
        assert (await first).status_code == 200


async def test_the_queue_is_bounded_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "ORGANIZATION_BOUNDS", Bounds(2, 1_000_000))
    async with cloud(tmp_path, held := Held(), key_limits=ONE) as c:
        asked = [asyncio.create_task(ask(c, str(number))) for number in range(3)]
        await waiting_count(c, 2)
        full = await ask(c, "one too many")
        assert (full.status_code, error_of(full)["code"]) == (429, "rate_limit_exceeded")
        assert "too many requests wait already" in error_of(full)["message"]
        assert "retry-after" in full.headers
        for _ in asked:
            held.permits.release()
        assert [(await each).status_code for each in asked] == [200] * 3


async def test_what_is_no_time_is_refused_at_once(tmp_path: Path) -> None:
    async with cloud(tmp_path, json_answer(COMPLETION)) as c:
        answer = await ask(c, "hello", "soon")
        assert (answer.status_code, error_of(answer)["param"]) == (400, "x-cloudcrest-max-wait")


async def test_a_worker_that_drains_lets_nobody_wait(tmp_path: Path) -> None:
    async with cloud(tmp_path, held := Held(), key_limits=ONE, drain_seconds=20) as c:
        first = asyncio.create_task(ask(c, "first"))
        await until_async(lambda: held.prompts, "the first is at work")
        second = asyncio.create_task(ask(c, "second"))
        await waiting_count(c, 1)
        stopping = asyncio.create_task(c.running.gateway.stop())
        assert (await second).status_code == 503
        held.permits.release()
        assert (await first).status_code == 200
        await stopping


async def test_load_that_grows_too_fast_is_refused_with_a_code_of_its_own_or_waits(tmp_path: Path) -> None:
    async with cloud(tmp_path, json_answer(COMPLETION), limits=Limits(growth_percent_per_minute=100)) as c:
        answers = await asyncio.gather(*(c.chat() for _ in range(40)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert {error_of(answer)["code"] for answer in refused} == {"limit_burst_rate"}
        assert 10 <= len(answers) - len(refused) < 40
        assert (await ask(c, "patient")).status_code == 200


@pytest.mark.timeout(120)
async def test_over_several_workers_everybody_who_waits_is_served_and_no_limit_is_exceeded(tmp_path: Path) -> None:
    at_once = 0
    most = 0

    async def answer(request: Received) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        json_answer(COMPLETION)(request)

    async with ScriptedUpstream(answer) as upstream:
        state = feed_state([route_document(urls=(upstream.url,))], [key_document(limits=Limits(concurrent_requests=2))])
        async with running_workers(tmp_path, state, 3) as workers:
            headers = {"x-cloudcrest-max-wait": "60"}
            asked = [workers.client.post(CHAT, json=HELLO, headers=headers) for _ in range(60)]
            assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}
            assert most <= 2
