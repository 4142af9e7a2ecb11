"""Relaying an engine's answer to a request for sound: bytes pass as they come, usage is in a header of its head.

A transcript that is not streamed is gathered and sent whole. What streams has its usage from the start: it ends the
account before its last byte goes out, and charges the same where the client leaves in the middle.
"""

import re

import msgspec

from cloudcrest.gateway.deadline import deadline_passed
from cloudcrest.gateway.engine_words import error_of
from cloudcrest.gateway.errors import error_event
from cloudcrest.gateway.http1 import JSON, LAST_CHUNK, chunk
from cloudcrest.gateway.parts import MAX_ENGINE_ERROR_BYTES, Parts
from cloudcrest.gateway.relay import Relay
from cloudcrest.gateway.sound.fields import Sound, TranscriptionBody
from cloudcrest.kernel.errors import CloudcrestError, EngineFault, InvalidInput
from cloudcrest.kernel.usage import Outcome, Usage
from cloudcrest.serving.api import USAGE_HEADER, SoundUsage

OURS = ("piper", "moonshine")
"""Engines whose words are ours: they are passed on to the caller."""
_NOTHING = Usage(0, 0)
_CONTENT_TYPE = re.compile(rb"\r\ncontent-type:[ \t]*([^\r\n]{1,200})", re.IGNORECASE)
_USAGE = re.compile(rb"\r\n%b:[ \t]*([^\r\n]{1,500})" % USAGE_HEADER.encode(), re.IGNORECASE)
_EVENTS = b"text/event-stream"


class SoundRelay(Relay):
    """One request's answer, of whatever kind."""

    def __init__(self, parts: Parts, sound: Sound) -> None:
        super().__init__(parts)
        self._sound = sound
        self._call.wants_head = True
        self._usage: Usage | None = None
        self._content_type = JSON
        self._is_gathered = self._parsed.kind is TranscriptionBody and not self._parsed.is_stream
        self._pieces: list[bytes] = []
        self._size_bytes = 0
        self._partial_event = b""
        self._has_begun = False

    def start(self) -> None:
        replica = self._call.pick()
        self._account.open(replica.name, self._sound.least)
        self._call.start()

    def deadline_passed(self) -> None:
        if not self._has_begun:
            super().deadline_passed()
            return
        self._give_up("timed_out")
        self._cut(deadline_passed(self._parts.request))

    def call_head(self, status: int, head: bytes) -> None:
        super().call_head(status, head)
        kind = _CONTENT_TYPE.search(head)
        if kind is not None:
            self._content_type = kind[1].strip()
        if status == 200:
            self._usage = _usage_in(head)

    def call_data(self, data: bytes) -> None:
        if self._status != 200:
            if len(self._error_body) < MAX_ENGINE_ERROR_BYTES:
                self._error_body += data
            return
        if not self._is_gathered:
            if self._parts.outlet is not None:
                whole, separator, self._partial_event = (self._partial_event + data).rpartition(b"\n\n")
                data = self._parts.outlet.events(whole + separator) if separator else b""
            if data:
                self._write(data)
            return
        self._pieces.append(data)
        self._size_bytes += len(data)
        if self._size_bytes > self._parts.calls.settings.max_answer_bytes:
            self._call.abort()
            self.call_failed(EngineFault("the model's answer is too large"))

    def call_end(self) -> None:
        if self._status != 200:
            self._refused()
            return
        if not self._has_begun:
            self._account.first_token()
        self._account.end("completed", self._usage or self._sound.least)
        if self._is_gathered:
            # Ours writes empty lines while it works on what can only be written at its end.
            body = b"".join(self._pieces)
            body = body.lstrip() if self._content_type == JSON else body
            outlet = self._parts.outlet
            self._connection.respond(200, self._content_type, body if outlet is None else outlet.answer(body))
            return
        if not self._has_begun:
            self._begin()
        self._close()

    def call_restarted(self) -> None:
        self._pieces, self._size_bytes, self._partial_event = [], 0, b""
        self._error_body = b""
        self._usage = None

    def call_leaving(self) -> None:
        if not self._has_begun and not self._is_gathered:
            self._call.move()

    def call_failed(self, error: CloudcrestError) -> None:
        if not self._has_begun:
            super().call_failed(error)
            return
        self._note_replica()
        self._account.end("engine_error", _NOTHING)  # half a recording is of no use
        self._cut(error)

    def _settle_uncounted(self, outcome: Outcome) -> None:
        self._account.end(outcome, self._usage or self._sound.least)

    def _meaning(self, status: int, body: bytes) -> CloudcrestError:
        if self._route.document.engine in OURS and status in (400, 413):
            try:
                said = error_of(body).error
            except (msgspec.DecodeError, UnicodeDecodeError):
                return super()._meaning(status, body)
            return InvalidInput(said.message, code=said.code, param=said.param)
        return super()._meaning(status, body)

    def _write(self, data: bytes) -> None:
        if not self._has_begun:
            self._begin()
        self._connection.write(data if self._parts.request.is_http_1_0 else chunk(data))

    def _begin(self) -> None:
        self._has_begun = True
        self._call.is_repeatable = False
        self._account.first_token()
        framing = b"" if self._parts.request.is_http_1_0 else b"transfer-encoding: chunked\r\n"
        quiet = b"cache-control: no-cache\r\nx-accel-buffering: no\r\n" if self._is_events else b""
        self._connection.start_answer(200, b"content-type: %b\r\n%b%b" % (self._content_type, quiet, framing))

    @property
    def _is_events(self) -> bool:
        return self._content_type.startswith(_EVENTS)

    def _cut(self, error: CloudcrestError) -> None:
        """The answer has begun and cannot go on: events say so, and a recording ends without its end."""
        if self._is_events:
            self._write(error_event(error))
            self._close()
        else:
            self._connection.finish(close=True)

    def _close(self) -> None:
        if not self._parts.request.is_http_1_0:
            self._connection.write(LAST_CHUNK)
        self._connection.finish(close=self._parts.request.is_http_1_0)


def _usage_in(head: bytes) -> Usage | None:
    """What the head of an answer says that it is charged for."""
    found = _USAGE.search(head)
    if found is None:
        return None
    try:
        said = msgspec.json.decode(found[1], type=SoundUsage)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if said.characters < 0 or said.audio_milliseconds < 0:
        return None
    return Usage(0, 0, characters=said.characters, audio_milliseconds=said.audio_milliseconds)
