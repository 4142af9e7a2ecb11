"""The local fabric: processes on this machine, asked of the node agent over its Unix socket."""

import asyncio
import contextlib
from functools import partial
from pathlib import Path

from cloudcrest.compute.fabric.agent import MAX_LINE_BYTES
from cloudcrest.compute.fabric.client import AgentClient

_MAX_ANSWER_BYTES = 256 * MAX_LINE_BYTES
"""Room for the last words of some fifty thousand processes, on many nodes."""


class LocalFabric(AgentClient):
    """A client of the agent at `socket_path`, be it a machine's own or one that speaks for many nodes."""

    def __init__(self, socket_path: Path) -> None:
        super().__init__(
            partial(exchange, socket_path),
            name=f"the node agent at {socket_path}",
            hint="is `cloudcrest up` running?",
        )


async def exchange(socket_path: Path, line: bytes) -> bytes:
    """Sends a line to the agent at a socket; the line that it answers. Raises `OSError` without one."""
    reader, writer = await asyncio.open_unix_connection(socket_path, limit=_MAX_ANSWER_BYTES)
    try:
        writer.write(line)
        await writer.drain()
        return await reader.readline()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
