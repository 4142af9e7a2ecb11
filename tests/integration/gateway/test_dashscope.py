"""DashScope's native paths through a gateway: to real llama.cpp, and to scripted replicas for what goes wrong."""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cloudcrest.gateway.dialects.dashscope.dialect import EMBEDDING_PATH, TEXT_PATH
from cloudcrest.identity.api import Limits
from cloudcrest.kernel.usage import Usage
from cloudcrest.serving.engines.llamacpp import LlamaCppEngine
from tests.integration.gateway.scripted import Cloud, cloud
from tests.support.gateway_cloud import (
    COMPLETION,
    KEY,
    STREAM_HEAD,
    Received,
    chunk_event,
    feed_state,
    framed,
    json_answer,
    route_document,
    running_gateway,
    stream_answer,
)
from tests.support.replicas import deployment, gguf, running

pytestmark = pytest.mark.anyio
HEADERS = {"authorization": f"Bearer {KEY}"}
SSE = {**HEADERS, "x-dashscope-sse": "enable"}
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Count from one to fifty, in words."}]}


def body(**parameters: Any) -> dict[str, Any]:
    return {"model": "m", "input": HELLO, "parameters": parameters}


def events_of(response: httpx2.Response) -> list[tuple[str, dict[str, Any]]]:
    assert response.headers["content-type"].startswith("text/event-stream")
    events = []
    for event in response.text.split("\n\n")[:-1]:
        lines = event.split("\n")
        events.append((lines[1].removeprefix("event:"), json.loads(lines[-1].removeprefix("data:"))))
    return events


async def generate(c: Cloud, headers: dict[str, str] = HEADERS, **parameters: Any) -> httpx2.Response:
    return await c.client.post(TEXT_PATH, json=body(**parameters), headers=headers)


async def test_answers_of_llama_cpp_and_what_they_cost(tmp_path: Path, chat_weights: Path) -> None:
    document = deployment("llamacpp", artifact=gguf(chat_weights))
    async with running(LlamaCppEngine(), document, chat_weights) as replica:
        state = feed_state([route_document("m", (replica.url,), engine="llamacpp", context_tokens=512)])
        state.documents["route"]["m"]["replicas"][0]["token"] = replica.token
        async with (
            running_gateway(tmp_path, state) as gateway,
            httpx2.AsyncClient(base_url=gateway.url, timeout=60, trust_env=False) as client,
        ):
            asked: dict[str, Any] = {"max_tokens": 16, "temperature": 0, "seed": 1}

            async def ask(headers: dict[str, str] = HEADERS, **parameters: Any) -> httpx2.Response:
                response = await client.post(TEXT_PATH, json=body(**asked, **parameters), headers=headers)
                assert response.status_code == 200, response.text
                return response

            whole = (await ask()).json()
            assert whole["output"]["finish_reason"] == "length"
            usage = whole["usage"]
            assert usage["total_tokens"] == usage["input_tokens"] + 16
            assert whole["request_id"] == gateway.spool.ended[-1].id
            assert gateway.spool.ended[-1].usage.output_tokens == usage["output_tokens"] == 16
            assert gateway.spool.ended[-1].endpoint == TEXT_PATH
            so_far = events_of(await ask(SSE))
            assert so_far[-1][1]["output"] == whole["output"]
            assert so_far[-1][1]["usage"]["output_tokens"] == 16
            assert all(len(event["output"]["text"]) > 0 for _, event in so_far)
            new = events_of(await ask(SSE, incremental_output=True, result_format="message"))
            told = [event["output"]["choices"][0] for _, event in new]
            assert "".join(choice["message"]["content"] for choice in told) == whole["output"]["text"]
            assert [choice["finish_reason"] for choice in told] == ["null"] * (len(told) - 1) + ["length"]
            # Greedy, so only the penalty can make it another text.
            assert (await ask(repetition_penalty=2)).json()["output"]["text"] != whole["output"]["text"]
            assert (await ask(repetition_penalty=1)).json()["output"]["text"] == whole["output"]["text"]
            same = await client.post(
                "/compatible-mode/v1/chat/completions", json={"model": "m", **HELLO, **asked}, headers=HEADERS
            )
            assert same.json()["choices"][0]["message"]["content"] == whole["output"]["text"]


async def test_errors_have_its_shape_wherever_they_arise(tmp_path: Path) -> None:
    limits = Limits(requests_per_minute=4)
    async with cloud(tmp_path, json_answer(COMPLETION), key_limits=limits, route={"engine": "upstream"}) as c:

        async def refused(status: int, response: httpx2.Response) -> tuple[str, str]:
            error = response.json()
            assert response.status_code == status
            assert set(error) == {"code", "message", "request_id"}
            assert error["request_id"] == response.headers["x-request-id"]
            return error["code"], error["message"]

        assert (await refused(401, await c.client.post(TEXT_PATH, json=body())))[0] == "InvalidApiKey"
        code, message = await refused(400, await generate(c, enable_search=True))
        assert (code, "parameters.enable_search" in message) == ("InvalidParameter", True)
        code, message = await refused(400, await generate(c, repetition_penalty=1.1))
        assert (code, "parameters.repetition_penalty" in message) == ("InvalidParameter", True)
        unknown = await c.client.post(TEXT_PATH, json=body() | {"model": "none"}, headers=HEADERS)
        assert (await refused(404, unknown))[0] == "ModelNotFound"
        wrong_task = {"model": "m", "input": {"texts": ["x"]}}
        assert (await refused(400, await c.client.post(EMBEDDING_PATH, json=wrong_task, headers=HEADERS)))[0]
        asynchronous = await generate(c, {**HEADERS, "x-dashscope-async": "enable"})
        assert (await refused(400, asynchronous))[0] == "InvalidParameter"
        elsewhere = "/api/v1/services/aigc/text2image/image-synthesis"
        assert (await refused(404, await c.client.post(elsewhere, json={}, headers=HEADERS)))[0] == "ModelNotFound"
        assert (await refused(405, await c.client.get(TEXT_PATH, headers=HEADERS)))[0] == "UnsupportedOperation"
        for _ in range(4):
            assert (await generate(c)).status_code == 200
        limited = await generate(c)
        assert (await refused(429, limited))[0] == "Throttling.RateQuota"
        assert int(limited.headers["retry-after"]) > 0


async def test_a_stream_that_breaks_ends_in_an_error_event(tmp_path: Path) -> None:
    async def breaks(request: Received) -> None:
        request.write(STREAM_HEAD + framed(chunk_event()) + framed(chunk_event("said ")))
        request.transport.close()

    async with cloud(tmp_path, breaks, route={"engine": "upstream"}) as c:
        [(first, told), (last, error)] = events_of(await generate(c, SSE))
        assert (first, told["output"]["text"]) == ("result", "said ")
        assert (last, error["code"]) == ("error", "InternalError.Algo")
        await c.settled()
        assert c.spool.ended[0].outcome == "engine_error"
        assert c.spool.ended[0].usage.output_tokens == 1


async def test_a_streams_last_event_has_the_engines_count(tmp_path: Path) -> None:
    async with cloud(tmp_path, stream_answer(["a", "b", "c"])) as c:
        events = events_of(await generate(c, {**HEADERS, "accept": "text/event-stream"}))
        assert [event["output"]["text"] for _, event in events] == ["a", "ab", "abc", "abc"]
        assert events[-1][1]["usage"]["input_tokens"] == 5
        assert c.spool.ended[0].usage == Usage(5, 3)
        assert c.upstreams[0].received[0].json["stream"] is True
