"""A transport that reads and writes its socket itself: nothing is lost, doubled or given to another, on either loop."""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudcrest.gateway.rounds import Rounds, RoundTransport
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio
READ_AT_ONCE = (479, 65_536)
"""What a read asks for where little came before, and where much did."""
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


class Talker(asyncio.Protocol):
    """The server's end of a connection. It greets, so that it reads by itself from then on."""

    transport: RoundTransport
    loops: asyncio.Transport

    def __init__(self, rounds: Rounds, greeting: bytes = b"hello") -> None:
        self._rounds = rounds
        self._greeting = greeting
        self.received = bytearray()
        self.reads = 0
        self.pauses = self.resumes = 0
        self.lost: list[Exception | None] = []
        self.ended = False
        self.take: Callable[[bytes], None] = lambda _: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.loops = cast(asyncio.Transport, transport)
        self.transport = RoundTransport(self._rounds, transport, self)
        asyncio.get_running_loop().call_soon(self._greet)

    def _greet(self) -> None:
        if self._greeting:
            self.transport.write(self._greeting)

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.reads += 1
        self.take(data)

    def eof_received(self) -> bool:
        self.ended = True
        return False

    def pause_writing(self) -> None:
        self.pauses += 1

    def resume_writing(self) -> None:
        self.resumes += 1

    def connection_lost(self, error: Exception | None) -> None:
        self.transport.let_go()
        self.lost.append(error)


class House:
    """A server whose connections share their rounds."""

    def __init__(self) -> None:
        self.rounds = Rounds()
        self.talkers: list[Talker] = []
        self.port = 0

    def take_in(self, greeting: bytes = b"hello") -> Talker:
        talker = Talker(self.rounds, greeting)
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
async def house() -> AsyncIterator[House]:
    open_house = House()
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


