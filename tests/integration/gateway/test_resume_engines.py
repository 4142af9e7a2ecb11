"""Resuming by scripted engines that go wrong in every way, and by real llama.cpp under a JSON schema."""

import asyncio
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import openai
import pytest

from cloudcrest.kernel.usage import Usage
from cloudcrest.serving.engines.llamacpp import LlamaCppEngine
from tests.integration.gateway.scripted import CHAT, HELLO, cloud
from tests.support.gateway_cloud import (
    COMPLETION,
    KEY,
    STREAM_HEAD,
    Received,
    chunk_event,
    feed_state,
    framed,
    json_answer,
    route_document,
    running_gateway,
    stream_answer,
    usage,
)
from tests.support.replicas import deployment, gguf, running
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio
LLAMA: dict[str, Any] = {"engine": "llamacpp"}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
Script = Callable[[Received], Any]


def engine(*streams: Script) -> Script:
    """An engine whose generations follow `streams`, the last one for all that come; it counts a token a word."""
    left = list(streams)

    def answer(request: Received) -> Any:
        if "/apply-template" in request.head:
            return json_answer({"prompt": "one two three"})(request)
        if "/tokenize" in request.head:
            return json_answer({"tokens": [5] * len(request.json.get("content", "one two three").split())})(request)
        return (left.pop(0) if len(left) > 1 else left[0])(request)

    return answer


def broken(*events: bytes, then: bytes | None = None) -> Script:
    """A stream of these events that breaks off: the connection closes, or `then` is its end."""

    def answer(request: Received) -> None:
        request.write(STREAM_HEAD + b"".join(map(framed, events)))
        if then is not None:
            request.write((framed(then) if then else b"") + b"0\r\n\r\n")
        else:
            asyncio.get_running_loop().call_soon(request.transport.close)

    return answer


def rest(*texts: str, finish: str = "stop") -> Script:
    """A whole stream under another id, later."""
    end = chunk_event(choices=[{"index": 0, "delta": {}, "finish_reason": finish}])
    end += chunk_event(choices=[], usage=usage(9, len(texts), 2)) + b"data: [DONE]\n\n"
    script = stream_answer(list(texts), end.replace(b"chatcmpl-1", b"chatcmpl-2"))

    def answer(request: Received) -> Any:
        return script(request)

    return answer


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def events_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def text_of(text: str) -> str:
    deltas = [choice["delta"] for event in events_of(text) for choice in event.get("choices", [])]
    return "".join(delta.get("content") or "" for delta in deltas)


@pytest.mark.parametrize(
    "end",
    [None, b"", b'data: {"error":{"code":500,"message":"secret"}}\n\n', chunk_event("half an even")[:-20]],
    ids=["lost", "ended early", "error event", "inside an event"],
)
async def test_however_a_stream_goes_wrong_it_goes_on(tmp_path: Path, end: bytes | None) -> None:
    first = broken(chunk_event(), chunk_event("a b"), then=end)
    async with cloud(tmp_path, engine(first, rest(" c", " d")), route=LLAMA, replica_pause_seconds=0) as c:
        response = await c.chat(stream=True, max_tokens=9, stream_options={"include_usage": True})
        assert text_of(response.text) == "a b c d"
        events = events_of(response.text)
        assert {event["id"] for event in events} == {"chatcmpl-1"}
        assert events[-1]["usage"] == usage(3, 4, 2)
        assert response.text.endswith("data: [DONE]\n\n")
        assert "secret" not in response.text
        assert c.spool.ended[0].usage == Usage(3, 4, 2)
        assert len(c.spool.ended) == len(c.spool.opened) == 1
        sent = c.upstreams[0].received[-1].json
        assert sent["messages"] == [*HELLO["messages"], said("a b")]
        assert sent["max_tokens"] == 7
        assert "cloudcrest_gateway_resumes_total{" in (await c.client.get("/metrics")).text


async def test_a_text_given_twice_is_the_last_one_for_whoever_asks_later(tmp_path: Path) -> None:
    twice = b'{"model":"m","stream":true,"messages":[{"role":"user","content":%b,"content":"hello"}]}'
    first = broken(chunk_event(), chunk_event("a b"))
    async with cloud(tmp_path, engine(first, rest(" c")), route=LLAMA, replica_pause_seconds=0) as c:
        headers = {"authorization": f"Bearer {KEY}"}
        response = await c.client.post(CHAT, content=twice % b"5", headers=headers, timeout=5)
        assert text_of(response.text) == "a b c"
        assert c.upstreams[0].received[-1].json["messages"] == [*HELLO["messages"], said("a b")]
        assert c.spool.ended[0].usage == Usage(3, 3, 2)


