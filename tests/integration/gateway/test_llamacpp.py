"""The openai client through the gateway to real llama.cpp: what is taken, and what is refused in which words.

What is charged: test_charges.py.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from cloudcrest.catalog.api import Task
from cloudcrest.gateway.fakes import MemorySpool
from cloudcrest.kernel.usage import Usage
from cloudcrest.serving.engines.llamacpp import LlamaCppEngine
from tests.support.gateway_cloud import KEY, feed_state, route_document, running_gateway
from tests.support.replicas import deployment, gguf, running

pytestmark = pytest.mark.anyio
NAME = "public-name"
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Count from one to fifty, in words."}]


class Cloud:
    def __init__(self, client: openai.AsyncOpenAI, spool: MemorySpool) -> None:
        self.client = client
        self.spool = spool


@asynccontextmanager
async def cloud(folder: Path, weights: Path, task: Task = "chat") -> AsyncIterator[Cloud]:
    document = deployment("llamacpp", task=task, artifact=gguf(weights))
    async with running(LlamaCppEngine(), document, weights) as replica:
        route = route_document(
            NAME,
            (replica.url,),
            engine="llamacpp",
            task=task,
            context_tokens=document.context_tokens,
            tool_format="prompted",
        )
        state = feed_state([route])
        state.documents["route"][NAME]["replicas"][0]["token"] = replica.token
        async with (
            running_gateway(folder, state) as gateway,
            openai.AsyncOpenAI(base_url=gateway.url + "/v1", api_key=KEY, max_retries=0) as client,
        ):
            yield Cloud(client, gateway.spool)


def charged(usage: Any) -> Usage:
    """The usage of an answer, as an event would have it."""
    details = usage.prompt_tokens_details
    return Usage(usage.prompt_tokens, usage.completion_tokens, (details.cached_tokens or 0) if details else 0)


async def test_what_the_engine_refuses_is_said_in_our_words(
    tmp_path: Path,
    chat_weights: Path,
) -> None:
    async with cloud(tmp_path, chat_weights) as c:
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as caught:
                await c.client.chat.completions.create(
                    model=NAME, messages=[{"role": "user", "content": "word " * 2_000}], stream=stream
                )
            assert caught.value.code == "context_length_exceeded"
            assert "512 tokens" in caught.value.message
        with pytest.raises(openai.BadRequestError) as caught:
            await c.client.embeddings.create(model=NAME, input="x")
        assert caught.value.param == "model"
        assert {event.usage for event in c.spool.ended} == {Usage(0, 0)}


@pytest.mark.parametrize(
    "extra",
    [
        {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "presence_penalty": 0.5, "frequency_penalty": 0.5},
        {"logit_bias": {"5": -100}, "stop": ["x", "y"], "user": "someone", "metadata": {"a": "b"}},
        {"logprobs": True, "top_logprobs": 2},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]},
        {"messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
        {"max_completion_tokens": 4, "store": False, "service_tier": "auto", "parallel_tool_calls": False},
    ],
)
async def test_every_field_we_take_is_taken_by_the_engine(
    tmp_path: Path,
    chat_weights: Path,
    extra: dict[str, Any],
) -> None:
    async with cloud(tmp_path, chat_weights) as c:
        body: Any = {"messages": HELLO, "max_completion_tokens": 6} | extra
        answer = await c.client.chat.completions.create(model=NAME, messages=[], extra_body=body)
        assert c.spool.ended[-1].usage == charged(answer.usage)
        assert c.spool.ended[-1].usage.output_tokens <= 6


async def test_embeddings_in_both_encodings_cost_what_they_say(
    tmp_path: Path,
    embedding_weights: Path,
) -> None:
    async with cloud(tmp_path, embedding_weights, "embedding") as c:
        texts = ["a cat", "a dog", "the stock market"]
        as_base64 = await c.client.embeddings.create(model=NAME, input=texts)
        as_floats = await c.client.embeddings.create(model=NAME, input=texts, encoding_format="float")
        assert len(as_base64.data) == 3
        for left, right in zip(as_base64.data, as_floats.data, strict=True):
            assert left.embedding == pytest.approx(right.embedding, abs=1e-4)
        assert c.spool.ended[0].usage == Usage(as_base64.usage.prompt_tokens, 0)
        assert as_base64.usage.prompt_tokens > 0
        with pytest.raises(openai.BadRequestError) as caught:
            await c.client.embeddings.create(model=NAME, input="word " * 3_000)
        assert caught.value.code == "context_length_exceeded"
