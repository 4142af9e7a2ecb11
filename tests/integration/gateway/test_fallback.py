"""Other models answer where the one that was asked for cannot, for projects that want that."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cloudcrest.identity.api import Limits
from tests.integration.gateway.scripted import CHAT, HELLO, error_of
from tests.support.gateway_cloud import (
    COMPLETION,
    KEY,
    STREAM_HEAD,
    Received,
    RunningGateway,
    ScriptedUpstream,
    chunk_event,
    feed_state,
    framed,
    json_answer,
    key_document,
    route_document,
    running_gateway,
    stream_answer,
)
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio
Script = Callable[[Received], Any]


class Cloud:
    """Models of one scripted replica each: `m`, which falls back to the others, in order."""

    def __init__(
        self, running: RunningGateway, engines: dict[str, ScriptedUpstream], client: httpx2.AsyncClient
    ) -> None:
        self.running = running
        self.engines = engines
        self.client = client

    async def chat(self, **fields: Any) -> httpx2.Response:
        return await self.client.post(CHAT, json=HELLO | fields)

    @property
    def charged(self) -> list[tuple[str, str, str, int]]:
        """(model, deployment, outcome, output tokens) of each event."""
        ended = self.running.spool.ended
        return [(e.model, e.deployment_id, e.outcome, e.usage.output_tokens) for e in ended]


@asynccontextmanager
async def cloud(
    folder: Path,
    models: dict[str, Script | None],
    *,
    routes: dict[str, dict[str, Any]] | None = None,
    key: dict[str, Any] | None = None,
    fallbacks: dict[str, tuple[str, ...]] | None = None,
) -> AsyncIterator[Cloud]:
    """`models`: by name what its replica does; None: it has none ready. `routes`: changes of a model's document."""
    engines = {name: ScriptedUpstream(script) for name, script in models.items() if script is not None}
    for engine in engines.values():
        await engine.__aenter__()
    documents = [
        route_document(name, (engines[name].url,) if name in engines else (), **(routes or {}).get(name, {}))
        for name in models
    ]
    others = tuple(name for name in models if name != "m")
    state = feed_state(documents, [key_document(**(key or {}))], fallbacks=fallbacks or {"m": others})
    async with running_gateway(folder, state, replica_wait_seconds=0.3) as running:
        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx2.AsyncClient(base_url=running.url, headers=headers, timeout=20, trust_env=False) as client:
            yield Cloud(running, engines, client)
    for engine in engines.values():
        engine.stop()


def answers(name: str) -> Script:
    """A whole answer or a stream, as is asked, by a model of this name."""
    whole = json_answer(COMPLETION | {"model": name})
    stream = stream_answer(["a", "b"])

    def answer(request: Received) -> Any:
        assert request.json["model"] == name
        return stream(request) if request.json.get("stream") else whole(request)

    return answer


def die(request: Received) -> None:
    request.transport.close()


def refuse(status: int) -> Script:
    return json_answer({"error": {"message": "no"}}, status)


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("failing", [None, die, refuse(500), refuse(503), refuse(429)])
async def test_the_next_model_answers_in_its_own_name_and_at_its_own_price(
    tmp_path: Path, failing: Script | None, is_stream: bool
) -> None:
    async with cloud(tmp_path, {"m": failing, "spare": answers("spare")}) as c:
        response = await c.chat(stream=is_stream)
        assert response.status_code == 200
        assert response.headers["x-cloudcrest-fallback"] == "spare"
        if is_stream:
            assert response.content.endswith(b"data: [DONE]\n\n")
        else:
            assert response.json()["model"] == "spare"
        assert c.charged == [("spare", "dep_spare", "completed", 2 if is_stream else 7)]
        assert {event.id for event in c.running.spool.opened} == {response.headers["x-request-id"]}
        assert "cloudcrest_gateway_requests_in_flight 0" in (await c.client.get("/metrics")).text
        assert 'fallbacks_total{model="spare"} 1' in (await c.client.get("/metrics")).text


async def test_a_lost_replica_is_waited_for_where_no_other_model_is_ready(tmp_path: Path) -> None:
    async with cloud(tmp_path, {"m": die, "spare": None}) as c:
        asking = asyncio.create_task(c.chat())
        await until_async(lambda: c.engines["m"].received, "the engine had it")
        c.engines["m"].script = answers("m")
        assert (await asking).json()["model"] == "m"
        assert c.charged == [("m", "dep_m", "completed", 7)]


async def test_a_model_that_answers_is_left_alone(tmp_path: Path) -> None:
    async with cloud(tmp_path, {"m": answers("m"), "spare": answers("spare")}) as c:
        response = await c.chat()
        assert response.json()["model"] == "m"
        assert "x-cloudcrest-fallback" not in response.headers
        assert c.charged == [("m", "dep_m", "completed", 7)]


async def test_a_model_that_is_gone_falls_back_too_and_one_that_never_was_does_not(tmp_path: Path) -> None:
    async with cloud(tmp_path, {"spare": answers("spare")}) as c:
        assert (await c.chat()).json()["model"] == "spare"
        response = await c.chat(model="n")
        assert (response.status_code, error_of(response)["code"]) == (404, "model_not_found")


async def test_what_the_caller_did_wrong_is_no_reason(tmp_path: Path) -> None:
    async with cloud(tmp_path, {"m": refuse(400), "spare": answers("spare")}) as c:
        assert (await c.chat()).status_code == 400
        assert (await c.chat(temperature=7)).status_code == 400
        assert c.engines["spare"].received == []


