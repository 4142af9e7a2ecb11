"""A transport that reads and writes its socket itself: nothing is lost, doubled or given to another, on either loop."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import Any, cast

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudcrest.gateway.connection import Upstream, UpstreamConnection
from cloudcrest.gateway.protocol import ServerConnection
from cloudcrest.gateway.rounds import Rounds, RoundTransport
from cloudcrest.gateway.settings import GatewaySettings
from cloudcrest.gateway.state import ServerState
from tests.support.round_server import Talker, house, read, send, some, until

pytestmark = pytest.mark.anyio
READ_AT_ONCE = (479, 65_536)
"""What a read asks for where little came before, and where much did."""
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


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


@pytest.mark.parametrize("error", [None, ConnectionResetError("it was reset")])
async def test_an_answer_that_ends_with_its_connection_is_not_whole_after_a_reset(error: Exception | None) -> None:
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
    connection._transport.error = error
    connection.connection_lost(None)
    assert said == ["half", "end" if error is None else "lost"]


async def test_what_has_no_socket_of_its_own_is_the_loops(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    for sealed in (Wire(), Wire(socket=ours, sslcontext=object())):
        RoundTransport(Rounds(soon=lambda end: end()), sealed, asyncio.Protocol()).write(b"secret")
        assert sealed.written == [b"secret"]
    with pytest.raises(BlockingIOError):
        theirs.recv(10)
