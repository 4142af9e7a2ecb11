"""Pass-through: the management API and the console to the control plane, what tenants store to the content service,
what they ask of their jobs to the region service.

Bodies stream both ways with backpressure, so nothing is gathered here. With the control plane away the answer is an
RFC 9457 problem, with a service of the region away an error in OpenAI's shape; inference does not notice.
"""

import asyncio
import posixpath
import re

import msgspec

from cloudcrest.gateway.behalf import INTERNAL_HEADERS, identity_lines
from cloudcrest.gateway.call import Calls
from cloudcrest.gateway.connection import Upstream, UpstreamConnection
from cloudcrest.gateway.http1 import HOP_BY_HOP, LAST_CHUNK, Headers, chunk, listed
from cloudcrest.gateway.request import Connection, Request
from cloudcrest.identity.api import KeyDocument
from cloudcrest.kernel.errors import Unavailable

RETRY_AFTER_SECONDS = 3
_NEVER_PASSED = INTERNAL_HEADERS | {
    b"host", b"content-length", b"expect", b"forwarded", b"x-request-id", b"x-real-ip", b"date"
}  # fmt: skip
_SAFE = frozenset((b"GET", b"HEAD", b"OPTIONS"))
_STATUS_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)


def is_internal(path: str) -> bool:
    """Whether a decoded path reaches what only the links between our own processes may; however it is spelled."""
    normal = posixpath.normpath("/" + path.replace("\\", "/").lstrip("/")).lower()
    return normal == "/internal" or normal.startswith("/internal/")


