"""Prompts that a provider is asked to keep: the mark reaches it; what it says of its cache is metered and priced."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cloudcrest.billing.api import RateCard
from cloudcrest.billing.pricing import price_usage
from cloudcrest.kernel.money import plain
from cloudcrest.kernel.usage import Usage
from tests.integration.gateway.scripted import cloud
from tests.support.gateway_cloud import COMPLETION, chunk_event, json_answer, stream_answer

pytestmark = pytest.mark.anyio
MARKED = {"type": "text", "text": "A long text.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
BODY: dict[str, Any] = {"messages": [{"role": "system", "content": [MARKED]}, {"role": "user", "content": "And?"}]}
SAID: dict[str, Any] = {
    "prompt_tokens": 2000,
    "completion_tokens": 3,
    "total_tokens": 2003,
    "prompt_tokens_details": {
        "cached_tokens": 500,
        "cache_type": "ephemeral",
        "cache_creation_input_tokens": 1200,
        "cache_creation": {"ephemeral_5m_input_tokens": 1200},
    },
}
"""As Alibaba's explicit cache says it."""
CARD = RateCard(
    id="rate_1",
    model="m",
    currency="USD",
    valid_from=datetime(2026, 1, 1, tzinfo=UTC),
    input_price_per_million_tokens=Decimal("0.4"),
    cached_input_price_per_million_tokens=Decimal("0.04"),
    output_price_per_million_tokens=Decimal("1.2"),
    cache_write_price_per_million_tokens=Decimal("0.5"),
)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_what_a_provider_wrote_into_its_cache_is_charged_as_that(tmp_path: Path, *, is_stream: bool) -> None:
    tail = chunk_event(choices=[], usage=SAID) + b"data: [DONE]\n\n"
    script = stream_answer(["a", "b", "c"], tail) if is_stream else json_answer(COMPLETION | {"usage": SAID})
    async with cloud(tmp_path, script, route={"engine": "upstream"}) as c:
        answer = await c.chat(stream=is_stream, **BODY)
        assert answer.status_code == 200
        await c.settled()
        (received,) = c.upstreams[0].received
        assert json.loads(received.body)["messages"] == BODY["messages"]
        (event,) = c.spool.ended
    assert event.usage == Usage(2000, 3, cached_input_tokens=500, cache_write_tokens=1200)
    charge = price_usage(event.usage, CARD)
    assert [(line.kind, line.quantity, plain(line.amount)) for line in charge.lines] == [
        ("input", 300, "0.00012"),
        ("cached_input", 500, "0.00002"),
        ("cache_write", 1200, "0.0006"),
        ("output", 3, "0.0000036"),
    ]


@pytest.mark.parametrize("engine", ["upstream", "vllm"])
async def test_a_tools_mark_is_shown_to_providers_alone(tmp_path: Path, engine: str) -> None:
    # A property of the same name is the tool's own.
    schema = {"type": "object", "properties": {"cache_control": {"type": "string"}}}
    plain: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": schema}}
    tool = plain | {"cache_control": {"type": "ephemeral"}}
    async with cloud(tmp_path, json_answer(COMPLETION), route={"engine": engine, "tool_format": "hermes"}) as c:
        assert (await c.chat(tools=[tool])).status_code == 200
        (received,) = c.upstreams[0].received
    assert json.loads(received.body)["tools"] == [tool if engine == "upstream" else plain]


async def test_a_mark_of_an_unknown_kind_is_refused_by_its_path(tmp_path: Path) -> None:
    async with cloud(tmp_path, json_answer(COMPLETION)) as c:
        part = MARKED | {"cache_control": {"type": "forever"}}
        answer = await c.chat(messages=[{"role": "user", "content": [part]}])
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "messages[0].content[0].cache_control.type"
        assert c.upstreams[0].received == []
