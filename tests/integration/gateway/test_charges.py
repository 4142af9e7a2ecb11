"""One contract for every engine: what is charged is what was answered, what the engine worked, and usage × price.

The openai client through a gateway to real replicas, in every way an answer can end. vLLM is left out of the default
run: `pytest -m vllm`.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from cloudcrest.billing.api import RateCard
from cloudcrest.billing.pricing import price_usage
from cloudcrest.kernel.usage import Usage, UsageEvent
from tests.support.engines import ENGINES, Subject, running_engine
from tests.support.gateway_cloud import KEY, RunningGateway, feed_state, route_document, running_gateway
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio
NAME = "public-name"
HELLO = [{"role": "user", "content": "Count from one to fifty, in words."}]
CHAT: dict[str, Any] = {"messages": HELLO, "max_tokens": 12}
TEXT: dict[str, Any] = {"prompt": "Once upon a time", "max_tokens": 9}
TOKENS: dict[str, Any] = {"prompt": [9690, 198, 2683, 359], "max_tokens": 9}
CARD = RateCard(
    id="rate_1",
    model=NAME,
    currency="USD",
    valid_from=datetime(2026, 1, 1, tzinfo=UTC),
    input_price_per_million_tokens=Decimal("0.15"),
    cached_input_price_per_million_tokens=Decimal("0.000000000075"),
    output_price_per_million_tokens=Decimal("0.6"),
)


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """One event loop for all, so that a replica can be shared."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module", params=ENGINES)
async def subject(
    request: pytest.FixtureRequest,
    anyio_backend: object,
    tmp_path_factory: pytest.TempPathFactory,
    chat_weights: Path,
) -> AsyncIterator[Subject]:
    async with running_engine(request.param, chat_weights, tmp_path_factory.mktemp("engine")) as subject:
        yield subject


class Cloud:
    """A gateway before the replica, and a client. `sizes`: of the bodies that the client sent."""

    def __init__(self, gateway: RunningGateway, subject: Subject) -> None:
        self.gateway = gateway
        self.subject = subject
        self.sizes: list[int] = []
        self.client = openai.AsyncOpenAI(
            base_url=gateway.url + "/v1",
            api_key=KEY,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"request": [self._note]}, trust_env=False),
        )

    async def _note(self, request: httpx2.Request) -> None:
        self.sizes.append(len(request.content))

    async def ask(self, body: dict[str, Any], **changes: Any) -> Any:
        """A chat, or a completion where there is a prompt."""
        fields: Any = {"model": NAME, **body, **changes}
        return await (self.client.completions if "prompt" in body else self.client.chat.completions).create(**fields)

    async def charged(self) -> UsageEvent:
        """The event of the last request; there is one for each."""
        spool = self.gateway.spool
        await until_async(lambda: len(spool.opened) == len(spool.ended), "every record has its end")
        return spool.ended[-1]


@asynccontextmanager
async def cloud(folder: Path, subject: Subject) -> AsyncIterator[Cloud]:
    route = route_document(NAME, (subject.replica.url,), engine=subject.name, context_tokens=512)
    state = feed_state([route])
    state.documents["route"][NAME]["replicas"][0]["token"] = subject.replica.token
    await subject.idle()
    async with running_gateway(folder, state) as gateway:
        c = Cloud(gateway, subject)
        async with c.client:
            yield c


def usage_of(answer: Any) -> Usage:
    """The usage that an answer carries, as an event would have it."""
    details = answer.usage.prompt_tokens_details
    cached_tokens = (details.cached_tokens or 0) if details else 0
    return Usage(answer.usage.prompt_tokens, answer.usage.completion_tokens, cached_tokens)


def prompts_worked(subject: Subject, choices: int) -> int:
    """How often the engine reads a prompt for so many choices; it is charged once. A provider tells of no more."""
    return 1 if subject.name == "upstream" else choices


def check_price(usage: Usage) -> None:
    """The charge is usage × price, exactly."""
    charge = price_usage(usage, CARD)
    by_hand = (
        (usage.input_tokens - usage.cached_input_tokens) * Fraction("0.15")
        + usage.cached_input_tokens * Fraction("0.000000000075")
        + usage.output_tokens * Fraction("0.6")
    ) / 1_000_000
    assert Fraction(charge.amount) == by_hand > 0
    assert Fraction(charge.amount) == sum(Fraction(line.amount) for line in charge.lines)


def text_of(choice: Any) -> str:
    return (choice.delta.content if hasattr(choice, "delta") else choice.text) or ""


