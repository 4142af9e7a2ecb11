"""Relaying an engine's answer: whole, or as a stream whose bytes pass untouched.

The usage event is in the spool before the last bytes go out. What was relayed of a stream is kept, bounded: when its
client goes away it is counted off the hot path (counting.py), and when its engine is lost the answer goes on from there
on another one (resume_stream.py).
"""

from abc import ABC, abstractmethod

import structlog

from cloudcrest.gateway.call import Call
from cloudcrest.gateway.counting import CountJob, estimated_output_tokens
from cloudcrest.gateway.deadline import deadline_passed, refuse
from cloudcrest.gateway.errors import engine_error
from cloudcrest.gateway.kept import Kept
from cloudcrest.gateway.parts import MAX_ENGINE_ERROR_BYTES, Parts
from cloudcrest.gateway.passage import Passage
from cloudcrest.gateway.resume import Impossible, decide
from cloudcrest.gateway.resume_rewrite import DONE, ToolHold
from cloudcrest.gateway.resume_stream import BEING_STOPPED, DRAINED, RestOfStream
from cloudcrest.gateway.sse import StreamScanner, usage_in_answer
from cloudcrest.kernel.errors import CloudcrestError, EngineFault
from cloudcrest.kernel.usage import Outcome, Usage

_NOTHING = Usage(0, 0)
_MAX_LOGGED_BYTES = 300
_log = structlog.get_logger(__name__)


