"""Several deployments under one model name: shares, differences between their engines, and what is charged."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from cloudcrest.kernel.usage import Usage
from cloudcrest.serving.engines.simulated import SimulatedEngine
from tests.integration.gateway.cutting import wire
from tests.integration.gateway.scripted import CHAT, HELLO, error_of
from tests.support.gateway_cloud import (
    COMPLETION,
    KEY,
    Received,
    RunningGateway,
    ScriptedUpstream,
    feed_state,
    json_answer,
    route_document,
    running_gateway,
)
from tests.support.replicas import deployment, running

pytestmark = pytest.mark.anyio
Script = Callable[[Received], Any]


class Cloud:
    """Deployments `dep_a`, `dep_b`, … of the model `m`, of one scripted replica each."""

    def __init__(
        self, gateway: RunningGateway, engines: dict[str, ScriptedUpstream], client: httpx2.AsyncClient
    ) -> None:
        self.gateway = gateway
        self.engines = engines
        self.client = client

    async def chat(self, **fields: Any) -> httpx2.Response:
        return await self.client.post(CHAT, json=HELLO | fields)

    def weigh(self, **weights: int) -> None:
        """Sets weights as the region publishes them."""
        for name, weight in weights.items():
            body = self.gateway.state.documents["route"]["dep_" + name]
            self.gateway.state.documents["route"]["dep_" + name] = body | {"weight": weight}
        self.gateway.gateway.snapshot.update(self.gateway.state, {"route"})

    def served(self) -> Counter[str]:
        return Counter(event.deployment_id for event in self.gateway.spool.ended)


@asynccontextmanager
async def cloud(
    folder: Path, deployments: dict[str, Script], routes: dict[str, dict[str, Any]] | None = None
) -> AsyncIterator[Cloud]:
    """`routes`: changes of a deployment's document."""
    engines = {name: ScriptedUpstream(script) for name, script in deployments.items()}
    state = feed_state([])
    for name, engine in engines.items():
        await engine.__aenter__()
        changes = {"deployment_id": "dep_" + name} | (routes or {}).get(name, {})
        document = route_document("m", (engine.url,), **changes)
        state.documents["route"]["dep_" + name] = msgspec.to_builtins(document)
    async with running_gateway(folder, state, replica_wait_seconds=0.3) as gateway:
        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx2.AsyncClient(base_url=gateway.url, headers=headers, timeout=20, trust_env=False) as client:
            yield Cloud(gateway, engines, client)
    for engine in engines.values():
        engine.stop()


def refuse(status: int) -> Script:
    return json_answer({"error": {"message": "no"}}, status)


async def test_requests_are_shared_by_weight_and_charged_where_they_were_answered(tmp_path: Path) -> None:
    answer = json_answer(COMPLETION)
    async with cloud(tmp_path, {"a": answer, "b": answer}, {"a": {"weight": 90}, "b": {"weight": 10}}) as c:
        for number in range(100):
            message = {"role": "user", "content": f"question {number}"}
            assert (await c.chat(messages=[message])).status_code == 200
        served = c.served()
        assert abs(served["dep_b"] - 10) <= 16
        assert served["dep_a"] + served["dep_b"] == 100
        assert {event.model for event in c.gateway.spool.ended} == {"m"}
        models = (await c.client.get("/v1/models")).json()["data"]
        assert [model["id"] for model in models] == ["m"]


async def test_promoting_and_rolling_back_is_setting_weights(tmp_path: Path) -> None:
    answer = json_answer(COMPLETION)
    async with cloud(tmp_path, {"a": answer, "b": answer}, {"b": {"weight": 0}}) as c:
        for weights, expected in (({}, "dep_a"), ({"b": 100, "a": 0}, "dep_b"), ({"a": 100, "b": 0}, "dep_a")):
            c.weigh(**weights)
            c.gateway.spool.ended.clear()
            await asyncio.gather(*[c.chat() for _ in range(10)])
            assert c.served() == {expected: 10}
        c.weigh(a=0, b=0)
        response = await c.chat()
        assert (response.status_code, error_of(response)["code"]) == (503, "model_unavailable")
        assert "none of its deployments has a weight" in error_of(response)["message"]


async def test_a_conversation_stays_with_its_deployment(tmp_path: Path) -> None:
    answer = json_answer(COMPLETION)
    async with cloud(tmp_path, {"a": answer, "b": answer}) as c:
        messages: list[dict[str, str]] = []
        for number in range(6):
            messages.append({"role": "user", "content": f"question {number}"})
            assert (await c.chat(messages=messages)).status_code == 200
            messages.append({"role": "assistant", "content": "hi"})
        assert len(c.served()) == 1