async def test_usage_that_nobody_asked_for_does_not_appear_after_a_resume(tmp_path: Path) -> None:
    async with cloud(tmp_path, engine(broken(chunk_event("a")), rest("b")), route=LLAMA) as c:
        response = await c.chat(stream=True)
        assert text_of(response.text) == "ab"
        assert "usage" not in response.text
        assert c.spool.ended[0].usage == Usage(3, 2, 2)


async def test_a_stream_that_had_said_all_but_its_end_is_ended(tmp_path: Path) -> None:
    finish = chunk_event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
    script = engine(broken(chunk_event(), chunk_event("a b"), finish))
    async with cloud(tmp_path, script, route=LLAMA) as c:
        response = await c.chat(stream=True, stream_options={"include_usage": True})
        assert events_of(response.text)[-1]["usage"] == usage(3, 2)
        assert response.text.count('finish_reason":"stop') == 1
        assert response.text.endswith("data: [DONE]\n\n")
        assert (c.spool.ended[0].outcome, c.spool.ended[0].usage) == ("completed", Usage(3, 2))
        assert sum(CHAT in request.head for request in c.upstreams[0].received) == 1


async def test_a_stream_at_its_limit_is_ended_for_its_length(tmp_path: Path) -> None:
    async with cloud(tmp_path, engine(broken(chunk_event(), chunk_event("a b"))), route=LLAMA) as c:
        response = await c.chat(stream=True, max_tokens=2)
        assert events_of(response.text)[-1]["choices"][0]["finish_reason"] == "length"
        assert c.spool.ended[0].usage == Usage(3, 2)


async def test_what_was_whole_but_for_the_last_bytes_is_no_error(tmp_path: Path) -> None:
    end = chunk_event(choices=[], usage=usage(5, 1))
    for tail in (end, end + b"data: [DONE]\n\n"):
        async with cloud(tmp_path, engine(broken(chunk_event("a"), tail)), route=LLAMA) as c:
            response = await c.chat(stream=True)
            assert response.text == (chunk_event("a") + b"data: [DONE]\n\n").decode()
            assert (c.spool.ended[0].outcome, c.spool.ended[0].usage) == ("completed", Usage(5, 1))


