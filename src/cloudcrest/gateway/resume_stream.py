"""The rest of a stream whose replica was lost: counted, asked for elsewhere, and relayed as one answer.

From here on a stream is translated event by event; before a loss nothing of this runs. What is decided and what is sent
is in resume.py, how events are rewritten in resume_rewrite.py.
"""

import asyncio

import structlog

from cloudcrest.gateway.call import LOOK_SECONDS, MAX_LOOK_SECONDS, MAX_LOSSES, Call, no_replica
from cloudcrest.gateway.counting import CountJob, count_input, text_tokens
from cloudcrest.gateway.deadline import deadline_passed
from cloudcrest.gateway.errors import engine_error
from cloudcrest.gateway.fields import ChatBody
from cloudcrest.gateway.kept import Kept
from cloudcrest.gateway.parts import MAX_ENGINE_ERROR_BYTES, Parts
from cloudcrest.gateway.resume import Continue, Finish, Impossible, Repeat, Restart, decide, next_body, tokens_left
from cloudcrest.gateway.resume_rewrite import DONE, Repetition, Rewriter, ToolHold, finish_event, usage_event
from cloudcrest.gateway.sse import StreamScanner
from cloudcrest.kernel.errors import CloudcrestError, EngineFault, Unavailable
from cloudcrest.kernel.usage import Outcome, Usage

COUNT_SECONDS = 3.0
DRAINED, BEING_STOPPED = "drained", "the model's replica is being stopped"
_log = structlog.get_logger(__name__)


