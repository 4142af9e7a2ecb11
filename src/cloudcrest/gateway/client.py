"""One request to an upstream off the hot path: counting tokens, say."""

import asyncio

from cloudcrest.gateway.connection import Upstream
from cloudcrest.kernel.errors import EngineFault
from cloudcrest.kernel.units import MIB

MAX_ANSWER_BYTES = 16 * MIB


class _Gathering:
    """A sink that gathers an answer."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._status = 0
        self._parts: list[bytes] = []
        self._size_bytes = 0

    def answer_head(self, status: int, head: bytes) -> None:  # noqa: ARG002  # nobody asks for the headers
        self._status = status

    def answer_data(self, data: bytes) -> None:
        self._size_bytes += len(data)
        if self._size_bytes <= MAX_ANSWER_BYTES:
            self._parts.append(data)

    def answer_end(self) -> None:
        if not self.answer.done():
            self.answer.set_result((self._status, b"".join(self._parts)))

    def answer_lost(self, reason: str, *, was_reused: bool) -> None:  # noqa: ARG002  # a fresh connection is used
        if not self.answer.done():
            self.answer.set_exception(EngineFault(reason))

    def upstream_paused(self, is_paused: bool) -> None:
        """The request is written whole."""


async def fetch(upstream: Upstream, path: str, body: bytes, timeout_seconds: float) -> tuple[int, bytes]:
    """POSTs JSON over a connection of its own; (status, body). Raises `OSError`, `TimeoutError` or `EngineFault`."""
    async with asyncio.timeout(timeout_seconds):
        connection = await upstream.dial(timeout_seconds, 0)
        sink = _Gathering()
        head = (
            b"POST %b HTTP/1.1\r\n%bconnection: close\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        )
        connection.send(head % (path.encode(), upstream.head_lines, len(body)) + body, sink)
        try:
            return await sink.answer
        finally:
            connection.close()
