"""A client's connection as the relays see it, over a socket that is none."""

import asyncio
from collections.abc import Callable

from cloudcrest.gateway.rounds import Rounds, RoundTransport


class _Wire(asyncio.Transport):
    def __init__(self, write: Callable[[bytes], None]) -> None:
        super().__init__()
        self._write = write

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._write(bytes(data))


def client(write: Callable[[bytes], None]) -> RoundTransport:
    """One that has everything written at once, by this."""
    return RoundTransport(Rounds(lambda end: end()), _Wire(write))
