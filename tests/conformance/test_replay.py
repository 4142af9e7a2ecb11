"""The recorded engine itself, through the whole gateway with OpenAI's client: whole answers, streams, tool calls."""

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.acceptance.tenants import Tenant
from tests.conformance.replay import Call, Replay, Step
from tests.support.cloud import Cloud

TOOLS: list[Any] = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]
QUESTION: list[Any] = [{"role": "user", "content": "What is the word?"}]


@pytest.fixture
def client(cloud: Cloud, tenant: Tenant) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{cloud.base_url}/v1", api_key=tenant.key["key"], max_retries=0)


def test_steps_are_taken_by_what_the_last_message_says(
    client: openai.OpenAI, recorded: Callable[..., tuple[str, Replay]]
) -> None:
    model, engine = recorded(Step("It is heliotrope.", when="notes"), Step(calls=[Call("look_up", {"in": "notes"})]))
    asked = client.chat.completions.create(model=model, messages=QUESTION, tools=TOOLS)
    assert asked.choices[0].finish_reason == "tool_calls"
    [call] = asked.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"in": "notes"}
    told = [*QUESTION, {"role": "assistant", "tool_calls": [call.model_dump()]}]
    told += [{"role": "tool", "tool_call_id": call.id, "content": "the notes say heliotrope"}]
    stream = client.chat.completions.create(model=model, messages=told, tools=TOOLS, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "It is heliotrope."
    assert len(engine.requests) == 2
    assert not engine.unanswered
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=model, messages=QUESTION)
    assert len(engine.unanswered) == 1
