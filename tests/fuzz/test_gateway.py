"""A whole gateway between clients and replicas that do anything: it stays up, and keeps nothing of what is over."""

import asyncio
import contextlib
import gc
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from cloudcrest.gateway import counting
from cloudcrest.gateway.connection import Upstream
from cloudcrest.identity.api import Limits
from tests.fuzz.edits import TIMES, WORDS, Edit, edited, pieces
from tests.integration.gateway.scripted import CHAT, HELLO
from tests.support.gateway_cloud import (
    COMPLETION,
    KEY,
    STREAM_HEAD,
    Received,
    RunningGateway,
    ScriptedUpstream,
    chunk_event,
    feed_state,
    framed,
    key_document,
    route_document,
    running_gateway,
    usage,
)
from tests.support.waiting import until_async

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]
ROUNDS = 3
CLIENTS = 120
SEEDS = range(11, 11 + TIMES)
MOST_AT_ONCE = 40
ENGINES = ("llamacpp", "vllm", "upstream")
SETTINGS: dict[str, Any] = {
    "head_timeout_seconds": 0.4,
    "body_timeout_seconds": 0.4,
    "answer_timeout_seconds": 0.6,
    "replica_wait_seconds": 0.3,
    "replica_pause_seconds": 0.0,
    "request_timeout_seconds": 2.0,
    "proxy_timeout_seconds": 1.0,
    "max_kept_bytes": 500,
    "max_body_bytes": 20_000,
}


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """As the product runs."""
    return "asyncio", {"use_uvloop": True}


# replicas


def whole_stream(chance: random.Random, request: Received) -> bytes:
    """A stream of a few events, a chunk each."""
    events = [chunk_event()] + [chunk_event(chance.choice(["a", " b", '"', "ü"])) for _ in range(chance.randint(0, 9))]
    if chance.random() < 0.2:
        call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        events.append(chunk_event(choices=[{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]))
    events.append(chunk_event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]))
    events.append(chunk_event(choices=[], usage=usage(5, len(events))))
    return STREAM_HEAD + b"".join(map(framed, [*events, b"data: [DONE]\n\n"])) + b"0\r\n\r\n"


def answer_to(chance: random.Random, request: Received) -> bytes:
    """What a replica that works would say."""
    if "/apply-template" in request.head:
        document: object = {"prompt": "one two three"}
    elif "/tokenize" in request.head:
        document = {"tokens": [5] * 4, "count": 4}
    elif b'"stream":true' in request.body:
        return whole_stream(chance, request)
    else:
        document = COMPLETION
    body = json.dumps(document).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def wild(chance: random.Random) -> Callable[[Received], Any]:
    """A replica that mostly works, in pieces; else it lies, breaks off, is silent, or says it is busy."""

    async def answer(request: Received) -> None:
        data, how = answer_to(chance, request), chance.random()
        if how < 0.2:
            changes = [random_edit(chance, len(data)) for _ in range(chance.randint(1, 3))]
            data = edited(data, changes)
        elif how < 0.25:
            data = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"
        elif how < 0.3:
            data = b"HTTP/1.1 500 Oh\r\ncontent-length: 3\r\n\r\n\xff\x00{"
        for piece in pieces(data, [chance.randrange(1 << 16) for _ in range(chance.randint(0, 6))]):
            if chance.random() < 0.04:
                request.transport.abort()
                return
            if chance.random() < 0.01:
                return  # silent from now on
            if request.transport.is_closing():
                return
            request.write(piece)
            await asyncio.sleep(0)
        if chance.random() < 0.1:
            request.transport.close()

    return answer


def random_edit(chance: random.Random, size: int) -> Edit:
    return Edit(chance.randrange(size + 1), chance.randint(0, 4), chance.choice([*WORDS, b""]))


# clients


def request_of(chance: random.Random) -> bytes:
    """One request, mostly a good one."""
    if chance.random() < 0.05:
        return b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % chance.choice(
            [b"/", b"/healthz", b"/metrics", b"/v1/models", b"/x"]
        )
    if chance.random() < 0.08:  # to the control plane, which is as wild
        body = b"x" * chance.choice([0, 10, 100_000])
        return b"POST /api/v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    fields: dict[str, Any] = {"stream": chance.random() < 0.6}
    if chance.random() < 0.2:
        fields["n"] = 2
    if fields["stream"] and chance.random() < 0.5:
        fields["stream_options"] = {"include_usage": True}
    if chance.random() < 0.2:
        fields["tools"] = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    body = json.dumps(HELLO | {"model": chance.choice([*ENGINES * 5, "none"])} | fields).encode()
    lines = b"Host: x\r\nAuthorization: Bearer " + chance.choice([KEY] * 19 + ["sk-cc-no"]).encode() + b"\r\n"
    if chance.random() < 0.1:
        lines += b"X-Cloudcrest-Max-Wait: 0.2\r\n"
    if chance.random() < 0.1:
        lines += b"X-Request-Timeout-Ms: 300\r\n"
    if chance.random() < 0.2:
        sent = b"".join(framed(piece) for piece in pieces(body, [7, 50])) + b"0\r\n\r\n"
        return b"POST %b HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n%b" % (CHAT.encode(), lines, sent)
    return b"POST %b HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (CHAT.encode(), lines, len(body), body)


