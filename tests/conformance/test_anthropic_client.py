"""The anthropic client against a cloud with llama.cpp: what is said, counted and charged."""

from typing import Any

import anthropic
import pytest
from anthropic.types import ToolParam

from tests.acceptance.tenants import CHAT_MODEL, Tenant
from tests.acceptance.test_inference import settled
from tests.support.cloud import Cloud

ASK: dict[str, Any] = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "Add 17 and 25."}]}
ADD: ToolParam = {
    "name": "add",
    "input_schema": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
}


@pytest.fixture
def client(cloud: Cloud, tenant: Tenant) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=cloud.base_url, auth_token=tenant.key["key"], api_key=None, max_retries=0)


def test_answers_streams_and_counts_are_what_is_charged(client: anthropic.Anthropic, tenant: Tenant) -> None:
    assert CHAT_MODEL in {model.id for model in client.models.list()}
    counted = client.messages.count_tokens(**ASK)
    whole = client.messages.create(**ASK, max_tokens=12)
    with client.messages.stream(**ASK, max_tokens=12) as stream:
        assert "".join(stream.text_stream)
        streamed = stream.get_final_message()
    rows = settled(tenant, 2)
    for message, row in zip((streamed, whole), rows, strict=True):
        usage = message.usage
        cached = usage.cache_read_input_tokens or 0
        assert usage.input_tokens + cached == counted.input_tokens == row["usage"]["input_tokens"]
        assert (usage.output_tokens, cached) == (row["usage"]["output_tokens"], row["usage"]["cached_input_tokens"])
        assert row["endpoint"] == "/v1/messages"


def test_a_tool_is_called_and_its_result_is_answered(client: anthropic.Anthropic) -> None:
    first = client.messages.create(**ASK, max_tokens=100, tools=[ADD], tool_choice={"type": "tool", "name": "add"})
    [use] = [block for block in first.content if block.type == "tool_use"]
    assert first.stop_reason == "tool_use"
    assert set(use.input) == {"a", "b"}
    turns: list[Any] = [
        *ASK["messages"],
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "42"}]},
    ]
    second = client.messages.create(**ASK | {"messages": turns}, max_tokens=20, tools=[ADD])
    assert second.content
