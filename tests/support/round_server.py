"""A small server whose connections read and write by rounds, and clients of it that are plain sockets."""

import asyncio
import select
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import cast

from cloudcrest.gateway.rounds import Rounds, RoundTransport
from tests.support.waiting import until_async


class Talker(asyncio.Protocol):
    """The server's end of a connection. It greets, so that it reads by itself from then on.

    `take` gets what comes; `stays`: whether it goes on after the other end has closed.
    """

    transport: RoundTransport
    loops: asyncio.Transport

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds
        self.received = bytearray()
        self.reads = 0
        self.pauses = self.resumes = 0
        self.lost: list[Exception | None] = []
        self.ended = self.stays = False
        self.take: Callable[[bytes], None] = lambda _: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.loops = cast(asyncio.Transport, transport)
        self.transport = RoundTransport(self._rounds, transport, self)
        asyncio.get_running_loop().call_soon(self.transport.write, b"hello")

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.reads += 1
        self.take(data)

    def eof_received(self) -> bool:
        self.ended = True
        return self.stays

    def pause_writing(self) -> None:
        self.pauses += 1

    def resume_writing(self) -> None:
        self.resumes += 1

    def connection_lost(self, error: Exception | None) -> None:
        self.transport.let_go()
        self.lost.append(error)

    def wait_for_arrival(self) -> None:
        """Holds the loop up until something has come, or the end: the kernel may take its time."""
        assert select.select([self.loops.get_extra_info("socket").fileno()], [], [], 20)[0]

    def is_lost(self) -> bool:
        return bool(self.lost)

    def has_received(self, size_bytes: int) -> bool:
        return len(self.received) >= size_bytes

    def has_read(self, times: int) -> bool:
        return self.reads == times


class House:
    """A server whose connections share their rounds."""

    def __init__(self, rounds: Rounds) -> None:
        self.rounds = rounds
        self.talkers: list[Talker] = []
        self.port = 0

    def take_in(self) -> Talker:
        talker = Talker(self.rounds)
        self.talkers.append(talker)
        return talker

    async def visit(self, *, receive_buffer_bytes: int = 0) -> tuple[socket.socket, Talker]:
        """A client's socket after the greeting, and the other end."""
        client = socket.socket()
        if receive_buffer_bytes:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        client.setblocking(False)
        before = len(self.talkers)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", self.port))
        assert await read(client, 5) == b"hello"
        talker = self.talkers[before]
        await until(lambda: not talker.loops.is_reading(), "it reads by itself")
        return client, talker


@asynccontextmanager
async def house(rounds: Rounds | None = None) -> AsyncIterator[House]:
    open_house = House(rounds or Rounds())
    server = await asyncio.get_running_loop().create_server(open_house.take_in, "127.0.0.1", 0)
    open_house.port = server.sockets[0].getsockname()[1]
    try:
        yield open_house
    finally:
        server.close()
        for talker in open_house.talkers:
            if not talker.lost:
                talker.transport.abort()
        await until(lambda: all(talker.lost for talker in open_house.talkers), "all are gone")


async def until(condition: Callable[[], bool], what: str) -> None:
    await until_async(condition, what, pause_seconds=0.0)


async def read(client: socket.socket, size_bytes: int) -> bytes:
    data = b""
    async with asyncio.timeout(20):
        while len(data) < size_bytes:
            piece = await asyncio.get_running_loop().sock_recv(client, size_bytes - len(data))
            if not piece:
                break
            data += piece
    return data


def send_together(visits: Sequence[tuple[socket.socket, Talker]]) -> None:
    """A byte of each client, all of them in one round."""
    for client, _ in visits:
        client.send(b"x")
    for _, talker in visits:
        talker.wait_for_arrival()


async def send(client: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(client, data)


def some(size_bytes: int) -> bytes:
    return (b"0123456789abcdef" * (size_bytes // 16 + 1))[:size_bytes]
