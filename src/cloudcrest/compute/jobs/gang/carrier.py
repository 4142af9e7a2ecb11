"""Carries the packets of one member: between the device in its sandbox and the runners of the others.

    command ── kernel ── device ── carrier ══ one connection for each other member ══ carrier ── device ── …

The higher member dials the lower, again and again for as long as the attempt lasts. Nothing grows without bound: where
a peer's queue is full the device is read no further, and the kernel holds senders back; after `STALL_SECONDS` packets
to that peer alone are dropped, so that none can hold up the others. Packets to who is not there are dropped: TCP sends
them again.
"""

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import Coroutine

import structlog

from cloudcrest.compute.jobs.gang import handshake
from cloudcrest.compute.jobs.gang.packets import (
    DEVICE,
    MTU_BYTES,
    PREFIX_BITS,
    address_of,
    cut,
    destination_of,
    number_of,
)
from cloudcrest.compute.jobs.gang.peer import Peer
from cloudcrest.compute.jobs.running import Gang, RunnerPlace

STALL_SECONDS = 2.0
MAX_HANDSHAKES = 256
_HANDSHAKE_SECONDS = 10.0
_AGAIN_FIRST_SECONDS, _AGAIN_MOST_SECONDS = 0.05, 2.0
_READ_BYTES = 256 * 1024
_PACKETS_AT_ONCE = 16
_PORTS = (20_000, 32_000)
"""As replicas have them: below those that outgoing connections take."""
_PORT_TRIES = 64
_log = structlog.get_logger(__name__)


