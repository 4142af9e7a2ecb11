"""A client's connection as the relays see it, over a socket that is none."""

import asyncio
from collections.abc import Callable

from cloudcrest.gateway.rounds import Rounds, RoundTransport

Take = Callable[[bytes], None]


class _Wire(asyncio.Transport):
    def __init__(self, take: Take) -> None:
        super().__init__()
        self._take = take

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._take(bytes(data))


def client(take: Take) -> RoundTransport:
    """One that has everything written at once, to this."""
    return RoundTransport(Rounds(soon=lambda end: end()), _Wire(take), asyncio.Protocol())


def client_of_chunks(take: Take) -> RoundTransport:
    """One that is written whole chunks alone, of which this gets the payload."""

    def take_off(chunk: bytes) -> None:
        size, _, rest = chunk.partition(b"\r\n")
        assert len(rest) == int(size, 16) + 2
        assert rest.endswith(b"\r\n")
        take(rest[:-2])

    return client(take_off)
