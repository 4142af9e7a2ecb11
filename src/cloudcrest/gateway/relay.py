"""Relaying an engine's answer: whole, or as a stream whose bytes pass untouched.

The usage event is in the spool before the last bytes go out. A client that goes away, or an engine that dies in the
middle, leaves bytes that were relayed: they are kept, bounded, and counted off the hot path (counting.py).
"""

from typing import NamedTuple

import structlog

from cloudcrest.gateway.account import Account
from cloudcrest.gateway.call import Call, Calls
from cloudcrest.gateway.counting import Counting, CountJob, Kept, estimated_output_tokens
from cloudcrest.gateway.errors import engine_error, error_event
from cloudcrest.gateway.http1 import EVENT_STREAM, JSON, LAST_CHUNK, chunk
from cloudcrest.gateway.request import Connection, Request
from cloudcrest.gateway.snapshot import Route
from cloudcrest.gateway.sse import StreamScanner, usage_in_answer
from cloudcrest.gateway.validate import Parsed
from cloudcrest.kernel.errors import CloudcrestError, EngineFault
from cloudcrest.kernel.units import KIB
from cloudcrest.kernel.usage import Outcome, Usage

MAX_ENGINE_ERROR_BYTES = 64 * KIB
STREAM_HEAD = b"content-type: " + EVENT_STREAM + b"\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\n"
_NOTHING = Usage(0, 0)
_MAX_LOGGED_BYTES = 300
_log = structlog.get_logger(__name__)


class Parts(NamedTuple):
    """What a relay is made of. `body` is what the engine is sent."""

    calls: Calls
    counting: Counting
    connection: Connection
    request: Request
    route: Route
    parsed: Parsed
    account: Account
    body: bytes


class Relay:
    """What plain answers and streams have in common: one call, one account, one client."""

    def __init__(self, parts: Parts) -> None:
        self._calls = parts.calls
        self._counting = parts.counting
        self._connection = parts.connection
        self._request = parts.request
        self._route = parts.route
        self._parsed = parts.parsed
        self._account = parts.account
        self._status = 0
        self._error_body = b""
        self._call = Call(
            parts.calls,
            parts.route,
            self,
            path=parts.parsed.endpoint,
            body=parts.body,
            request_id=parts.account.id,
        )

    def start(self) -> None:
        """Opens the account and sends the request. Raises `Unavailable`: no replica, or no spool."""
        replica = self._call.pick()
        self._account.open(replica.name, Usage(self._parsed.estimated_input_tokens(), 0, is_estimate=True))
        self._call.start()

    def client_gone(self) -> None:
        is_sent = self._call.is_sent
        self._call.abort()
        self._note_replica()
        if not is_sent:
            self._account.end("cancelled", _NOTHING)
        self._settle_uncounted("cancelled")

    def client_paused(self) -> None:
        self._call.pause()

    def client_resumed(self) -> None:
        self._call.resume()

    def body_data(self, data: bytes) -> None:
        """Inference requests are gathered before they get here."""

    def body_end(self) -> None: ...

    def call_tick(self) -> None:
        """A plain answer has no progress to write."""

    def call_head(self, status: int, head: bytes) -> None:  # noqa: ARG002  # engines' headers are not passed on
        self._status = status
        self._note_replica()

    def call_data(self, data: bytes) -> None:
        raise NotImplementedError

    def call_end(self) -> None:
        raise NotImplementedError

    def call_failed(self, error: CloudcrestError) -> None:
        """Before the first byte: an error of its own, and nothing is charged."""
        self._note_replica()
        self._account.end("engine_error", _NOTHING)
        self._connection.respond_error(error)

    def _refused(self) -> None:
        """The engine answered with an error: its meaning is passed on, not its words."""
        self._account.end("engine_error", _NOTHING)
        if self._status >= 500:
            said = self._error_body[:_MAX_LOGGED_BYTES].decode("utf-8", "replace")
            _log.warning("engine_fault", id=self._account.id, status=self._status, said=said)
        self._connection.respond_error(engine_error(self._status, self._error_body))

    def _note_replica(self) -> None:
        if self._call.replica is not None:
            self._account.replica_id = self._call.replica.name

    def _settle_uncounted(self, outcome: Outcome) -> None:
        raise NotImplementedError

    def _count(self, outcome: Outcome, kept: Kept | None, events: int) -> None:
        """Has the tokens counted from what was relayed; the limits are freed at once."""
        if self._account.is_ended:
            return
        self._account.release(self._parsed.estimated_input_tokens() + events)
        self._counting.submit(
            CountJob(
                account=self._account,
                outcome=outcome,
                route=self._route,
                parsed=self._parsed,
                texts=[kept] if kept is not None else [],
                relayed_events=events,
            )
        )