async def test_what_cannot_take_the_request_is_passed_over(tmp_path: Path) -> None:
    asked = {"repetition_penalty": 1.1}
    routes = {"vectors": {"task": "embedding"}, "lax": {"engine": "upstream"}}
    models: dict[str, Script | None] = {
        "m": None,
        "vectors": answers("vectors"),
        "lax": answers("lax"),
        "narrow": refuse(400),
        "last": answers("last"),
    }
    async with cloud(tmp_path, models, routes=routes) as c:
        response = await c.chat(**asked)
        assert response.json()["model"] == response.headers["x-cloudcrest-fallback"] == "last"
        assert len(c.engines["narrow"].received) == 1
        assert c.engines["vectors"].received == c.engines["lax"].received == []
        assert c.charged == [("last", "dep_last", "completed", 7)]


async def test_a_key_falls_back_only_to_what_it_may_use(tmp_path: Path) -> None:
    models: dict[str, Script | None] = {"m": None, "secret": answers("secret"), "theirs": answers("theirs")}
    routes = {"theirs": {"organization_id": "org_2"}}
    async with cloud(tmp_path, models, routes=routes, key={"models": ("m", "theirs")}) as c:
        response = await c.chat()
        assert (response.status_code, error_of(response)["code"]) == (503, "model_unavailable")
        assert "'m'" in error_of(response)["message"]
        assert "x-cloudcrest-fallback" not in response.headers
        assert (await c.chat(model="secret")).status_code == 403


async def test_limits_hold_for_the_model_that_answers_and_a_place_is_held_once(tmp_path: Path) -> None:
    routes = {"spare": {"limits": Limits(requests_per_minute=1)}}
    key = {"limits": Limits(concurrent_requests=1)}
    async with cloud(tmp_path, {"m": refuse(500), "spare": answers("spare")}, routes=routes, key=key) as c:
        first = await c.chat()
        assert first.json()["model"] == "spare"
        assert len(first.headers.get_list("x-ratelimit-limit-requests")) == 1
        second = await c.chat()
        assert (second.status_code, error_of(second)["code"]) == (502, "engine_error")
        assert "x-cloudcrest-fallback" not in second.headers
        assert [each[:3] for each in c.charged] == [("spare", "dep_spare", "completed"), ("m", "dep_m", "engine_error")]
        c.engines["m"].script = answers("m")
        assert (await c.chat()).json()["model"] == "m"


async def test_there_are_no_circles(tmp_path: Path) -> None:
    fallbacks = {"m": ("a",), "a": ("b", "m"), "b": ("m",)}
    async with cloud(tmp_path, {"m": refuse(500), "a": refuse(500), "b": answers("b")}, fallbacks=fallbacks) as c:
        assert (await c.chat()).status_code == 502
        assert [len(engine.received) for engine in c.engines.values()] == [1, 1, 0]


async def test_several_choices_fall_back_together(tmp_path: Path) -> None:
    simulated = {"engine": "simulated"}
    async with cloud(tmp_path, {"m": die, "spare": answers("spare")}, routes={"m": simulated, "spare": simulated}) as c:
        response = await c.chat(n=2)
        assert [choice["index"] for choice in response.json()["choices"]] == [0, 1]
        assert c.charged == [("spare", "dep_spare", "completed", 14)]


async def test_an_answer_that_has_begun_stays_with_its_model(tmp_path: Path) -> None:
    async def begin(request: Received) -> None:
        request.write(STREAM_HEAD + framed(chunk_event()) + framed(chunk_event("a")))
        request.transport.close()

    async with cloud(tmp_path, {"m": begin, "spare": answers("spare")}) as c:
        response = await c.chat(stream=True)
        last = json.loads(response.text.split("\n\n")[-2].removeprefix("data: "))
        assert last["error"]["code"] == "engine_error"
        assert c.engines["spare"].received == []
        await until_async(lambda: c.running.spool.ended, "it is charged")
        assert c.charged[0][:3] == ("m", "dep_m", "engine_error")


async def test_a_client_that_leaves_ends_the_fallback(tmp_path: Path) -> None:
    async with cloud(tmp_path, {"m": refuse(500), "spare": lambda _: None}) as c:
        asking = asyncio.create_task(c.chat())
        await until_async(lambda: c.engines["spare"].received, "the fallback is at work")
        asking.cancel()
        async with asyncio.timeout(5):
            await c.engines["spare"].received[0].is_gone.wait()
        await until_async(lambda: c.running.spool.ended, "it is charged")
        assert c.charged[0][:3] == ("spare", "dep_spare", "cancelled")


async def test_the_deadline_is_one_for_all(tmp_path: Path) -> None:
    async with cloud(tmp_path, {"m": die, "spare": lambda _: None}) as c:
        response = await c.client.post(CHAT, json=HELLO, headers={"x-request-timeout-ms": "1000"})
        assert (response.status_code, error_of(response)["code"]) == (504, "deadline_exceeded")
        assert "1 s" in error_of(response)["message"]
        await until_async(lambda: c.running.spool.ended, "it is charged")
        assert c.charged[0][:3] == ("spare", "dep_spare", "timed_out")


async def test_without_a_spool_nothing_else_is_tried(tmp_path: Path) -> None:
    from cloudcrest.kernel.errors import Unavailable

    async with cloud(tmp_path, {"m": answers("m"), "spare": answers("spare")}) as c:
        c.running.spool.fault = Unavailable("the disk is full")
        response = await c.chat()
        assert (response.status_code, error_of(response)["code"]) == (503, "spool_unavailable")
        assert c.engines["spare"].received == []