@pytest.mark.parametrize("choices", [1, 3])
@pytest.mark.parametrize("body", [CHAT, TEXT], ids=["chat", "text"])
@pytest.mark.parametrize("how", ["whole", "streamed", "streamed with usage"])
async def test_an_answer_costs_what_it_says(
    tmp_path: Path, subject: Subject, how: str, body: dict[str, Any], choices: int
) -> None:
    async with cloud(tmp_path, subject) as c:
        before = await subject.worker.counters()
        fields: dict[str, Any] = {"n": choices, "seed": 1, "temperature": 1}
        said: Usage | None = None
        if how == "whole":
            answer = await c.ask(body, **fields)
            assert [choice.index for choice in answer.choices] == list(range(choices))
            assert len({str(choice) for choice in answer.choices}) == choices
            said = usage_of(answer)
        else:
            if how == "streamed with usage":
                fields["stream_options"] = {"include_usage": True}
            chunks = [chunk async for chunk in await c.ask(body, stream=True, **fields)]
            assert {chunk.model for chunk in chunks} == {NAME}
            assert len({chunk.id for chunk in chunks}) == 1
            assert {choice.index for chunk in chunks for choice in chunk.choices} == set(range(choices))
            usages = [chunk for chunk in chunks if chunk.usage is not None]
            if how == "streamed with usage":
                (with_usage,) = usages
                said = usage_of(with_usage)
            else:
                assert usages == []
        event = await c.charged()
        assert (event.outcome, event.usage.is_estimate, len(c.gateway.spool.ended)) == ("completed", False, 1)
        assert said in (None, event.usage)
        input_tokens, output_tokens = await subject.worked((before.input_tokens, before.output_tokens))
        assert event.usage.output_tokens == output_tokens > 0
        assert event.usage.input_tokens * prompts_worked(subject, choices) == input_tokens > 0
        if choices == 1:
            after = await subject.worker.counters()
            assert event.usage.cached_input_tokens == after.cached_input_tokens - before.cached_input_tokens
        check_price(event.usage)


async def test_what_the_engine_had_cached_is_charged_as_that(tmp_path: Path, subject: Subject) -> None:
    if subject.name not in ("llamacpp", "vllm"):
        pytest.skip("this engine keeps no prompts")
    async with cloud(tmp_path, subject) as c:
        marked = {"type": "text", "text": "One bee, two bees, " * 40, "cache_control": {"type": "ephemeral"}}
        body = {"messages": [{"role": "user", "content": [marked]}], "max_tokens": 2}
        first = await c.ask(body)
        before = await subject.worker.counters()
        again = await c.ask(body)
        await subject.idle()
        after = await subject.worker.counters()
        event = await c.charged()
        assert again.usage.prompt_tokens == first.usage.prompt_tokens == event.usage.input_tokens
        cached_tokens = after.cached_input_tokens - before.cached_input_tokens
        assert event.usage == usage_of(again)
        assert event.usage.cached_input_tokens == cached_tokens > 100
        check_price(event.usage)


@pytest.mark.parametrize("choices", [1, 3])
@pytest.mark.parametrize(
    "body",
    [CHAT, TEXT, TOKENS, {"messages": [{"role": "developer", "content": "Be brief, and kind."}, *HELLO]}],
    ids=["chat", "text", "tokens", "chat with a developer"],
)
async def test_a_client_that_leaves_pays_for_what_it_got(
    tmp_path: Path, subject: Subject, body: dict[str, Any], choices: int
) -> None:
    async with cloud(tmp_path, subject) as c:
        whole = await c.ask(body, max_tokens=1)
        before = await subject.worker.tokens()
        stream = await c.ask(body, max_tokens=400, n=choices, stream=True, temperature=0)
        got = 0
        async for chunk in stream:
            got += sum(bool(text_of(choice)) for choice in chunk.choices)
            if got >= 10 * choices:
                break
        await stream.close()
        event = await c.charged()
        _, worked_tokens = await subject.worked(before)
        assert event.outcome == "cancelled"
        assert got <= event.usage.output_tokens <= worked_tokens < 400 * choices
        if subject.name == "upstream":
            # Nobody knows its tokenizer: four bytes of the request are a token, and so is each event.
            assert event.usage == Usage(c.sizes[-1] // 4 + 1, event.usage.output_tokens, is_estimate=True)
        else:
            assert event.usage == Usage(whole.usage.prompt_tokens, event.usage.output_tokens)
        check_price(event.usage)


@pytest.mark.parametrize("choices", [1, 3])
async def test_a_client_that_leaves_before_the_first_token_pays_for_its_prompt(
    tmp_path: Path, subject: Subject, choices: int
) -> None:
    async with cloud(tmp_path, subject) as c:
        body = {"messages": [{"role": "user", "content": f"{choices} wasps, no bees. " * 15}], "n": choices}
        before = await subject.worker.tokens()
        asking = asyncio.create_task(c.ask(body, max_tokens=400, stream=True))
        (replica,) = c.gateway.gateway.snapshot.routes[NAME].replicas
        await until_async(lambda: replica.in_flight > 0, "it is sent", pause_seconds=0.001)
        asking.cancel()
        event = await c.charged()
        size = c.sizes[-1]
        _, worked_tokens = await subject.worked(before)
        whole = await c.ask(body | {"n": 1}, max_tokens=1)
        assert event.outcome == "cancelled"
        assert event.usage.output_tokens == 0 or event.first_token_milliseconds is not None
        assert event.usage.output_tokens <= worked_tokens
        expected = size // 4 + 1 if subject.name == "upstream" else whole.usage.prompt_tokens
        assert (event.usage.input_tokens, event.usage.is_estimate) == (expected, subject.name == "upstream")
        check_price(event.usage)
