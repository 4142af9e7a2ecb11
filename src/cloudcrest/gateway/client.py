"""One request to an upstream off the hot path: counting tokens, say, or what the region is asked."""

import asyncio
from time import monotonic

from cloudcrest.gateway.connection import Upstream, UpstreamConnection
from cloudcrest.gateway.sink import CROSSING_SECONDS
from cloudcrest.kernel.errors import EngineFault
from cloudcrest.kernel.units import MIB

MAX_ANSWER_BYTES = 16 * MIB
CONNECT_SECONDS = 5.0


class _ClosedWhileIdle(EngineFault):
    """A kept connection was lost before anything came: as it was written to, or soon after."""


class _Gathering:
    """A sink that gathers an answer."""

    def __init__(self, max_answer_bytes: int) -> None:
        self.answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._max_answer_bytes = max_answer_bytes
        self._status = 0
        self._parts: list[bytes] = []
        self._size_bytes = 0

    def answer_head(self, status: int, head: bytes) -> None:  # noqa: ARG002  # nobody asks for the headers
        self._status = status

    def answer_data(self, data: bytes) -> None:
        self._size_bytes += len(data)
        if self._size_bytes <= self._max_answer_bytes:
            self._parts.append(data)

    def answer_end(self) -> None:
        if self.answer.done():
            return
        if self._size_bytes > self._max_answer_bytes:
            self.answer.set_exception(EngineFault(f"its answer has over {self._max_answer_bytes} bytes"))
        else:
            self.answer.set_result((self._status, b"".join(self._parts)))

    def answer_lost(self, reason: str, *, was_reused: bool) -> None:
        if not self.answer.done():
            self.answer.set_exception(_ClosedWhileIdle(reason) if was_reused else EngineFault(reason))

    def upstream_paused(self, is_paused: bool) -> None:
        """The request is written whole."""


async def fetch(upstream: Upstream, path: str, body: bytes, timeout_seconds: float) -> tuple[int, bytes]:
    """POSTs JSON over a connection of its own; (status, body). Raises `OSError`, `TimeoutError` or `EngineFault`."""
    head = b"POST %b HTTP/1.1\r\n%bconnection: close\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    request = head % (path.encode(), upstream.head_lines, len(body)) + body
    return await exchange(upstream, request, timeout_seconds, keeps=False)


async def exchange(
    upstream: Upstream,
    request: bytes,
    timeout_seconds: float,
    *,
    keeps: bool = True,
    max_answer_bytes: int = MAX_ANSWER_BYTES,
) -> tuple[int, bytes]:
    """The same for a whole request. `keeps`: over a connection that is kept for the next one."""
    async with asyncio.timeout(timeout_seconds):
        upstream.prune(monotonic())
        kept = upstream.take() if keeps else None
        if kept is not None:
            asked_at = monotonic()
            try:
                return await _ask(kept, request, max_answer_bytes, keeps=True)
            except _ClosedWhileIdle:
                if monotonic() - asked_at > CROSSING_SECONDS:
                    raise
        fresh = await upstream.dial(min(timeout_seconds, CONNECT_SECONDS), max_idle=int(keeps))
        return await _ask(fresh, request, max_answer_bytes, keeps=keeps)


async def _ask(
    connection: UpstreamConnection, request: bytes, max_answer_bytes: int, *, keeps: bool
) -> tuple[int, bytes]:
    sink = _Gathering(max_answer_bytes)
    connection.send(request, sink)
    try:
        return await sink.answer
    finally:
        if not keeps or sink.answer.cancelled():
            connection.close()
