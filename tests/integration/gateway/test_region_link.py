"""What a worker asks its region: over one connection, a new one where it is gone; plain words where nothing comes."""

import asyncio

import pytest

from cloudcrest.gateway import region_link
from cloudcrest.gateway.region_link import feed_pages, grants_exchange
from cloudcrest.kernel.errors import Unavailable
from tests.support.gateway_cloud import Received, ScriptedUpstream, json_answer

pytestmark = pytest.mark.anyio


async def test_pages_come_over_one_connection_that_is_made_anew_where_it_is_gone() -> None:
    async with ScriptedUpstream(json_answer({"cursor": "e1.2", "documents": []})) as region:
        fetch = feed_pages(region.url + "/internal/v1/feed", "secret")
        for _ in range(3):
            assert await fetch("e1.1&x", 20) == b'{"cursor":"e1.2","documents":[]}'
        assert len(region.connections) == 1
        first_line, *headers = region.received[0].head.split("\r\n")
        assert first_line == "GET /internal/v1/feed?cursor=e1.1%26x&wait_seconds=20 HTTP/1.1"
        assert "authorization: Bearer secret" in headers
        region.connections[0].close()
        await asyncio.wait_for(region.received[0].is_gone.wait(), 5)
        await fetch("", 0)
        assert len(region.connections) == 2


async def test_a_connection_that_is_closed_as_it_is_asked_over_is_no_failure() -> None:
    answer = json_answer({})

    def hang_up_once(request: Received) -> None:
        region.script = answer
        request.transport.abort()

    async with ScriptedUpstream(answer) as region:
        ask = grants_exchange(region.url, "secret")
        assert await ask(b"1") == b"{}"
        region.script = hang_up_once
        assert await ask(b"2") == b"{}"
        assert [request.body for request in region.received] == [b"1", b"2", b"2"]
        region.script = hang_up_once
        with pytest.raises(Unavailable, match="did not answer"):
            await grants_exchange(region.url, "secret")(b"3")


async def test_grants_are_asked_for_with_a_body() -> None:
    async with ScriptedUpstream(json_answer({})) as region:
        ask = grants_exchange(region.url + "/internal/v1/grants", "secret")
        assert await ask(b'{"holder":"a"}') == b"{}"
        assert region.received[0].body == b'{"holder":"a"}'
        assert region.received[0].head.startswith("POST /internal/v1/grants HTTP/1.1\r\n")


@pytest.mark.parametrize("status", [401, 503])
async def test_what_is_no_page_is_said(status: int) -> None:
    async with ScriptedUpstream(json_answer({}, status)) as region:
        with pytest.raises(Unavailable, match=f"answered {status}"):
            await feed_pages(region.url, "secret")("", 0)


async def test_a_page_that_does_not_come_in_time_leaves_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_link, "ANSWER_SECONDS", 0.01)

    def says_nothing(_: Received) -> None: ...

    async with ScriptedUpstream(says_nothing) as region:
        with pytest.raises(Unavailable, match="did not answer"):
            await feed_pages(region.url, "secret")("", 0)
        await asyncio.wait_for(region.received[0].is_gone.wait(), 5)


async def test_a_page_beyond_all_measure_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_link, "MAX_PAGE_BYTES", 10)
    async with ScriptedUpstream(json_answer({"cursor": "e1.2", "documents": []})) as region:
        with pytest.raises(Unavailable, match="over 10 bytes"):
            await feed_pages(region.url, "secret")("", 0)


async def test_nobody_there_is_said() -> None:
    async with ScriptedUpstream(json_answer({})) as region:
        url = region.url
    with pytest.raises(Unavailable, match="did not answer"):
        await feed_pages(url, "secret")("", 0)
