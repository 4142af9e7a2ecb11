"""Inference through the gateway with a scripted engine behind it: answers, streams, retries and every ending."""

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cloudcrest.kernel.usage import Usage
from tests.integration.gateway.scripted import CHAT, HELLO, Cloud, cloud, error_of
from tests.support.gateway_cloud import (
    COMPLETION,
    KEY,
    STREAM_HEAD,
    Received,
    chunk_event,
    framed,
    json_answer,
    stream_answer,
    usage,
)
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio


async def leave_at_the_first_token(c: Cloud) -> None:
    """Asks for a stream and hangs up where it says " a"."""
    headers = {"authorization": f"Bearer {KEY}"}
    async with c.client.stream("POST", CHAT, json=HELLO | {"stream": True}, headers=headers) as response:
        async for line in response.aiter_lines():
            if '" a"' in line:
                break


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


@pytest.mark.parametrize("poll_seconds", [0, 0.02])  # asleep between rounds, or awake
async def test_a_stream_passes_without_the_usage_nobody_asked_for(tmp_path: Path, poll_seconds: float) -> None:
    async with cloud(tmp_path, stream_answer(["a", "b", "c"]), poll_seconds=poll_seconds) as c:
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
            with suppress(TimeoutError):
                async with asyncio.timeout(0.005):
                    await request.is_gone.wait()

    async with cloud(tmp_path, endless, route={"engine": "upstream"}) as c:
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


async def test_what_a_client_left_is_marked_before_it_is_counted(tmp_path: Path) -> None:
    """A gateway that dies while it counts charges what it had relayed."""

    def engine(request: Received) -> None:
        if "/v1/chat" in request.head:
            request.write(STREAM_HEAD + framed(chunk_event()) + b"".join(framed(chunk_event(" a")) for _ in range(9)))

    async with cloud(tmp_path, engine, route={"engine": "simulated"}) as c:
        await leave_at_the_first_token(c)
        await until_async(lambda: c.spool.marks and c.spool.marks[-1].output_tokens == 9, "what was relayed is marked")
        assert c.spool.ended == []


async def test_what_a_replica_cannot_count_another_one_does(tmp_path: Path) -> None:
    def engine(request: Received) -> None:
        request.write(STREAM_HEAD + framed(chunk_event()) + framed(chunk_event(" a")))

    async with cloud(tmp_path, engine, engine, route={"engine": "simulated"}) as c:
        headers = {"authorization": f"Bearer {KEY}"}
        async with c.client.stream("POST", CHAT, json=HELLO | {"stream": True}, headers=headers) as response:
            async for line in response.aiter_lines():
                if '" a"' in line:
                    break
            served = next(upstream for upstream in c.upstreams if upstream.received)
            other = next(upstream for upstream in c.upstreams if upstream is not served)
            served.script = json_answer({}, 500)
            other.script = json_answer({"prompt": "hello", "tokens": [1, 2, 3]})
        await c.settled()
        assert c.spool.ended[0].usage == Usage(3, 3)


@pytest.mark.parametrize("answer", [b'{"x":' + b"[" * 100_000, b'{"prompt":"\xff"}', b"{}"])
async def test_what_no_replica_can_count_is_estimated(tmp_path: Path, answer: bytes) -> None:
    def engine(request: Received) -> None:
        if "/v1/chat" in request.head:
            request.write(STREAM_HEAD + framed(chunk_event()) + framed(chunk_event(" a")))
        else:
            request.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer))

    async with cloud(tmp_path, engine, route={"engine": "simulated"}) as c:
        await leave_at_the_first_token(c)
        await c.settled()
        assert (c.spool.ended[0].outcome, c.spool.ended[0].usage.is_estimate) == ("cancelled", True)