class RestOfStream:
    """Takes over from a `StreamRelay` that lost its replica after the first bytes went out.

    `kept`: what the client was told. `hold`: keeps tool calls back. `events`: about how many tokens that was.
    """

    def __init__(self, parts: Parts, kept: Kept, hold: ToolHold | None, *, events: int, is_paused: bool) -> None:
        self._parts = parts
        self._kept = kept
        self._hold = hold
        self._said_tokens = events
        self._is_paused = is_paused
        self._input_tokens: int | None = None
        self._resumes = 0
        self._status = 0
        self._error_body = b""
        self._call: Call | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_restart = False
        self._scanner = StreamScanner(passes_usage=False)
        self._rewriter = Rewriter({}, has_role=False)
        self._repeated_text = ""
        self._repetition = Repetition("")

    def resume(self, reason: str, error: CloudcrestError) -> None:
        """Goes on elsewhere, or ends the stream with an error that says why it cannot. `reason` is for the metrics."""
        parts = self._parts
        if self._hold is not None:
            self._hold.drop()
        self._said_tokens += self._scanner.events
        self._scanner = StreamScanner(passes_usage=False)
        self._resumes += reason != DRAINED  # to move is no loss
        decision = decide(self._kept.said(), parts.parsed, parts.route.document.engine)
        if self._resumes > MAX_LOSSES:
            decision = Impossible("it was lost too often")
        if isinstance(decision, Impossible):
            self._fail(error, decision.why)
            return
        parts.account.resumed(reason)
        self._task = parts.calls.spawn(self._go_on(decision, error))
        self._task.add_done_callback(self._went_on)

    # the client's side

    def client_gone(self) -> None:
        self._give_up("cancelled")

    def deadline_passed(self) -> None:
        self._give_up("timed_out")
        self._parts.end_in_error(deadline_passed(self._parts.request))

    def client_paused(self) -> None:
        self._is_paused = True
        if self._call is not None:
            self._call.pause()

    def client_resumed(self) -> None:
        self._is_paused = False
        if self._call is not None:
            self._call.resume()

    # the engine's side

    def call_head(self, status: int, head: bytes) -> None:  # noqa: ARG002  # engines' headers are not passed on
        self._status = status
        if self._call is not None and self._call.replica is not None:
            self._parts.account.replica_id = self._call.replica.name

    def call_data(self, data: bytes) -> None:
        if self._status != 200:
            if len(self._error_body) < MAX_ENGINE_ERROR_BYTES:
                self._error_body += data
            return
        events = self._scanner.feed(data)
        rewritten = self._repetition.feed(self._rewriter.feed(events)) if events else b""
        if self._repetition.is_other:
            self._stop()
            self._fail(EngineFault("the model's engine was lost"), "made again, it begins otherwise")
            return
        if rewritten and self._hold is not None:
            rewritten = self._hold.feed(rewritten)
        if rewritten:
            self._relay(rewritten)
            if self._parts.is_over:
                self._give_up("completed")
                self._parts.finish_stream()
                return
        if self._scanner.error is not None:
            self._stop()
            self.resume("engine_error", self._meaning(500, self._scanner.error))

    def _meaning(self, status: int, body: bytes) -> CloudcrestError:
        return engine_error(status, body, input_field=self._parts.parsed.input_field)

    def call_end(self) -> None:
        if self._status != 200:
            error = self._meaning(self._status, self._error_body)
            _log.warning("resume_refused", id=self._parts.account.id, status=self._status)
            self._fail(error, "the engine does not take it up again")
            return
        scanner = self._scanner
        if scanner.usage is not None:
            usage = self._usage(scanner.usage)
        elif scanner.is_finished:
            input_tokens = self._input_tokens or self._parts.parsed.estimated_input_tokens()
            usage = Usage(input_tokens, self._output_tokens(), is_estimate=True)
        else:
            self.resume("ended_early", EngineFault("the model's engine ended the stream early"))
            return
        self._complete(usage, self._hold.release() if self._hold is not None else b"")

    def call_answer(self, body: bytes) -> None:
        self.call_head(200, b"")
        self.call_data(body)
        self.call_end()

    def call_failed(self, error: CloudcrestError) -> None:
        scanner = self._scanner
        if scanner.usage is not None:  # only the end of it was lost
            self._complete(self._usage(scanner.usage), self._hold.release() if self._hold is not None else b"")
        elif self._call is not None and self._call.is_repeatable:  # all that can be tried was
            self._fail(error, "no replica took it over in time")
        else:
            self.resume("lost", error)

    def call_restarted(self) -> None:
        self._error_body = b""
        if self._hold is not None:
            self._hold.drop()
        self._begin()

    def call_leaving(self) -> None:
        parts = self._parts
        if self._call is not None and self._call.is_repeatable:
            self._call.move()
        elif not isinstance(decide(self._kept.said(), parts.parsed, parts.route.document.engine), Impossible):
            self._stop()
            self.resume(DRAINED, EngineFault(BEING_STOPPED))

    def call_tick(self) -> None:
        self._parts.account.mark(self._output_tokens())

    # inside

    async def _go_on(self, decision: Restart | Repeat | Continue | Finish, error: CloudcrestError) -> None:
        parts = self._parts
        body, self._is_restart = parts.body, isinstance(decision, Restart | Repeat)
        self._repeated_text = decision.text if isinstance(decision, Repeat) else ""
        if isinstance(decision, Restart | Repeat):
            self._said_tokens = 0
        else:
            try:
                tokens = await self._count(decision.text)
            except Unavailable:
                self._task = None
                self._fail(error, f"no replica was ready within {parts.calls.settings.replica_wait_seconds:g} s")
                return
            self._said_tokens = len(tokens)
            left = tokens_left(body, len(tokens))
            if isinstance(decision, Finish) or left == 0:
                self._task = None
                self._finish("length" if isinstance(decision, Continue) else None)
                return
            engine = parts.route.document.engine
            body = next_body(body, parts.parsed, engine, decision.text, text_tokens=tokens, left=left)
        self._task = None
        self._begin()
        self._call = Call(
            parts.calls,
            parts.route,
            self,
            path=parts.parsed.endpoint,
            body=body,
            is_stream=parts.parsed.is_stream,
            request_id=parts.account.id,
            losses=self._resumes,
        )
        if self._is_paused:
            self._call.pause()
        self._call.start_or_wait()

    def _went_on(self, task: asyncio.Task[None]) -> None:
        """A fault of our own on the way must not leave the client waiting for ever."""
        fault = None if task.cancelled() else task.exception()
        if fault is not None:
            _log.error("resume_failed", id=self._parts.account.id, exc_info=fault)
            self._fail(EngineFault("the model's engine was lost"), "something went wrong on the way")

    async def _count(self, text: str) -> list[int]:
        """The tokens of the text so far, from a replica that is alive, and the prompt's. Raises `Unavailable`."""
        parts, calls = self._parts, self._parts.calls
        document = parts.route.document
        give_up_at = calls.monotonic() + calls.settings.replica_wait_seconds
        pause_seconds, reason = LOOK_SECONDS, ""
        while True:
            now = calls.monotonic()
            for replica in sorted(parts.route.replicas, key=lambda r: (r.paused_until_seconds > now, r.in_flight)):
                try:
                    async with asyncio.timeout(COUNT_SECONDS):
                        if self._input_tokens is None:
                            self._input_tokens = await count_input(replica, document, parts.parsed)
                        return await text_tokens(replica, document.engine, text)
                except (OSError, EngineFault, ValueError) as error:  # no answer, or none that could be read
                    reason = str(error)
                if calls.monotonic() >= give_up_at:
                    break
            if calls.monotonic() >= give_up_at:
                _log.warning("resume_found_no_replica", id=parts.account.id, reason=reason)
                raise no_replica(parts.route)
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, MAX_LOOK_SECONDS)

    def _begin(self) -> None:
        """A stream from a new replica follows."""
        said = self._kept.said()
        self._status = 0
        self._scanner = StreamScanner(passes_usage=False)
        self._rewriter = Rewriter(said.identity, has_role=said.has_role)
        self._repetition = Repetition(self._repeated_text)

    def _relay(self, events: bytes) -> None:
        if self._call is not None:
            self._call.is_repeatable = False
        self._kept.add(events)
        self._parts.write(events)

    def _finish(self, reason: str | None) -> None:
        """There is nothing left to generate: the end is said for the engine."""
        said, parsed = self._kept.said(), self._parts.parsed
        self._rewriter = Rewriter(said.identity, has_role=True)
        last = b"" if reason is None else finish_event(said.identity, reason, is_chat=parsed.kind is ChatBody)
        self._complete(Usage(self._input_tokens or 0, self._said_tokens), last)

    def _complete(self, usage: Usage, last: bytes) -> None:
        parts = self._parts
        parts.account.end("completed", usage)
        if parts.parsed.wants_usage:
            last += usage_event(self._rewriter.identity, usage)
        parts.write(last + DONE)
        parts.finish_stream()

    def _fail(self, error: CloudcrestError, why: str) -> None:
        message = f"{error.message}, and the answer cannot go on elsewhere: {why}"
        self._settle("engine_error")
        self._parts.end_in_error(EngineFault(message, code=error.code))

    def _give_up(self, outcome: Outcome) -> None:
        self._stop()
        if self._scanner.usage is not None:  # the engine was done: its own count stands
            self._parts.account.end("completed", self._usage(self._scanner.usage))
        self._settle(outcome)

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._call is not None:
            self._call.abort()

    def _output_tokens(self) -> int:
        return self._said_tokens + self._scanner.events

    def _usage(self, usage: Usage) -> Usage:
        """The whole answer's, from the last engine's own: the prompt once, what was said before it as output."""
        if self._is_restart or self._input_tokens is None:
            return usage
        return Usage(
            self._input_tokens,
            self._said_tokens + usage.output_tokens,
            min(usage.cached_input_tokens, self._input_tokens),
            usage.reasoning_tokens,
        )

    def _settle(self, outcome: Outcome) -> None:
        """Has the tokens counted from what was relayed; the limits are freed at once."""
        parts = self._parts
        if parts.account.is_ended:
            return
        tokens = self._output_tokens()
        parts.account.release(parts.parsed.estimated_input_tokens() + tokens)
        parts.counting.submit(
            CountJob(
                account=parts.account,
                outcome=outcome,
                route=parts.route,
                parsed=parts.parsed,
                texts=[self._kept],
                relayed_events=tokens,
            )
        )
