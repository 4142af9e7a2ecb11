"""What an upstream replica makes of a provider's faults: a provider scripted by hand, on a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from cloudcrest.infra.sealing import Sealer
from cloudcrest.serving.engines.upstream import UpstreamEngine
from cloudcrest.serving.launching import free_port
from cloudcrest.serving.records import EngineOptions
from tests.support.replicas import Replica, deployment, running

pytestmark = pytest.mark.anyio

BODY = {"model": "public-name", "messages": [{"role": "user", "content": "hi"}]}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


class Provider:
    """Answers with `answer` (or its stream), and keeps what it was asked."""

    def __init__(self) -> None:
        self.answer: Response | None = None
        self.events: list[dict[str, Any]] = []
        self.is_whole = True
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []

    async def models(self, _: Request) -> Response:
        return JSONResponse({"data": []})

    async def chat(self, request: Request) -> Response:
        self.asked.append(await request.json())
        self.keys.append(request.headers.get("authorization"))
        return self.answer or StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _stream(self) -> AsyncIterator[bytes]:
        for event in self.events:
            yield b"data: " + json.dumps(event).encode() + b"\n\n"
        if self.is_whole:
            yield b"data: [DONE]\n\n"


@asynccontextmanager
async def listening(provider: Provider) -> AsyncIterator[str]:
    port = free_port()
    routes = [
        Route("/v1/models", provider.models),
        Route("/v1/chat/completions", provider.chat, methods=["POST"]),
    ]
    config = uvicorn.Config(Starlette(routes=routes), port=port, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    yield f"http://127.0.0.1:{port}/v1"
    server.should_exit = True
    await serving


@asynccontextmanager
async def upstream(folder: Path, provider: Provider) -> AsyncIterator[Replica]:
    master_key = Sealer.new_master_key()
    secrets_path = folder / "secrets.json"
    secrets_path.write_bytes(msgspec.json.encode({"master_key": master_key}))
    async with listening(provider) as base_url:
        options: EngineOptions = {
            "base_url": base_url,
            "model": "provider-model",
            "api_key": Sealer(master_key).seal("provider-key"),
        }
        engine = UpstreamEngine(secrets_path, ("127.0.0.1",))
        async with running(engine, deployment("upstream", options=options)) as replica:
            yield replica


async def test_rewrites_the_model_and_injects_the_key(tmp_path: Path) -> None:
    provider = Provider()
    provider.answer = JSONResponse({"model": "provider-model-0613", "choices": [], "usage": USAGE})
    async with upstream(tmp_path, provider) as replica:
        answer = (await replica.client.post("/v1/chat/completions", json=BODY)).json()
        assert await replica.tokens() == (3, 2)
    assert answer["model"] == "public-name"
    assert provider.asked[0]["model"] == "provider-model"
    assert provider.keys == ["Bearer provider-key"]


async def test_always_asks_a_stream_for_usage_and_gives_it_to_who_wants_it(tmp_path: Path) -> None:
    provider = Provider()
    provider.events = [
        {"model": "provider-model", "choices": [{"index": 0, "delta": {"content": "a"}}]},
        {"model": "provider-model", "choices": [], "usage": USAGE},
    ]
    async with upstream(tmp_path, provider) as replica:
        plain = await replica.client.post("/v1/chat/completions", json=BODY | {"stream": True})
        options = {"stream": True, "stream_options": {"include_usage": True}}
        full = await replica.client.post("/v1/chat/completions", json=BODY | options)
    assert provider.asked[0]["stream_options"] == {"include_usage": True}
    assert "usage" not in plain.text
    assert full.text.count("usage") == 1
    assert "provider-model" not in full.text
    assert full.text.endswith("data: [DONE]\n\n")


async def test_a_stream_that_breaks_does_not_look_whole(tmp_path: Path) -> None:
    provider = Provider()
    provider.events = [{"model": "provider-model", "choices": [{"index": 0, "delta": {"content": "a"}}]}]
    provider.is_whole = False
    async with upstream(tmp_path, provider) as replica:
        answer = await replica.client.post("/v1/chat/completions", json=BODY | {"stream": True})
    assert "[DONE]" not in answer.text


@pytest.mark.parametrize(
    ("status", "headers", "expected", "retry_after"),
    [
        (429, {"retry-after": "7"}, 429, "7"),
        (401, {}, 502, None),
        (403, {}, 502, None),
        (404, {}, 502, None),
        (500, {}, 502, None),
        (400, {}, 400, None),
    ],
)
async def test_maps_refusals(
    tmp_path: Path, status: int, headers: dict[str, str], expected: int, retry_after: str | None
) -> None:
    provider = Provider()
    error = {"error": {"message": "provider-model says no", "type": "x", "code": "some_code", "param": "messages"}}
    provider.answer = JSONResponse(error, status_code=status, headers=headers)
    async with upstream(tmp_path, provider) as replica:
        answer = await replica.client.post("/v1/chat/completions", json=BODY)
        assert answer.status_code == expected
        assert answer.headers.get("retry-after") == retry_after
        assert "provider-model" not in answer.text
        if status == 401:
            probe = await replica.engine.probe(replica.client, replica.url, replica.token)
            assert not probe.is_ready
            assert probe.is_alive


async def test_an_answer_that_is_no_json_is_an_engine_fault(tmp_path: Path) -> None:
    provider = Provider()
    provider.answer = Response("<html>sorry</html>")
    async with upstream(tmp_path, provider) as replica:
        answer = await replica.client.post("/v1/chat/completions", json=BODY)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_error"


async def test_refuses_to_call_into_this_network(tmp_path: Path) -> None:
    provider = Provider()
    async with listening(provider) as base_url:
        document = deployment("upstream", options={"base_url": base_url})
        with pytest.raises(AssertionError, match="inside this network"):
            async with running(UpstreamEngine(None), document, refusal="inside this network"):
                pass
    assert provider.asked == []
