"""The upstream side: keep-alive connections to a replica (or the control plane), and the framing of its answers.

An `UpstreamConnection` carries one exchange at a time and hands the payload (chunk framing taken off) to its sink.
Idle connections wait in a last-in-first-out pool, so the fewest stay warm.
"""

import asyncio
import ssl
from math import inf
from time import monotonic
from typing import Final
from urllib.parse import urlsplit

from cloudcrest.gateway.http1 import CHUNKED, JSON, LAST_CHUNK, UNTIL_CLOSE, answer_head, chunk_size, one_chunk_at
from cloudcrest.gateway.known_head import HeadShape, head_shape
from cloudcrest.gateway.passage import Passage
from cloudcrest.gateway.rounds import Rounds, RoundTransport
from cloudcrest.gateway.sink import Sink, WholeSink
from cloudcrest.gateway.sound.form import CONTENT_TYPES
from cloudcrest.infra.sockets import keep_watch
from cloudcrest.kernel.units import KIB

MAX_CHUNK_LINE_BYTES = 4 * KIB
IDLE_SECONDS = 60.0
"""As nginx has it. Engines close sooner (uvicorn after 5 s), and we are told; what crosses that is sent again."""

_now: Final = monotonic  # compiled, a name that is not Final is looked up each time

# What comes next. Literals, which compiled code takes over.
_IDLE: Final = 0
_HEAD: Final = 1
_LENGTH_BODY: Final = 2
_CHUNK_LINE: Final = 3
_CHUNK_DATA: Final = 4
_CHUNK_END: Final = 5
_TRAILER: Final = 6
_UNTIL_CLOSE: Final = 7


class Upstream:
    """One address with its idle connections and load. `token`: for the Authorization header; `rounds`: its worker's."""

    def __init__(
        self, url: str, *, token: str = "", slots: int = 1, name: str = "", rounds: Rounds | None = None
    ) -> None:
        parts = urlsplit(url)
        self.name = name
        self.rounds = rounds or Rounds()
        self.url = url
        self.slots = max(1, slots)
        self.host = parts.hostname or "127.0.0.1"
        self.is_tls = parts.scheme == "https"
        self.port = parts.port or (443 if self.is_tls else 80)
        self.host_header = (f"[{self.host}]" if ":" in self.host else self.host).encode() + b":%d" % self.port
        self.answer_shape: HeadShape | None = None
        """Of the head of a whole answer with status 200, as this one sends it."""
        self.stream_head = b""
        """The head of the last answer with status 200 in chunks, its empty line included."""
        self._request_starts: dict[str, bytes] = {}
        self.head_lines = b"host: %b\r\n" % self.host_header
        if token:
            self.head_lines += b"authorization: Bearer %b\r\n" % token.encode("latin-1", "replace")
        self.in_flight = 0
        self.paused_until_seconds = 0.0
        self.idle: list[UpstreamConnection] = []
        self.is_retired = False
        self.leave_at = inf

    def request_start(self, path: str) -> bytes:
        """A request's head up to its id."""
        start = self._request_starts.get(path)
        if start is None:
            kind = CONTENT_TYPES.get(path, JSON)
            lines = b"POST %b HTTP/1.1\r\n%bcontent-type: %b\r\nx-request-id: "
            start = self._request_starts[path] = lines % (path.encode(), self.head_lines, kind)
        return start

    def learn_head(self, head: bytes, length: int) -> None:
        """The next usual answer with such a head is known by it. `length`: of the body, or `CHUNKED`."""
        if length == CHUNKED:
            self.stream_head = head
        else:
            self.answer_shape = head_shape(head, length)

    def take(self) -> "UpstreamConnection | None":
        """The idle connection used last, if there is one that lives."""
        while self.idle:
            connection = self.idle.pop()
            if connection.is_usable():
                return connection
        return None

    async def dial(self, timeout_seconds: float, max_idle: int) -> "UpstreamConnection":
        """A new connection. Raises `OSError` or `TimeoutError`."""
        loop = asyncio.get_running_loop()
        tls = ssl.create_default_context() if self.is_tls else None
        async with asyncio.timeout(timeout_seconds):
            _, connection = await loop.create_connection(
                lambda: UpstreamConnection(self, max_idle), self.host, self.port, ssl=tls
            )
        return connection

    def has_room(self, max_idle: int) -> bool:
        """Whether one more idle connection is welcome: never more than the replica has slots.

        llama.cpp's server holds a thread for each connection, idle ones too, so idle ones would starve waiting ones.
        """
        held = len(self.idle) + self.in_flight
        return not self.is_retired and len(self.idle) < max_idle and held <= self.slots

    def prune(self, now: float) -> None:
        """Closes what has been idle for too long."""
        while self.idle and (now - self.idle[0].idle_since > IDLE_SECONDS or self.is_retired):
            self.idle.pop(0).close()

    def retire(self, leave_at: float = inf) -> None:
        """The replica is not routed to any more: idle connections close, busy ones do when they are done.

        `leave_at`: when it is going to be stopped, monotonic seconds.
        """
        self.is_retired = True
        self.leave_at = leave_at
        self.prune(0.0)

    def restore(self) -> None:
        """It is routed to again."""
        self.is_retired = False
        self.leave_at = inf


