"""One contract for every engine: answers, streams, usage equal to its own counters, cancellation, errors."""

import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cloudcrest.serving.engines.llamacpp import LlamaCppEngine
from cloudcrest.serving.engines.simulated import SimulatedEngine
from tests.support.engines import ENGINES, Subject, running_engine
from tests.support.replicas import deployment, gguf, running

pytestmark = pytest.mark.anyio

MESSAGES = [{"role": "user", "content": "Count from one to fifty, in words."}]
COUNTS_ONE_CHOICE = ("llamacpp",)
"""Engines whose `usage` counts one choice of several; the gateway asks them for one choice at a time."""


async def post(subject: Subject, body: dict[str, Any], path: str = "/v1/chat/completions") -> dict[str, Any]:
    response = await subject.replica.client.post(path, json=body)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert isinstance(answer, dict)
    return answer


async def stream(subject: Subject, body: dict[str, Any], path: str = "/v1/chat/completions") -> list[dict[str, Any]]:
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    response = await subject.replica.client.post(path, json=body)
    assert response.status_code == 200, response.text
    events = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    return [json.loads(event) for event in events[:-1]]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One event loop for all, so that a replica can be shared."""
    return "asyncio"


@pytest.fixture(scope="module", params=ENGINES)
async def subject(
    request: pytest.FixtureRequest, anyio_backend: str, tmp_path_factory: pytest.TempPathFactory, chat_weights: Path
) -> AsyncIterator[Subject]:
    async with running_engine(request.param, chat_weights, tmp_path_factory.mktemp("engine")) as subject:
        yield subject


async def test_answers_under_the_public_name_and_counts_what_it_worked(subject: Subject) -> None:
    before = await subject.worker.tokens()
    answer = await post(subject, {"messages": MESSAGES, "max_tokens": 12, "temperature": 0})
    assert answer["model"] == "public-name"
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    assert choice["finish_reason"] == "length"
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert await subject.worked(before) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert usage["completion_tokens"] == 12


async def test_streams_the_same_answer_with_the_same_usage(subject: Subject) -> None:
    body: dict[str, Any] = {"messages": MESSAGES, "max_tokens": 12, "temperature": 0, "seed": 1}
    whole = await post(subject, dict(body))
    before = await subject.worker.tokens()
    chunks = await stream(subject, dict(body))
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert text == whole["choices"][0]["message"]["content"]
    assert {chunk["model"] for chunk in chunks} == {"public-name"}
    finishes = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert [finish for finish in finishes if finish] == ["length"]
    usage = chunks[-1]["usage"]
    assert await subject.worked(before) == (usage["prompt_tokens"], usage["completion_tokens"])


async def test_completes_text(subject: Subject) -> None:
    before = await subject.worker.tokens()
    answer = await post(subject, {"prompt": "Once upon a time", "max_tokens": 8}, "/v1/completions")
    usage = answer["usage"]
    assert await subject.worked(before) == (usage["prompt_tokens"], usage["completion_tokens"])
    chunks = await stream(subject, {"prompt": "Once upon a time", "max_tokens": 8}, "/v1/completions")
    assert "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])


async def test_counts_every_choice_or_is_known_not_to(subject: Subject) -> None:
    before = await subject.worker.tokens()
    # vLLM makes no several choices without chance in them, so that one of them may be short.
    temperature = 1 if subject.name == "vllm" else 0
    answer = await post(subject, {"messages": MESSAGES, "max_tokens": 10, "n": 3, "temperature": temperature})
    assert len(answer["choices"]) == 3
    _, output_tokens = await subject.worked(before)
    assert output_tokens == 30 or (subject.name == "vllm" and 3 <= output_tokens < 30)
    expected = 10 if subject.name in COUNTS_ONE_CHOICE else output_tokens
    assert answer["usage"]["completion_tokens"] == expected


async def test_stops_when_the_caller_goes_away(subject: Subject) -> None:
    before = await subject.worker.tokens()
    body = {"messages": MESSAGES, "max_tokens": 380, "temperature": 0, "stream": True}
    async with subject.replica.client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.aiter_lines()
        for _ in range(6):
            await anext(lines)
    await subject.idle()
    _, output_tokens = await subject.worked(before)
    assert 0 < output_tokens < 380


async def test_stops_an_answer_that_is_not_streamed_too(subject: Subject) -> None:
    body = {"messages": MESSAGES, "max_tokens": 380, "temperature": 0}
    request = subject.replica.client.post("/v1/chat/completions", json=body, timeout=0.3)
    with pytest.raises(httpx2.TimeoutException):
        await request
    await subject.idle()


async def test_refuses_a_prompt_longer_than_its_context(subject: Subject) -> None:
    body = {"messages": [{"role": "user", "content": "word " * 3000}], "max_tokens": 5}
    response = await subject.replica.client.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    expected = "maximum context length" if subject.name == "vllm" else "exceeds the available context size"
    assert expected in response.json()["error"]["message"]


async def test_wants_its_token(subject: Subject) -> None:
    response = await subject.replica.client.post(
        "/v1/chat/completions", json={"messages": MESSAGES}, headers={"authorization": "Bearer wrong"}
    )
    assert response.status_code == 401


async def test_embeds(embedding_weights: Path) -> None:
    document = deployment("llamacpp", task="embedding", artifact=gguf(embedding_weights))
    async with running(LlamaCppEngine(), document, embedding_weights) as replica:
        before = await replica.tokens()
        body = {"model": "public-name", "input": ["a cat sat on the mat", "a kitten rested on the rug", "tax law"]}
        response = await replica.client.post("/v1/embeddings", json=body)
        assert response.status_code == 200, response.text
        answer = response.json()
        vectors = [item["embedding"] for item in sorted(answer["data"], key=lambda item: item["index"])]
        assert [len(vector) for vector in vectors] == [384, 384, 384]
        assert all(math.isclose(sum(value * value for value in vector), 1.0, abs_tol=1e-3) for vector in vectors)
        near, far = (sum(a * b for a, b in zip(vectors[0], other, strict=True)) for other in vectors[1:])
        assert near > far + 0.2
        assert (await replica.tokens())[0] - before[0] == answer["usage"]["prompt_tokens"]


async def test_a_simulated_embedding_counts_its_input() -> None:
    async with running(SimulatedEngine(), deployment("simulated", task="embedding")) as replica:
        response = await replica.client.post("/v1/embeddings", json={"input": "hello there"})
        assert len(response.json()["data"][0]["embedding"]) == 384
        assert (await replica.tokens())[0] == response.json()["usage"]["prompt_tokens"] > 0


async def test_a_simulated_replica_dies_when_told_to() -> None:
    document = deployment("simulated", options={"die_after_tokens": 5, "decode_tokens_per_second": 100.0})
    async with running(SimulatedEngine(), document) as replica:
        body = {"messages": MESSAGES, "stream": True}
        with pytest.raises(httpx2.HTTPError):
            await replica.client.post("/v1/chat/completions", json=body)
        assert replica.process.wait(5) == 9


async def test_a_simulated_continuation_equals_the_uninterrupted_answer() -> None:
    async with running(SimulatedEngine(), deployment("simulated", options={"answer_tokens": 20})) as replica:
        whole = (await replica.client.post("/v1/chat/completions", json={"messages": MESSAGES})).json()
        text = whole["choices"][0]["message"]["content"]
        prompt = (await replica.client.post("/apply-template", json={"messages": MESSAGES})).json()["prompt"]
        tokens = (await replica.client.post("/tokenize", json={"content": prompt + text})).json()["tokens"]
        rest = (await replica.client.post("/v1/completions", json={"prompt": tokens[:-9]})).json()
        assert rest["usage"]["completion_tokens"] == 9
        assert text.endswith(rest["choices"][0]["text"])