class Relay(ABC):
    """What plain answers and streams have in common: one call, one account, one client."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._connection = parts.connection
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
            is_stream=parts.parsed.is_stream,
            request_id=parts.account.id,
            waits=parts.may_wait,
        )

    def start(self) -> None:
        """Opens the account and sends the request. Raises `Unavailable`: no replica, or no spool."""
        replica = self._call.pick()
        self._account.open(replica.name, Usage(self._parsed.estimated_input_tokens(), 0, is_estimate=True))
        self._call.start()

    def client_gone(self) -> None:
        self._give_up("cancelled")

    def deadline_passed(self) -> None:
        self._give_up("timed_out")
        refuse(self._connection, self._parts.request)

    def _give_up(self, outcome: Outcome) -> None:
        """Stops the engine; what it has said is charged."""
        is_sent = self._call.is_sent
        self._call.abort()
        self._note_replica()
        if not is_sent:
            self._account.end(outcome, _NOTHING)
        self._settle_uncounted(outcome)

    def client_paused(self) -> None:
        self._call.pause()

    def client_resumed(self) -> None:
        self._call.resume()

    def body_data(self, data: bytes) -> None:
        """Inference requests are gathered before they get here."""

    def body_end(self) -> None: ...

    def call_tick(self) -> None:
        """A plain answer has no progress to write."""

    def call_leaving(self) -> None:
        """Nobody can go on with a part of a whole answer: it may still be done in time."""

    def call_head(self, status: int, head: bytes) -> None:  # noqa: ARG002  # engines' headers are not passed on
        self._status = status
        self._note_replica()

    def call_answer(self, body: bytes) -> None:
        self.call_head(200, b"")
        self.call_data(body)
        self.call_end()

    @abstractmethod
    def call_data(self, data: bytes) -> None: ...

    @abstractmethod
    def call_end(self) -> None: ...

    @abstractmethod
    def call_restarted(self) -> None: ...

    def call_failed(self, error: CloudcrestError) -> None:
        """Before the first byte: an error of its own, and nothing is charged."""
        self._note_replica()
        self._parts.refuse(error)

    def _refused(self) -> None:
        """The engine answered with an error: its meaning is passed on, not its words."""
        if self._status >= 500:
            said = self._error_body[:_MAX_LOGGED_BYTES].decode("utf-8", "replace")
            _log.warning("engine_fault", id=self._account.id, status=self._status, said=said)
        self._parts.refuse(self._meaning(self._status, self._error_body))

    def _meaning(self, status: int, body: bytes) -> CloudcrestError:
        return engine_error(status, body, input_field=self._parsed.input_field)

    def _note_replica(self) -> None:
        if self._call.replica is not None:
            self._account.replica_id = self._call.replica.name

    @abstractmethod
    def _settle_uncounted(self, outcome: Outcome) -> None: ...

    def _count(self, outcome: Outcome, kept: Kept | None, events: int) -> None:
        """Has the tokens counted from what was relayed; the limits are freed at once."""
        if self._account.is_ended:
            return
        self._account.release(self._parsed.estimated_input_tokens() + events)
        self._parts.counting.submit(
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
        self._pieces: list[bytes] = []
        self._size_bytes = 0

    def call_data(self, data: bytes) -> None:
        self._size_bytes += len(data)
        if self._status != 200:
            if self._size_bytes <= MAX_ENGINE_ERROR_BYTES:
                self._error_body += data
            return
        self._pieces.append(data)
        if self._size_bytes > self._parts.calls.settings.max_answer_bytes:
            self._call.abort()
            self.call_failed(EngineFault("the model's answer is too large"))

    def call_end(self) -> None:
        if self._status != 200:
            self._refused()
            return
        self._answer(self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces))

    def call_answer(self, body: bytes) -> None:
        self._note_replica()
        if len(body) > self._parts.calls.settings.max_answer_bytes:
            self.call_failed(EngineFault("the model's answer is too large"))
        else:
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        self._account.first_token()
        self._account.end("completed", self._usage_of(body))
        self._parts.answer(body)

    def _usage_of(self, body: bytes) -> Usage:
        """What a whole answer used."""
        usage = usage_in_answer(body)
        if usage is None:
            usage = Usage(self._parsed.estimated_input_tokens(), estimated_output_tokens(body), is_estimate=True)
        return usage

    def call_restarted(self) -> None:
        self._pieces = []
        self._size_bytes = 0
        self._error_body = b""

    def _settle_uncounted(self, outcome: Outcome) -> None:
        self._count(outcome, None, 0)


class StreamRelay(Relay):
    """A stream of server-sent events. The head waits for the first of them, so a failure before it is a plain error.

    Where a tool is on offer, a call of one is held back until it is whole.
    """

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._scanner = StreamScanner(passes_usage=self._parsed.wants_usage)
        self._kept = Kept(self._parts.calls.settings.max_kept_bytes)
        self._hold = ToolHold() if self._parsed.has_tools else None
        self._passage: Passage | None = None
        self._rest: RestOfStream | None = None
        self._has_begun = False

    def client_gone(self) -> None:
        if self._rest is not None:
            self._rest.client_gone()
        else:
            super().client_gone()

    def deadline_passed(self) -> None:
        if self._rest is not None:
            self._rest.deadline_passed()
        elif not self._has_begun:
            super().deadline_passed()
        else:
            self._give_up("timed_out")
            self._parts.end_in_error(deadline_passed(self._parts.request))

    def client_paused(self) -> None:
        super().client_paused()
        if self._rest is not None:
            self._rest.client_paused()

    def client_resumed(self) -> None:
        super().client_resumed()
        if self._rest is not None:
            self._rest.client_resumed()

    def call_tick(self) -> None:
        self._account.mark(self._relayed_tokens())

    def call_leaving(self) -> None:
        if not self._has_begun:
            self._call.move()
        elif not isinstance(decide(self._kept.said(), self._parsed, self._route.document.engine), Impossible):
            self._call.abort()
            self._lost(DRAINED, EngineFault(BEING_STOPPED))

    def call_data(self, data: bytes) -> None:
        if self._status != 200:
            if len(self._error_body) < MAX_ENGINE_ERROR_BYTES:
                self._error_body += data
            return
        scanner = self._scanner
        events = scanner.feed(data)
        if scanner.error is not None:
            self._call.abort()
            self._engine_said(scanner.error, events)
            return
        if scanner.usage is not None and scanner.is_finished:
            self._account.end("completed", scanner.usage)
        if events and self._hold is not None:
            events = self._hold.feed(events)
        if events:
            self._relay(events)
            if self._parts.is_over:
                self._call.abort()
                self._settle_uncounted("completed")
                self._parts.finish_stream()

    def call_end(self) -> None:
        if self._status != 200:
            self._refused()
            return
        scanner = self._scanner
        rest = scanner.end()
        if self._hold is not None:
            rest = self._hold.release() + rest
        if scanner.usage is not None:
            self._account.end("completed", scanner.usage)
        elif not scanner.is_finished:
            self._lost("ended_early", EngineFault("the model's engine ended the stream early"))
            return
        else:
            tokens = self._relayed_tokens()
            self._account.end("completed", Usage(self._parsed.estimated_input_tokens(), tokens, is_estimate=True))
        if rest:
            self._relay(rest)
        if not self._has_begun:
            self._begin()
        self._parts.finish_stream()

    def call_restarted(self) -> None:
        self._scanner = StreamScanner(passes_usage=self._parsed.wants_usage)
        self._error_body = b""
        if self._hold is not None:
            self._hold.drop()

    def call_failed(self, error: CloudcrestError) -> None:
        self._lost("timeout" if error.code == "engine_timeout" else "lost", error)

    def _lost(self, reason: str, error: CloudcrestError, *, is_final: bool = False) -> None:
        """The engine is gone. What has reached the client goes on elsewhere, unless all but its end is there."""
        if not self._has_begun:
            super().call_failed(error)
            return
        self._note_replica()
        scanner = self._scanner
        if scanner.usage is not None or scanner.is_finished:
            self._settle_uncounted("completed")
            last = self._hold.release() if self._hold is not None else b""
            last += b"" if scanner.is_finished else DONE
            if last:
                self._parts.write(last)
            self._parts.finish_stream()
        elif is_final:
            self._settle_uncounted("engine_error")
            self._parts.end_in_error(error)
        else:
            events, is_paused = self._relayed_tokens(), self._call.is_paused
            self._rest = RestOfStream(self._parts, self._kept, self._hold, events=events, is_paused=is_paused)
            self._rest.resume(reason, error)

    def _settle_uncounted(self, outcome: Outcome) -> None:
        if self._scanner.usage is not None:  # the engine was done: its own count stands
            self._account.end("completed", self._scanner.usage)
        self._count(outcome, self._kept, self._relayed_tokens())

    def _engine_said(self, error: bytes, events: bytes) -> None:
        """An error event from the engine, after `events`: a refusal where nothing was sent, else a lost stream."""
        is_refusal = b'"code":400' in error.replace(b" ", b"")
        if events and self._hold is None and (self._has_begun or not is_refusal):
            self._relay(events)
        self._lost("engine_error", self._meaning(400 if is_refusal else 500, error), is_final=is_refusal)

    def _relayed_tokens(self) -> int:
        """About one for each event after those that only name the role."""
        events = self._scanner.events + (0 if self._passage is None else self._passage.events)
        return max(0, events - self._parsed.role_events)

    def _relay(self, events: bytes) -> None:
        if not self._has_begun:
            self._begin()
        self._kept.add(events)
        self._parts.write(events)

    def _begin(self) -> None:
        self._has_begun = True
        self._call.is_repeatable = False
        self._account.first_token()
        self._parts.begin_stream()
        client = self._connection.transport
        is_untouched = self._hold is None and self._parts.outlet is None and not self._parts.request.is_http_1_0
        if is_untouched and client is not None:
            passage = self._passage = Passage(self._scanner, self._kept, client)
            self._call.pass_chunks(passage)