class PlainRelay(Relay):
    """An answer that is gathered, then sent whole."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._parts: list[bytes] = []
        self._size_bytes = 0

    def call_data(self, data: bytes) -> None:
        self._size_bytes += len(data)
        if self._status != 200:
            if self._size_bytes <= MAX_ENGINE_ERROR_BYTES:
                self._error_body += data
            return
        self._parts.append(data)
        if self._size_bytes > self._calls.settings.max_answer_bytes:
            self._call.abort()
            self.call_failed(EngineFault("the model's answer is too large"))

    def call_end(self) -> None:
        if self._status != 200:
            self._refused()
            return
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        usage = usage_in_answer(body)
        if usage is None:
            usage = Usage(self._parsed.estimated_input_tokens(), estimated_output_tokens(body), is_estimate=True)
        self._account.first_token()
        self._account.end("completed", usage)
        self._connection.respond(200, JSON, body)

    def _settle_uncounted(self, outcome: Outcome) -> None:
        self._count(outcome, None, 0)


class StreamRelay(Relay):
    """A stream of server-sent events. The head waits for the first of them, so a failure before it is a plain error."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._scanner = StreamScanner(passes_usage=self._parsed.wants_usage)
        self._kept = Kept(self._calls.settings.max_kept_bytes)
        self._has_begun = False

    def call_tick(self) -> None:
        self._account.mark(self._relayed_tokens())

    def call_data(self, data: bytes) -> None:
        if self._status != 200:
            if len(self._error_body) < MAX_ENGINE_ERROR_BYTES:
                self._error_body += data
            return
        scanner = self._scanner
        events = scanner.feed(data)
        if scanner.error is not None:
            self._call.abort()
            self._engine_said(scanner.error)
            return
        if scanner.usage is not None and scanner.is_finished:
            self._account.end("completed", scanner.usage)
        if events:
            self._relay(events)

    def call_end(self) -> None:
        if self._status != 200:
            self._refused()
            return
        scanner = self._scanner
        rest = scanner.end()
        if scanner.usage is not None:
            self._account.end("completed", scanner.usage)
        elif not scanner.is_finished:
            self.call_failed(EngineFault("the model's engine ended the stream early"))
            return
        else:
            tokens = self._relayed_tokens()
            self._account.end("completed", Usage(self._parsed.estimated_input_tokens(), tokens, is_estimate=True))
        if rest:
            self._relay(rest)
        if not self._has_begun:
            self._begin()
        self._finish()

    def call_failed(self, error: CloudcrestError) -> None:
        if not self._has_begun:
            super().call_failed(error)
            return
        self._note_replica()
        self._settle_uncounted("engine_error")
        self._write(error_event(error))
        self._finish()

    def _settle_uncounted(self, outcome: Outcome) -> None:
        if self._scanner.usage is not None:  # the engine was done: its own count stands
            self._account.end("completed", self._scanner.usage)
        self._count(outcome, self._kept, self._relayed_tokens())

    def _engine_said(self, error: bytes) -> None:
        """An error event from the engine: a refusal where nothing was sent, else the end of the stream."""
        self.call_failed(engine_error(400 if b'"code":400' in error.replace(b" ", b"") else 500, error))

    def _relayed_tokens(self) -> int:
        """About one for each event after the first, which only names the role."""
        return max(0, self._scanner.events - 1)

    def _relay(self, events: bytes) -> None:
        if not self._has_begun:
            self._begin()
        self._kept.add(events)
        self._write(events)

    def _begin(self) -> None:
        self._has_begun = True
        self._account.first_token()
        framing = b"" if self._request.is_http_1_0 else b"transfer-encoding: chunked\r\n"
        self._connection.start_answer(200, STREAM_HEAD + framing)

    def _write(self, data: bytes) -> None:
        self._connection.write(data if self._request.is_http_1_0 else chunk(data))

    def _finish(self) -> None:
        if not self._request.is_http_1_0:
            self._connection.write(LAST_CHUNK)
        self._connection.finish(close=self._request.is_http_1_0)
