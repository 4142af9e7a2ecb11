"""Rounds of a worker: what has come is read, and then what is to be written goes out, one right after the other.

Whoever reads the other end of a connection most often sleeps. To wake it takes the kernel longer than to write, and
between two requests that are thought about it falls asleep again. One that has just been woken finds what follows by
itself. So writes wait for the end of their round; what comes alone waits for nothing.

Plain connections are read and written here, past the event loop's transports: of a stream that takes turns with many
others each object that is looked at has to be fetched into the caches anew. What is rare stays the loop's: connecting,
closing, what comes after the other end has closed, what a socket has no room for, and TLS.
"""

import asyncio
import os
import select
from collections.abc import Callable
from typing import Any, Final, cast

import structlog

_log = structlog.get_logger(__name__)
_read_from: Final = os.read
_write_to: Final = os.write
_make_epoll: Final[Any] = getattr(select, "epoll", None)  # Linux alone has it

# Literals, which compiled code takes over.
_NONE: Final = -1
_READABLE: Final = 0x1  # EPOLLIN
_WATCHED: Final = 0x80002003  # EPOLLIN, EPOLLPRI, EPOLLRDHUP, EPOLLET
_MOST_IN_ROUND: Final = 128
_FEW_BYTES: Final = 479
"""Python's allocator for small objects has room for so many: an event of a stream costs no other memory."""
_MANY_BYTES: Final = 65_536

# Who reads a connection.
_LOOP_AT_FIRST: Final = 0
_ROUNDS: Final = 1
_NOBODY_NOW: Final = 2
_LOOP: Final = 3

_NO_PROTOCOL: Final = asyncio.Protocol()


class Rounds:
    """What a worker reads and writes. What waits to be written is at most what came in one round asks for.

    `begun`: called when a round has its first write. `soon`: has something called when the loop's turn is over, in
    place of the loop that runs. `writes`: so many were asked for in this round. `is_busy`: several are to be expected.
    """

    def __init__(
        self, begun: Callable[[], None] | None = None, soon: Callable[[Callable[[], None]], object] | None = None
    ) -> None:
        self._begun = begun
        self._soon = soon
        self._call_end = self._end  # looked up once
        self._is_reading = False
        self._epoll: Any = None
        self._readers: list[RoundTransport | None] = []
        """By descriptor."""
        self.is_busy = False
        self.writes = 0
        self.waiting: list[tuple[RoundTransport, bytes]] = []

    def begin(self) -> None:
        """The first write of a round is asked for."""
        if self._begun is not None:
            self._begun()
        if not self._is_reading:  # else this round ends by itself
            if self._soon is None:
                self._soon = asyncio.get_running_loop().call_soon  # looked up once: it is a system call
            self._soon(self._call_end)

    def flush(self) -> None:
        """Writes what waits."""
        waiting, self.waiting = self.waiting, []
        for transport, data in waiting:
            try:
                transport.send(data)
            except Exception as error:  # noqa: BLE001  # what is wrong with one is no reason to lose the others
                if not transport.is_closing():
                    _log.error("write_failed", error=repr(error))
                    transport.drop()

    def watch(self, descriptor: int, transport: "RoundTransport") -> None:
        """Has the transport read whenever something has come, or has come already. Raises `OSError`."""
        if self._epoll is None:
            epoll = _make_epoll()
            asyncio.get_running_loop().add_reader(epoll.fileno(), self._take_round)
            self._epoll = epoll
        self._epoll.register(descriptor, _WATCHED)
        readers = self._readers
        readers += [None] * (descriptor + 1 - len(readers))
        readers[descriptor] = transport

    def look_again(self, descriptor: int) -> None:
        """More of what had come may be left: it is told of once."""
        self._epoll.modify(descriptor, _WATCHED)

    def unwatch(self, descriptor: int) -> None:
        self._readers[descriptor] = None
        self._epoll.unregister(descriptor)

    def _take_round(self) -> None:
        """The loop has found that something has come. It calls this in the context of whoever was first watched."""
        came: list[tuple[int, int]] = self._epoll.poll(0, _MOST_IN_ROUND)
        readers = self._readers
        self.is_busy = len(came) > 1
        self._is_reading = True
        try:
            for descriptor, events in came:
                transport = readers[descriptor]
                if transport is None:  # another one's turn has ended it
                    continue
                try:
                    transport.read(events)
                except Exception as error:  # noqa: BLE001  # what is wrong with one is no reason to lose the others
                    if not isinstance(error, ConnectionError | TimeoutError):
                        _log.exception("read_failed")
                    transport.fail()
        finally:
            self._is_reading = False
            self._end()

    def _end(self) -> None:
        if self.writes:
            self.is_busy = self.writes > 1
            self.writes = 0
            if self.waiting:
                self.flush()


