"""A gateway on real sockets over documents made by hand, and a scripted upstream to put behind it."""

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import msgspec

from cloudcrest.gateway.fakes import MemorySpool
from cloudcrest.gateway.server import Gateway
from cloudcrest.gateway.settings import GatewaySettings
from cloudcrest.identity.api import KeyDocument, Limits, OrganizationDocument, ProjectDocument
from cloudcrest.infra.feed import FeedState
from cloudcrest.infra.feed_client import save_state
from cloudcrest.kernel.clock import SystemClock
from cloudcrest.serving.api import ReplicaEndpoint, RouteDocument

KEY = "sk-cc-test"
OTHER_KEY = "sk-cc-other"


def key_document(secret: str = KEY, **changes: Any) -> KeyDocument:
    """The key of project `proj_1` in organization `org_1`, with changes."""
    document = KeyDocument(
        id="key_" + secret[6:],
        key_sha256=hashlib.sha256(secret.encode()).hexdigest(),
        project_id="proj_1",
        organization_id="org_1",
    )
    return msgspec.structs.replace(document, **changes)


def route_document(name: str = "m", urls: tuple[str, ...] = (), **changes: Any) -> RouteDocument:
    """A chat route over these replicas, with changes."""
    document = RouteDocument(
        model_name=name,
        deployment_id="dep_" + name,
        task="chat",
        engine="vllm",
        context_tokens=4096,
        replicas=tuple(ReplicaEndpoint(f"rep_{i}", url, "replica-token", 4) for i, url in enumerate(urls)),
        created_at_unix_seconds=1_700_000_000,
    )
    return msgspec.structs.replace(document, **changes)


def feed_state(
    routes: list[RouteDocument],
    keys: list[KeyDocument] | None = None,
    organization_limits: Limits | None = None,
    suspended_reason: str | None = None,
    *,
    fallbacks: dict[str, tuple[str, ...]] | None = None,
) -> FeedState:
    """A feed with two organizations, their keys and these routes."""
    organizations = [
        OrganizationDocument("org_1", organization_limits or Limits(), suspended_reason),
        OrganizationDocument("org_2"),
    ]
    projects = [ProjectDocument("proj_1", "org_1", fallbacks=fallbacks or {}), ProjectDocument("proj_2", "org_2")]
    all_keys = keys or [key_document(), key_document(OTHER_KEY, organization_id="org_2", project_id="proj_2")]
    return FeedState(
        cursor="test.1",
        documents={
            "organization": {o.id: msgspec.to_builtins(o) for o in organizations},
            "project": {p.id: msgspec.to_builtins(p) for p in projects},
            "key": {k.id: msgspec.to_builtins(k) for k in all_keys},
            "route": {r.model_name: msgspec.to_builtins(r) for r in routes},
        },
    )


class RunningGateway:
    """A started gateway, its spool, and its feed."""

    def __init__(self, gateway: Gateway, spool: MemorySpool, state: FeedState) -> None:
        self.gateway = gateway
        self.spool = spool
        self.state = state

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.gateway.port}"

    def set_documents(self, kind: str, documents: dict[str, Any]) -> None:
        """Changes the gateway's snapshot as its feed would."""
        self.state.documents[kind] = {name: msgspec.to_builtins(document) for name, document in documents.items()}
        self.gateway.snapshot.update(self.state, {kind})


@contextlib.asynccontextmanager
async def running_gateway(folder: Path, state: FeedState, **settings: Any) -> AsyncIterator[RunningGateway]:
    """A gateway that serves `state` on a port of its own."""
    save_state(folder / "feed.json", state)
    values: dict[str, Any] = {"drain_seconds": 0.2, "replica_pause_seconds": 0.2, **settings}
    spool = MemorySpool()
    gateway = Gateway(
        GatewaySettings(
            name="gateway-0",
            region="local",
            spool_folder=folder / "spool",
            feed_state_path=folder / "feed.json",
            **values,
        ),
        spool,
        SystemClock(),
    )
    await gateway.start()
    try:
        yield RunningGateway(gateway, spool, state)
    finally:
        await gateway.stop()


class Received:
    """A request the scripted upstream got. `is_gone` is set when its connection ends."""

    def __init__(self, head: str, body: bytes, transport: asyncio.Transport, is_gone: asyncio.Event) -> None:
        self.head = head
        self.body = body
        self.transport = transport
        self.is_gone = is_gone

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def write(self, data: bytes) -> None:
        self.transport.write(data)


Script = Callable[[Received], Any]


class ScriptedUpstream:
    """An HTTP/1.1 server that answers each request with what `script` writes; the script may be async."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.received: list[Received] = []
        self.connections: list[asyncio.Transport] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.url = ""

    async def __aenter__(self) -> "ScriptedUpstream":
        self._server = await asyncio.get_running_loop().create_server(lambda: _Upstream(self), "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stops listening and drops every connection, as a killed engine does."""
        if self._server is not None:
            self._server.close()
        for task in self.tasks:
            task.cancel()
        for transport in self.connections:
            transport.abort()


class _Upstream(asyncio.Protocol):
    def __init__(self, upstream: ScriptedUpstream) -> None:
        self._upstream = upstream
        self._buffer = b""
        self._is_gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._upstream.connections.append(self._transport)

    def connection_lost(self, _: Exception | None) -> None:
        self._is_gone.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, rest = self._buffer.partition(b"\r\n\r\n")
            match = re.search(rb"\r\ncontent-length: (\d+)", head.lower())
            length = int(match[1]) if match else 0
            if b"\r\ntransfer-encoding: chunked" in head.lower():
                if not rest.endswith(b"0\r\n\r\n"):
                    return
                length = len(rest)
            if len(rest) < length:
                return
            self._buffer = rest[length:]
            request = Received(head.decode("latin-1"), rest[:length], self._transport, self._is_gone)
            self._upstream.received.append(request)
            answer = self._upstream.script(request)
            if asyncio.iscoroutine(answer):
                task = asyncio.get_running_loop().create_task(answer)
                self._upstream.tasks.add(task)


def json_answer(document: object, status: int = 200) -> Script:
    """Answers everything with this JSON."""
    body = json.dumps(document, separators=(",", ":")).encode()

    def answer(request: Received) -> None:
        request.write(
            b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (status, len(body), body)
        )

    return answer


def usage(prompt: int = 5, completion: int = 7, cached: int = 0) -> dict[str, Any]:
    """A usage object."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


COMPLETION: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": usage(),
}


def chunk_event(text: str | None = None, **extra: Any) -> bytes:
    """One streamed chunk of a chat."""
    delta = {"role": "assistant", "content": None} if text is None else {"content": text}
    document: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": None}],
    }
    return b"data: " + json.dumps(document | extra, separators=(",", ":")).encode() + b"\n\n"


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def framed(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def stream_answer(texts: list[str], tail: bytes | None = None) -> Script:
    """Streams these texts, then a usage chunk and [DONE] (or `tail`)."""
    end = tail if tail is not None else chunk_event(choices=[], usage=usage(5, len(texts))) + b"data: [DONE]\n\n"

    async def answer(request: Received) -> None:
        request.write(STREAM_HEAD + framed(chunk_event()))
        for text in texts:
            request.write(framed(chunk_event(text)))
            await asyncio.sleep(0)
        request.write(framed(end) + b"0\r\n\r\n")

    return answer
