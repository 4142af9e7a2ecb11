"""Tool calls through the gateway to real llama.cpp, with a model whose chat template knows of none."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from cloudcrest.gateway.fakes import MemorySpool
from cloudcrest.serving.engines.llamacpp import LlamaCppEngine
from tests.support.gateway_cloud import KEY, feed_state, route_document, running_gateway
from tests.support.replicas import deployment, gguf, running

pytestmark = pytest.mark.anyio
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
NUMBERS = {
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/number"}, "b": {"$ref": "#/$defs/number"}},
    "required": ["a", "b"],
    "$defs": {"number": {"type": "integer"}},
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "get_weather", "parameters": CITY}},
    {"type": "function", "function": {"name": "add", "description": "Adds two numbers", "parameters": NUMBERS}},
]
ADD: Any = {
    "model": "m",
    "messages": [{"role": "user", "content": "Add 17 and 25."}],
    "tools": TOOLS,
    "tool_choice": {"type": "function", "function": {"name": "add"}},
    "temperature": 0,
}


@asynccontextmanager
async def cloud(folder: Path, weights: Path, **route: Any) -> AsyncIterator[tuple[openai.AsyncOpenAI, MemorySpool]]:
    document = deployment("llamacpp", artifact=gguf(weights), context_tokens=1024)
    async with running(LlamaCppEngine(), document, weights) as replica:
        made = route_document("m", (replica.url,), engine="llamacpp", context_tokens=1024, **route)
        state = feed_state([made])
        state.documents["route"]["m"]["replicas"][0]["token"] = replica.token
        async with (
            running_gateway(folder, state) as gateway,
            openai.AsyncOpenAI(base_url=gateway.url + "/v1", api_key=KEY, max_retries=0) as client,
        ):
            yield client, gateway.spool


async def test_a_small_model_makes_the_calls_that_are_asked_of_it(tmp_path: Path, chat_weights: Path) -> None:
    async with cloud(tmp_path, chat_weights, tool_format="prompted") as (client, spool):
        answer = await client.chat.completions.create(**ADD)
        [call] = answer.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert call.function.name == "add"
        assert json.loads(call.function.arguments) == {"a": 17, "b": 25}
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (None, "tool_calls")

        name, arguments, finish = "", "", None
        stream = await client.chat.completions.create(**ADD, stream=True, stream_options={"include_usage": True})
        async for chunk in stream:
            for choice in chunk.choices:
                assert not choice.delta.content
                finish = choice.finish_reason or finish
                for part in choice.delta.tool_calls or ():
                    assert part.function is not None
                    name += part.function.name or ""
                    arguments += part.function.arguments or ""
        assert (name, json.loads(arguments), finish) == ("add", {"a": 17, "b": 25}, "tool_calls")

        either = await client.chat.completions.create(**ADD | {"tool_choice": "required", "n": 2, "temperature": 1})
        assert [len(choice.message.tool_calls or ()) for choice in either.choices] == [1, 1]
        assert [event.outcome for event in spool.ended] == ["completed"] * 3

        call_and_result: Any = [
            *ADD["messages"],
            {"role": "assistant", "tool_calls": [call.to_dict()]},
            {"role": "tool", "tool_call_id": call.id, "content": "42"},
        ]
        told = await client.chat.completions.create(**ADD | {"messages": call_and_result, "tool_choice": "auto"})
        without = await client.chat.completions.create(**ADD | {"tool_choice": "none"})
        assert told.usage is not None
        assert without.usage is not None
        assert told.usage.prompt_tokens > 3 * without.usage.prompt_tokens  # the model was told of all of it


async def test_a_model_that_is_not_known_to_call_tools_refuses_them(tmp_path: Path, chat_weights: Path) -> None:
    async with cloud(tmp_path, chat_weights) as (client, _):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(**ADD)
        assert caught.value.param == "tools"
