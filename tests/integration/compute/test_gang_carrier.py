"""What carries packets between members' runners, over real connections; in place of devices there are sockets."""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cloudcrest.compute.jobs.gang import carrier as carrying
from cloudcrest.compute.jobs.gang import handshake
from cloudcrest.compute.jobs.gang.carrier import Carrier, listen_at
from cloudcrest.compute.jobs.gang.packets import cut, number_of
from cloudcrest.compute.jobs.gang.peer import QUEUE_BYTES, Peer
from cloudcrest.compute.jobs.running import Gang, RunnerPlace
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio
KEY = "key-of-the-attempt"
NUMBERS = [number_of(member) for member in range(4)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def packet(source: int, destination: int, payload: bytes = b"") -> bytes:
    head = struct.pack(">BBHIIII", 0x45, 0, 20 + len(payload), 0, 0, NUMBERS[source], NUMBERS[destination])
    return head + payload


class Wired:
    """A member's carrier, and the other end of its device."""

    def __init__(self, gang: Gang, member: int, listening: socket.socket) -> None:
        self.end, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.end.setblocking(False)
        self.carrier = Carrier(gang, member, listening)
        self.carrier.attach(device.detach())

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.end, data)

    async def receive(self) -> bytes:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.end, 70_000), 30)

    async def close(self) -> None:
        await self.carrier.close()
        self.end.close()


def gang_of(listening: list[socket.socket], key: str = KEY) -> Gang:
    return Gang(key, tuple(RunnerPlace(*each.getsockname()) for each in listening))


@asynccontextmanager
async def wired(members: int) -> AsyncIterator[tuple[list[Wired], Gang]]:
    listening = [listen_at("127.0.0.1") for _ in range(members)]
    gang = gang_of(listening)
    made = [Wired(gang, member, each) for member, each in enumerate(listening)]
    try:
        yield made, gang
    finally:
        for each in made:
            await each.close()


async def reaches(one: Wired, other: Wired, source: int, destination: int, mark: bytes) -> None:
    """Sends until something comes: as long as they are not connected packets are lost."""

    async def look() -> bool:
        await one.send(packet(source, destination, mark))
        try:
            return other.end.recv(70_000) == packet(source, destination, mark)
        except BlockingIOError:
            return False

    await until_async(look, f"member {source} reaches member {destination}")
    await one.send(packet(source, destination, b"last of these"))
    while await other.receive() != packet(source, destination, b"last of these"):
        pass


def drained(one: Wired) -> bool:
    try:
        one.end.recv(70_000)
    except BlockingIOError:
        return True
    return False


async def as_member(gang: Gang, own: int, other: int, key: str = KEY) -> socket.socket:
    """A connection to a member's runner, made by hand."""
    place = gang.runners[other]
    connection = socket.create_connection((place.address, place.port))
    connection.setblocking(False)
    try:
        await handshake.dial(connection, key.encode(), own, other)
    except BaseException:
        connection.close()
        raise
    return connection


async def is_hung_up(connection: socket.socket) -> bool:
    try:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(connection, 1), 30) == b""
    except ConnectionError:
        return True


async def test_packets_reach_the_member_they_are_for_in_order() -> None:
    async with wired(3) as (members, _):
        for source in range(3):
            for destination in {0, 1, 2} - {source}:
                await reaches(members[source], members[destination], source, destination, b"first")
        for turn in range(20):  # a socket holds few packets, and drops what is more, as a device does not
            sent = [packet(2, 0, bytes([turn]) * (number * 4_000)) for number in range(8)]
            for each in sent:
                await members[2].send(each)
            assert [await members[0].receive() for _ in sent] == sent
        assert drained(members[1])


async def test_what_does_not_belong_does_not_leave() -> None:
    async with wired(2) as (members, _):
        await reaches(members[0], members[1], 0, 1, b"first")
        before = members[0].carrier.dropped_packets
        forged, strange, itself = packet(1, 1, b"x"), packet(0, 3, b"x"), packet(0, 0, b"x")
        for each in (forged, strange, itself, b"\x60" + bytes(39), packet(0, 1, b"x") + b"y", packet(0, 1, b"good")):
            await members[0].send(each)
        assert await members[1].receive() == packet(0, 1, b"good")
        assert members[0].carrier.dropped_packets >= before + 1


async def test_what_a_member_forges_on_the_way_is_dropped() -> None:
    async with wired(1) as (members, alone):
        gang = Gang(KEY, alone.runners * 3)
        first = Wired(gang, 0, listen_at("127.0.0.1"))
        try:
            place = RunnerPlace(*first.carrier._listening.getsockname())
            gang = Gang(KEY, (place, *gang.runners[1:]))
            with await as_member(gang, 2, 0) as connection:
                forged, strayed, good = packet(1, 0, b"f"), packet(2, 1, b"s"), packet(2, 0, b"good")
                await asyncio.get_running_loop().sock_sendall(connection, forged + strayed + good)
                assert await first.receive() == good
                await asyncio.get_running_loop().sock_sendall(connection, b"no packet at all, but bytes")
                assert await is_hung_up(connection)
            with await as_member(gang, 2, 0) as connection:
                await asyncio.get_running_loop().sock_sendall(connection, good)
                assert await first.receive() == good
        finally:
            await first.close()
        assert members


