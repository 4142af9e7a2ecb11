"""A proxy that looks at nothing: what the event loop's own transports and four system calls cost.

    python -m bench.gateway.floor PORT REPLICA_PORT

Each client has a connection of its own to the replica, and every read is written to the other side as it came.
"""

import asyncio
import sys
from typing import cast

import uvloop


class Side(asyncio.Protocol):
    """One side of a connection: what it reads, the other writes."""

    def __init__(self, other: "Side | None" = None, replica_port: int = 0) -> None:
        self.other = other
        self.replica_port = replica_port
        self.early: list[bytes] = []
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self.other is None:
            side = self.other = Side(self)
            loop = asyncio.get_running_loop()
            self.dialing = loop.create_task(loop.create_connection(lambda: side, "127.0.0.1", self.replica_port))
            return
        for data in self.other.early:
            self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)
        else:
            self.early.append(data)

    def connection_lost(self, _: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


async def main(port: int, replica_port: int) -> None:
    """Serves until it is killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Side(replica_port=replica_port), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(int(sys.argv[1]), int(sys.argv[2])))
