"""Each field that llama.cpp is sent has the effect it promises: one replica, a few tokens each."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cloudcrest.serving.engines.llamacpp import LlamaCppEngine
from tests.support.gateway_cloud import KEY, feed_state, route_document, running_gateway
from tests.support.replicas import deployment, gguf, running

pytestmark = pytest.mark.anyio
ASKED = [{"role": "user", "content": "What is a cloud made of?"}]


class Model:
    """Asks for a few greedy tokens, with changes."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def answer(self, **fields: Any) -> dict[str, Any]:
        body = {"model": "m", "messages": ASKED, "temperature": 0, "max_tokens": 16, **fields}
        answer = await self._client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def text(self, **fields: Any) -> str:
        return str((await self.answer(**fields))["choices"][0]["message"]["content"])

    async def completion(self, **fields: Any) -> str:
        body = {"model": "m", "prompt": "One, two, three,", "temperature": 0, "max_tokens": 8, **fields}
        answer = await self._client.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["text"])


@asynccontextmanager
async def model(folder: Path, weights: Path) -> AsyncIterator[Model]:
    document = deployment("llamacpp", artifact=gguf(weights), slots=1)
    async with running(LlamaCppEngine(), document, weights) as replica:
        state = feed_state([route_document("m", (replica.url,), engine="llamacpp", context_tokens=512)])
        state.documents["route"]["m"]["replicas"][0]["token"] = replica.token
        async with (
            running_gateway(folder, state) as gateway,
            httpx2.AsyncClient(
                base_url=gateway.url, headers={"authorization": f"Bearer {KEY}"}, timeout=60, trust_env=False
            ) as client,
        ):
            yield Model(client)


async def test_every_field_has_its_effect(tmp_path: Path, chat_weights: Path) -> None:
    async with model(tmp_path, chat_weights) as m:
        greedy = await m.text()
        await _lengths_and_stops(m, greedy)
        await _chance(m, greedy)
        await _penalties_and_biases(m, greedy)
        await _shapes(m)


async def _lengths_and_stops(m: Model, greedy: str) -> None:
    assert len(greedy) > 20
    for name in ("max_tokens", "max_completion_tokens"):
        limits = {"max_tokens": None, "max_completion_tokens": None} | {name: 3}
        short = await m.answer(**limits)
        assert short["usage"]["completion_tokens"] == 3
        assert short["choices"][0]["finish_reason"] == "length"
    word = greedy.split()[3]
    assert await m.text(stop=word) == greedy[: greedy.index(word)]
    assert await m.text(stop=["no such word", word]) == greedy[: greedy.index(word)]
    assert await m.completion(stop=",") == (await m.completion()).partition(",")[0]


async def _chance(m: Model, greedy: str) -> None:
    for few in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        assert await m.text(temperature=2, seed=1, **few) == greedy, few
    hot = {"temperature": 2, "top_k": 1000, "top_p": 1, "min_p": 0}
    seeded = [await m.text(**hot, seed=seed) for seed in (7, 7, 8)]
    assert seeded[0] == seeded[1]
    assert seeded[0] != seeded[2]
    assert seeded[0] != greedy
    several = (await m.answer(**hot, seed=7, n=2))["choices"]
    assert [choice["index"] for choice in several] == [0, 1]
    assert several[0]["message"]["content"] == seeded[0]
    assert several[1]["message"]["content"] == seeded[2]  # seed + 1


async def _penalties_and_biases(m: Model, greedy: str) -> None:
    first = (await m.answer(logprobs=True, top_logprobs=3, max_tokens=2))["choices"][0]["logprobs"]["content"]
    assert len(first) == 2
    assert [len(entry["top_logprobs"]) for entry in first] == [3, 3]
    likeliest, second = first[0]["top_logprobs"][:2]
    assert greedy.startswith(likeliest["token"])
    assert likeliest["logprob"] >= second["logprob"]
    for name in ("presence_penalty", "frequency_penalty"):
        changed = [await m.text(max_tokens=48, **{name: value}) for value in (0.0, 2.0)]
        assert changed[0] != changed[1], name
    token = first[0].get("id")
    if token is not None:
        assert not (await m.text(logit_bias={str(token): -100})).startswith(likeliest["token"])


async def _shapes(m: Model) -> None:
    number = {"n": {"type": "integer"}}
    schema = {"type": "object", "properties": number, "required": ["n"], "additionalProperties": False}
    strict = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    assert list(json.loads(await m.text(response_format=strict, max_tokens=64))) == ["n"]
    assert isinstance(json.loads(await m.text(response_format={"type": "json_object"}, max_tokens=256)), dict)
    alone = await m.answer()
    for harmless in ({"user": "ada"}, {"metadata": {"a": "b"}}, {"store": False}, {"service_tier": "auto"}):
        told = await m.answer(**harmless)
        assert told["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"]
        assert told["choices"][0]["message"]["content"] == alone["choices"][0]["message"]["content"]
    instructed = await m.answer(messages=[{"role": "developer", "content": "Say nothing but: no."}, *ASKED])
    assert instructed["usage"]["prompt_tokens"] != alone["usage"]["prompt_tokens"]