async def client(chance: random.Random, port: int) -> None:
    """Sends a few requests, perhaps wrong ones, perhaps in pieces, and reads for as long as it likes."""
    with contextlib.suppress(OSError, TimeoutError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            data = b"".join(request_of(chance) for _ in range(chance.choice([1, 1, 1, 2, 40])))
            if chance.random() < 0.3:
                data = edited(data, [random_edit(chance, len(data)) for _ in range(chance.randint(1, 3))])
            if chance.random() < 0.1:
                data = data[: chance.randrange(len(data))]
            for piece in pieces(data, [chance.randrange(1 << 16) for _ in range(chance.randint(0, 5))]):
                writer.write(piece)
                await asyncio.sleep(0)
            async with asyncio.timeout(chance.choice([0.01, 0.1, 1])):
                for _ in range(chance.choice([1, 5, 500])):
                    if not await reader.read(chance.choice([10, 4_000])):
                        break
        finally:
            if chance.random() < 0.5:
                writer.transport.abort()
            writer.close()


# what is left


def census() -> Counter[str]:
    """How many objects of ours there are, by class; without the connections that wait in their pools."""
    gc.collect()
    everything = gc.get_objects()
    kinds = [type(each) for each in everything]
    found = Counter(kind.__qualname__ for kind in kinds if str(kind.__module__).startswith("cloudcrest.gateway"))
    in_pools = sum(len(each.idle) for each in everything if isinstance(each, Upstream))
    for kind in ("UpstreamConnection", "RoundTransport"):
        found[kind] -= in_pools
    return found


def leftovers(running: RunningGateway) -> dict[str, object]:
    """What a gateway still holds of requests, replicas and clients; empty where all of it is over."""
    gateway, spool = running.gateway, running.spool
    routes = gateway.snapshot.routes.values()
    access = gateway.snapshot.access(key_document(limits=Limits(concurrent_requests=MOST_AT_ONCE)), ENGINES[0])
    found: dict[str, object] = {
        "accounts": len(spool.opened) - len(spool.ended),
        "clients": len(gateway.state.connections),
        "bodies": gateway.state.gathered_bytes,
        "calls": len(gateway._calls.active),
        "tasks": len(gateway._calls.tasks),
        "waiting": len(gateway.waiting),
        "at replicas": sum(replica.in_flight for route in routes for replica in route.replicas),
        "at limits": sum(scope.concurrent for scope in access.scopes),
        "in flight": gateway._metrics.in_flight,
    }
    return {name: count for name, count in found.items() if count}


@contextlib.asynccontextmanager
async def wild_cloud(folder: Path, chance: random.Random) -> AsyncIterator[RunningGateway]:
    async with contextlib.AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(ScriptedUpstream(wild(chance))) for _ in range(3)]
        urls = tuple(upstream.url for upstream in upstreams)
        routes = [route_document(name, urls, engine=name) for name in ENGINES]
        keys = [key_document(limits=Limits(concurrent_requests=MOST_AT_ONCE))]
        settings = SETTINGS | {"control_url": urls[0]}
        yield await stack.enter_async_context(running_gateway(folder, feed_state(routes, keys), **settings))


@pytest.mark.parametrize("seed", SEEDS)
async def test_it_stays_up_and_keeps_nothing(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "TIMEOUT_SECONDS", 0.5)
    chance = random.Random(seed)
    accidents: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: accidents.append(context))
    async with wild_cloud(tmp_path, chance) as running:
        settled: list[Counter[str]] = []
        for _ in range(ROUNDS):
            await asyncio.gather(*(client(chance, running.gateway.port) for _ in range(CLIENTS)))
            await until_async(lambda: not leftovers(running), f"all is over; left: {leftovers(running)}", seconds=20)
            settled.append(census())
        ended = [event.id for event in running.spool.ended]
        assert len(ended) == len(set(ended)) == len({event.id for event in running.spool.opened}) > ROUNDS * CLIENTS / 3
        assert len(Counter(event.outcome for event in running.spool.ended)) >= 3
        grown = {name: count for name, count in settled[-1].items() if count > settled[0][name] + 5}
        assert not grown, f"there are more of these after {ROUNDS} rounds than after one"
    assert accidents == []
