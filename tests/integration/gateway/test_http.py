"""The server side over real sockets: framing, pipelining, smuggling, slow and oversized clients."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloudcrest.gateway import protocol
from tests.support.gateway_cloud import (
    COMPLETION,
    KEY,
    RunningGateway,
    ScriptedUpstream,
    feed_state,
    json_answer,
    route_document,
    running_gateway,
)
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio
BODY = b'{"model":"m","messages":[{"role":"user","content":"hello"}]}'
AUTH = b"Authorization: Bearer " + KEY.encode() + b"\r\n"


def post(body: bytes = BODY, headers: bytes = AUTH, path: bytes = b"/v1/chat/completions") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n%b" % (path, headers, len(body), body)


@contextlib.asynccontextmanager
async def cloud(folder: Path, **settings: object) -> AsyncIterator[tuple[RunningGateway, ScriptedUpstream]]:
    async with ScriptedUpstream(json_answer(COMPLETION)) as upstream:
        state = feed_state([route_document(urls=(upstream.url,))])
        async with running_gateway(folder, state, **settings) as running:
            yield running, upstream


async def talk(running: RunningGateway, *pieces: bytes, seconds: float = 10) -> bytes:
    """Sends the pieces and returns everything until the gateway closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.gateway.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        async with asyncio.timeout(seconds):
            return await reader.read()
    finally:
        writer.close()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> tuple[int, bytes, bytes]:
    """One request on a kept connection: (status, head, body)."""
    writer.write(data)
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(v) for k, _, v in (line.partition(b": ") for line in head.split(b"\r\n")) if k == b"content-length"), 0
        )
        return int(head[9:12]), head, await reader.readexactly(length)


CLOSE = b"Connection: close\r\n"


async def test_keep_alive_carries_many_requests_and_reuses_the_upstream(tmp_path: Path) -> None:
    async with cloud(tmp_path) as (running, upstream):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.gateway.port)
        for _ in range(5):
            status, head, body = await ask(reader, writer, post())
            assert (status, json.loads(body)) == (200, COMPLETION)
            assert b"x-request-id: req_" in head
        writer.close()
        assert len(upstream.connections) == 1
        assert "authorization: Bearer replica-token" in upstream.received[0].head
        assert KEY not in upstream.received[0].head


@pytest.mark.parametrize("prefix", [b"", b"/compatible-mode", b"/compatible%2Dmode", b"/compatible%2dmode"])
async def test_a_path_under_another_name_is_known_when_it_comes_again(tmp_path: Path, prefix: bytes) -> None:
    async with cloud(tmp_path) as (running, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.gateway.port)
        for _ in range(3):
            status, _, body = await ask(reader, writer, post(path=prefix + b"/v1/chat/completions"))
            assert (status, json.loads(body)["object"]) == (200, "chat.completion")
        writer.close()


async def test_so_is_one_that_stands_for_another(tmp_path: Path) -> None:
    ranking = {"results": [{"index": 0, "relevance_score": 0.5}], "usage": {"prompt_tokens": 3, "total_tokens": 3}}
    asked = b'{"model": "m", "query": "q", "documents": ["d"]}'
    async with ScriptedUpstream(json_answer(ranking)) as upstream:
        state = feed_state([route_document("m", (upstream.url,), task="rerank")])
        async with running_gateway(tmp_path, state) as running:
            reader, writer = await asyncio.open_connection("127.0.0.1", running.gateway.port)
            for _ in range(3):
                status, _, body = await ask(reader, writer, post(asked, path=b"/compatible-api/v1/reranks"))
                assert (status, json.loads(body)["results"][0]["index"]) == (200, 0)
            writer.close()


async def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async with cloud(tmp_path) as (running, _):
        data = post() + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + post() + post(headers=AUTH + CLOSE)
        answer = await talk(running, data)
        assert answer.count(b"HTTP/1.1 200") == 4
        assert answer.index(b"chatcmpl") < answer.index(b'"status":"ok"')


async def test_too_many_pipelined_requests_end_the_connection(tmp_path: Path) -> None:
    async with cloud(tmp_path) as (running, _):
        answer = await talk(running, post() * 200)
        assert answer.count(b"HTTP/1.1 200") < 200


async def test_a_request_in_single_bytes_and_in_chunks(tmp_path: Path) -> None:
    async with cloud(tmp_path) as (running, _):
        data = post(headers=AUTH + CLOSE)
        assert b"HTTP/1.1 200" in await talk(running, *[data[i : i + 1] for i in range(len(data))])
        head = (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n" + AUTH + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n"
        )
        chunks = b"".join(b"5\r\n%b\r\n" % BODY[i : i + 5] for i in range(0, 60, 5)) + b"0\r\n\r\n"
        assert len(BODY) == 60
        assert b"HTTP/1.1 200" in await talk(running, head + chunks)