async def send(client: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(client, data)


def some(size_bytes: int) -> bytes:
    return (b"0123456789abcdef" * (size_bytes // 16 + 1))[:size_bytes]


@pytest.mark.parametrize("before", [1, 70_000])
@pytest.mark.parametrize("around", [*READ_AT_ONCE, sum(READ_AT_ONCE), 2 * READ_AT_ONCE[1], 1_000_000])
@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_all_that_comes_is_read(before: int, around: int, more: int) -> None:
    async with house() as at:
        client, talker = await at.visit()
        with client:
            for size_bytes in (before, around + more):
                talker.received.clear()
                await send(client, some(size_bytes))
                await until(lambda wanted=size_bytes: len(talker.received) >= wanted, "it is read")  # type: ignore[misc]
                assert talker.received == some(size_bytes)


@pytest.mark.parametrize("kind", LOOPS)
@settings(deadline=None, max_examples=25)
@given(sizes=st.lists(st.sampled_from([1, 300, 5_000, 100_000, 700_000]), max_size=12), turns=st.integers(0, 3))
def test_all_that_is_written_arrives_in_order(kind: str, sizes: list[int], turns: int) -> None:
    async def go() -> None:
        async with house() as at:
            client, talker = await at.visit(receive_buffer_bytes=4_096)
            with client:
                for number, size_bytes in enumerate(sizes):
                    talker.transport.write(bytes([number]) * size_bytes)
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    if number % 3 == 2:  # what waits is read, so that it may write by itself again
                        await read(client, 1)
                        talker.transport.write(b"")
                talker.transport.close()
                left = b"".join(bytes([number]) * size_bytes for number, size_bytes in enumerate(sizes))
                skipped = sum(number % 3 == 2 for number in range(len(sizes)))
                assert await read(client, len(left) + 1) == left[skipped:]

    with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
        runner.run(go())


async def test_who_reads_slowly_is_waited_for() -> None:
    async with house() as at:
        client, talker = await at.visit(receive_buffer_bytes=4_096)
        with client:
            talker.transport.set_write_buffer_limits(50_000)
            written = 0
            while not talker.pauses:
                talker.transport.write(some(16_000))
                written += 16_000
                assert written < 50_000_000
                await asyncio.sleep(0)
            talker.transport.write(b"x" * 16_000)
            assert len(await read(client, written + 16_000)) == written + 16_000
            await until(lambda: talker.resumes == talker.pauses == 1, "it goes on")
            talker.transport.write(b"and on")
            assert await read(client, 6) == b"and on"


async def test_while_it_is_paused_nothing_comes_and_nothing_is_lost() -> None:
    async with house() as at:
        client, talker = await at.visit()
        other, other_talker = await at.visit()
        with client, other:
            talker.transport.pause_reading()
            await send(client, some(200_000))
            await send(other, b"x")
            await until(lambda: other_talker.reads == 1, "others are read")
            assert not talker.reads
            client.shutdown(socket.SHUT_WR)
            await send(other, b"x")
            await until(lambda: other_talker.reads == 2, "others are read")
            assert not talker.reads
            assert not talker.ended
            talker.transport.resume_reading()
            await until(lambda: talker.ended, "its end is seen")
            assert talker.received == some(200_000)


async def test_it_may_pause_while_it_reads() -> None:
    async with house() as at:
        client, talker = await at.visit()
        with client:
            talker.take = lambda _: talker.transport.pause_reading()
            await send(client, some(300_000))
            for reads in range(1, 4):
                await until(lambda wanted=reads: talker.reads == wanted, "it reads on")  # type: ignore[misc]
                for _ in range(5):
                    await asyncio.sleep(0)
                assert talker.reads == reads
                talker.transport.resume_reading()
            talker.take = lambda _: None
            talker.transport.pause_reading()
            talker.transport.resume_reading()
            await until(lambda: len(talker.received) == 300_000, "all is read")


async def test_the_end_is_seen_after_what_came_before_it() -> None:
    async with house() as at:
        client, talker = await at.visit()
        with client:
            await send(client, some(150_000))
            client.shutdown(socket.SHUT_WR)
            await until(lambda: bool(talker.lost), "it is lost")
            assert talker.ended
            assert talker.received == some(150_000)
            assert talker.lost == [None]
            assert await read(client, 1) == b""


async def test_what_is_written_after_the_other_end_has_closed_still_goes_out() -> None:
    async with house() as at:
        client, talker = await at.visit()
        with client:
            talker.eof_received = lambda: True  # type: ignore[method-assign]
            client.shutdown(socket.SHUT_WR)
            for _ in range(10):
                await asyncio.sleep(0)
            talker.transport.write(b"bye")
            assert await read(client, 3) == b"bye"


async def test_a_reset_is_a_loss_with_an_error() -> None:
    async with house() as at:
        client, talker = await at.visit()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        await until(lambda: bool(talker.lost), "it is lost")
        assert talker.lost[0] is not None or talker.transport.error is not None


async def test_a_reset_that_is_met_while_reading_is_kept_as_its_error() -> None:
    async with house() as at:
        client, talker = await at.visit()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        talker.transport.read(1)  # as if the reset came just after it was found readable
        assert isinstance(talker.transport.error, ConnectionResetError)
        await until(lambda: bool(talker.lost), "it is lost")
        assert talker.lost == [None]


async def test_an_end_that_is_met_while_reading_is_an_end() -> None:
    async with house() as at:
        client, talker = await at.visit()
        client.close()
        talker.transport.read(1)
        await until(lambda: bool(talker.lost), "it is lost")
        assert talker.ended
        assert talker.transport.error is None


async def test_being_told_of_what_was_read_before_is_nothing() -> None:
    async with house() as at:
        client, talker = await at.visit()
        with client:
            talker.transport.read(1)
            await send(client, b"now")
            await until(lambda: talker.received == b"now", "it reads on")


async def test_a_fault_costs_its_own_connection_alone() -> None:
    async with house() as at:
        first, faulty = await at.visit()
        second, other = await at.visit()

        def fail(_: bytes) -> None:
            raise ValueError("a fault")

        with first, second:
            faulty.take = fail
            other.take = other.transport.write
            first.send(b"x")
            second.send(b"y")
            await until(lambda: bool(faulty.lost), "it is lost")
            assert isinstance(faulty.transport.error, ValueError)
            assert await read(second, 1) == b"y"
            assert await read(first, 1) == b""


async def test_who_was_ended_in_anothers_turn_is_not_read() -> None:
    async with house() as at:
        visits = [await at.visit() for _ in range(2)]
        (first, one), (second, other) = visits
        with first, second:
            one.take = lambda _: other.transport.abort()
            other.take = lambda _: one.transport.abort()
            first.send(b"x")
            second.send(b"y")
            await until(lambda: bool(one.lost or other.lost), "one has ended the other")
            assert one.reads + other.reads == 1


async def test_what_several_ask_for_in_a_round_goes_out_at_its_end() -> None:
    async with house() as at:
        visits = [await at.visit() for _ in range(3)]
        seen: list[int] = []
        for client, talker in visits:

            def answer(data: bytes, talker: Talker = talker) -> None:
                talker.transport.write(data)
                seen.append(len(at.rounds.waiting))

            talker.take = answer
            client.send(b"x")
        await until(lambda: len(seen) == 3, "all are read")
        assert seen == [1, 2, 3]
        assert not at.rounds.waiting
        seen.clear()
        visits[1][0].send(b"alone")
        await until(lambda: len(seen) == 1, "it is read")
        assert seen == [0]
        for client, _ in visits:
            assert await read(client, 1) == b"x"
            client.close()


async def test_nothing_goes_to_who_has_its_descriptor_now() -> None:
    async with house() as at:
        gone: list[Talker] = []
        for _ in range(20):
            client, talker = await at.visit()
            number = talker.loops.get_extra_info("socket").fileno()
            client.close()
            await until(lambda talker=talker: bool(talker.lost), "it is lost")  # type: ignore[misc]
            gone.append(talker)
            client, heir = await at.visit()
            with client:
                is_same = heir.loops.get_extra_info("socket").fileno() == number
                for old in gone:
                    with contextlib.suppress(RuntimeError):  # uvloop's says that it is closed
                        old.transport.write(b"for somebody else")
                        await asyncio.sleep(0)
                heir.transport.write(b"!")
                assert await read(client, 1) == b"!"
            if is_same:
                return
        pytest.fail("no descriptor was given anew")


async def test_without_room_to_watch_the_loop_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Rounds, "watch", refuse)
    async with house() as at:
        client = socket.socket()
        client.setblocking(False)
        with client:
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", at.port))
            assert await read(client, 5) == b"hello"
            await send(client, some(100_000))
            await until(lambda: at.talkers[0].received == some(100_000), "it is read")
            at.talkers[0].transport.write(b"bye")
            assert await read(client, 3) == b"bye"


async def test_what_has_no_socket_of_its_own_is_the_loops() -> None:
    class Sealed(asyncio.Transport):
        def __init__(self, **extra: Any) -> None:
            super().__init__(extra)
            self.written: list[bytes] = []

        def write(self, data: bytes | bytearray | memoryview) -> None:
            self.written.append(bytes(data))

    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        for sealed in (Sealed(), Sealed(socket=ours, sslcontext=object())):
            RoundTransport(Rounds(soon=lambda end: end()), sealed, asyncio.Protocol()).write(b"secret")
            assert sealed.written == [b"secret"]
        with pytest.raises(BlockingIOError):
            os.read(theirs.fileno(), 1)