class Carrier:
    """Implements `sandbox.api.Network` for `member`. Takes over `listening`; `close` ends all it has opened."""

    name = DEVICE
    prefix_bits = PREFIX_BITS
    mtu_bytes = MTU_BYTES

    def __init__(self, gang: Gang, member: int, listening: socket.socket) -> None:
        self.address = address_of(member)
        self.peers = tuple(address_of(each) for each in range(len(gang.runners)))
        self.dropped_packets = 0
        self._gang = gang
        self._key = gang.key.encode()
        self._member = member
        self._own = number_of(member)
        self._listening = listening
        others = (each for each in range(len(gang.runners)) if each != member)
        self._peers = {number_of(each): Peer(each, self._from_peer, self._resume) for each in others}
        self._device: int | None = None
        self._is_reading = False
        self._stall: asyncio.TimerHandle | None = None
        self._outbound = memoryview(bytearray(_PACKETS_AT_ONCE * MTU_BYTES))
        self._inbound = memoryview(bytearray(MTU_BYTES + _READ_BYTES))
        self._greeted: set[socket.socket] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._spawn(self._accept())
        for peer in self._peers.values():
            if peer.member < member:
                self._spawn(self._keep_dialled(peer, gang.runners[peer.member]))

    def attach(self, device_fd: int) -> None:
        """Begins to carry for this device, which is closed with this."""
        os.set_blocking(device_fd, False)
        self._device = device_fd
        self._resume()

    async def close(self) -> None:
        """Ends every connection, and the device."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._detach()
        for peer in self._peers.values():
            peer.lose()
        for connection in (self._listening, *self._greeted):
            connection.close()

    def _from_device(self) -> None:
        """Takes some packets from the device; those in a row to one peer leave together."""
        assert self._device is not None  # noqa: S101 - its reader goes with it
        buffer, begin, end = self._outbound, 0, 0
        towards: Peer | None = None
        try:
            for _ in range(_PACKETS_AT_ONCE):
                size = os.readv(self._device, [buffer[end : end + MTU_BYTES]])
                peer = self._peers.get(destination_of(buffer, end, end + size, self._own))
                if peer is not towards:
                    self._send(towards, buffer[begin:end])
                    towards, begin = peer, end
                end += size
        except BlockingIOError:
            pass
        except OSError as error:
            _log.warning("gang_device_gone", error=str(error))
            self._detach()
        self._send(towards, buffer[begin:end])
        if self._is_reading and any(peer.is_full for peer in self._peers.values()):
            self._pause()
            self._stall = asyncio.get_running_loop().call_later(STALL_SECONDS, self._wait_no_longer)

    def _send(self, peer: Peer | None, packets: memoryview) -> None:
        if len(packets) and (peer is None or not peer.send(packets)):
            self.dropped_packets += 1

    def _from_peer(self, peer: Peer) -> None:
        begun = len(peer.rest)
        self._inbound[:begun] = peer.rest
        size = peer.receive_into(self._inbound[begun : begun + _READ_BYTES])
        if not size:
            return
        try:
            found, used = cut(self._inbound, begun + size, number_of(peer.member), self._own)
        except ValueError as error:
            _log.warning("gang_stream_broken", member=peer.member, error=str(error))
            peer.lose()
            return
        if self._device is not None:
            for begin, end in found:
                with contextlib.suppress(OSError):  # the kernel has no room: a packet is lost, as in any network
                    os.write(self._device, self._inbound[begin:end])
        peer.rest = bytes(self._inbound[used : begun + size])

    def _pause(self) -> None:
        if self._is_reading and self._device is not None:
            asyncio.get_running_loop().remove_reader(self._device)
        self._is_reading = False
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _detach(self) -> None:
        self._pause()
        if self._device is not None:
            os.close(self._device)
            self._device = None

    def _resume(self) -> None:
        """Reads the device where there is room in every queue."""
        if self._device is None or self._is_reading or any(peer.is_full for peer in self._peers.values()):
            return
        self._pause()
        self._is_reading = True
        asyncio.get_running_loop().add_reader(self._device, self._from_device)

    def _wait_no_longer(self) -> None:
        for peer in self._peers.values():
            if peer.is_full:
                _log.warning("gang_peer_stalled", member=peer.member)
                peer.is_stalled = True
        self._resume()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listening)
            except OSError as error:  # no descriptors are left, or who dialled has gone
                _log.warning("gang_not_accepted", error=str(error))
                await asyncio.sleep(_AGAIN_MOST_SECONDS)
                continue
            if len(self._greeted) >= MAX_HANDSHAKES:
                connection.close()
            else:
                self._greeted.add(connection)
                self._spawn(self._greet(connection))

    async def _greet(self, connection: socket.socket) -> None:
        try:
            async with asyncio.timeout(_HANDSHAKE_SECONDS):
                other = await handshake.listen(connection, self._key, self._member)
            if not self._member < other < len(self._gang.runners):
                raise handshake.Refused("it is not for that member to dial")
        except (handshake.Refused, OSError) as error:
            _log.warning("gang_connection_refused", reason=str(error))
            connection.close()
        else:
            self._peers[number_of(other)].use(connection)
        self._greeted.discard(connection)

    async def _keep_dialled(self, peer: Peer, place: RunnerPlace) -> None:
        pause_seconds = _AGAIN_FIRST_SECONDS
        while True:
            try:
                gone = peer.use(await self._dial(peer.member, place))
            except (handshake.Refused, OSError) as error:
                _log.info("gang_not_connected", member=peer.member, reason=str(error))
            else:
                pause_seconds = _AGAIN_FIRST_SECONDS
                await gone.wait()
            await asyncio.sleep(pause_seconds * random.uniform(0.5, 1.0))  # noqa: S311 - spreads attempts, no secret
            pause_seconds = min(pause_seconds * 2, _AGAIN_MOST_SECONDS)

    async def _dial(self, member: int, place: RunnerPlace) -> socket.socket:
        connection = socket.socket(_family(place.address))
        try:
            connection.setblocking(False)
            async with asyncio.timeout(_HANDSHAKE_SECONDS):
                await asyncio.get_running_loop().sock_connect(connection, (place.address, place.port))
                await handshake.dial(connection, self._key, self._member, member)
        except BaseException:
            connection.close()
            raise
        return connection

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def listen_at(address: str) -> socket.socket:
    """A socket that listens for other runners, on a port by chance. Raises `OSError`."""
    for _ in range(_PORT_TRIES):
        made = socket.socket(_family(address))
        try:
            made.setblocking(False)
            made.bind((address, random.randrange(*_PORTS)))  # noqa: S311 - any will do
            made.listen(MAX_HANDSHAKES)
        except OSError as error:
            made.close()
            last = error
        else:
            return made
    raise last


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