async def test_expect_continue_is_answered_before_the_body(tmp_path: Path) -> None:
    async with cloud(tmp_path) as (running, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.gateway.port)
        head, _, body = post(headers=AUTH + b"Expect: 100-continue\r\n").partition(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        status, _, _ = await ask(reader, writer, body)
        assert status == 200
        writer.close()
        unknown = post(headers=b"Authorization: Bearer sk-cc-no\r\nExpect: 100-continue\r\n").partition(b"\r\n\r\n")[0]
        answer = await talk(running, unknown + b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 401")
        assert b"100 Continue" not in answer


POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n" + AUTH


@pytest.mark.parametrize(
    "data",
    [
        POST + b"Content-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 60\r\n\r\n0\r\n\r\n",
        POST + b"Content-Length: 60\r\nContent-Length: 60\r\n\r\n" + BODY,
        POST + b"Content-Length: 60\r\nContent-Length: 5\r\n\r\n" + BODY,
        POST + b"Content-Length: 60, 60\r\n\r\n" + BODY,
        POST + b"Content-Length: +60\r\n\r\n" + BODY,
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Content-Length : 60\r\n\r\n" + BODY,
        POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
        POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nabc\r\n",
        POST + b"X: a\r\n b\r\n\r\n",
        POST + b"X: a\0b\r\n\r\n",
        POST + b"Authorization: Bearer other\r\nContent-Length: 0\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\nHost: x\n\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET http://x/internal/v1/feed HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"hello\r\n\r\n",
    ],
)
async def test_what_could_be_read_in_two_ways_is_refused_and_ends_the_connection(tmp_path: Path, data: bytes) -> None:
    async with cloud(tmp_path) as (running, upstream):
        answer = await talk(running, data + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413"))
        assert len(re.findall(rb"HTTP/1\.1 \d", answer)) == 1
        assert upstream.received == []
        assert running.spool.opened == []


async def test_trailers_cannot_add_headers(tmp_path: Path) -> None:
    async with cloud(tmp_path) as (running, _):
        head = (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        answer = await talk(running, head + b"3c\r\n" + BODY + b"\r\n0\r\n" + AUTH + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 40_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 200 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000,
    ],
)
async def test_an_oversized_head_is_refused(tmp_path: Path, head: bytes) -> None:
    async with cloud(tmp_path) as (running, _):
        pieces = [head[i : i + 10_000] for i in range(0, len(head), 10_000)]
        assert (await talk(running, *pieces)).startswith(b"HTTP/1.1 431")


async def test_a_body_over_the_limit_gets_413_announced_or_not(tmp_path: Path) -> None:
    async with cloud(tmp_path, max_body_bytes=1_000) as (running, _):
        assert (await talk(running, post(b"x" * 2_000, AUTH + CLOSE))).startswith(b"HTTP/1.1 413")
        chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"200\r\n%b\r\n" % (b"x" * 512) * 4
        assert (await talk(running, chunked)).startswith(b"HTTP/1.1 413")


async def test_without_a_key_a_large_body_is_not_read(tmp_path: Path) -> None:
    async with cloud(tmp_path) as (running, _):
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 20000000\r\n\r\n"
        assert (await talk(running, head + b"x" * 100_000)).startswith(b"HTTP/1.1 401")


async def test_bodies_of_all_connections_together_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_GATHERED_BYTES", 100_000)
    async with cloud(tmp_path) as (running, _):
        _, slow = await asyncio.open_connection("127.0.0.1", running.gateway.port)
        slow.write(POST + b"Content-Length: 95000\r\n\r\n" + b" " * 90_000)
        await slow.drain()
        large = post(BODY + b" " * 30_000, AUTH + CLOSE)

        async def is_refused() -> bool:
            return (await talk(running, large)).startswith(b"HTTP/1.1 503")

        await until_async(is_refused, "a large body is refused while another is held")
        assert (await talk(running, post(BODY, AUTH + CLOSE))).startswith(b"HTTP/1.1 200")
        slow.close()

        async def is_served() -> bool:
            return (await talk(running, large)).startswith(b"HTTP/1.1 200")

        await until_async(is_served, "a large body is taken again")
        for _ in range(5):  # what was served or refused is not counted any more
            assert await is_served()


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"", b""),
        (b"GET / HT", b"HTTP/1.1 408"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"HTTP/1.1 408"),
        (POST + b"Content-Length: 60\r\n\r\n{", b"HTTP/1.1 408"),
    ],
)
async def test_slow_clients_are_let_go(tmp_path: Path, data: bytes, answer: bytes) -> None:
    timeouts = {"head_timeout_seconds": 0.2, "body_timeout_seconds": 0.2, "idle_timeout_seconds": 0.2}
    async with cloud(tmp_path, **timeouts) as (running, _):
        got = await talk(running, data)
        assert got.startswith(answer)
        assert bool(got) == bool(answer)


