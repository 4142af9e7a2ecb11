"""Inference through the gateway with a scripted engine behind it: streams, endings, retries, limits, records."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cloudcrest.gateway.fakes import MemorySpool
from cloudcrest.identity.api import Limits
from cloudcrest.kernel.errors import Unavailable
from cloudcrest.kernel.usage import Usage
from tests.support.gateway_cloud import (
    COMPLETION,
    KEY,
    OTHER_KEY,
    STREAM_HEAD,
    Received,
    RunningGateway,
    ScriptedUpstream,
    chunk_event,
    feed_state,
    framed,
    json_answer,
    key_document,
    route_document,
    running_gateway,
    stream_answer,
    usage,
)
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio
CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


class Cloud:
    """A gateway, its scripted replicas and a client with a key."""

    def __init__(self, running: RunningGateway, upstreams: list[ScriptedUpstream], client: httpx2.AsyncClient) -> None:
        self.running = running
        self.upstreams = upstreams
        self.client = client

    @property
    def spool(self) -> MemorySpool:
        return self.running.spool

    async def chat(self, key: str = KEY, **changes: Any) -> httpx2.Response:
        return await self.client.post(CHAT, json=HELLO | changes, headers={"authorization": f"Bearer {key}"})

    async def settled(self) -> None:
        await until_async(lambda: len(self.spool.opened) == len(self.spool.ended), "every record has its end")


@asynccontextmanager
async def cloud(
    folder: Path,
    *scripts: Callable[[Received], Any],
    limits: Limits | None = None,
    key_limits: Limits | None = None,
    route: dict[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[Cloud]:
    upstreams = [ScriptedUpstream(script) for script in scripts]
    for upstream in upstreams:
        await upstream.__aenter__()
    state = feed_state(
        [route_document(urls=tuple(upstream.url for upstream in upstreams), **(route or {}))],
        keys=[
            key_document(limits=key_limits or Limits()),
            key_document(OTHER_KEY, organization_id="org_2", project_id="proj_2", models=("other",)),
        ],
        organization_limits=limits,
    )
    async with running_gateway(folder, state, **settings) as running:
        async with httpx2.AsyncClient(base_url=running.url, timeout=20, trust_env=False) as client:
            yield Cloud(running, upstreams, client)
        for upstream in upstreams:
            upstream.stop()


def error_of(response: httpx2.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


async def test_an_answer_passes_untouched_and_its_event_is_there_before_it(tmp_path: Path) -> None:
    async with cloud(tmp_path, json_answer(COMPLETION)) as c:
        response = await c.chat()
        (event,) = c.spool.ended
        assert response.content == json.dumps(COMPLETION, separators=(",", ":")).encode()
        assert event.id == response.headers["x-request-id"] == c.spool.opened[0].id
        assert (event.usage, event.outcome) == (Usage(5, 7), "completed")
        assert (event.organization_id, event.project_id, event.key_id) == ("org_1", "proj_1", "key_test")
        assert (event.model, event.deployment_id, event.replica_id) == ("m", "dep_m", "rep_0")
        assert c.spool.opened[0].outcome == "gateway_lost"
        assert c.upstreams[0].received[0].json == HELLO


async def test_a_stream_passes_without_the_usage_nobody_asked_for(tmp_path: Path) -> None:
    async with cloud(tmp_path, stream_answer(["a", "b", "c"])) as c:
        response = await c.chat(stream=True)
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.content == b"".join(
            [chunk_event(), chunk_event("a"), chunk_event("b"), chunk_event("c"), b"data: [DONE]\n\n"]
        )
        assert c.spool.ended[0].usage == Usage(5, 3)
        assert c.spool.ended[0].first_token_milliseconds is not None
        assert c.upstreams[0].received[0].json["stream_options"] == {"include_usage": True}
        asked = await c.chat(stream=True, stream_options={"include_usage": True})
        assert b'"usage":{"prompt_tokens":5,"completion_tokens":3' in asked.content


async def test_a_stream_cut_into_bytes_is_the_same_stream(tmp_path: Path) -> None:
    body = chunk_event() + chunk_event("a") + chunk_event(choices=[], usage=usage()) + b"data: [DONE]\n\n"

    async def dribble(request: Received) -> None:
        data = STREAM_HEAD + framed(body[:50]) + framed(body[50:51]) + framed(body[51:]) + b"0\r\n\r\n"
        for position in range(len(data)):
            request.write(data[position : position + 1])
            await asyncio.sleep(0)

    async with cloud(tmp_path, dribble) as c:
        response = await c.chat(stream=True)
        assert response.content == chunk_event() + chunk_event("a") + b"data: [DONE]\n\n"
        assert c.spool.ended[0].usage == Usage(5, 7)


async def test_a_client_that_leaves_ends_the_generation_and_pays_for_what_it_got(tmp_path: Path) -> None:
    async def endless(request: Received) -> None:
        request.write(STREAM_HEAD + framed(chunk_event()))
        while not request.is_gone.is_set():
            request.write(framed(chunk_event("word ")))
            await asyncio.sleep(0.005)

    async with cloud(tmp_path, endless, route={"engine": "simulated"}) as c:
        async with c.client.stream(
            "POST", CHAT, json=HELLO | {"stream": True}, headers={"authorization": f"Bearer {KEY}"}
        ) as r:
            async for _ in r.aiter_lines():
                if len(c.spool.marks) >= 2:
                    break
        async with asyncio.timeout(5):
            await c.upstreams[0].received[0].is_gone.wait()
        await c.settled()
        (event,) = c.spool.ended
        assert (event.outcome, event.usage.is_estimate) == ("cancelled", True)
        assert event.usage.output_tokens >= c.spool.marks[-1].output_tokens > c.spool.marks[0].output_tokens > 0


async def test_an_engine_that_dies_in_the_middle_leaves_an_error_event_and_a_charge(tmp_path: Path) -> None:
    def die(request: Received) -> None:
        request.write(STREAM_HEAD + framed(chunk_event()) + framed(chunk_event("a")) + framed(chunk_event("b")))
        asyncio.get_running_loop().call_later(0.05, request.transport.close)

    async with cloud(tmp_path, die, route={"engine": "simulated"}) as c:
        response = await c.chat(stream=True)
        last = json.loads(response.text.split("\n\n")[-2].removeprefix("data: "))
        assert last["error"]["code"] == "engine_error"
        await c.settled()
        assert (c.spool.ended[0].outcome, c.spool.ended[0].usage.output_tokens) == ("engine_error", 2)


async def test_an_engines_error_event_becomes_ours(tmp_path: Path) -> None:
    tail = b'data: {"error":{"code":500,"message":"secret path /opt","type":"server_error"}}\n\n'
    async with cloud(tmp_path, stream_answer(["a"], tail)) as c:
        response = await c.chat(stream=True)
        assert "/opt" not in response.text
        assert '"code":"engine_error"' in response.text
        c.upstreams[0].script = stream_answer([], tail)
        await c.settled()


async def test_before_the_first_byte_another_replica_is_tried(tmp_path: Path) -> None:
    def die(request: Received) -> None:
        request.transport.close()

    def busy(request: Received) -> None:
        json_answer({"error": "Loading model"}, 503)(request)

    for broken in (die, busy):
        async with cloud(tmp_path, broken, json_answer(COMPLETION)) as c:
            assert [(await c.chat()).status_code for _ in range(4)] == [200] * 4
            assert {event.replica_id for event in c.spool.ended} == {"rep_1"}


async def test_a_replica_that_cannot_be_reached_is_skipped_for_a_moment(tmp_path: Path) -> None:
    async with cloud(tmp_path, json_answer(COMPLETION), json_answer(COMPLETION), replica_pause_seconds=60) as c:
        c.upstreams[0].stop()
        assert [(await c.chat()).status_code for _ in range(6)] == [200] * 6
        replicas = c.running.gateway.snapshot.routes["m"].replicas
        assert replicas[0].paused_until_seconds > 0
        assert [replica.in_flight for replica in replicas] == [0, 0]


async def test_when_no_replica_answers_the_error_says_so_and_nothing_is_charged(tmp_path: Path) -> None:
    async with cloud(tmp_path, json_answer(COMPLETION)) as c:
        c.upstreams[0].stop()
        response = await c.chat()
        assert (response.status_code, error_of(response)["code"]) == (503, "model_unavailable")
        assert c.spool.ended[0].usage == Usage(0, 0)


async def test_a_connection_closed_while_idle_is_no_failure(tmp_path: Path) -> None:
    async with cloud(tmp_path, json_answer(COMPLETION)) as c:
        assert (await c.chat()).status_code == 200
        for _ in range(3):
            answered = c.upstreams[0].script

            def hang_up_once(request: Received, then: Any = answered) -> None:
                c.upstreams[0].script = then
                request.transport.abort()

            c.upstreams[0].script = hang_up_once
            assert (await c.chat()).status_code == 200


async def test_load_goes_to_the_least_loaded(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def wait(request: Received) -> None:
        await release.wait()
        json_answer(COMPLETION)(request)

    async with cloud(tmp_path, wait, wait, wait) as c:
        chats = [asyncio.create_task(c.chat()) for _ in range(9)]
        await until_async(lambda: sum(len(u.received) for u in c.upstreams) == 9, "all are at work")
        assert [len(upstream.received) for upstream in c.upstreams] == [3, 3, 3]
        release.set()
        assert {(await chat).status_code for chat in chats} == {200}


@pytest.mark.parametrize(
    ("status", "document", "expected", "code"),
    [
        (400, {"error": {"code": 400, "type": "exceed_context_size_error", "n_prompt_tokens": 9, "n_ctx": 5}}, 400,
         "context_length_exceeded"),
        (500, {"error": {"message": "segfault at 0xdead"}}, 502, "engine_error"),
        (401, {"error": "bad token"}, 502, "engine_error"),
        (503, {"error": "Loading model"}, 503, "unavailable"),
        (200, "not json at all", 200, None),
    ],
)  # fmt: skip
async def test_engines_errors_are_mapped(
    tmp_path: Path, status: int, document: Any, expected: int, code: str | None
) -> None:
    async with cloud(tmp_path, json_answer(document, status)) as c:
        for stream in (False, True):
            response = await c.chat(stream=stream)
            if code is None:
                continue
            assert (response.status_code, error_of(response)["code"]) == (expected, code)
            assert "0xdead" not in response.text
        await c.settled()
        if code is not None:
            assert {event.usage for event in c.spool.ended} == {Usage(0, 0)}


@pytest.mark.parametrize(
    "garbage",
    [
        b"hello\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 40_000,
        b"HTTP/1.1 101 Switching\r\n\r\n",
    ],
)
async def test_an_engine_that_breaks_the_protocol_is_a_fault(tmp_path: Path, garbage: bytes) -> None:
    async with cloud(tmp_path, lambda request: request.write(garbage)) as c:
        response = await c.chat()
        assert (response.status_code, error_of(response)["code"]) == (502, "engine_error")


async def test_an_engine_that_is_silent_for_too_long_is_given_up(tmp_path: Path) -> None:
    async with cloud(tmp_path, lambda _: None, answer_timeout_seconds=0.2) as c:
        response = await c.chat()
        assert (response.status_code, error_of(response)["code"]) == (502, "engine_timeout")
        async with asyncio.timeout(5):
            await c.upstreams[0].received[0].is_gone.wait()


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


async def test_several_choices_are_several_requests_with_one_usage(tmp_path: Path) -> None:
    def answer(request: Received) -> None:
        json_answer(
            COMPLETION | {"id": f"chatcmpl-{request.json['seed']}", "usage": usage(5, request.json["seed"], 2)}
        )(request)

    async with cloud(tmp_path, answer, route={"engine": "llamacpp"}) as c:
        document = (await c.chat(n=3, seed=10)).json()
        assert [choice["index"] for choice in document["choices"]] == [0, 1, 2]
        assert (document["id"], document["usage"]["completion_tokens"]) == ("chatcmpl-10", 33)
        assert c.spool.ended[0].usage == Usage(5, 33, 2)
        assert len(c.spool.opened) == 1
        assert all("n" not in request.json for request in c.upstreams[0].received)


async def test_several_streams_are_one(tmp_path: Path) -> None:
    async with cloud(tmp_path, stream_answer(["a", "b"]), route={"engine": "llamacpp"}) as c:
        response = await c.chat(n=2, stream=True, stream_options={"include_usage": True})
        events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
        texts: dict[int, str] = {0: "", 1: ""}
        for choice in (choice for event in events for choice in event["choices"]):
            texts[choice["index"]] += choice["delta"]["content"] or ""
        assert texts == {0: "ab", 1: "ab"}
        assert {event["id"] for event in events} == {"chatcmpl-1"}
        assert events[-1]["usage"]["completion_tokens"] == 4
        assert response.text.endswith("data: [DONE]\n\n")
        assert c.spool.ended[0].usage == Usage(5, 4)


async def test_a_slow_reader_slows_the_engine_down(tmp_path: Path) -> None:
    """Backpressure: far more is generated than is buffered, and all of it arrives."""
    sent = 0

    async def flood(request: Received) -> None:
        nonlocal sent
        request.write(STREAM_HEAD)
        for _ in range(400):
            await until_async(lambda: request.transport.get_write_buffer_size() == 0, "it is sent", pause_seconds=0.001)
            request.write(framed(chunk_event("x" * 60_000)))
            sent += 1
        request.write(framed(chunk_event(choices=[], usage=usage()) + b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async with cloud(tmp_path, flood) as c:
        headers = {"authorization": f"Bearer {KEY}"}
        async with c.client.stream("POST", CHAT, json=HELLO | {"stream": True}, headers=headers) as response:
            await asyncio.sleep(0.5)
            assert sent < 400
            size = 0
            async for data in response.aiter_bytes():
                size += len(data)
        assert size > 400 * 60_000
        assert c.spool.ended[0].usage == Usage(5, 7)


async def test_http_1_0_streams_end_with_the_connection(tmp_path: Path) -> None:
    async with cloud(tmp_path, stream_answer(["a"])) as c:
        reader, writer = await asyncio.open_connection("127.0.0.1", c.running.gateway.port)
        body = json.dumps(HELLO | {"stream": True}).encode()
        head = f"POST {CHAT} HTTP/1.0\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await reader.read()
        assert b"transfer-encoding" not in answer
        assert answer.endswith(chunk_event("a") + b"data: [DONE]\n\n")
        writer.close()


async def test_metrics_count_what_was_served(tmp_path: Path) -> None:
    async with cloud(tmp_path, json_answer(COMPLETION)) as c:
        await c.chat()
        await c.chat(model="nope")
        text = (await c.client.get("/metrics")).text
        assert 'cloudcrest_gateway_tokens_total{model="m",kind="output"} 7' in text
        assert 'cloudcrest_gateway_refusals_total{status="404"} 1' in text
        assert "cloudcrest_gateway_requests_in_flight 0" in text
