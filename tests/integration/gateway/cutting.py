"""A wire that can be cut: a proxy in front of a replica that drops a generation after so many bytes of its answer."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

_GENERATIONS = (b"POST /v1/chat/completions", b"POST /v1/completions")


class Wire:
    """What stands before one replica. `cuts`: after how many bytes each of the next generations is cut, None: never."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._host, self._port = parts.hostname or "", parts.port or 0
        self.cuts: deque[int | None] = deque()
        self.generations = 0
        self.answered_bytes = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(self._host, self._port)
        except ConnectionError:
            writer.close()
            return
        left: int | None = None

        async def forward() -> None:
            nonlocal left
            while data := await reader.read(65_536):
                if data.startswith(_GENERATIONS):
                    self.generations += 1
                    left = self.cuts.popleft() if self.cuts else None
                upstream_writer.write(data)

        forwarding = asyncio.ensure_future(forward())
        try:
            while data := await upstream_reader.read(65_536):
                writer.write(data if left is None else data[:left])
                self.answered_bytes += len(data)
                if left is not None:
                    left -= len(data)
                    if left <= 0:
                        await writer.drain()
                        writer.close()
                        return
        except (ConnectionError, RuntimeError):  # uvloop's word for a closed connection
            pass
        finally:
            forwarding.cancel()
            for end in (writer, upstream_writer):
                with contextlib.suppress(ConnectionError, RuntimeError):
                    end.close()


@asynccontextmanager
async def wire(target: str) -> AsyncIterator[Wire]:
    """A wire to `target` on a port of its own."""
    made = Wire(target)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
