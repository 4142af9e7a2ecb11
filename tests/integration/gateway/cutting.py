"""A wire that can be cut: a proxy in front of a replica that drops a generation after so many bytes of its answer."""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx2

from cloudcrest.gateway.fakes import MemorySpool
from tests.support.gateway_cloud import KEY, RunningGateway
from tests.support.replicas import Replica

NAME = "public-name"
_GENERATIONS = (b"POST /v1/chat/completions", b"POST /v1/completions")


class Wire:
    """What stands before one replica. `cuts`: after how many bytes each of the next generations is cut, None: never."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._host, self._port = parts.hostname or "", parts.port or 0
        self.cuts: deque[int | None] = deque()
        self.generations = 0
        self.answered_bytes = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(self._host, self._port)
        except ConnectionError:
            writer.close()
            return
        left: int | None = None

        async def forward() -> None:
            nonlocal left
            while data := await reader.read(65_536):
                if data.startswith(_GENERATIONS):
                    self.generations += 1
                    left = self.cuts.popleft() if self.cuts else None
                upstream_writer.write(data)

        forwarding = asyncio.ensure_future(forward())
        try:
            while data := await upstream_reader.read(65_536):
                writer.write(data if left is None else data[:left])
                self.answered_bytes += len(data)
                if left is not None:
                    left -= len(data)
                    if left <= 0:
                        await writer.drain()
                        writer.close()
                        return
        except (ConnectionError, RuntimeError):  # uvloop's word for a closed connection
            pass
        finally:
            forwarding.cancel()
            for end in (writer, upstream_writer):
                with contextlib.suppress(ConnectionError, RuntimeError):
                    end.close()


@asynccontextmanager
async def wire(target: str) -> AsyncIterator[Wire]:
    """A wire to `target` on a port of its own."""
    made = Wire(target)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()


class Answer:
    """A stream as its client sees it."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.events = [json.loads(line[6:]) for line in content.splitlines() if line.startswith(b"data: {")]
        chunks = [event for event in self.events if "choices" in event]
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        self.ids = {chunk["id"] for chunk in chunks}
        self.created = {chunk["created"] for chunk in chunks}
        self.roles = [choice["delta"]["role"] for choice in choices if "role" in choice.get("delta", {})]
        self.texts = [choice["delta"].get("content") if "delta" in choice else choice["text"] for choice in choices]
        self.text = "".join(text for text in self.texts if text)
        self.finish_reasons = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
        self.usages = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
        self.error = next((event["error"] for event in self.events if "error" in event), None)
        self.is_whole = content.endswith(b"data: [DONE]\n\n") and content.count(b"[DONE]") == 1

    def outline(self) -> tuple[Any, ...]:
        """What two runs of the same request have in common."""
        return self.text, self.roles, self.finish_reasons, self.usages, len(self.ids), len(self.created), self.is_whole


class Cloud:
    """A gateway before replicas of `NAME`, each behind a wire that can be cut."""

    def __init__(self, gateway: RunningGateway, replicas: list[Replica], wires: list[Wire]) -> None:
        self.gateway = gateway
        self.replicas = replicas
        self.wires = wires
        self.client = httpx2.AsyncClient(
            base_url=gateway.url, headers={"authorization": f"Bearer {KEY}"}, timeout=60, trust_env=False
        )

    @property
    def spool(self) -> MemorySpool:
        return self.gateway.spool

    def cut(self, *after_bytes: int | None) -> None:
        """The next generations are cut after so many bytes, wherever they go."""
        cuts = iter(after_bytes)
        shared = self.wires[0].cuts
        shared.clear()
        shared.extend(cuts)

    async def stream(self, path: str = "/v1/chat/completions", **fields: Any) -> Answer:
        body = {"model": NAME, "stream": True, "temperature": 0, "stream_options": {"include_usage": True}} | fields
        response = await self.client.post(path, json={name: value for name, value in body.items() if value is not None})
        return Answer(response.content)

    async def resumes(self) -> int:
        lines = (await self.client.get("/metrics")).text.splitlines()
        return sum(int(line.split()[-1]) for line in lines if line.startswith("cloudcrest_gateway_resumes_total{"))
