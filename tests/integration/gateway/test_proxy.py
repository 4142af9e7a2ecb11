"""The pass-through to the control plane: headers, bodies both ways, and its absence."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from tests.support.gateway_cloud import (
    Received,
    RunningGateway,
    Script,
    ScriptedUpstream,
    feed_state,
    framed,
    json_answer,
    running_gateway,
)
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def front(
    folder: Path, script: Script
) -> AsyncIterator[tuple[httpx2.AsyncClient, ScriptedUpstream, RunningGateway]]:
    async with (
        ScriptedUpstream(script) as control,
        running_gateway(folder, feed_state([]), control_url=control.url, proxy_timeout_seconds=0.3) as running,
        httpx2.AsyncClient(base_url=running.url, timeout=20, trust_env=False) as client,
    ):
        yield client, control, running


async def test_heads_pass_with_who_it_was_and_without_what_was_claimed(tmp_path: Path) -> None:
    def answer(request: Received) -> None:
        head = "HTTP/1.1 201 Created\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nconnection: x-hop\r\nx-hop: 1\r\n"
        request.write((head + "x-kept: yes\r\ncontent-length: 2\r\n\r\n{}").encode())

    async with front(tmp_path, answer) as (client, control, _):
        response = await client.post(
            "/api/v1/keys?limit=5&a=%2F",
            json={"name": "x"},
            headers={
                "host": "cloud.example",
                "authorization": "Bearer sk-cc-x",
                "x-forwarded-for": "6.6.6.6",
                "x-forwarded-prefix": "/evil",
                "forwarded": "for=6.6.6.6",
                "connection": "x-secret",
                "x-secret": "1",
            },
        )
        assert (response.status_code, response.headers.get_list("set-cookie")) == (201, ["a=1", "b=2"])
        assert response.headers["x-kept"] == "yes"
        assert "x-hop" not in response.headers
        request = control.received[0]
        lines = request.head.lower().split("\r\n")
        assert lines[0] == "post /api/v1/keys?limit=5&a=%2f http/1.1"
        assert [line for line in lines if line.startswith(("x-forwarded", "forwarded", "host", "x-secret"))] == [
            "host: cloud.example",
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-host: cloud.example",
            "x-forwarded-proto: http",
        ]
        assert "authorization: bearer sk-cc-x" in lines
        assert json.loads(request.body) == {"name": "x"}


async def test_bodies_stream_both_ways(tmp_path: Path) -> None:
    async def echo(request: Received) -> None:
        request.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(20):
            request.write(framed(b"y" * 100_000))
            await asyncio.sleep(0)
        request.write(b"0\r\n\r\n")

    async def upload() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100_000

    async with front(tmp_path, echo) as (client, control, _):
        response = await client.put("/api/v1/files/1", content=upload())
        assert len(response.content) == 2_000_000
        assert control.received[0].body.count(b"x") == 2_000_000
        assert len((await client.post("/api/v1/files", content=b"z" * 3_000_000)).content) == 2_000_000
        assert len(control.received[1].body) == 3_000_000


async def test_heads_and_empty_answers(tmp_path: Path) -> None:
    def answer(request: Received) -> None:
        if request.head.startswith("HEAD"):
            request.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n")
        elif request.head.startswith("DELETE"):
            request.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        else:
            json_answer({"ok": True})(request)

    async with front(tmp_path, answer) as (client, control, _):
        for _ in range(3):
            head = await client.head("/api/v1/x")
            assert (head.status_code, head.headers["content-length"], head.content) == (200, "1234", b"")
            assert (await client.delete("/api/v1/x")).status_code == 204
            assert (await client.get("/console/")).json() == {"ok": True}
            assert (await client.options("/api/v1/x")).json() == {"ok": True}
        assert len(control.received) == 12


@pytest.mark.parametrize(
    "path", ["/internal/v1/feed", "/%69nternal/v1/usage", "//internal/v1/feed", "/api/%2e%2e/internal/x", "/internal"]
)
async def test_internal_paths_never_pass(tmp_path: Path, path: str) -> None:
    async with front(tmp_path, json_answer({})) as (_, control, running):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.gateway.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert (await reader.read()).startswith(b"HTTP/1.1 404")
        assert control.received == []
        writer.close()


async def test_a_control_plane_that_is_away_gives_a_problem_document(tmp_path: Path) -> None:
    async with front(tmp_path, json_answer({"ok": True})) as (client, control, _):
        assert (await client.get("/api/v1/models")).status_code == 200
        control.stop()
        for method in ("GET", "POST"):
            response = await client.request(method, "/api/v1/models", json={"a": "b" * 100_000})
            assert response.status_code == 503
            assert response.headers["content-type"] == "application/problem+json"
            assert int(response.headers["retry-after"]) > 0
            assert response.json()["code"] == "control_plane_unavailable"
        assert (await client.get("/healthz")).status_code == 200


async def test_a_control_plane_that_hangs_or_dies_in_the_middle(tmp_path: Path) -> None:
    def die(request: Received) -> None:
        request.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        request.transport.close()

    async with front(tmp_path, lambda _: None) as (client, control, _):
        assert (await client.get("/api/v1/models")).status_code == 503
        control.script = die
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.get("/api/v1/models")


async def test_a_client_that_leaves_leaves_nothing_running(tmp_path: Path) -> None:
    async with front(tmp_path, lambda _: None) as (_, control, running):
        _, writer = await asyncio.open_connection("127.0.0.1", running.gateway.port)
        writer.write(b"GET /api/v1/slow HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(5):
            await until_async(lambda: control.received, "it is passed on")
            writer.close()
            await control.received[0].is_gone.wait()
