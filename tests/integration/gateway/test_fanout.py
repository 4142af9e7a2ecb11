"""Several choices through the gateway with a scripted engine behind it: one answer, one usage, one account."""

import asyncio
import json
from contextlib import suppress
from pathlib import Path

import pytest

from cloudcrest.kernel.usage import Usage
from tests.integration.gateway.scripted import cloud
from tests.support.gateway_cloud import (
    COMPLETION,
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


async def test_one_choices_usage_is_never_said_to_be_the_whole(tmp_path: Path) -> None:
    """llama.cpp ends a completion with usage beside the choice."""
    last = chunk_event(choices=[{"index": 0, "text": "", "finish_reason": "stop"}], usage=usage(5, 2))
    script = stream_answer(["a", "b"], last + b"data: [DONE]\n\n")
    async with cloud(tmp_path, script, route={"engine": "llamacpp"}) as c:
        assert "usage" not in (await c.chat(n=2, stream=True)).text
        asked = (await c.chat(n=2, stream=True, stream_options={"include_usage": True})).text
        assert asked.count('"usage"') == asked.count('"completion_tokens":4') == 1
        assert [event.usage for event in c.spool.ended] == [Usage(5, 4), Usage(5, 4)]


async def test_progress_is_marked_for_as_long_as_any_choice_is_under_way(tmp_path: Path) -> None:
    is_over = asyncio.Event()
    whole = stream_answer(["a"])

    async def answer(request: Received) -> None:
        if request.json["seed"] == 3:  # the first choice is soon done
            await whole(request)
            return
        request.write(STREAM_HEAD + framed(chunk_event()))
        while not is_over.is_set():
            request.write(framed(chunk_event("b")))
            with suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    await is_over.wait()
        request.write(framed(chunk_event(choices=[], usage=usage(5, 9)) + b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async with cloud(tmp_path, answer, route={"engine": "llamacpp"}) as c:
        asking = asyncio.create_task(c.chat(n=2, seed=3, stream=True))
        await until_async(lambda: len(c.spool.marks) >= 3, "its progress is written again and again")
        is_over.set()
        assert (await asking).status_code == 200
        tokens = [mark.output_tokens for mark in c.spool.marks]
        assert tokens == sorted(set(tokens))


async def test_choices_that_are_no_utf_8_are_a_fault_of_the_engine(tmp_path: Path) -> None:
    def answer(request: Received) -> None:
        body = json.dumps(COMPLETION).encode().replace(b"hi", b"\xff")
        request.write(b"HTTP/1.1 200 X\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async with cloud(tmp_path, answer, route={"engine": "llamacpp"}) as c:
        response = await c.chat(n=2)
        assert (response.status_code, response.json()["error"]["code"]) == (502, "engine_error")
    streamed = stream_answer(["a"], chunk_event("\x00").replace(b"\\u0000", b"\xff") + b"data: [DONE]\n\n")
    async with cloud(tmp_path, streamed, route={"engine": "llamacpp"}) as c:
        response = await c.chat(n=2, stream=True)
        assert response.text.count('"content":"a"') == 2
        assert response.text.endswith("data: [DONE]\n\n")
