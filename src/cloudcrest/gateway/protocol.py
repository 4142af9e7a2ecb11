"""The HTTP/1.1 server side: one object per client connection. Everything it keeps is bounded.

The parser (llhttp in strict mode) refuses what smuggling is made of: two lengths, a length beside chunks, bad chunks,
bare line feeds, folded headers. A request that cannot be trusted ends its connection.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any

import httptools

from cloudcrest.gateway.errors import HeadTooLarge, RequestTimeout, body_too_large
from cloudcrest.gateway.http1 import CONTINUE, JSON, Headers, status_line
from cloudcrest.gateway.known_head import KnownHead, known_head
from cloudcrest.gateway.request import Request, Responder
from cloudcrest.gateway.rounds import RoundTransport
from cloudcrest.gateway.state import ServerState
from cloudcrest.kernel.errors import CloudcrestError, InvalidInput, Unavailable
from cloudcrest.kernel.units import KIB, MIB

MAX_HEADERS = 100
MAX_PIPELINED = 32
MAX_UNREAD_BODY_BYTES = 64 * KIB
MAX_GATHERED_BYTES = 512 * MIB
"""Of the bodies of all connections together: many large ones sent slowly would else take all memory."""
SLOWEST_BODY_BYTES_PER_SECOND = 16 * KIB
LINGER_SECONDS, MAX_LINGER_BYTES = 2.0, 1024 * KIB
WRITE_BUFFER_BYTES = 64 * KIB

_HELD_BY_PIPELINE, _HELD_BY_RESPONDER = 1, 2


class ServerConnection(asyncio.Protocol):
    """One client's connection: parses, keeps order, keeps time; the application answers."""

    __slots__ = (
        "_body", "_body_bytes", "_current", "_gathered_bytes", "_head_bytes", "_headers", "_heads_in_read", "_held",
        "_incoming", "_is_broken", "_is_in_head", "_known", "_lingered_bytes", "_parser", "_paused_since", "_peer",
        "_queue", "_read_bytes", "_responder", "_since", "_state", "_target", "is_tls", "transport", "write",
    )  # fmt: skip
    transport: RoundTransport

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._parser: Any = httptools.HttpRequestParser(self)
        self._peer = ""
        self.is_tls = self._is_in_head = self._is_broken = False
        self._headers: Headers = []
        self._target = b""
        self._head_bytes = self._read_bytes = self._heads_in_read = 0
        self._incoming: Request | None = None
        self._body: list[bytes] = []
        self._body_bytes = self._gathered_bytes = 0
        self._current: Request | None = None
        self._responder: Responder | None = None
        self._queue: deque[Request] = deque()
        self._held = 0
        self._known: KnownHead | None = None
        self._lingered_bytes = -1
        self._paused_since: float | None = None
        self._since = state.now

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = RoundTransport(self._state.rounds, transport, self)
        self.write: Callable[[bytes], None] = self.transport.write
        self.transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else "local"
        self.is_tls = transport.get_extra_info("sslcontext") is not None
        if len(self._state.connections) >= self._state.settings.max_connections or self._state.is_draining:
            transport.close()
            return
        self._state.connections.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self.transport.let_go()
        self._state.discard(self)
        self._forget_bodies()
        # The parser holds methods of this: only the collector would find such a ring, and it hardly runs.
        self._incoming = self._current = self._parser = None
        self._is_broken = True
        if (responder := self._responder) is not None:
            self._responder = None
            responder.client_gone()

    def eof_received(self) -> None:
        # A client that stops sending has gone: whoever is at work for it stops now, not when a write fails.
        if self._lingered_bytes < 0:
            self.transport.abort()

    def pause_writing(self) -> None:
        self._paused_since = self._state.now
        if self._responder is not None:
            self._responder.client_paused()

    def resume_writing(self) -> None:
        self._paused_since = None
        if self._responder is not None:
            self._responder.client_resumed()

    def data_received(self, data: bytes) -> None:
        if self._is_broken:
            self._linger(len(data))
            return
        was_in_head = self._is_in_head
        is_at_rest = self._current is None and self._incoming is None and not was_in_head
        if is_at_rest and self._known is not None:
            request = self._known.request_in(data)
            if request is not None:
                self._state.application.check(request)
                self._answer(request)
                return
        self._read_bytes = self._read_bytes + len(data) if was_in_head else len(data)
        self._heads_in_read = 0
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Nothing else is spoken here: the request was answered as what it is, and what follows it is unreadable.
            self._break(None)
        except httptools.HttpParserError:
            self._break(InvalidInput("this is not a well-formed HTTP/1.1 request", code="bad_http"))
        if self._is_in_head:  # it goes on in the next read
            self._head_bytes = self._head_bytes + len(data) if was_in_head else self._head_size()
            self._check_head(self._head_bytes)
        elif is_at_rest and self._heads_in_read == 1:
            request = self._current or self._incoming
            if request is not None and not self._is_broken:
                self._known = known_head(data, request, self._state.settings.max_body_bytes)
        is_ahead = self._current is not self._incoming and self._body_bytes > MAX_UNREAD_BODY_BYTES
        if self._current is not None and (self._queue or is_ahead):
            self._hold(_HELD_BY_PIPELINE)

    # the parser's side

    def on_message_begin(self) -> None:
        self._headers, self._target, self._head_bytes = [], b"", 0
        self._is_in_head = True
        self._since = self._state.now

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_head:  # else it is a trailer
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._heads_in_read += 1
        # Adding up is for heads that may be too large: no head is larger than the reads it came in.
        self._check_head(self._head_size() if self._read_bytes > self._state.settings.max_head_bytes else 0)
        if self._is_broken:
            return
        parser = self._parser
        request = Request(
            parser.get_method(), self._target, parser.get_http_version(), self._headers, parser.should_keep_alive()
        )
        self._headers, self._body, self._body_bytes = [], [], 0
        self._incoming = request
        request.peer = self._peer
        try:
            request.read_head()
            if len(self._queue) >= MAX_PIPELINED:
                raise InvalidInput(f"more than {MAX_PIPELINED} requests were sent without waiting", code="bad_http")
        except CloudcrestError as error:
            self._break(error)
            return
        self._state.application.check(request)
        limit = self._state.settings.max_body_bytes
        if request.refusal is None and (request.content_length or 0) > limit and not request.is_streamed:
            request.refusal = body_too_large(limit)
        if request.refusal is not None:
            if request.expects_continue or request.is_chunked or (request.content_length or 0) > MAX_UNREAD_BODY_BYTES:
                self._break(request.refusal, request)
            return
        if self._current is not None:
            request.is_streamed = False
            return
        if request.expects_continue:
            self.transport.write(CONTINUE)
        if request.is_streamed:
            self._start(request)

    def on_body(self, data: bytes) -> None:
        request = self._incoming
        if request is None or self._is_broken or request.refusal is not None:
            return
        self._body_bytes += len(data)
        if request.is_streamed:
            if self._responder is not None and self._current is request:
                self._responder.body_data(data)
            return
        if self._body_bytes > self._state.settings.max_body_bytes:
            self._break(body_too_large(self._state.settings.max_body_bytes), request)
            return
        self._body.append(data)
        self._gather(len(data))
        if self._state.gathered_bytes > MAX_GATHERED_BYTES:
            busy = "too many large requests are coming in at once"
            self._break(Unavailable(busy, code="overloaded", retry_after_seconds=1), request)

    def on_message_complete(self) -> None:
        request, self._incoming = self._incoming, None
        if request is None or self._is_broken:
            return
        body, self._body, self._body_bytes = self._body, [], 0
        if request.is_streamed:
            if self._responder is not None and self._current is request:
                self._responder.body_end()
            return
        request.body = body[0] if len(body) == 1 else b"".join(body)
        if self._current is None:
            self._start(request)
        else:
            self._queue.append(request)

    # the application's side

    def respond(self, status: int, content_type: bytes, body: bytes, extra: bytes = b"") -> None:
        """Answers the current request with a whole body and finishes it."""
        request = self._current
        if request is None:
            return
        start, end = status_line(status), self._end_of_head(request)
        if status == 204:
            self.transport.write(start + extra + end)
        else:
            self.transport.write(
                b"%bcontent-type: %b\r\ncontent-length: %d\r\n%b%b%b"
                % (start, content_type, len(body), extra, end, b"" if request.is_head else body)
            )
        self.finish()

    def respond_error(self, error: CloudcrestError) -> None:
        """Answers the current request with an error in its dialect's shape and finishes it."""
        extra = b""
        if error.retry_after_seconds is not None:
            extra = b"retry-after: %d\r\n" % max(1, -(-error.retry_after_seconds // 1))
        request = self._current
        if request is not None:
            self.respond(request.error_status(error), JSON, request.error_document(error), extra)

    def start_answer(self, status: int, headers: bytes) -> None:
        """Writes a head: `headers` are lines that include the framing; the common ones are added."""
        request = self._current
        if request is not None:
            self.transport.write(status_line(status) + headers + self._end_of_head(request))

    def finish(self, *, close: bool = False) -> None:
        """The current answer is whole: the next request's turn, or the end of the connection."""
        request, self._current, self._responder = self._current, None, None
        if request is None:
            return
        if self._incoming is request:  # answered before its body was read
            self._begin_lingering()
        elif close or not request.keep_alive or self._is_broken or self._state.is_draining:
            self._is_broken = True
            self.transport.close()
        elif self._queue:
            self._start(self._queue.popleft())
        else:
            self._since = self._state.now
            if self._held:
                self._held = 0
                self.transport.resume_reading()

    def hold_body(self, is_held: bool) -> None:
        """Stops or goes on reading the body of a streamed request."""
        if is_held:
            self._hold(_HELD_BY_RESPONDER)
        elif self._held & _HELD_BY_RESPONDER:
            self._held &= ~_HELD_BY_RESPONDER
            self._since = self._state.now
            if not self._held:
                self.transport.resume_reading()

    # time

    def check_deadline(self, now: float) -> None:
        """Ends the request whose time is over, and the connection where the client is overdue."""
        current = self._current
        if current is not None and now >= current.deadline and self._responder is not None:
            current.deadline = inf
            self._responder.deadline_passed()
        settings = self._state.settings
        if self._lingered_bytes >= 0:
            if now - self._since > LINGER_SECONDS:
                self.transport.abort()
        elif self._paused_since is not None:
            if now - self._paused_since > settings.write_timeout_seconds:
                self.transport.abort()
        elif self._is_in_head:
            if now - self._since > settings.head_timeout_seconds and self._current is None:
                self._break(RequestTimeout("the request's head did not arrive in time"))
        elif self._incoming is not None and not self._held:
            allowed = settings.body_timeout_seconds + self._body_bytes / SLOWEST_BODY_BYTES_PER_SECOND
            if now - self._since > allowed:
                self._break(RequestTimeout("the request's body did not arrive in time"), self._incoming)
        elif self._current is None and now - self._since > settings.idle_timeout_seconds:
            self.transport.close()

    def close_if_idle(self) -> None:
        if self._current is None and self._incoming is None and not self._is_in_head:
            self.transport.close()

    def abort(self) -> None:
        self.transport.abort()

    # inside

    def _start(self, request: Request) -> None:
        self._gather(-len(request.body))
        self._answer(request)

    def _answer(self, request: Request) -> None:
        self._current = request
        if request.refusal is not None:
            self.respond_error(request.refusal)
            return
        responder = self._state.application.handle(self, request)
        if self._is_at(request):
            self._responder = responder
            if responder is not None and self._paused_since is not None:
                responder.client_paused()

    def _is_at(self, request: Request) -> bool:
        return self._current is request  # apart: a compiled caller that has just set it believes that it stays

    def _end_of_head(self, request: Request) -> bytes:
        stays = request.keep_alive and not self._is_broken and not self._state.is_draining
        end = b"\r\n" if stays else b"connection: close\r\n\r\n"
        return request.extra_head + self._state.date_line + end

    def _head_size(self) -> int:
        return len(self._target) + sum(len(name) + len(value) + 4 for name, value in self._headers)

    def _check_head(self, size_bytes: int) -> None:
        if size_bytes > self._state.settings.max_head_bytes or len(self._headers) > MAX_HEADERS:
            self._break(HeadTooLarge("the request's head is too large"))

    def _hold(self, reason: int) -> None:
        if not self._held and not self.transport.is_closing():
            self.transport.pause_reading()
        self._held |= reason

    def _break(self, error: CloudcrestError | None, request: Request | None = None) -> None:
        """Reads nothing more. `error` is answered unless an earlier request is being answered still."""
        if self._is_broken:
            return
        self._is_broken = True
        self._is_in_head = False
        self._forget_bodies()
        if self._current is not None and self._current is not self._incoming:
            self._incoming = None
            return  # `finish` closes
        if self._current is not None:  # a streamed request whose body went wrong
            self.transport.abort()
            return
        if error is None:
            self.transport.close()
            return
        self._current = request or Request(b"GET", b"/", "1.1", [], False)
        self._incoming = self._current
        self.respond_error(error)

    def _gather(self, size_bytes: int) -> None:
        self._gathered_bytes += size_bytes
        self._state.gathered_bytes += size_bytes

    def _forget_bodies(self) -> None:
        """What is gathered, and what waits for its turn."""
        self._queue.clear()
        self._body = []
        self._gather(-self._gathered_bytes)

    def _begin_lingering(self) -> None:
        """Closes such that the client can read the answer: a close over unread bytes would reset the connection."""
        self._is_broken = True
        self._incoming = None
        self._since = self._state.now
        self._lingered_bytes = 0
        if self._held:
            self._held = 0
            self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _linger(self, received_bytes: int) -> None:
        if self._lingered_bytes >= 0:
            self._lingered_bytes += received_bytes
            if self._lingered_bytes > MAX_LINGER_BYTES:
                self.transport.abort()
