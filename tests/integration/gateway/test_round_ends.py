"""How connections end that rounds read and write: each is seen, told of once, freed, and its descriptor left alone."""

import asyncio
import contextlib
import gc
import os
import socket
import struct
import weakref
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import structlog

from cloudcrest.gateway.connection import Upstream, UpstreamConnection
from cloudcrest.gateway.protocol import ServerConnection
from cloudcrest.gateway.rounds import Rounds, RoundTransport
from cloudcrest.gateway.settings import GatewaySettings
from cloudcrest.gateway.state import ServerState
from tests.support.round_server import Talker, house, read, send, send_together, some, until

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


def fail(_: bytes) -> None:
    raise ValueError("a fault")


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


async def test_the_end_is_seen_after_what_came_before_it() -> None:
    async with house() as at:
        client, talker = await at.visit()
        with client:
            await send(client, some(150_000))
            client.shutdown(socket.SHUT_WR)
            await until(talker.is_lost, "it is lost")
            assert talker.ended
            assert talker.received == some(150_000)
            assert talker.lost == [None]
            assert await read(client, 1) == b""


async def test_what_is_written_after_the_other_end_has_closed_still_goes_out() -> None:
    async with house() as at:
        client, talker = await at.visit()
        with client:
            talker.stays = True
            client.shutdown(socket.SHUT_WR)
            await until(lambda: talker.ended, "its end is seen")
            talker.transport.write(b"bye")
            assert await read(client, 3) == b"bye"


async def test_a_reset_is_a_loss_with_an_error() -> None:
    async with house() as at:
        client, talker = await at.visit()
        reset(client)
        await until(talker.is_lost, "it is lost")
        assert talker.lost[0] is not None or talker.transport.is_faulty


async def test_a_reset_that_is_met_while_reading_is_kept_in_mind() -> None:
    async with house() as at:
        client, talker = await at.visit()
        reset(client)
        talker.wait_for_arrival()
        with pytest.raises(ConnectionResetError):
            talker.transport.read(1)  # as if the reset came just after it was found readable
        talker.transport.fail()
        await until(talker.is_lost, "it is lost")
        assert talker.lost == [None]
        assert talker.transport.is_faulty


async def test_an_end_that_is_met_while_reading_is_an_end() -> None:
    async with house() as at:
        client, talker = await at.visit()
        client.close()
        talker.wait_for_arrival()
        talker.transport.read(1)
        await until(talker.is_lost, "it is lost")
        assert talker.ended
        assert not talker.transport.is_faulty


async def test_being_told_of_what_was_read_before_is_nothing() -> None:
    async with house() as at:
        client, talker = await at.visit()
        with client:
            talker.transport.read(1)
            await send(client, b"now")
            await until(lambda: talker.received == b"now", "it reads on")


async def test_a_fault_costs_its_own_connection_alone() -> None:
    async with house() as at:
        visits = [await at.visit() for _ in range(3)]
        for _, talker in visits:
            talker.take = talker.transport.write
        faulty = visits[1][1]
        faulty.take = fail
        send_together(visits)
        await until(faulty.is_lost, "it is lost")
        assert faulty.transport.is_faulty
        assert [await read(client, 1) for client, _ in visits] == [b"x", b"", b"x"]
        for client, _ in visits:
            client.close()


async def test_after_a_write_that_failed_nothing_more_is_read() -> None:
    async with house() as at:
        client, talker = await at.visit()
        with client:
            was_closing: list[bool] = []
            talker.take = lambda _: was_closing.append(talker.loops.is_closing())
            closed = socket.socket(fileno=os.dup(talker.loops.get_extra_info("socket").fileno()))
            closed.shutdown(socket.SHUT_WR)  # so that a write fails while something can be read
            closed.close()
            send_together([(client, talker)])
            talker.transport.write(b"x")
            assert talker.transport.is_faulty
            await until(talker.is_lost, "it is lost")
            assert True not in was_closing


async def test_while_it_closes_it_is_not_read() -> None:
    async with house() as at:
        client, talker = await at.visit(receive_buffer_bytes=4_096)
        other, other_talker = await at.visit()
        with client, other:
            talker.transport.write(some(10_000_000))
            talker.transport.close()
            client.send(b"x")
            other.send(b"x")
            await until(lambda: other_talker.reads == 1, "others are read")
            assert not talker.reads


async def test_nothing_that_is_written_hides_no_error() -> None:
    async with house() as at:
        client, talker = await at.visit()
        reset(client)
        talker.wait_for_arrival()
        talker.transport.write(b"")
        with pytest.raises(ConnectionResetError):
            talker.transport.read(1)
        talker.transport.abort()


