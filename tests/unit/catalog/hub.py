"""A file server on loopback that misbehaves as it is told."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_RANGE = re.compile(rb"range: bytes=(\d+)-", re.IGNORECASE)


@dataclass
class Hub:
    """`files`: what it has, by path (with the query, if any). `requests`: (path, offset asked for) of each request."""

    files: dict[str, bytes] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, list[int]] = field(default_factory=dict)
    honours_range: bool = True
    announces_length: bool = True
    break_after_bytes: list[int] = field(default_factory=list)
    """How much of each of the next answers is sent before the connection is cut."""
    requests: list[tuple[str, int | None]] = field(default_factory=list)
    headers: list[bytes] = field(default_factory=list)
    url: str = ""

    @property
    def offsets(self) -> list[int | None]:
        return [offset for _, offset in self.requests]

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.headers.append(head)
            path = head.split(b" ")[1].decode()
            wanted = _RANGE.search(head)
            offset = int(wanted.group(1)) if wanted else None
            self.requests.append((path, offset))
            await self._send(path, offset, writer)
        finally:
            writer.close()

    async def _send(self, path: str, offset: int | None, writer: asyncio.StreamWriter) -> None:
        if self.statuses.get(path):
            writer.write(b"HTTP/1.1 %d Sorry\r\ncontent-length: 0\r\n\r\n" % self.statuses[path].pop(0))
        elif path in self.redirects:
            location = self.redirects[path].encode()
            writer.write(b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\nlocation: " + location + b"\r\n\r\n")
        elif path in self.files:
            self._send_file(path, offset, writer)
        else:
            writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()

    def _send_file(self, path: str, offset: int | None, writer: asyncio.StreamWriter) -> None:
        whole = self.files[path]
        lines = [b"content-type: " + self.types.get(path, "application/octet-stream").encode(), b"connection: close"]
        body, status = whole, b"200 OK"
        if offset is not None and self.honours_range:
            if offset >= len(whole):
                writer.write(b"HTTP/1.1 416 No\r\ncontent-length: 0\r\n\r\n")
                return
            body, status = whole[offset:], b"206 Partial"
            lines.append(b"content-range: bytes %d-%d/%d" % (offset, len(whole) - 1, len(whole)))
        if self.announces_length:
            lines.append(b"content-length: %d" % len(body))
        writer.write(b"HTTP/1.1 " + status + b"\r\n" + b"\r\n".join(lines) + b"\r\n\r\n")
        writer.write(body[: self.break_after_bytes.pop(0)] if self.break_after_bytes else body)


@asynccontextmanager
async def running_hub() -> AsyncIterator[Hub]:
    """A hub at `hub.url`, on a port of its own."""
    hub = Hub()
    server = await asyncio.start_server(hub.answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    hub.url = f"http://127.0.0.1:{port}"
    async with server:
        yield hub