class RoundTransport:
    """A transport that keeps to the rounds. What ends it comes after its writes.

    From its first write on it reads (unless it is paused then) and writes its socket itself, where nothing stands
    between. `is_faulty`: that failed, or what was done with what came; its protocol may then hear of no error.
    """

    __slots__ = (
        "_descriptor", "_most_bytes", "_own_descriptor", "_protocol", "_reader", "_rounds", "_transport",
        "is_faulty",
    )  # fmt: skip

    def __init__(self, rounds: Rounds, transport: asyncio.BaseTransport, protocol: asyncio.Protocol) -> None:
        # What each read and write looks at comes first, and so lies together where this is compiled.
        self._descriptor = _NONE  # while what is written goes to it directly
        self._protocol = protocol
        self._most_bytes = _MANY_BYTES
        self._rounds = rounds
        self._own_descriptor = _plain_socket(transport)  # until the connection is let go
        self._reader = _LOOP_AT_FIRST
        self._transport = cast(asyncio.Transport, transport)
        self.is_faulty = False

    def write(self, data: bytes) -> None:
        """Writes now, or at the end of this round, after what was to be written before."""
        if not data:  # writing it would do nothing but take an error off the socket, unseen
            return
        rounds = self._rounds
        rounds.writes += 1
        if rounds.writes == 1:
            rounds.begin()
            if not rounds.is_busy:
                self.send(data)
                return
        rounds.waiting.append((self, data))

    def send(self, data: bytes) -> None:
        """Writes past all that waits."""
        if self._descriptor == _NONE:
            self._send_by_loop(data)
            return
        try:
            written_bytes = _write_to(self._descriptor, data)
        except BlockingIOError:
            written_bytes = 0
        except OSError:
            written_bytes = 0  # the loop's write fails too, and then it does what is to be done
            self.is_faulty = True
            self._leave_reading()
        if written_bytes < len(data):
            self._descriptor = _NONE
            self._transport.write(memoryview(data)[written_bytes:])

    def read(self, events: int) -> None:
        """Something has come, or the other end has closed. Raises `OSError`, and what its protocol does."""
        if events == _READABLE:
            try:
                data = self._received()
            except BlockingIOError:
                return  # taken already, with what came before
            if data:
                self._protocol.data_received(data)
                return
        self._leave_reading()  # what is left, the end or the error are the loop's to find

    def set_write_buffer_limits(self, high: int) -> None:
        self._transport.set_write_buffer_limits(high=high)

    def write_eof(self) -> None:
        self._rounds.flush()
        self._leave_reading()
        self._descriptor = self._own_descriptor = _NONE
        self._transport.write_eof()

    def close(self) -> None:
        self._rounds.flush()
        self.let_go()
        self._transport.close()

    def abort(self) -> None:
        self._rounds.flush()
        self.drop()

    def drop(self) -> None:
        """Aborts it past all that waits."""
        self.let_go()
        self._transport.abort()

    def fail(self) -> None:
        """Drops it for what happened while it was read."""
        self.is_faulty = True
        self.drop()

    def let_go(self) -> None:
        """Reads and writes nothing more itself. Its protocol calls this when the connection is lost: the descriptor is
        closed then, and another connection's soon.
        """
        descriptor, reader = self._own_descriptor, self._reader
        self._descriptor = self._own_descriptor = _NONE
        self._reader = _LOOP
        # It holds this one: only the collector would find such a ring, and it hardly runs.
        self._protocol = _NO_PROTOCOL
        if reader == _ROUNDS:
            self._rounds.unwatch(descriptor)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def can_write_eof(self) -> bool:
        return self._transport.can_write_eof()

    def pause_reading(self) -> None:
        if self._reader == _ROUNDS:
            self._reader = _NOBODY_NOW
            self._rounds.unwatch(self._own_descriptor)
        else:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._reader == _NOBODY_NOW:
            self._read_here()
        elif self._reader != _ROUNDS:
            self._transport.resume_reading()

    def _received(self) -> bytes:
        """What has come; empty at the end. Raises `OSError`, also where something came before what went wrong.

        A read of less than was asked for has left nothing: what comes later is told of anew.
        """
        descriptor, most_bytes = self._own_descriptor, self._most_bytes
        data = _read_from(descriptor, most_bytes)
        if len(data) < _FEW_BYTES:
            self._most_bytes = _FEW_BYTES
            return data
        self._most_bytes = _MANY_BYTES
        if most_bytes == _FEW_BYTES:
            try:
                data += _read_from(descriptor, _MANY_BYTES)
            except BlockingIOError:
                return data
        if len(data) >= _MANY_BYTES:
            self._rounds.look_again(descriptor)
        return data

    def _send_by_loop(self, data: bytes) -> None:
        transport = self._transport
        if self._own_descriptor == _NONE or transport.get_write_buffer_size():
            transport.write(data)
            return
        self._descriptor = self._own_descriptor
        if self._reader == _LOOP_AT_FIRST and transport.is_reading():
            transport.pause_reading()
            self._read_here()
        self.send(data)

    def _read_here(self) -> None:
        self._reader = _ROUNDS
        try:
            self._rounds.watch(self._own_descriptor, self)
        except OSError as error:  # the machine has no more of such things
            _log.warning("not_watched", error=str(error))
            self._reader = _LOOP
            self._transport.resume_reading()

    def _leave_reading(self) -> None:
        """To the loop, for good."""
        if self._reader == _ROUNDS:
            self._rounds.unwatch(self._own_descriptor)
            self._transport.resume_reading()
        self._reader = _LOOP


def _plain_socket(transport: asyncio.BaseTransport) -> int:
    """The descriptor of a socket that carries what its protocol says as it is; `_NONE`: not so, as with TLS."""
    if _make_epoll is None or transport.get_extra_info("sslcontext") is not None:
        return _NONE
    socket = transport.get_extra_info("socket")
    return _NONE if socket is None else cast(int, socket.fileno())