@pytest.mark.parametrize("failing", [refuse(500), refuse(400), lambda request: request.transport.close()])
async def test_what_one_deployment_cannot_answer_another_does(tmp_path: Path, failing: Script) -> None:
    async with cloud(tmp_path, {"a": failing, "b": json_answer(COMPLETION)}) as c:
        for number in range(8):
            response = await c.chat(messages=[{"role": "user", "content": f"question {number}"}])
            assert response.status_code == 200
            assert "x-cloudcrest-fallback" not in response.headers
        assert c.served() == {"dep_b": 8}
        assert len(c.engines["a"].received) > 0
        assert "cloudcrest_gateway_requests_in_flight 0" in (await c.client.get("/metrics")).text


async def test_a_field_that_one_engine_does_not_take_goes_to_the_other(tmp_path: Path) -> None:
    routes = {"a": {"engine": "llamacpp", "weight": 1_000}, "b": {"engine": "upstream", "weight": 1}}
    async with cloud(tmp_path, {"a": json_answer(COMPLETION), "b": json_answer(COMPLETION)}, routes) as c:
        for _ in range(5):
            assert (await c.chat(reasoning_effort="low")).status_code == 200
        assert c.served() == {"dep_b": 5}
        c.weigh(b=0)
        response = await c.chat(reasoning_effort="low")
        assert (response.status_code, error_of(response)["param"]) == (400, "reasoning_effort")


async def test_an_engine_is_sent_what_it_takes(tmp_path: Path) -> None:
    routes = {"a": {"engine": "llamacpp", "context_tokens": 512}, "b": {"engine": "upstream", "context_tokens": 9_000}}
    async with cloud(tmp_path, {"a": json_answer(COMPLETION), "b": json_answer(COMPLETION)}, routes) as c:
        for number in range(12):
            fields = {"max_completion_tokens": 600, "messages": [{"role": "user", "content": f"question {number}"}]}
            assert (await c.chat(**fields)).status_code == 200
        sent = {name: [request.json for request in engine.received] for name, engine in c.engines.items()}
        assert {body["max_tokens"] for body in sent["a"]} == {512}
        assert {body["max_completion_tokens"] for body in sent["b"]} == {600}


async def test_a_lost_stream_goes_on_at_its_own_deployment(tmp_path: Path) -> None:
    """The deployments say different things: an answer of both would be neither's."""
    async with AsyncExitStack() as stack:
        state = feed_state([])
        wires = []
        for name, tokens in (("a", 40), ("b", 25)):
            document = deployment("simulated", options={"decode_tokens_per_second": 0.0, "answer_tokens": tokens})
            replicas = [await stack.enter_async_context(running(SimulatedEngine(), document)) for _ in range(2)]
            own = [await stack.enter_async_context(wire(replica.url)) for replica in replicas]
            wires += own
            route = route_document(
                "m", tuple(w.url for w in own), engine="simulated", context_tokens=512, deployment_id="dep_" + name
            )
            state.documents["route"]["dep_" + name] = msgspec.to_builtins(route)
        for one in wires:
            one.cuts = wires[0].cuts
        gateway = await stack.enter_async_context(running_gateway(tmp_path, state, replica_pause_seconds=0.0))
        headers = {"authorization": f"Bearer {KEY}"}
        client = await stack.enter_async_context(
            httpx2.AsyncClient(base_url=gateway.url, headers=headers, timeout=60, trust_env=False)
        )
        for number in range(20):
            wires[0].cuts.append(700 + 40 * number)
            message = {"role": "user", "content": f"question {number}"}
            body = {"model": "m", "stream": True, "messages": [message], "stream_options": {"include_usage": True}}
            response = await client.post(CHAT, json=body)
            assert response.content.endswith(b"data: [DONE]\n\n"), response.text
            event = gateway.spool.ended[-1]
            assert event.outcome == "completed"
            assert event.usage == Usage(event.usage.input_tokens, {"dep_a": 40, "dep_b": 25}[event.deployment_id])
        assert len({event.deployment_id for event in gateway.spool.ended}) == 2
        page = (await client.get("/metrics")).text
        assert sum(int(line.split()[-1]) for line in page.splitlines() if "gateway_resumes_total{" in line) > 10
