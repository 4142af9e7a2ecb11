"""A transport that reads and writes its socket itself: nothing is lost, doubled or given to another, on either loop."""

import asyncio
import contextlib
import socket
from functools import partial
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudcrest.gateway.rounds import Rounds
from tests.support.round_server import Talker, house, read, send, send_together, some, until

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
                await until(partial(talker.has_received, size_bytes), "it is read")
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
                await until(partial(talker.has_read, reads), "it reads on")
                for _ in range(5):
                    await asyncio.sleep(0)
                assert talker.reads == reads
                talker.transport.resume_reading()
            talker.take = lambda _: None
            talker.transport.pause_reading()
            talker.transport.resume_reading()
            await until(lambda: len(talker.received) == 300_000, "all is read")


async def test_what_several_ask_for_in_a_round_goes_out_at_its_end() -> None:
    async with house() as at:
        visits = [await at.visit() for _ in range(3)]
        seen: list[int] = []
        for _, talker in visits:

            def answer(data: bytes, talker: Talker = talker) -> None:
                talker.transport.write(data)
                seen.append(len(at.rounds.waiting))

            talker.take = answer
        send_together(visits)
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


async def test_what_is_left_over_comes_before_what_is_written_later() -> None:
    async with house() as at:
        client, talker = await at.visit()
        with client:
            talker.loops.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8_192)
            left = b"".join(number.to_bytes(4, "big") for number in range(500_000))
            talker.transport.write(left)
            assert talker.loops.get_write_buffer_size()
            got = b""
            with contextlib.suppress(BlockingIOError):
                while True:  # the client makes room before the loop writes the rest
                    got += client.recv(1_000_000)
            talker.transport.write(b"end")
            got += await read(client, len(left) + 3 - len(got))
            assert got == left + b"end"
            await until(lambda: not talker.loops.get_write_buffer_size(), "all is out")
            talker.transport.write(b"and on")
            assert await read(client, 6) == b"and on"


async def test_reading_on_without_a_pause_changes_nothing() -> None:
    async with house() as at:
        client, talker = await at.visit()
        other, other_talker = await at.visit()
        with client, other:
            talker.transport.resume_reading()
            talker.transport.pause_reading()
            client.send(b"x")
            other.send(b"x")
            await until(lambda: other_talker.reads == 1, "others are read")
            assert not talker.reads


async def test_what_stands_behind_an_urgent_byte_is_read() -> None:
    async with house() as at:
        client, talker = await at.visit()
        with client:
            client.send(some(100))
            client.send(b"!", socket.MSG_OOB)
            client.send(some(100))
            await until(lambda: len(talker.received) >= 200, "it is read")
            assert talker.received[-100:] == some(100)


async def test_each_round_with_writes_is_told_of_once() -> None:
    begun: list[int] = []
    async with house(Rounds(lambda: begun.append(0))) as at:
        visits = [await at.visit() for _ in range(3)]
        begun.clear()
        for _, talker in visits:
            talker.take = talker.transport.write
        send_together(visits)
        for client, _ in visits:
            assert await read(client, 1) == b"x"
            client.close()
        assert begun == [0]