async def test_a_client_that_does_not_read_its_answer_is_let_go(tmp_path: Path) -> None:
    large = COMPLETION | {"padding": "x" * 20_000_000}
    async with ScriptedUpstream(json_answer(large)) as upstream:
        state = feed_state([route_document(urls=(upstream.url,))])
        async with running_gateway(tmp_path, state, write_timeout_seconds=0.5) as running:
            reader, writer = await asyncio.open_connection("127.0.0.1", running.gateway.port)
            writer.write(post())
            await until_async(lambda: running.spool.ended, "it is answered")
            assert running.gateway.state.connections
            await until_async(lambda: not running.gateway.state.connections, "who does not read is let go")
            with contextlib.suppress(ConnectionError):
                assert len(await reader.read()) < 20_000_000
            writer.close()


async def test_dripping_a_head_byte_by_byte_does_not_hold_a_connection(tmp_path: Path) -> None:
    async with cloud(tmp_path, head_timeout_seconds=0.3) as (running, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.gateway.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX: ")
        got = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(10):
                while not got:
                    writer.write(b"a")
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.05):
                            got = await reader.read(100)
        assert got.startswith(b"HTTP/1.1 408")
        writer.close()


async def test_pages(tmp_path: Path) -> None:
    async with cloud(tmp_path) as (running, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.gateway.port)
        get = b"GET %b HTTP/1.1\r\nHost: cloud.example\r\n%b\r\n"
        status, head, body = await ask(reader, writer, get % (b"/", b"Accept: text/html\r\n"))
        assert (status, b"text/html" in head, b"http://cloud.example/v1" in body) == (200, True, True)
        status, _, body = await ask(reader, writer, get % (b"/", b""))
        assert json.loads(body)["inference"] == "/v1"
        for path in (b"/healthz", b"/readyz", b"/metrics"):
            assert (await ask(reader, writer, get % (path, b"")))[0] == 200
        for path in (b"/internal/v1/feed", b"/%69nternal/v1/feed", b"/v1/nothing", b"/v1/chat/completions/", b"/else"):
            assert (await ask(reader, writer, get % (path, AUTH)))[0] == 404
        status, _, body = await ask(reader, writer, get % (b"/v1/chat/completions", AUTH))
        assert (status, json.loads(body)["error"]["code"]) == (405, "method_not_allowed")
        assert (await ask(reader, writer, get % (b"/v1/models", b"")))[0] == 401
        writer.write(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        assert b"content-length: 15\r\n" in answer
        assert answer.endswith(b"\r\n\r\n")
        writer.close()


async def test_cross_origin_requests_are_answered_as_set(tmp_path: Path) -> None:
    async with cloud(tmp_path, cors_origins=("https://app.example",)) as (running, _):
        preflight = b"OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nOrigin: %b\r\n\r\n"
        allowed = await talk(running, preflight % b"https://app.example")
        assert allowed.startswith(b"HTTP/1.1 204")
        assert b"access-control-allow-origin: https://app.example\r\n" in allowed
        assert b"access-control-allow-headers: *, authorization\r\n" in allowed
        assert b"access-control" not in await talk(running, preflight % b"https://evil.example")
        answer = await talk(running, post(headers=AUTH + CLOSE + b"Origin: https://app.example\r\n"))
        assert b"access-control-allow-origin: https://app.example\r\n" in answer


async def test_an_upgrade_is_not_followed(tmp_path: Path) -> None:
    async with cloud(tmp_path) as (running, _):
        data = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        answer = await talk(running, data + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.count(b"HTTP/1.1 200") == 1


async def test_http_1_0_gets_an_answer_and_a_close(tmp_path: Path) -> None:
    async with cloud(tmp_path) as (running, _):
        answer = await talk(running, b"GET /healthz HTTP/1.0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close\r\n" in answer


async def test_connections_are_bounded(tmp_path: Path) -> None:
    async with cloud(tmp_path, max_connections=3) as (running, _):
        open_ones = [await asyncio.open_connection("127.0.0.1", running.gateway.port) for _ in range(3)]
        await ask(*open_ones[2], b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await talk(running, b"") == b""
        for _, writer in open_ones:
            writer.close()


async def test_draining_finishes_what_runs_and_tells_the_client(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def slowly(request: object) -> None:
        await release.wait()
        json_answer(COMPLETION)(request)  # type: ignore[arg-type]

    async with cloud(tmp_path, drain_seconds=10) as (running, upstream):
        upstream.script = slowly
        reader, writer = await asyncio.open_connection("127.0.0.1", running.gateway.port)
        writer.write(post())
        await until_async(lambda: upstream.received, "it is at work")
        stopping = asyncio.create_task(running.gateway.stop())
        await asyncio.sleep(0)
        release.set()
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer
        await stopping
        assert running.spool.is_closed
        writer.close()
