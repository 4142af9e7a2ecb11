"""The anthropic client through a real gateway: answers, tools, streams that survive, errors, models and counts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic.types import MessageParam, TextBlock, ThinkingBlock, ToolParam, ToolUseBlock

from cloudcrest.identity.api import Limits
from cloudcrest.kernel.usage import Usage
from cloudcrest.serving.engines.llamacpp import LlamaCppEngine
from cloudcrest.serving.engines.simulated import SimulatedEngine
from tests.conformance.replay import Call, Step, answer_of, chunks_of
from tests.integration.gateway.cutting import NAME, wire
from tests.integration.gateway.scripted import Cloud, cloud
from tests.integration.gateway.test_guardrails import guard
from tests.support.gateway_cloud import (
    KEY,
    STREAM_HEAD,
    Received,
    Script,
    chunk_event,
    feed_state,
    framed,
    json_answer,
    route_document,
    running_gateway,
)
from tests.support.replicas import deployment, gguf, running
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio
HELLO: list[MessageParam] = [{"role": "user", "content": "What is the weather?"}]
TOOLS: list[ToolParam] = [{"name": "weather", "input_schema": {"type": "object", "properties": {"city": {}}}}]
CALLS: dict[str, Any] = {"tool_format": "hermes"}
STEP = Step("I look.", calls=[Call("weather", {"city": "Zürich"}), Call("weather", {})], thought="Where?")
ASK: dict[str, Any] = {"model": "m", "max_tokens": 50, "messages": HELLO, "tools": TOOLS}


def client_of(url: str, key: str = KEY) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=url, api_key=key, max_retries=0)


def answering(step: Step) -> Script:
    """An engine that gives this answer, whole or as a stream."""

    def answer(request: Received) -> None:
        if not request.json.get("stream"):
            json_answer(answer_of(step, request.json))(request)
            return
        events = [chunk_event(**chunk) for chunk in chunks_of(step, request.json)]
        request.write(STREAM_HEAD + b"".join(map(framed, [*events, b"data: [DONE]\n\n"])) + b"0\r\n\r\n")

    return answer


@pytest.fixture
async def answered(tmp_path: Path) -> AsyncIterator[tuple[Cloud, anthropic.AsyncAnthropic]]:
    """A gateway before an engine that gives `STEP`, and a client of it."""
    async with cloud(tmp_path, answering(STEP), route=CALLS) as c, client_of(c.running.url) as client:
        yield c, client


def charged(message: anthropic.types.Message) -> Usage:
    """The usage of a message, as an event would have it."""
    usage = message.usage
    cached = usage.cache_read_input_tokens or 0
    assert not usage.cache_creation_input_tokens
    return Usage(usage.input_tokens + cached, usage.output_tokens, cached)


def check_step(message: anthropic.types.Message, *, shows_thinking: bool = True) -> None:
    """That a message says what `STEP` does."""
    blocks = message.content
    if shows_thinking:
        thought, *blocks = blocks
        assert isinstance(thought, ThinkingBlock)
        assert thought.thinking == "Where?"
    text, first, second = blocks
    assert isinstance(text, TextBlock)
    assert isinstance(first, ToolUseBlock)
    assert isinstance(second, ToolUseBlock)
    assert (text.text, first.name, first.input, second.input) == ("I look.", "weather", {"city": "Zürich"}, {})
    assert first.id != second.id
    assert message.stop_reason == "tool_use"
    assert message.id.startswith("msg_")
    assert message.role == "assistant"
    assert message.usage.cache_read_input_tokens


async def test_an_answer_with_tools_and_what_it_costs(answered: tuple[Cloud, anthropic.AsyncAnthropic]) -> None:
    c, client = answered
    message = await client.messages.create(**ASK, thinking={"type": "adaptive"})
    check_step(message)
    assert c.spool.ended[-1].usage == charged(message)
    assert c.spool.ended[-1].endpoint == "/v1/messages"
    assert c.upstreams[0].received[0].head.startswith("POST /v1/chat/completions ")
    check_step(await client.messages.create(**ASK), shows_thinking=False)


async def test_a_stream_adds_up_to_the_same(answered: tuple[Cloud, anthropic.AsyncAnthropic]) -> None:
    c, client = answered
    async with client.messages.stream(**ASK, thinking={"type": "adaptive"}) as stream:
        message = await stream.get_final_message()
    check_step(message)
    assert c.spool.ended[-1].usage == charged(message)
    assert c.spool.ended[-1].is_stream


async def test_the_result_of_a_tool_goes_back_to_the_model(answered: tuple[Cloud, anthropic.AsyncAnthropic]) -> None:
    c, client = answered
    first = await client.beta.messages.create(**ASK, thinking={"type": "adaptive"}, betas=["a-beta"])
    use = next(block for block in first.content if block.type == "tool_use")
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "rain"}
    turns: list[Any] = [
        *HELLO,
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in first.content]},
        {"role": "user", "content": [result, {"type": "text", "text": "Well?"}]},
    ]
    await client.messages.create(**ASK | {"messages": turns})
    _, said, told, asked = c.upstreams[0].received[-1].json["messages"]
    assert said["content"] == "I look."
    assert said["reasoning_content"] == "Where?"
    assert said["tool_calls"][0]["id"] == use.id
    assert told == {"role": "tool", "tool_call_id": use.id, "content": "rain"}
    assert asked == {"role": "user", "content": "Well?"}


async def test_errors_are_the_clients_own(answered: tuple[Cloud, anthropic.AsyncAnthropic]) -> None:
    c, client = answered
    with pytest.raises(anthropic.NotFoundError) as missing:
        await client.messages.create(**ASK | {"model": "n"})
    assert missing.value.request_id
    body: Any = missing.value.body
    assert body["request_id"] == missing.value.request_id
    assert (body["type"], body["error"]["type"]) == ("error", "not_found_error")
    with pytest.raises(anthropic.BadRequestError, match=r"thinking\.budget_tokens"):
        await client.messages.create(**ASK, thinking={"type": "enabled", "budget_tokens": 1024})
    async with client_of(c.running.url, "sk-cc-wrong") as stranger:
        with pytest.raises(anthropic.AuthenticationError):
            await stranger.messages.create(**ASK)
        with pytest.raises(anthropic.AuthenticationError):
            await stranger.messages.count_tokens(model="m", messages=HELLO)
        with pytest.raises(anthropic.AuthenticationError) as unlisted:
            await stranger.models.list()
    assert unlisted.value.body["type"] == "error"  # type: ignore[index]
    get = await c.client.get("/v1/messages")
    assert (get.status_code, get.json()["error"]["type"]) == (405, "invalid_request_error")
    assert not c.spool.opened


async def test_limits_money_and_a_model_that_is_away(tmp_path: Path) -> None:
    async with (
        cloud(tmp_path, answering(STEP), key_limits=Limits(requests_per_minute=1), route=CALLS) as c,
        client_of(c.running.url) as client,
    ):
        await client.messages.create(**ASK)
        with pytest.raises(anthropic.RateLimitError) as limited:
            await client.messages.create(**ASK)
        assert int(limited.value.response.headers["retry-after"]) > 0
        with pytest.raises(anthropic.RateLimitError):
            await client.messages.count_tokens(model="m", messages=HELLO)
        c.running.set_documents("route", {"m": route_document(**CALLS)})
        with pytest.raises(anthropic.OverloadedError) as away:
            await client.messages.create(**ASK)
        assert away.value.status_code == 529
        organization = {"id": "org_1", "limits": {}, "suspended_reason": "its balance is used up"}
        c.running.set_documents("organization", {"org_1": organization})
        with pytest.raises(anthropic.PaymentRequiredError, match="balance") as unpaid:
            await client.messages.create(**ASK)
        assert unpaid.value.body["error"]["type"] == "billing_error"  # type: ignore[index]


async def test_a_stream_that_cannot_go_on_ends_with_an_error_event(tmp_path: Path) -> None:
    def broken(request: Received) -> None:
        told = chunk_event() + chunk_event(choices=[{"index": 0, "delta": {"reasoning_content": "hm"}}])
        request.write(STREAM_HEAD + framed(told) + b"0\r\n\r\n")

    async with cloud(tmp_path, broken, route=CALLS) as c, client_of(c.running.url) as client:
        with pytest.raises(anthropic.APIStatusError, match="thinking aloud"):
            async with client.messages.stream(**ASK, thinking={"type": "adaptive"}) as stream:
                await stream.get_final_message()
        await c.settled()
        assert c.spool.ended[-1].outcome == "engine_error"


async def test_guardrails_hold_in_this_dialect_too(tmp_path: Path) -> None:
    async with cloud(tmp_path, answering(Step("Mail ann@x.org now, please."))) as c, client_of(c.running.url) as client:
        ask: dict[str, Any] = {"model": "m", "max_tokens": 50}
        guard(c, input={"card": "block"}, output={"email": "redact"})
        turns: list[MessageParam] = [{"role": "user", "content": "pay with 4111 1111 1111 1111"}]
        with pytest.raises(anthropic.BadRequestError, match="messages: ") as blocked:
            await client.messages.create(**ask, system="Be short.", messages=turns)
        assert "4111" not in blocked.value.message
        whole = await client.messages.create(**ask, messages=HELLO)
        assert [block.text for block in whole.content if block.type == "text"] == ["Mail [EMAIL_1] now, please."]
        guard(c, output={"email": "block"})
        async with client.messages.stream(**ask, messages=HELLO) as stream:
            message = await stream.get_final_message()
        assert "ann" not in message.to_json()
        assert message.stop_reason == "refusal"
        assert c.spool.ended[-1].usage == charged(message)


async def test_models_are_listed_in_both_shapes(answered: tuple[Cloud, anthropic.AsyncAnthropic]) -> None:
    c, client = answered
    [model] = [model async for model in client.models.list(limit=1)]
    assert (model.id, model.type, model.max_input_tokens) == ("m", "model", 4096)
    assert (await client.models.retrieve("m")).id == "m"
    with pytest.raises(anthropic.NotFoundError):
        await client.models.retrieve("n")
    plain = await c.client.get("/v1/models", headers={"authorization": f"Bearer {KEY}"})
    assert plain.json()["object"] == "list"


@asynccontextmanager
async def simulated(folder: Path) -> AsyncIterator[tuple[Any, list[Any], anthropic.AsyncAnthropic]]:
    """A gateway, the wires to its two replicas, and a client."""
    async with AsyncExitStack() as stack:
        document = deployment("simulated", options={"decode_tokens_per_second": 0.0, "answer_tokens": 40})
        made = [await stack.enter_async_context(running(SimulatedEngine(), document)) for _ in range(2)]
        wires = [await stack.enter_async_context(wire(replica.url)) for replica in made]
        route = route_document(NAME, tuple(each.url for each in wires), engine="simulated", context_tokens=512)
        settings = {"replica_pause_seconds": 0.0}
        gateway = await stack.enter_async_context(running_gateway(folder, feed_state([route]), **settings))
        yield gateway, wires, await stack.enter_async_context(client_of(gateway.url))


async def test_a_translated_stream_outlives_its_replica(tmp_path: Path) -> None:
    async with simulated(tmp_path) as (gateway, wires, client):
        ask: dict[str, Any] = {"model": NAME, "max_tokens": 40, "messages": HELLO}

        async def said() -> anthropic.types.Message:
            async with client.messages.stream(**ask) as stream:
                return await stream.get_final_message()

        whole = await said()
        size = sum(each.answered_bytes for each in wires)
        for each in wires:
            each.cuts.append(size // 2)
        resumed = await said()
        assert sum(each.generations for each in wires) > 2
        assert (resumed.content, resumed.stop_reason, resumed.usage) == (whole.content, "max_tokens", whole.usage)
        assert gateway.spool.ended[-1].usage == charged(resumed)
        for each in wires:
            each.cuts.clear()
        counted = await client.messages.count_tokens(model=NAME, messages=HELLO)
        assert counted.input_tokens == charged(whole).input_tokens
        assert len(gateway.spool.opened) == 2  # a count is not charged


async def test_counts_need_a_tokenizer_and_go_on_to_another_replica(tmp_path: Path) -> None:
    def dead(request: Received) -> None:
        request.transport.close()

    def counting(request: Received) -> None:
        json_answer({"count": 7, "tokens": []})(request)

    def stalled(_: Received) -> None: ...

    async with cloud(tmp_path, dead, counting, route=CALLS) as c, client_of(c.running.url) as client:
        assert (await client.messages.count_tokens(model="m", messages=HELLO, tools=TOOLS)).input_tokens == 7
        urls = tuple(upstream.url for upstream in c.upstreams)
        c.running.set_documents("route", {"m": route_document(urls=urls, engine="upstream")})
        with pytest.raises(anthropic.BadRequestError, match="no tokenizer"):
            await client.messages.count_tokens(model="m", messages=HELLO)
        c.running.set_documents("route", {"m": route_document(urls=urls[:1])})
        with pytest.raises(anthropic.InternalServerError, match="could not count"):
            await client.messages.count_tokens(model="m", messages=HELLO)
        c.running.set_documents("route", {"m": route_document(**CALLS)})
        with pytest.raises(anthropic.OverloadedError):
            await client.messages.count_tokens(model="m", messages=HELLO)
        c.upstreams[1].script = stalled
        c.running.set_documents("route", {"m": route_document(urls=urls[1:])})
        with pytest.raises(anthropic.APIStatusError) as late:
            await client.messages.count_tokens(model="m", messages=HELLO, extra_headers={"x-request-timeout-ms": "200"})
        assert late.value.status_code == 504
        asked = c.upstreams[1].received
        before = len(asked)
        leaving = asyncio.ensure_future(client.messages.count_tokens(model="m", messages=HELLO))
        await until_async(lambda: len(asked) > before, "the replica is asked to count")
        leaving.cancel()
        await until_async(lambda: all(request.is_gone.is_set() for request in asked), "a count ends with its client")


async def test_llamacpp_answers_counts_and_is_forced_to_call(tmp_path: Path, chat_weights: Path) -> None:
    document = deployment("llamacpp", artifact=gguf(chat_weights))
    async with AsyncExitStack() as stack:
        replica = await stack.enter_async_context(running(LlamaCppEngine(), document, chat_weights))
        route = route_document(NAME, (replica.url,), engine="llamacpp", context_tokens=512, tool_format="prompted")
        state = feed_state([route])
        state.documents["route"][NAME]["replicas"][0]["token"] = replica.token
        gateway = await stack.enter_async_context(running_gateway(tmp_path, state))
        client = await stack.enter_async_context(client_of(gateway.url))
        ask: dict[str, Any] = {"model": NAME, "messages": HELLO, "system": "Be short.", "tools": TOOLS}
        greedy = {"temperature": 0}  # which the client knows no more
        counted = await client.messages.count_tokens(**ask)
        message = await client.messages.create(**ask, max_tokens=8, extra_body=greedy)
        assert counted.input_tokens == charged(message).input_tokens
        assert gateway.spool.ended[-1].usage == charged(message)
        tokens = await replica.tokens()
        async with client.messages.stream(
            **ask, max_tokens=60, tool_choice={"type": "any"}, extra_body=greedy
        ) as stream:
            forced = await stream.get_final_message()
        use = next(block for block in forced.content if block.type == "tool_use")
        assert use.name == "weather"
        assert isinstance(use.input, dict)
        assert gateway.spool.ended[-1].usage == charged(forced)
        assert (await replica.tokens())[1] - tokens[1] == forced.usage.output_tokens
        begun: list[MessageParam] = [*HELLO, {"role": "assistant", "content": "The weather is"}]
        gone_on = await client.messages.create(model=NAME, max_tokens=8, messages=begun, extra_body=greedy)
        async with client.messages.stream(model=NAME, max_tokens=8, messages=begun, extra_body=greedy) as stream:
            assert (await stream.get_final_message()).usage.output_tokens == 8
        for block in gone_on.content:
            assert block.type == "text"
            assert not block.text.startswith("The weather is")


@pytest.mark.parametrize("takes_marks", [True, False])
async def test_marks_go_to_providers_that_take_them(tmp_path: Path, takes_marks: bool) -> None:
    route: dict[str, Any] = {"engine": "upstream", "takes_marks": takes_marks}
    mark: Any = {"type": "ephemeral"}
    system: Any = [{"type": "text", "text": "Be brief.", "cache_control": mark}]
    async with cloud(tmp_path, answering(Step("Sunny.")), route=route) as asked:
        tools: Any = [TOOLS[0] | {"cache_control": mark}]
        await client_of(asked.running.url).messages.create(**{**ASK, "tools": tools}, system=system)
        [sent] = asked.upstreams[0].received
    told = [{"type": "text", "text": "Be brief.", "cache_control": mark}] if takes_marks else "Be brief."
    assert sent.json["messages"][0] == {"role": "system", "content": told}
    assert sent.json["messages"][1] == {"role": "user", "content": "What is the weather?"}
    assert ("cache_control" in sent.json["tools"][0]) == takes_marks