class UpstreamConnection(asyncio.Protocol):
    """One connection: `send` a request, the sink gets the answer.

    `passage` may be set while an answer comes in chunks: each read that begins a chunk is offered to it as it is,
    with its framing, and goes to the sink where it says no. `has_spoken`: something came since it was set False.
    """

    _transport: RoundTransport

    def __init__(self, upstream: Upstream, max_idle: int) -> None:
        # What each chunk of a stream looks at comes first, and so lies together where this is compiled.
        self._state = _IDLE
        self._buffer = b""
        self.passage: Passage | None = None
        self.has_spoken = False
        self._is_lost = False
        self._sink: Sink | None = None
        self._whole_sink: WholeSink | None = None
        self._upstream = upstream
        self._max_idle = max_idle
        self._needed_bytes = 0
        self._is_reusable = self._is_body_sent = True
        self._is_head_request = self._was_reused = self._is_paused = False
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = RoundTransport(self._upstream.rounds, transport, self)
        keep_watch(transport.get_extra_info("socket"))

    def is_usable(self) -> bool:
        return not self._is_lost and not self._transport.is_closing()

    def send(
        self,
        data: bytes,
        sink: Sink,
        *,
        is_head: bool = False,
        is_whole: bool = True,
        whole_sink: WholeSink | None = None,
    ) -> None:
        """Writes a request. `is_whole` False: its body follows by `write`, until `body_sent`.

        `whole_sink`: gets the body of a usual answer in place of all that the sink would get.
        """
        self._sink = sink
        self._whole_sink = whole_sink
        self._state = _HEAD
        self._is_head_request, self._is_body_sent = is_head, is_whole
        self._transport.write(data)

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def body_sent(self) -> None:
        """The streamed body is whole."""
        self._is_body_sent = True

    def pause(self) -> None:
        if self.is_usable():
            self._is_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self.is_usable():
            self._is_paused = False
            self._transport.resume_reading()

    def close(self) -> None:
        """Drops the connection without a word to its sink: an engine stops generating."""
        self._sink = self.passage = self._whole_sink = None
        self._is_lost = True
        self._transport.abort()

    def pause_writing(self) -> None:
        if self._sink is not None:
            self._sink.upstream_paused(True)

    def resume_writing(self) -> None:
        if self._sink is not None:
            self._sink.upstream_paused(False)

    def connection_lost(self, error: Exception | None) -> None:
        self._is_lost = True
        self._transport.let_go()
        if self in self._upstream.idle:
            self._upstream.idle.remove(self)
        sink, self._sink, self.passage, self._whole_sink = self._sink, None, None, None
        if sink is None:
            return
        is_unheard = self._state == _HEAD and not self._buffer
        if self._state == _UNTIL_CLOSE and error is None and not self._transport.is_faulty:
            sink.answer_end()
        else:
            sink.answer_lost("the connection to it was lost", was_reused=self._was_reused and is_unheard)

    def data_received(self, data: bytes) -> None:
        self.has_spoken = True
        if self._state == _CHUNK_LINE:
            passage = self.passage
            # An event of a stream mostly is one read and one chunk.
            if passage is None or self._buffer or not passage.take(data):
                self._read_chunks(data)
        elif self._state == _LENGTH_BODY:
            self._read_length_body(data)
        elif self._state == _HEAD:
            if not self._take_whole(data):
                self._read_head(data)
        elif self._state == _UNTIL_CLOSE:
            if self._sink is not None:
                self._sink.answer_data(data)
        elif self._state == _IDLE:
            self._fault("it spoke out of turn")
        else:
            self._read_chunks(data)

    def _take_whole(self, data: bytes) -> bool:
        """Takes a read that is all of an answer, under a head that came before; False: it is something else."""
        shape, sink = self._upstream.answer_shape, self._whole_sink
        body_at = shape.body_at(data) if shape is not None and sink is not None and not self._buffer else 0
        if not body_at or sink is None:
            return False
        self._is_reusable = True
        self._release()
        sink.answer_whole(data[body_at:])
        return True

    def _read_head(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        known = self._upstream.stream_head
        if known and data.startswith(known) and not self._is_head_request:
            status, head, rest = 200, known[:-4], data[len(known) :]
            length, self._is_reusable = CHUNKED, True
        else:
            try:
                status, head, length, self._is_reusable, rest = answer_head(data, is_of_head=self._is_head_request)
            except ValueError as error:
                self._fault(str(error))
                return
            if not status:
                self._buffer = rest
                return
            if status == 200 and self._is_reusable and not self._is_head_request:
                self._upstream.learn_head(head + b"\r\n\r\n", length)
        self._needed_bytes = max(0, length)
        self._state = _CHUNK_LINE if length == CHUNKED else _UNTIL_CLOSE if length == UNTIL_CLOSE else _LENGTH_BODY
        sink = self._sink
        if sink is None:
            return
        sink.answer_head(status, head)
        if self._state == _LENGTH_BODY and self._needed_bytes == 0:
            self._is_reusable = self._is_reusable and not rest
            self._done()
        elif rest and self._sink is not None:
            self.data_received(rest)

    def _read_length_body(self, data: bytes) -> None:
        if len(data) > self._needed_bytes:
            data = data[: self._needed_bytes]
            self._is_reusable = False
        self._needed_bytes -= len(data)
        if self._sink is not None:
            self._sink.answer_data(data)
        if self._needed_bytes == 0 and self._sink is not None:
            self._done()

    def _read_chunks(self, data: bytes) -> None:
        """Takes the framing off. All payload of one read goes to the sink in one piece."""
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        elif self._state == _CHUNK_LINE and self._read_whole_chunk(data):
            return
        payload: list[bytes] = []
        position, size = 0, len(data)
        while position < size:
            if self._state == _CHUNK_DATA:
                piece = data[position : position + self._needed_bytes]
                payload.append(piece)
                position += len(piece)
                self._needed_bytes -= len(piece)
                if self._needed_bytes == 0:
                    self._state = _CHUNK_END
                continue
            line_end = data.find(b"\r\n", position)
            if line_end < 0:
                self._buffer = data[position:]
                break
            line = data[position:line_end]
            position = line_end + 2
            if not self._read_line(line):
                break
            if self._state == _IDLE:
                break
        is_done = self._state == _IDLE
        if payload and self._sink is not None:
            self._sink.answer_data(payload[0] if len(payload) == 1 else b"".join(payload))
        if is_done and self._sink is not None:
            self._is_reusable = self._is_reusable and position == size
            self._done()
        elif len(self._buffer) > MAX_CHUNK_LINE_BYTES:
            self._fault("its chunks are malformed")

    def _read_whole_chunk(self, data: bytes) -> bool:
        """Takes a read that is one chunk, or one and the end, as most are; False: it is something else."""
        is_last = data.endswith(LAST_CHUNK)
        chunk = data[: -len(LAST_CHUNK)] if is_last else data
        at = one_chunk_at(chunk)
        if not at or self._sink is None:
            return False
        self._sink.answer_data(chunk[at:-2])
        if is_last and self._sink is not None:
            self._done()
        return True

    def _read_line(self, line: bytes) -> bool:
        """Reads a line of chunk framing; `_IDLE` is the state after the last. False: it was malformed."""
        if self._state == _CHUNK_END:
            self._state = _CHUNK_LINE
            if line:
                self._fault("its chunks are malformed")
            return not line
        if self._state == _TRAILER:
            if not line:
                self._state = _IDLE
            return True
        size = chunk_size(line)
        if size is None:
            self._fault("its chunks are malformed")
            return False
        self._needed_bytes = size
        self._state = _CHUNK_DATA if self._needed_bytes else _TRAILER
        return True

    def _done(self) -> None:
        sink = self._sink
        self._release()
        if sink is not None:
            sink.answer_end()

    def _release(self) -> None:
        """Lets go of the sink, and back into the pool where there is room."""
        self._sink = self.passage = self._whole_sink = None
        self._state = _IDLE
        self._buffer = b""
        upstream = self._upstream
        may_stay = self._is_reusable and self._is_body_sent and not self._is_lost  # who takes it looks closer
        if may_stay and upstream.has_room(self._max_idle):
            self._was_reused = True
            if self._is_paused:
                self._is_paused = False
                self._transport.resume_reading()
            self.idle_since = _now()
            upstream.idle.append(self)
        else:
            self._is_lost = True
            self._transport.close()

    def _fault(self, reason: str) -> None:
        sink, self._sink, self.passage, self._whole_sink = self._sink, None, None, None
        self._state = _IDLE
        self._is_lost = True
        self._transport.abort()
        if self in self._upstream.idle:
            self._upstream.idle.remove(self)
        if sink is not None:
            sink.answer_lost(reason, was_reused=False)