async def test_who_has_not_the_key_is_refused() -> None:
    async with wired(2) as (members, gang):
        await reaches(members[0], members[1], 0, 1, b"first")
        with pytest.raises(handshake.Refused, match="has not the key"):
            await as_member(gang, 1, 0, key="guessed")
        loop, place = asyncio.get_running_loop(), gang.runners[0]
        hello = struct.pack("!8sHH32s", b"ccgang1\n", 1, 0, b"n" * 32)
        for said in (
            hello + b"p" * 32,
            b"GET /index.html HTTP/1.1\r\nhost: somewhere.example\r\n\r\n",
            hello[:8] + b"\0" * 68,
        ):
            with socket.create_connection((place.address, place.port)) as connection:
                connection.setblocking(False)
                await loop.sock_sendall(connection, said)
                while piece := await asyncio.wait_for(_piece(connection), 30):
                    assert len(piece) <= 64
        await reaches(members[1], members[0], 1, 0, b"still")


async def _piece(connection: socket.socket) -> bytes:
    try:
        return await asyncio.get_running_loop().sock_recv(connection, 1024)
    except ConnectionError:
        return b""


@pytest.mark.parametrize(("own", "other"), [(0, 0), (0, 1), (3, 1), (1, 1)])
async def test_only_members_above_may_dial(own: int, other: int) -> None:
    async with wired(2) as (_, gang):
        with await as_member(gang, own, other) as connection:
            assert await is_hung_up(connection)


async def test_what_a_listener_of_another_attempt_says_is_not_believed() -> None:
    listening = [listen_at("127.0.0.1") for _ in range(2)]
    ours, theirs = Gang("ours", ()), gang_of(listening, "theirs")
    ours = Gang("ours", theirs.runners)
    first, second = Wired(theirs, 0, listening[0]), Wired(ours, 1, listening[1])
    try:
        with pytest.raises(handshake.Refused):
            await second.carrier._dial(0, ours.runners[0])
        await second.send(packet(1, 0, b"secret"))
        await until_async(lambda: second.carrier.dropped_packets == 1, "it is sent nowhere")
        assert drained(first)
    finally:
        await first.close()
        await second.close()


async def test_strangers_that_say_nothing_hold_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrying, "MAX_HANDSHAKES", 3)
    async with wired(2) as (members, gang):
        await reaches(members[0], members[1], 0, 1, b"first")
        place = gang.runners[0]
        silent = [socket.create_connection((place.address, place.port)) for _ in range(4)]
        try:
            silent[3].setblocking(False)
            assert await is_hung_up(silent[3])
            await reaches(members[1], members[0], 1, 0, b"still")
        finally:
            for each in silent:
                each.close()


@pytest.mark.parametrize("lost", [0, 1])
async def test_a_broken_connection_is_made_again(lost: int) -> None:
    async with wired(2) as (members, _):
        await reaches(members[0], members[1], 0, 1, b"before")
        members[lost].carrier._peers[NUMBERS[1 - lost]].lose()
        await reaches(members[0], members[1], 0, 1, b"after")
        await reaches(members[1], members[0], 1, 0, b"back")


async def test_a_member_that_takes_nothing_is_waited_for_and_then_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrying, "STALL_SECONDS", 0.2)
    listening = [listen_at("127.0.0.1") for _ in range(3)]
    gang = gang_of(listening)
    first, second = Wired(gang, 0, listening[0]), Wired(gang, 1, listening[1])
    slow = await as_member(gang, 2, 0)
    try:
        await reaches(first, second, 0, 1, b"first")
        peer = first.carrier._peers[NUMBERS[2]]
        big = packet(0, 2, b"b" * 60_000)

        async def fill() -> bool:
            await first.send(big)
            return peer.is_stalled

        await until_async(fill, "it is given up waiting for", pause_seconds=0)
        assert QUEUE_BYTES < peer._waiting_bytes <= QUEUE_BYTES + 16 * 65_520
        await reaches(first, second, 0, 1, b"others go on")
        assert peer.is_stalled
        came = b""
        while is_behind(peer):
            came = _without_whole(came + await asyncio.get_running_loop().sock_recv(slow, 1 << 20), big)
        await first.send(packet(0, 2, b"last"))
        while not came.endswith(packet(0, 2, b"last")):
            came = _without_whole(came + await asyncio.get_running_loop().sock_recv(slow, 1 << 20), big)
        assert came == packet(0, 2, b"last")
    finally:
        slow.close()
        listening[2].close()
        await first.close()
        await second.close()


def is_behind(peer: Peer) -> bool:
    return peer.is_stalled or bool(peer._waiting)


def _without_whole(stream: bytes, expected: bytes) -> bytes:
    """What follows the whole packets of a stream, which are as expected."""
    found, _ = cut(stream, len(stream), NUMBERS[0], NUMBERS[2])
    big = [end for begin, end in found if stream[begin:end] == expected]
    assert len(found) - len(big) <= 1
    return stream[max(big, default=0) :]


async def test_nothing_stays_open() -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))

    await asyncio.sleep(0)
    before = opened()
    async with wired(3) as (members, gang):
        await reaches(members[0], members[2], 0, 2, b"first")
        with pytest.raises(handshake.Refused):
            await as_member(gang, 2, 0, key="guessed")
        assert opened() > before
    await until_async(lambda: opened() == before, "all is closed")