class ProxyExchange:
    """One request passed through."""

    def __init__(self, calls: Calls, upstream: Upstream, connection: Connection, request: Request) -> None:
        self._calls = calls
        self._upstream = upstream
        self._client = connection
        self._request = request
        self._connection: UpstreamConnection | None = None
        self._dialing: asyncio.Task[None] | None = None
        self._unsent: list[bytes] = []
        self._is_body_whole = not request.is_streamed
        self._has_begun = False
        self._is_chunked_answer = False
        self._is_done = False
        self._is_paused = False
        self._was_active = True
        self._active_at = 0.0

    def start(self) -> None:
        """Sends the head on, and what is there of the body."""
        if self._request.body:
            self._unsent.append(self._request.body)
        self._calls.active.add(self)
        # An idle connection may be closing just now; only what may be sent twice is sent over one.
        may_repeat = self._request.method in _SAFE and not self._has_body()
        connection = self._upstream.take() if may_repeat else None
        if connection is not None:
            self._send(connection)
            return
        self._client.hold_body(True)
        self._dialing = self._calls.spawn(self._dial())

    # the client's side

    def client_gone(self) -> None:
        self._end()
        if self._dialing is not None:
            self._dialing.cancel()
        if self._connection is not None:
            self._connection.close()

    def client_paused(self) -> None:
        self._is_paused = True
        if self._connection is not None:
            self._connection.pause()

    def client_resumed(self) -> None:
        self._is_paused = False
        if self._connection is not None:
            self._connection.resume()

    def deadline_passed(self) -> None:
        """What is passed through has `proxy_timeout_seconds`, and no deadline."""

    def body_data(self, data: bytes) -> None:
        self._was_active = True
        if self._connection is None:
            self._unsent.append(data)
        else:
            self._connection.write(chunk(data) if self._request.is_chunked else data)

    def body_end(self) -> None:
        self._is_body_whole = True
        if self._connection is not None:
            self._end_body(self._connection)

    # the upstream's side

    def answer_head(self, status: int, head: bytes) -> None:
        self._has_begun = True
        length = _STATUS_LENGTH.search(head)
        lines: Headers = []
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            lines.append((name.strip().lower(), value.strip()))
        named = set().union(*(listed(value) for name, value in lines if name == b"connection"))
        dropped = HOP_BY_HOP | named | {b"content-length", b"date", b"x-request-id"}
        kept = b"".join(b"%b: %b\r\n" % (name, value) for name, value in lines if name not in dropped)
        if length is not None:
            kept += b"content-length: %b\r\n" % length[1]
        elif not (self._request.is_head or status in (204, 304)):
            self._is_chunked_answer = not self._request.is_http_1_0
            kept += b"transfer-encoding: chunked\r\n" if self._is_chunked_answer else b""
        self._client.start_answer(status, kept)

    def answer_data(self, data: bytes) -> None:
        self._was_active = True
        self._client.write(chunk(data) if self._is_chunked_answer else data)

    def answer_end(self) -> None:
        self._end()
        self._connection = None
        if self._is_chunked_answer:
            self._client.write(LAST_CHUNK)
        self._client.finish(close=self._request.is_http_1_0)

    def answer_lost(self, reason: str, *, was_reused: bool) -> None:  # noqa: ARG002  # one sentence tells it all
        self._connection = None
        if self._is_done:
            return
        if was_reused and not self._has_begun:
            self._dialing = self._calls.spawn(self._dial())
            return
        self._end()
        if self._has_begun:
            self._client.finish(close=True)  # the client sees that the answer is cut off
        else:
            self._unavailable()

    def upstream_paused(self, is_paused: bool) -> None:
        self._client.hold_body(is_paused)

    def check_deadline(self, now: float) -> None:
        """Gives up where neither side has sent anything for `proxy_timeout_seconds`."""
        if self._was_active or self._is_paused:
            self._was_active = False
            self._active_at = now
        elif now - self._active_at > self._silence_seconds():
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()
            self.answer_lost("it has stopped answering", was_reused=False)

    # inside

    def _silence_seconds(self) -> float:
        """How long both sides may say nothing."""
        return self._calls.settings.proxy_timeout_seconds

    def _may_pass(self, name: bytes) -> bool:
        """Whether the client's header of this name is passed on."""
        return name not in _NEVER_PASSED and name not in HOP_BY_HOP and not name.startswith(b"x-forwarded-")

    def _own_lines(self) -> list[bytes]:
        """Header lines of ours."""
        return []

    def _end(self) -> None:
        self._is_done = True
        self._calls.active.discard(self)

    def _has_body(self) -> bool:
        return bool(self._request.is_chunked or self._request.content_length)

    async def _dial(self) -> None:
        settings = self._calls.settings
        try:
            connection = await self._upstream.dial(
                settings.connect_timeout_seconds, settings.max_idle_upstream_connections
            )
        except OSError:
            self._end()
            self._unavailable()
            return
        finally:
            self._dialing = None
        if self._is_done:
            connection.close()
            return
        self._send(connection)
        self._client.hold_body(False)

    def _send(self, connection: UpstreamConnection) -> None:
        self._connection = connection
        if self._is_paused:
            connection.pause()
        connection.send(self._head(), self, is_head=self._request.is_head, is_whole=not self._has_body())
        unsent, self._unsent = self._unsent, []
        for data in unsent:
            connection.write(chunk(data) if self._request.is_chunked else data)
        if self._is_body_whole:
            self._end_body(connection)

    def _end_body(self, connection: UpstreamConnection) -> None:
        if self._request.is_chunked:
            connection.write(LAST_CHUNK)
        connection.body_sent()

    def _head(self) -> bytes:
        request = self._request
        named = set().union(*(listed(value) for name, value in request.headers if name == b"connection"))
        lines = [
            b"%b: %b" % (name, value) for name, value in request.headers if name not in named and self._may_pass(name)
        ]
        lines += self._own_lines()
        host = request.host or self._upstream.host_header
        lines += [
            b"host: " + host,
            b"x-forwarded-for: " + request.peer.encode("latin-1", "replace"),
            b"x-forwarded-host: " + host,
            b"x-forwarded-proto: " + (b"https" if self._client.is_tls else b"http"),
            b"x-request-id: " + request.id.encode(),
        ]
        if request.is_chunked:
            lines.append(b"transfer-encoding: chunked")
        elif request.content_length is not None:
            lines.append(b"content-length: %d" % request.content_length)
        return b"%b %b HTTP/1.1\r\n%b\r\n\r\n" % (request.method, request.target, b"\r\n".join(lines))

    def _unavailable(self) -> None:
        problem = {
            "type": "about:blank",
            "title": "Unavailable",
            "status": 503,
            "detail": "the control plane is away or starting; inference goes on without it",
            "code": "control_plane_unavailable",
        }
        self._client.respond(
            503, b"application/problem+json", msgspec.json.encode(problem), b"retry-after: %d\r\n" % RETRY_AFTER_SECONDS
        )


class RegionExchange(ProxyExchange):
    """One request passed to a service of the region, with the key that it was authenticated by and the `token` that
    the service knows. `away`: what is away where it does not answer.
    """

    def __init__(  # noqa: PLR0917 - as its parent has them
        self,
        calls: Calls,
        upstream: Upstream,
        connection: Connection,
        request: Request,
        key: KeyDocument,
        token: str,
        away: str,
    ) -> None:
        super().__init__(calls, upstream, connection, request)
        self._key = key
        self._token = token
        self._away = away

    def _silence_seconds(self) -> float:
        # A whole answer by the service may take as long as the inference behind it.
        return self._calls.settings.request_timeout_seconds

    def _may_pass(self, name: bytes) -> bool:
        return super()._may_pass(name) and name not in (b"authorization", b"x-api-key", b"cookie")

    def _own_lines(self) -> list[bytes]:
        return identity_lines(self._key, self._token)

    def _unavailable(self) -> None:
        code = f"{self._upstream.name}_unavailable"
        away = f"{self._away} are away or starting"
        self._client.respond_error(
            Unavailable(away, code=code, hint="try again shortly", retry_after_seconds=RETRY_AFTER_SECONDS)
        )
