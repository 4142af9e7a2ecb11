"""Who is let in: keys, models, limits, suspension, and a spool that must be writable first."""

import asyncio
from pathlib import Path

import pytest

from cloudcrest.identity.api import Limits
from cloudcrest.kernel.errors import Unavailable
from tests.integration.gateway.scripted import CHAT, HELLO, cloud, error_of
from tests.support.gateway_cloud import COMPLETION, OTHER_KEY, Received, json_answer
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio


async def test_who_is_refused_and_how(tmp_path: Path) -> None:
    async with cloud(tmp_path, json_answer(COMPLETION)) as c:
        refused = [
            (await c.chat(key="sk-cc-nobody"), 401, "invalid_api_key", None),
            (await c.chat(key=OTHER_KEY), 403, "model_not_allowed", "model"),
            (await c.chat(model="mm"), 404, "model_not_found", "model"),
            (await c.chat(n_predict=5), 400, "unknown_parameter", "n_predict"),
            (await c.client.post(CHAT, json=HELLO), 401, "invalid_api_key", None),
        ]
        for response, status, code, param in refused:
            error = error_of(response)
            assert (response.status_code, error["code"], error["param"]) == (status, code, param)
            assert response.headers["x-request-id"].startswith("req_")
        assert "did you mean m?" in error_of(refused[2][0])["message"]
        assert c.spool.opened == []
        assert c.upstreams[0].received == []


async def test_limits_refuse_with_headers_and_free_what_ends(tmp_path: Path) -> None:
    key_limits = Limits(requests_per_minute=2, tokens_per_minute=100_000)
    async with cloud(tmp_path, json_answer(COMPLETION), key_limits=key_limits) as c:
        first = await c.chat()
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert int(first.headers["x-ratelimit-remaining-tokens"]) < 100_000
        second = await c.chat()
        # The first one's estimate was corrected to the twelve tokens it used.
        assert int(second.headers["x-ratelimit-remaining-tokens"]) > 99_000
        third = await c.chat()
        assert (third.status_code, error_of(third)["code"]) == (429, "rate_limit_exceeded")
        assert 1 <= int(third.headers["retry-after"]) <= 31
        assert third.headers["x-ratelimit-remaining-requests"] == "0"
        assert len(c.spool.opened) == 2


async def test_concurrency_is_counted_until_the_end(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def wait(request: Received) -> None:
        await release.wait()
        json_answer(COMPLETION)(request)

    async with cloud(tmp_path, wait, limits=Limits(concurrent_requests=1)) as c:
        running = asyncio.create_task(c.chat())
        await until_async(lambda: c.upstreams[0].received, "the first is at work")
        assert (await c.chat()).status_code == 429
        release.set()
        assert (await running).status_code == 200
        assert (await c.chat()).status_code == 200


async def test_a_suspended_organization_is_told_why(tmp_path: Path) -> None:
    async with cloud(tmp_path, json_answer(COMPLETION)) as c:
        c.running.set_documents("organization", {"org_1": {"id": "org_1", "suspended_reason": "the credit is used up"}})
        response = await c.chat()
        assert (response.status_code, error_of(response)["code"]) == (429, "insufficient_quota")
        assert "the credit is used up" in response.text


async def test_a_model_without_a_replica_gives_its_reason(tmp_path: Path) -> None:
    async with cloud(tmp_path, route={"unavailable_reason": "the weights are being fetched (40%)"}) as c:
        response = await c.chat()
        assert (response.status_code, error_of(response)["code"]) == (503, "model_unavailable")
        assert "the weights are being fetched (40%)" in response.text
        assert "retry-after" in response.headers


async def test_a_spool_that_cannot_be_written_stops_new_work_and_recovers(tmp_path: Path) -> None:
    async with cloud(tmp_path, json_answer(COMPLETION)) as c:
        c.spool.fault = Unavailable("usage cannot be recorded: the disk is full", code="spool_unavailable")
        response = await c.chat()
        assert (response.status_code, error_of(response)["code"]) == (503, "spool_unavailable")
        assert c.upstreams[0].received == []
        c.spool.fault = None
        assert (await c.chat()).status_code == 200


async def test_an_end_that_could_not_be_written_is_written_later(tmp_path: Path) -> None:
    def answer(request: Received) -> None:
        c.spool.fault = Unavailable("the disk is full")
        json_answer(COMPLETION)(request)

    async with cloud(tmp_path, answer) as c:
        assert (await c.chat()).status_code == 200
        assert (await c.client.get("/readyz")).status_code == 503
        c.spool.fault = None
        await c.settled()
        assert (await c.client.get("/readyz")).status_code == 200


async def test_revoking_a_key_works_on_open_connections(tmp_path: Path) -> None:
    async with cloud(tmp_path, json_answer(COMPLETION)) as c:
        assert (await c.chat()).status_code == 200
        c.running.set_documents("key", {})
        assert (await c.chat()).status_code == 401
