"""Reasoning tokens are output: counted, shown and charged, in every ending."""

import json
from pathlib import Path
from typing import Any

import pytest

from cloudcrest.kernel.usage import Usage
from tests.integration.gateway.scripted import CHAT, HELLO, cloud
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

pytestmark = pytest.mark.anyio
THOUGHT: dict[str, Any] = usage(5, 9) | {"completion_tokens_details": {"reasoning_tokens": 6}}


def thinks(text: str) -> bytes:
    return chunk_event(choices=[{"index": 0, "delta": {"reasoning_content": text}, "finish_reason": None}])


def last_event(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads([line[6:] for line in text.splitlines() if line.startswith("data: {")][-1])
    return found


@pytest.mark.parametrize("engine", ["vllm", "upstream"])
async def test_what_an_engine_says_of_them_is_in_the_event_and_in_the_answer(tmp_path: Path, engine: str) -> None:
    route = {"engine": engine}
    async with cloud(tmp_path, json_answer(COMPLETION | {"usage": THOUGHT}), route=route) as c:
        assert (await c.chat()).json()["usage"] == THOUGHT
        assert c.spool.ended[0].usage == Usage(5, 9, 0, 6)
    end = chunk_event(choices=[], usage=THOUGHT) + b"data: [DONE]\n\n"
    async with cloud(tmp_path, stream_answer(["a"], end), route=route) as c:
        assert "reasoning_tokens" not in (await c.chat(stream=True)).text
        asked = await c.chat(stream=True, stream_options={"include_usage": True})
        assert last_event(asked.text)["usage"] == THOUGHT
        assert [event.usage for event in c.spool.ended] == [Usage(5, 9, 0, 6)] * 2


@pytest.mark.parametrize("is_stream", [False, True])
async def test_those_of_several_choices_add_up(tmp_path: Path, is_stream: bool) -> None:
    end = chunk_event(choices=[], usage=THOUGHT) + b"data: [DONE]\n\n"
    script = stream_answer(["a"], end) if is_stream else json_answer(COMPLETION | {"usage": THOUGHT})
    fields: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if is_stream else {}
    async with cloud(tmp_path, script, route={"engine": "llamacpp"}) as c:
        response = await c.chat(n=2, **fields)
        said = (last_event(response.text) if is_stream else response.json())["usage"]
        assert (said["completion_tokens"], said["completion_tokens_details"]) == (18, {"reasoning_tokens": 12})
        assert c.spool.ended[0].usage == Usage(5, 18, 0, 12)


async def test_thoughts_of_a_stream_that_is_left_are_counted_with_its_text(tmp_path: Path) -> None:
    def engine(request: Received) -> None:
        if "/apply-template" in request.head:
            json_answer({"prompt": "one two three"})(request)
        elif "/tokenize" in request.head:
            json_answer({"tokens": [5] * len(request.json["content"].split())})(request)
        else:
            request.write(
                STREAM_HEAD + b"".join(map(framed, [chunk_event(), thinks("let me see "), chunk_event("yes")]))
            )

    async with cloud(tmp_path, engine, route={"engine": "llamacpp"}) as c:
        headers = {"authorization": f"Bearer {KEY}"}
        async with c.client.stream("POST", CHAT, json=HELLO | {"stream": True}, headers=headers) as response:
            async for line in response.aiter_lines():
                if "yes" in line:
                    break
        await c.settled()
        assert (c.spool.ended[0].outcome, c.spool.ended[0].usage) == ("cancelled", Usage(3, 4))
