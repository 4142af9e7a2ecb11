"""A gateway with scripted replicas behind it and a client with a key in front."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from cloudcrest.gateway.fakes import MemorySpool
from cloudcrest.identity.api import Limits
from tests.support.gateway_cloud import (
    KEY,
    OTHER_KEY,
    Received,
    RunningGateway,
    ScriptedUpstream,
    feed_state,
    key_document,
    route_document,
    running_gateway,
)
from tests.support.waiting import until_async

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


class Cloud:
    """A gateway, its scripted replicas and a client with a key."""

    def __init__(self, running: RunningGateway, upstreams: list[ScriptedUpstream], client: httpx2.AsyncClient) -> None:
        self.running = running
        self.upstreams = upstreams
        self.client = client

    @property
    def spool(self) -> MemorySpool:
        return self.running.spool

    async def chat(self, key: str = KEY, **changes: Any) -> httpx2.Response:
        return await self.client.post(CHAT, json=HELLO | changes, headers={"authorization": f"Bearer {key}"})

    async def settled(self) -> None:
        await until_async(lambda: len(self.spool.opened) == len(self.spool.ended), "every record has its end")


@asynccontextmanager
async def cloud(
    folder: Path,
    *scripts: Callable[[Received], Any],
    limits: Limits | None = None,
    key_limits: Limits | None = None,
    route: dict[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[Cloud]:
    upstreams = [ScriptedUpstream(script) for script in scripts]
    for upstream in upstreams:
        await upstream.__aenter__()
    state = feed_state(
        [route_document(urls=tuple(upstream.url for upstream in upstreams), **(route or {}))],
        keys=[
            key_document(limits=key_limits or Limits()),
            key_document(OTHER_KEY, organization_id="org_2", project_id="proj_2", models=("other",)),
        ],
        organization_limits=limits,
    )
    async with running_gateway(folder, state, **settings) as running:
        async with httpx2.AsyncClient(base_url=running.url, timeout=20, trust_env=False) as client:
            yield Cloud(running, upstreams, client)
        for upstream in upstreams:
            upstream.stop()


def error_of(response: httpx2.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error
