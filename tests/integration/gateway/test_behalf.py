"""The link to the content service: who is believed, on whose behalf it asks, and when a batch has to stand back."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.gateway_cloud import (
    COMPLETION,
    KEY,
    OTHER_KEY,
    Received,
    RunningGateway,
    Script,
    ScriptedUpstream,
    feed_state,
    json_answer,
    key_document,
    route_document,
    running_gateway,
)
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio

TOKEN = "internal"
ID = "req_01k9zq3v5e8m2n4p6r8t0w2y4z"
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@asynccontextmanager
async def front(
    folder: Path, script: Script, *, scopes: tuple[str, ...] = ("inference", "management"), **changes: Any
) -> AsyncIterator[tuple[httpx2.AsyncClient, ScriptedUpstream, RunningGateway]]:
    """A gateway whose one upstream is both its replica and its content service."""
    async with ScriptedUpstream(script) as upstream:
        keys = [key_document(scopes=scopes), key_document(OTHER_KEY, organization_id="org_2", project_id="proj_2")]
        state = feed_state([route_document(urls=(upstream.url,))], keys)
        settings = {"content_url": upstream.url, "content_token": TOKEN, **changes}
        async with (
            running_gateway(folder, state, **settings) as running,
            httpx2.AsyncClient(base_url=running.url, timeout=20, trust_env=False) as client,
        ):
            yield client, upstream, running


def behalf(token: str = TOKEN, key: str = "key_test", **more: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}", "x-cloudcrest-on-behalf-of": key, "x-request-id": ID, **more}


async def test_content_is_told_who_calls_and_nothing_that_was_claimed(tmp_path: Path) -> None:
    async with front(tmp_path, json_answer({})) as (client, content, _):
        claimed = {
            "authorization": f"Bearer {KEY}",
            "x-cloudcrest-organization": "org_2",
            "x-cloudcrest-project": "proj_2",
            "x-cloudcrest-key": "key_other",
            "x-cloudcrest-on-behalf-of": "key_other",
            "x-cloudcrest-tier": "batch",
            "x-api-key": KEY,
        }
        assert (await client.get("/v1/files?limit=2", headers=claimed)).status_code == 200
        lines = content.received[0].head.lower().split("\r\n")
        assert lines[0] == "get /v1/files?limit=2 http/1.1"
        assert sorted(line for line in lines if line.startswith(("authorization", "x-cloudcrest", "x-api"))) == [
            f"authorization: bearer {TOKEN}",
            "x-cloudcrest-key: key_test",
            "x-cloudcrest-organization: org_1",
            "x-cloudcrest-project: proj_1",
        ]


@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches/batch_1", "/v1/responses", "/v1/conversations/c/items"])
async def test_content_is_for_keys_that_are_known(tmp_path: Path, path: str) -> None:
    async with front(tmp_path, json_answer({})) as (client, content, _):
        for headers in ({}, {"authorization": "Bearer sk-cc-unknown"}, behalf("guessed")):
            refused = await client.post(path, headers=headers, content=b"x" * 100_000)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        assert content.received == []


@pytest.mark.parametrize("path", ["/v1/volumes", "/v1/volumes/v/objects/a/b", "/v1/jobs/job_1/logs?follow=true"])
async def test_jobs_and_volumes_go_to_their_service_with_its_own_token(tmp_path: Path, path: str) -> None:
    async with ScriptedUpstream(json_answer({})) as jobs:
        changes: dict[str, Any] = {"jobs_url": jobs.url, "jobs_token": "of-jobs"}
        async with front(tmp_path, json_answer({}), **changes) as (client, content, _):
            for headers in ({}, {"authorization": "Bearer sk-cc-unknown"}, {"authorization": "Bearer of-jobs"}):
                assert (await client.get(path, headers=headers)).status_code == 401
            assert (await client.get(path, headers={"authorization": f"Bearer {KEY}"})).status_code == 200
            is_job = "/jobs/" in path
            (received,) = (jobs if is_job else content).received
            assert content.received == [] or jobs.received == []
            lines = received.head.lower().split("\r\n")
            assert lines[0] == f"get {path} http/1.1".lower()
            assert f"authorization: bearer {'of-jobs' if is_job else TOKEN}" in lines
            assert "x-cloudcrest-project: proj_1" in lines
            jobs.stop()
            content.stop()
            away = await client.get(path, headers={"authorization": f"Bearer {KEY}"})
            code = "jobs_unavailable" if is_job else "content_unavailable"
            assert (away.status_code, away.json()["error"]["code"]) == (503, code)


@pytest.mark.parametrize(
    ("scopes", "path", "is_let"),
    [
        (("inference",), "/v1/jobs/job_1/shells", False),
        (("inference",), "/v1/jobs/job_1/logs", False),
        (("management",), "/v1/jobs/job_1/shells", True),
        (("management",), "/v1/files", False),
        (("inference",), "/v1/files", True),
    ],
)
async def test_jobs_are_for_keys_that_may_manage(
    tmp_path: Path, scopes: tuple[str, ...], path: str, is_let: bool
) -> None:
    async with ScriptedUpstream(json_answer({})) as jobs:
        changes: dict[str, Any] = {"jobs_url": jobs.url, "jobs_token": "of-jobs"}
        async with front(tmp_path, json_answer({}), scopes=scopes, **changes) as (client, content, _):
            answer = await client.post(path, headers={"authorization": f"Bearer {KEY}"}, content=b"{}")
            if is_let:
                assert answer.status_code == 200
            else:
                assert (answer.status_code, answer.json()["error"]["code"]) == (403, "missing_scope")
                assert jobs.received == content.received == []


async def test_volumes_are_for_keys_that_may_manage(tmp_path: Path) -> None:
    routes = [
        *(("POST", "/v1/volumes"), ("GET", "/v1/volumes"), ("GET", "/v1/volumes/v"), ("DELETE", "/v1/volumes/v")),
        ("GET", "/v1/volumes/v/objects?prefix=a"),
        *((method, "/v1/volumes/v/objects/a/b") for method in ("PUT", "GET", "DELETE")),
    ]
    for scopes, status in ((("inference",), 403), (("management",), 200)):
        (tmp_path / scopes[0]).mkdir()
        async with front(tmp_path / scopes[0], json_answer({}), scopes=scopes) as (client, content, _):
            for method, path in routes:
                answer = await client.request(method, path, headers={"authorization": f"Bearer {KEY}"})
                assert answer.status_code == status, (scopes, method, path)
                if status == 403:
                    assert answer.json()["error"]["code"] == "missing_scope"
            assert len(content.received) == (0 if status == 403 else len(routes))


@pytest.mark.parametrize("path", ["/v1/jobs/../../internal/v1/feed", "/v1/jobs/%2e%2e/%2e%2e/internal/v1/feed"])
async def test_jobs_lead_to_no_internal_path(tmp_path: Path, path: str) -> None:
    async with ScriptedUpstream(json_answer({})) as jobs:
        async with front(tmp_path, json_answer({}), jobs_url=jobs.url, jobs_token="of-jobs") as (client, _, __):
            reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
            writer.write(f"GET {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEY}\r\n\r\n".encode())
            assert b" 404 " in await reader.readline()
            writer.close()
        assert jobs.received == []


async def test_content_that_is_away_is_an_openai_error(tmp_path: Path) -> None:
    async with front(tmp_path, json_answer({})) as (client, content, _):
        content.stop()
        away = await client.get("/v1/files", headers={"authorization": f"Bearer {KEY}"})
        assert (away.status_code, away.json()["error"]["code"]) == (503, "content_unavailable")
        assert away.headers["retry-after"] == "3"


async def test_inference_on_behalf_of_a_key_is_that_keys(tmp_path: Path) -> None:
    async with front(tmp_path, json_answer(COMPLETION)) as (client, _, running):
        answer = await client.post("/v1/chat/completions", json=BODY, headers=behalf())
        assert (answer.status_code, answer.headers["x-request-id"]) == (200, ID)
        event = running.spool.ended[0]
        assert (event.id, event.key_id, event.project_id, event.organization_id) == (
            ID,
            "key_test",
            "proj_1",
            "org_1",
        )
        running.set_documents("key", {"key_test": key_document(models=("other",))})
        refused = await client.post("/v1/chat/completions", json=BODY, headers=behalf())
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")
        running.set_documents("key", {})
        revoked = await client.post("/v1/chat/completions", json=BODY, headers=behalf())
        assert (revoked.status_code, revoked.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_the_same_head_again_is_on_behalf_of_the_key_again(tmp_path: Path) -> None:
    body = json.dumps(BODY).encode()
    lines = [f"{name}: {value}" for name, value in behalf().items()]
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: a", *lines, f"content-length: {len(body)}"]
    head = "\r\n".join([*lines, "", ""])
    async with front(tmp_path, json_answer(COMPLETION)) as (client, _, _):
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        try:
            for _ in range(3):
                writer.write(head.encode() + body)  # in one piece, as a connection recognises it
                answer = await reader.readuntil(b"\r\n\r\n")
                assert answer.startswith(b"HTTP/1.1 200 ")
                length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                await reader.readexactly(int(length.partition(b":")[2]))
        finally:
            writer.close()


async def test_nobody_else_asks_on_behalf_of_a_key(tmp_path: Path) -> None:
    async with front(tmp_path, json_answer(COMPLETION)) as (client, _, running):
        own = await client.post("/v1/chat/completions", json=BODY, headers=behalf(OTHER_KEY))
        assert own.status_code == 200
        event = running.spool.ended[0]
        assert (event.key_id, event.id == ID) == ("key_other", False)
        assert (await client.post("/v1/chat/completions", json=BODY, headers=behalf("guessed"))).status_code == 401


async def test_without_a_token_of_its_own_a_gateway_believes_nobody(tmp_path: Path) -> None:
    async with front(tmp_path, json_answer(COMPLETION), content_token="") as (client, _, __):
        for credentials in ("Bearer", f"Bearer {TOKEN}"):
            headers = behalf() | {"authorization": credentials}
            assert (await client.post("/v1/chat/completions", json=BODY, headers=headers)).status_code == 401


async def test_a_batch_stands_back_where_replicas_are_busy(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def answer(request: Received) -> None:
        await go.wait()
        json_answer(COMPLETION)(request)

    async with front(tmp_path, answer) as (client, upstream, _):  # one replica with four slots
        mine = {"authorization": f"Bearer {KEY}"}
        running = [asyncio.create_task(client.post("/v1/chat/completions", json=BODY, headers=mine)) for _ in range(3)]
        await until_async(lambda: len(upstream.received) == 3, "three of four slots are taken")
        batch = await client.post("/v1/chat/completions", json=BODY, headers=behalf(**{"x-cloudcrest-tier": "batch"}))
        assert (batch.status_code, batch.json()["error"]["code"]) == (429, "no_idle_capacity")
        assert int(batch.headers["retry-after"]) >= 1
        claims = mine | {"x-cloudcrest-tier": "batch"}  # which counts for nothing
        running.append(asyncio.create_task(client.post("/v1/chat/completions", json=BODY, headers=claims)))
        await until_async(lambda: len(upstream.received) == 4, "the last slot is taken")
        go.set()
        assert [(await each).status_code for each in running] == [200] * 4


async def test_a_batchs_request_ends_whole_without_its_client_and_does_not_run_twice_at_once(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def answer(request: Received) -> None:
        await go.wait()
        json_answer(COMPLETION)(request)

    batch = behalf(**{"x-cloudcrest-tier": "batch"})
    async with front(tmp_path, answer) as (client, upstream, running):
        lost = asyncio.create_task(client.post("/v1/chat/completions", json=BODY, headers=batch))
        await until_async(lambda: len(upstream.received) == 1, "the request is at the replica")
        lost.cancel()
        again = await client.post("/v1/chat/completions", json=BODY, headers=batch)
        assert (again.status_code, again.json()["error"]["code"]) == (429, "request_still_runs")
        assert not upstream.received[0].is_gone.is_set()
        go.set()
        await until_async(lambda: running.spool.ended, "its event is written")
        assert [(event.outcome, event.usage.output_tokens) for event in running.spool.ended] == [("completed", 7)]
        assert (await client.post("/v1/chat/completions", json=BODY, headers=batch)).status_code == 200