async def test_who_leaves_pays_however_the_body_was_written(tmp_path: Path) -> None:
    twice = b'{"model":"m","stream":true,"messages":[{"role":"user","content":[1],"content":"hello"}]}'

    def engine(request: Received) -> None:
        if "/v1/chat" in request.head:
            request.write(STREAM_HEAD + framed(chunk_event()) + framed(chunk_event(" a")))
        else:
            json_answer({"prompt": "hello", "tokens": [1, 2, 3]})(request)

    async with cloud(tmp_path, engine, route={"engine": "simulated"}) as c:
        headers = {"authorization": f"Bearer {KEY}"}
        async with c.client.stream("POST", CHAT, content=twice, headers=headers) as response:
            async for line in response.aiter_lines():
                if '" a"' in line:
                    break
        await c.settled()
        assert (c.spool.ended[0].outcome, c.spool.ended[0].usage) == ("cancelled", Usage(3, 3))


async def test_a_client_that_does_not_wait_for_a_whole_answer_stops_it_too(tmp_path: Path) -> None:
    async with cloud(tmp_path, lambda _: None, route={"engine": "upstream"}) as c:
        asking = asyncio.create_task(c.chat())
        await until_async(lambda: c.upstreams[0].received, "the engine is at work")
        asking.cancel()
        async with asyncio.timeout(5):
            await c.upstreams[0].received[0].is_gone.wait()
        await c.settled()
        (event,) = c.spool.ended
        assert (event.outcome, event.usage.output_tokens, event.usage.is_estimate) == ("cancelled", 0, True)
        assert event.usage.input_tokens > 0


async def test_an_engine_that_dies_in_the_middle_leaves_an_error_event_and_a_charge(tmp_path: Path) -> None:
    def die(request: Received) -> None:
        request.write(STREAM_HEAD + framed(chunk_event()) + framed(chunk_event("a")) + framed(chunk_event("b")))
        asyncio.get_running_loop().call_later(0.05, request.transport.close)

    async with cloud(tmp_path, die, route={"engine": "simulated"}, replica_wait_seconds=0.3) as c:
        response = await c.chat(stream=True)
        last = json.loads(response.text.split("\n\n")[-2].removeprefix("data: "))
        assert last["error"]["code"] == "engine_error"
        await c.settled()
        assert (c.spool.ended[0].outcome, c.spool.ended[0].usage.output_tokens) == ("engine_error", 2)


async def test_a_replica_that_dies_long_after_it_took_a_request_on_a_kept_connection_is_replaced(
    tmp_path: Path,
) -> None:
    hold = asyncio.Event()

    async def answer_once(request: Received) -> None:
        if len(c.upstreams[0].received) > 1:
            await hold.wait()
            return
        json_answer(COMPLETION)(request)

    async with cloud(tmp_path, answer_once, json_answer(COMPLETION), replica_wait_seconds=0.2) as c:
        both = c.running.state.documents["route"]
        first = {name: route | {"replicas": route["replicas"][:1]} for name, route in both.items()}
        c.running.set_documents("route", first)
        assert (await c.chat()).status_code == 200
        began_at = asyncio.get_running_loop().time()
        asking = asyncio.create_task(c.chat())
        await until_async(lambda: len(c.upstreams[0].received) == 2, "it is taken")
        await until_async(lambda: asyncio.get_running_loop().time() > began_at + 0.3, "it has taken a while")
        c.running.set_documents("route", both)
        c.upstreams[0].stop()
        assert (await asking).status_code == 200
        assert [event.outcome for event in c.spool.ended] == ["completed"] * 2


async def test_an_engines_error_event_becomes_ours(tmp_path: Path) -> None:
    tail = b'data: {"error":{"code":500,"message":"secret path /opt","type":"server_error"}}\n\n'
    async with cloud(tmp_path, stream_answer(["a"], tail), replica_wait_seconds=0.3) as c:
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
            seen = [-1]

            def has_stalled() -> bool:
                seen.append(sent)
                return seen[-1] == seen[-2] > 0

            await until_async(has_stalled, "the engine is held back", pause_seconds=0.2)
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