async def test_after_its_end_nothing_is_written() -> None:
    async with house() as at:
        client, talker = await at.visit()
        with client:
            talker.transport.write_eof()
            with contextlib.suppress(RuntimeError):
                talker.transport.write(b"more")
            assert await read(client, 1) == b""
            await send(client, b"but it is still heard")
            await until(lambda: talker.received == b"but it is still heard", "it is read")


def end_paused(_: socket.socket, talker: Talker) -> None:
    talker.transport.pause_reading()
    talker.transport.abort()


def end_with_a_fault(client: socket.socket, talker: Talker) -> None:
    talker.take = fail
    client.send(b"x")


ENDS: dict[str, Callable[[socket.socket, Talker], None]] = {
    "close": lambda _, talker: talker.transport.close(),
    "abort": lambda _, talker: talker.transport.abort(),
    "abort of a paused one": end_paused,
    "the client's end": lambda client, _: client.close(),
    "a reset": lambda client, _: reset(client),
    "a fault": end_with_a_fault,
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_however_it_ends_it_is_freed_without_the_collector(
    end: Callable[[socket.socket, Talker], None], without_collector: None
) -> None:
    with structlog.testing.capture_logs():  # printing a traceback keeps it
        async with house() as at:
            client, talker = await at.visit()
            with client:
                end(client, talker)
                left = weakref.ref(talker)
                await until(lambda: all(talker.lost for talker in at.talkers), "it is lost")
                at.talkers.clear()
                del talker
                await until(lambda: left() is None, "it is freed")
                assert not any(at.rounds._readers)


async def test_who_was_ended_in_anothers_turn_is_not_read() -> None:
    async with house() as at:
        visits = [await at.visit() for _ in range(2)]
        (first, one), (second, other) = visits
        with first, second:
            one.take = lambda _: other.transport.abort()
            other.take = lambda _: one.transport.abort()
            send_together(visits)
            await until(lambda: bool(one.lost or other.lost), "one has ended the other")
            assert one.reads + other.reads == 1


async def test_nothing_goes_to_who_has_its_descriptor_now() -> None:
    async with house() as at:
        gone: list[Talker] = []
        for _ in range(20):
            client, talker = await at.visit()
            number = talker.loops.get_extra_info("socket").fileno()
            client.close()
            await until(talker.is_lost, "it is lost")
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


class Wire(asyncio.Transport):
    """A transport over a socket, which keeps what is left to it."""

    def __init__(self, **extra: Any) -> None:
        super().__init__(extra)
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def is_reading(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return False


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    with ours, theirs:
        theirs.setblocking(False)
        yield ours, theirs


@pytest.mark.parametrize("is_client", [True, False])
async def test_a_connection_that_is_lost_writes_to_no_descriptor(
    is_client: bool, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    wire = Wire(socket=ours)
    rounds = Rounds(soon=lambda end: end())
    connection: ServerConnection | UpstreamConnection
    if is_client:
        names: dict[str, Any] = {"name": "g", "region": "r", "spool_folder": "s", "feed_state_path": "f"}
        connection = ServerConnection(ServerState(GatewaySettings(**names), cast(Any, None), rounds=rounds))
    else:
        connection = UpstreamConnection(Upstream("http://127.0.0.1:1", rounds=rounds), 1)
    connection.connection_made(wire)
    write = connection.write
    write(b"here")
    assert not wire.written
    theirs.setblocking(True)
    assert theirs.recv(10) == b"here"
    connection.connection_lost(None)
    write(b"there")
    assert wire.written == [b"there"]
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(10)


@pytest.mark.parametrize("is_faulty", [False, True])
async def test_an_answer_that_ends_with_its_connection_is_not_whole_after_a_reset(is_faulty: bool) -> None:
    said: list[str] = []

    class Sink:
        def answer_head(self, status: int, head: bytes) -> None: ...

        def answer_data(self, data: bytes) -> None:
            said.append(data.decode())

        def answer_end(self) -> None:
            said.append("end")

        def answer_lost(self, reason: str, *, was_reused: bool) -> None:  # noqa: ARG002
            said.append("lost")

        def upstream_paused(self, is_paused: bool) -> None: ...

    connection = UpstreamConnection(Upstream("http://127.0.0.1:1", rounds=Rounds(soon=lambda end: end())), 1)
    connection.connection_made(Wire())
    connection.send(b"", Sink())
    connection.data_received(b"HTTP/1.1 200 OK\r\n\r\nhalf")
    connection._transport.is_faulty = is_faulty
    connection.connection_lost(None)
    assert said == ["half", "lost" if is_faulty else "end"]


async def test_what_has_no_socket_of_its_own_is_the_loops(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    for sealed in (Wire(), Wire(socket=ours, sslcontext=object())):
        RoundTransport(Rounds(soon=lambda end: end()), sealed, asyncio.Protocol()).write(b"secret")
        assert sealed.written == [b"secret"]
    with pytest.raises(BlockingIOError):
        theirs.recv(10)
