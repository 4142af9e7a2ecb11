"""What a relay is made of, and the way an event stream goes out to its client."""

from typing import NamedTuple

from cloudcrest.gateway.account import Account
from cloudcrest.gateway.admit import Grant
from cloudcrest.gateway.call import Calls
from cloudcrest.gateway.counting import Counting
from cloudcrest.gateway.errors import error_event
from cloudcrest.gateway.fallback import Fallback
from cloudcrest.gateway.http1 import EVENT_STREAM, JSON, LAST_CHUNK, chunk
from cloudcrest.gateway.outlet import Outlet
from cloudcrest.gateway.parsed import Parsed
from cloudcrest.gateway.purse import Claim
from cloudcrest.gateway.request import Connection, Request
from cloudcrest.gateway.snapshot import Route
from cloudcrest.identity.api import KeyDocument
from cloudcrest.kernel.errors import CloudcrestError
from cloudcrest.kernel.units import KIB
from cloudcrest.kernel.usage import Usage

_NOTHING = Usage(0, 0)
MAX_ENGINE_ERROR_BYTES = 64 * KIB
STREAM_HEAD = b"content-type: " + EVENT_STREAM + b"\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\n"


class Admitted(NamedTuple):
    """A request that is within its limits. `started_at`: Unix microseconds."""

    connection: Connection
    request: Request
    key: KeyDocument
    route: Route
    parsed: Parsed
    grant: Grant
    claim: Claim | None
    started_at: int
    fallback: Fallback | None


class Parts:
    """What a relay is made of. `body` is what the engine is sent; `fallback`: who may have others answer; `outlet`:
    what the answer passes on its way out, where it does not go as it is.
    """

    __slots__ = (
        "account", "body", "calls", "connection", "counting", "fallback", "outlet", "parsed", "request", "route",
    )  # fmt: skip

    def __init__(
        self,
        *,
        calls: Calls,
        counting: Counting,
        connection: Connection,
        request: Request,
        route: Route,
        parsed: Parsed,
        account: Account,
        body: bytes,
        fallback: Fallback | None = None,
        outlet: Outlet | None = None,
    ) -> None:
        self.calls = calls
        self.counting = counting
        self.connection = connection
        self.request = request
        self.route = route
        self.parsed = parsed
        self.account = account
        self.body = body
        self.fallback = fallback
        self.outlet = outlet

    @property
    def may_wait(self) -> bool:
        """Whether a lost request is worth waiting for a replica that takes it over: nobody else could answer now."""
        return self.fallback is None or not self.fallback.has_ready()

    def refuse(self, error: CloudcrestError) -> None:
        """Nothing of the answer is out: another model takes over, or the caller is told and nothing is charged."""
        told: CloudcrestError | None = error
        if self.fallback is not None:
            told = self.fallback.take_over(error, self.account)
        else:
            self.account.end("engine_error", _NOTHING)
        if told is not None:
            self.connection.respond_error(told)

    def begin_stream(self) -> None:
        """Writes the head of an event stream."""
        framing = b"" if self.request.is_http_1_0 else b"transfer-encoding: chunked\r\n"
        self.connection.start_answer(200, STREAM_HEAD + framing)

    def answer(self, body: bytes) -> None:
        """Sends a whole answer."""
        self.connection.respond(200, JSON, body if self.outlet is None else self.outlet.answer(body))

    def write(self, events: bytes) -> None:
        """Writes events, not empty."""
        if self.outlet is None:
            self._send(events)
        else:
            self._send(self.outlet.events(events))

    @property
    def is_over(self) -> bool:
        """Whether the outlet lets nothing more of this stream out: its engine can stop."""
        return self.outlet is not None and self.outlet.is_over

    def finish_stream(self) -> None:
        """The stream is whole."""
        if self.outlet is not None:
            self._send(self.outlet.end())
        self._close_stream()

    def end_in_error(self, error: CloudcrestError) -> None:
        """The stream has begun and cannot go on."""
        self._send(error_event(error) if self.outlet is None else self.outlet.error(error))
        self._close_stream()

    def _send(self, events: bytes) -> None:
        """Events as this client has them framed."""
        if events:
            self.connection.write(events if self.request.is_http_1_0 else chunk(events))

    def _close_stream(self) -> None:
        if not self.request.is_http_1_0:
            self.connection.write(LAST_CHUNK)
        self.connection.finish(close=self.request.is_http_1_0)