async def test_a_tool_call_comes_whole_or_is_made_again(tmp_path: Path) -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{"}}
    more = {"index": 0, "function": {"arguments": "}"}}
    begin, go_on = ({"index": 0, "delta": {"tool_calls": [part]}, "finish_reason": None} for part in (call, more))
    finish = chunk_event(choices=[{"index": 0, "delta": {}, "finish_reason": "tool_calls"}])
    whole = [chunk_event(choices=[begin]), chunk_event(choices=[go_on]), finish]
    end = chunk_event(choices=[], usage=usage(3, 5)) + b"data: [DONE]\n\n"
    script = engine(broken(chunk_event(), whole[0]), broken(chunk_event(), *whole, then=end))
    async with cloud(tmp_path, script, route={"engine": "vllm", "tool_format": "hermes"}) as c:
        response = await c.chat(stream=True, tools=TOOLS)
        assert response.content == b"".join([chunk_event(), *whole, b"data: [DONE]\n\n"])
        assert c.spool.ended[0].usage == Usage(3, 5)


async def test_a_tool_call_in_words_goes_on_in_the_middle_and_its_client_gets_one(tmp_path: Path) -> None:
    begun = broken(chunk_event(), chunk_event("<tool_call>"), chunk_event('{"name": "f", "argu'))
    script = engine(begun, rest('ments": {"x"', ": 1}}", "</tool_call>"))
    async with cloud(tmp_path, script, route=LLAMA | {"tool_format": "prompted"}) as c:
        response = await c.chat(stream=True, tools=TOOLS)
        deltas = [choice["delta"] for event in events_of(response.text) for choice in event["choices"]]
        [function] = [call["function"] for delta in deltas for call in delta.get("tool_calls", ())]
        assert (function["name"], json.loads(function["arguments"])) == ("f", {"x": 1})
        assert text_of(response.text) == ""
        assert response.text.endswith("data: [DONE]\n\n")
        assert (c.spool.ended[0].outcome, len(c.spool.ended)) == ("completed", 1)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"logprobs": True}, "logprobs"),
        ({"route": {"engine": "upstream"}}, "provider"),
        ({"route": {"engine": "vllm"}, "response_format": {"type": "json_object"}}, "structured output"),
    ],
)
async def test_what_cannot_go_on_ends_with_the_reason(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    fields = dict(changes)
    route = fields.pop("route", LLAMA)
    script = engine(broken(chunk_event(), chunk_event("a")), rest("b"))
    async with cloud(tmp_path, script, route=route, replica_wait_seconds=0.3) as c:
        response = await c.chat(stream=True, **fields)
        assert text_of(response.text) == "a"
        assert why in events_of(response.text)[-1]["error"]["message"]
        await c.settled()
        assert c.spool.ended[0].outcome == "engine_error"


async def test_vllm_makes_structured_output_again_and_only_what_is_new_goes_out(tmp_path: Path) -> None:
    json_mode: dict[str, Any] = {"response_format": {"type": "json_object"}, "temperature": 0}
    told = broken(chunk_event(), chunk_event('{"a'))
    vllm: dict[str, Any] = {"engine": "vllm"}
    async with cloud(tmp_path, engine(told, rest('{"', 'a":', " 1}")), route=vllm) as c:
        response = await c.chat(stream=True, stream_options={"include_usage": True}, **json_mode)
        assert text_of(response.text) == '{"a": 1}'
        assert {event["id"] for event in events_of(response.text)} == {"chatcmpl-1"}
        assert (c.spool.ended[0].outcome, c.spool.ended[0].usage) == ("completed", Usage(9, 3, 2))
        assert events_of(response.text)[-1]["usage"] == usage(9, 3, 2)
        assert c.upstreams[0].received[-1].json == c.upstreams[0].received[0].json
    async with cloud(tmp_path, engine(told, rest('{"b":', " 1}")), route=vllm) as c:
        response = await c.chat(stream=True, **json_mode)
        assert text_of(response.text) == '{"a'
        assert "begins otherwise" in events_of(response.text)[-1]["error"]["message"]
        await c.settled()
        assert c.spool.ended[0].outcome == "engine_error"


async def test_a_stream_is_not_resumed_for_ever(tmp_path: Path) -> None:
    script = engine(broken(chunk_event("a")))
    async with cloud(tmp_path, script, route=LLAMA, replica_pause_seconds=0) as c:
        response = await c.chat(stream=True)
        assert text_of(response.text) == "aaaa"
        assert "too often" in events_of(response.text)[-1]["error"]["message"]
        await c.settled()
        assert c.spool.ended[0].outcome == "engine_error"


async def test_an_engine_that_refuses_to_go_on_ends_the_stream(tmp_path: Path) -> None:
    refusal = json_answer({"error": {"code": 400, "message": "no prefill"}}, 400)
    async with cloud(tmp_path, engine(broken(chunk_event("a")), refusal), route=LLAMA) as c:
        response = await c.chat(stream=True)
        assert "does not take it up again" in events_of(response.text)[-1]["error"]["message"]
        assert "prefill" not in response.text


async def test_a_lost_answer_waits_for_a_replica_and_an_unsent_one_does_not(tmp_path: Path) -> None:
    def die(request: Received) -> None:
        request.transport.abort()

    async with cloud(tmp_path, die, route=LLAMA) as c:
        asking = asyncio.create_task(c.chat())
        await until_async(lambda: len(c.upstreams[0].received) == 2, "it was sent again")
        c.upstreams[0].script = json_answer(COMPLETION)
        assert (await asking).json() == COMPLETION
        c.upstreams[0].stop()
        assert (await c.chat()).status_code == 503


async def test_llamacpp_keeps_to_a_schema_when_a_replica_is_killed(tmp_path: Path, chat_weights: Path) -> None:
    schema = {
        "type": "object",
        "properties": {
            "title": {"type": "string", "maxLength": 30},
            "words": {"type": "array", "items": {"type": "string", "maxLength": 8}, "minItems": 3, "maxItems": 5},
        },
        "required": ["title", "words"],
        "additionalProperties": False,
    }
    document = deployment("llamacpp", artifact=gguf(chat_weights))
    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(running(LlamaCppEngine(), document, chat_weights)) for _ in "ab"]
        route = route_document("m", tuple(replica.url for replica in replicas), engine="llamacpp", context_tokens=512)
        gateway = await stack.enter_async_context(running_gateway(tmp_path, feed_state([route])))
        client = await stack.enter_async_context(
            openai.AsyncOpenAI(base_url=gateway.url + "/v1", api_key=KEY, max_retries=0)
        )
        ask: Any = {
            "model": "m",
            "messages": [{"role": "user", "content": "A book about bees, as JSON."}],
            "temperature": 0,
            "max_tokens": 200,
            "response_format": {"type": "json_schema", "json_schema": {"name": "book", "schema": schema}},
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        chunks = []
        async for chunk in await client.chat.completions.create(**ask):
            chunks.append(chunk)
            if len(chunks) == 9:
                at_work = gateway.gateway.snapshot.routes["m"].replicas
                (number,) = [number for number, upstream in enumerate(at_work) if upstream.in_flight]
                replicas[number].process.kill()
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert json.loads(text).keys() == {"title", "words"}
        assert len({chunk.id for chunk in chunks}) == 1
        assert sum(chunk.choices[0].delta.role is not None for chunk in chunks if chunk.choices) == 1
        (event,) = gateway.spool.ended
        counted = chunks[-1].usage
        assert counted is not None
        assert (event.outcome, event.usage.is_estimate) == ("completed", False)
        assert (event.usage.input_tokens, event.usage.output_tokens) == (
            counted.prompt_tokens,
            counted.completion_tokens,
        )
