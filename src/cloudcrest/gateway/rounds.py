"""Writes of one round of the event loop: they go out one right after the other, when all that came was looked at.

Whoever reads the other end of a connection most often sleeps. To wake it takes the kernel longer than to write, and
between two requests that are thought about it falls asleep again. One that has just been woken finds what follows by
itself. Where the round before had a single write, the first of this one goes out at once: what comes alone waits for
nothing.
"""

import asyncio
from collections.abc import Callable
from typing import cast

import structlog

_log = structlog.get_logger(__name__)


class Rounds:
    """What a worker is about to write: at most what came in one round asks for. `soon`: has something called when the
    round is over, in place of the loop that runs.

    `writes`: so many were asked for in this round. `is_busy`: in the one before there were several.
    """

    def __init__(self, soon: Callable[[Callable[[], None]], object] | None = None) -> None:
        self._soon = soon
        self._call_end = self._end  # looked up once
        self.is_under_way = False
        self.is_busy = False
        self.writes = 0
        self.waiting: list[tuple[RoundTransport, bytes]] = []

    def begin(self) -> None:
        """The first write of a round is asked for."""
        self.is_under_way = True
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_soon  # looked up once: it is a system call
        self._soon(self._call_end)

    def flush(self) -> None:
        """Writes what waits."""
        waiting, self.waiting = self.waiting, []
        for transport, data in waiting:
            try:
                transport.send(data)
            except (OSError, RuntimeError) as error:  # what is wrong with one is no reason to lose the others'
                if not transport.is_closing():
                    _log.error("write_failed", error=str(error))
                    transport.drop()

    def _end(self) -> None:
        self.is_under_way = False
        self.is_busy = self.writes > 1
        self.writes = 0
        if self.waiting:
            self.flush()


class RoundTransport:
    """A transport whose writes keep to the rounds; what ends it comes after them."""

    __slots__ = ("_rounds", "_transport")

    def __init__(self, rounds: Rounds, transport: asyncio.BaseTransport) -> None:
        self._rounds = rounds
        self._transport = cast(asyncio.Transport, transport)

    def write(self, data: bytes) -> None:
        """Writes now, or at the end of this round, after what was to be written before."""
        rounds = self._rounds
        rounds.writes += 1
        if not rounds.is_under_way:
            rounds.begin()
            if not rounds.is_busy:
                self.send(data)
                return
        rounds.waiting.append((self, data))

    def send(self, data: bytes) -> None:
        """Writes past all that waits."""
        # Looked up each time: a bound method, made beforehand, would be one more thing that no cache has.
        self._transport.write(data)

    def set_write_buffer_limits(self, high: int) -> None:
        self._transport.set_write_buffer_limits(high=high)

    def write_eof(self) -> None:
        self._rounds.flush()
        self._transport.write_eof()

    def close(self) -> None:
        self._rounds.flush()
        self._transport.close()

    def abort(self) -> None:
        self._rounds.flush()
        self._transport.abort()

    def drop(self) -> None:
        """Aborts it past all that waits."""
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def can_write_eof(self) -> bool:
        return self._transport.can_write_eof()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()
