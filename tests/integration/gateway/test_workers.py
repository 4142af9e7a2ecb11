"""Several worker processes on one address: they hold limits together, and one that ends takes down only its own."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cloudcrest.identity.api import Limits
from cloudcrest.serving.engines.simulated import SimulatedEngine
from tests.integration.gateway.scripted import CHAT, HELLO
from tests.support.gateway_cloud import (
    COMPLETION,
    STREAM_HEAD,
    Received,
    ScriptedUpstream,
    chunk_event,
    feed_state,
    framed,
    json_answer,
    key_document,
    route_document,
    usage,
)
from tests.support.gateway_workers import Workers, running_workers
from tests.support.replicas import deployment, running
from tests.support.waiting import until_async

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]
NAME = "public-name"
IN_FLIGHT = "cloudcrest_gateway_requests_in_flight"


@asynccontextmanager
async def held_answers(
    folder: Path, count: int, limits: Limits
) -> AsyncIterator[tuple[Workers, ScriptedUpstream, asyncio.Event]]:
    """Workers before a replica that answers, in one piece or as a stream, when the event is set."""
    release = asyncio.Event()

    async def answer(request: Received) -> None:
        if not request.json.get("stream"):
            await release.wait()
            json_answer(COMPLETION)(request)
            return
        request.write(STREAM_HEAD + framed(chunk_event() + chunk_event("held")))
        await release.wait()
        end = chunk_event(choices=[], usage=usage(5, 1)) + b"data: [DONE]\n\n"
        request.write(framed(end) + b"0\r\n\r\n")

    async with ScriptedUpstream(answer) as upstream:
        state = feed_state([route_document(urls=(upstream.url,))], [key_document(limits=limits)])
        async with running_workers(folder, state, count) as workers:
            yield workers, upstream, release


async def ask(workers: Workers, **changes: Any) -> int:
    """The status of an answer; 0 where its connection was lost."""
    try:
        return (await workers.client.post(CHAT, json=HELLO | changes)).status_code
    except httpx2.HTTPError:
        return 0


async def test_limits_hold_over_all_workers_under_load(tmp_path: Path) -> None:
    document = deployment("simulated", options={"answer_tokens": 4})
    async with running(SimulatedEngine(), document) as replica:
        route = route_document(NAME, (replica.url,), engine="simulated", context_tokens=512)
        limits = Limits(requests_per_minute=120, concurrent_requests=12)
        state = feed_state([route], [key_document(limits=limits)])
        async with running_workers(tmp_path, state, 4) as workers:
            answers: list[httpx2.Response] = []
            began = time.monotonic()

            async def caller() -> None:
                body = HELLO | {"model": NAME}
                answers.extend([await workers.client.post(CHAT, json=body) for _ in range(10)])

            await asyncio.gather(*(caller() for _ in range(40)))
            minutes = (time.monotonic() - began) / 60
            statuses = Counter(answer.status_code for answer in answers)
            assert set(statuses) == {200, 429}
            assert statuses[200] <= 120 + minutes * 120 + 1
            left = {int(answer.headers["x-ratelimit-remaining-requests"]) for answer in answers}
            assert min(left) == 0 or statuses[200] < 120

            async def all_reported() -> dict[int, float] | None:  # a worker publishes what it counted twice a second
                found = await workers.metric("cloudcrest_gateway_requests_total")
                return found if sum(found.values()) == statuses[200] else None

            served = await until_async(all_reported, "all workers report") or {}
            assert len(served) == 4


async def test_nobody_is_refused_while_there_is_room(tmp_path: Path) -> None:
    async with held_answers(tmp_path, 3, Limits(requests_per_minute=50)) as (workers, _, release):
        release.set()
        statuses = Counter(await asyncio.gather(*(ask(workers) for _ in range(50))))
        assert statuses == {200: 50}


async def test_a_killed_worker_loses_its_own_requests_and_gives_back_their_places(tmp_path: Path) -> None:
    async with held_answers(tmp_path, 3, Limits(concurrent_requests=6)) as (workers, upstream, release):
        asked = [asyncio.create_task(ask(workers)) for _ in range(30)]
        await until_async(lambda: len(upstream.received) == 6, "as many run as may")
        await until_async(lambda: sum(task.done() for task in asked) == 24, "the others are refused")

        async def all_reported() -> dict[int, float] | None:
            loads = await workers.metric(IN_FLIGHT)
            return loads if sum(loads.values()) == 6 else None

        loads = await until_async(all_reported, "all workers report") or {}
        victim = max(loads, key=lambda number: loads[number])
        lost = int(loads[victim])
        before = workers.pid(victim)
        os.kill(before, signal.SIGKILL)
        await until_async(lambda: workers.pid(victim) not in (0, before), "its successor")
        more: list[asyncio.Task[int]] = []

        async def is_full_again() -> bool:
            more.extend(asyncio.create_task(ask(workers)) for _ in range(6))
            return len(upstream.received) >= 6 + lost

        await until_async(is_full_again, "what it held is taken again", pause_seconds=0.1)
        refused = len(more) - lost
        await until_async(lambda: sum(task.done() for task in more) == refused, "the others are refused again")
        assert len(upstream.received) == 6 + lost
        release.set()
        statuses = Counter(await asyncio.gather(*asked))
        assert statuses == Counter({200: 6 - lost, 429: 24, 0: lost})
        assert Counter(await asyncio.gather(*more))[200] == lost


async def test_connections_that_wait_for_a_killed_worker_are_served_by_its_successor(tmp_path: Path) -> None:
    async with held_answers(tmp_path, 2, Limits()) as (workers, _, release):
        release.set()
        os.kill(workers.pid(0), signal.SIGSTOP)
        asked = [asyncio.create_task(ask(workers)) for _ in range(20)]
        await until_async(lambda: any(task.done() for task in asked), "the other worker serves")
        # Accepted by nobody, they are in the kernel's queue of the worker that stands still.
        os.kill(workers.pid(0), signal.SIGKILL)
        assert Counter(await asyncio.gather(*asked)) == {200: 20}


async def test_a_worker_that_is_told_to_stop_ends_its_streams_first(tmp_path: Path) -> None:
    async with held_answers(tmp_path, 2, Limits()) as (workers, upstream, release):
        asked = [asyncio.create_task(workers.client.post(CHAT, json=HELLO | {"stream": True})) for _ in range(8)]
        await until_async(lambda: len(upstream.received) == 8, "all streams run")
        before = [workers.pid(0), workers.pid(1)]
        for pid in before:
            os.kill(pid, signal.SIGTERM)
        release.set()
        for task in asked:
            assert (await task).text.endswith("data: [DONE]\n\n")
        await until_async(lambda: {workers.pid(0), workers.pid(1)}.isdisjoint({0, *before}), "their successors")
        assert await ask(workers) == 200


async def test_kept_connections_spread_over_the_workers(tmp_path: Path) -> None:
    async with held_answers(tmp_path, 4, Limits()) as (workers, _, _):
        host, _, port = workers.url.removeprefix("http://").partition(":")
        opened = [await asyncio.open_connection(host, int(port)) for _ in range(200)]

        async def are_seen() -> dict[int, float] | None:
            found = await workers.metric("cloudcrest_gateway_connections")
            return found if sum(found.values()) >= 200 else None

        spread = await until_async(are_seen, "all connections are counted") or {}
        for _, writer in opened:
            writer.close()
        assert len(spread) == 4
        assert min(spread.values()) >= 20
