"""One other member, as a runner sees it: the connection to its runner, and what waits to be sent there."""

import asyncio
import socket
from collections import deque
from collections.abc import Callable

from cloudcrest.infra.sockets import keep_watch

QUEUE_BYTES = 2 * 1024 * 1024
"""More than this waits for no peer: until it is less, nothing further is read from the device."""


class Peer:
    """`on_readable`: the connection has something. `on_drained`: it takes packets again, after it took no more."""

    def __init__(self, member: int, on_readable: Callable[["Peer"], None], on_drained: Callable[[], None]) -> None:
        self.member = member
        self.rest = b""
        """The beginning of a packet whose end has not come."""
        self.is_stalled = False
        self._on_readable = on_readable
        self._on_drained = on_drained
        self._connection: socket.socket | None = None
        self._is_gone = asyncio.Event()
        self._waiting: deque[memoryview] = deque()
        self._waiting_bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether it is to be waited for."""
        return self._waiting_bytes > QUEUE_BYTES and not self.is_stalled

    def use(self, connection: socket.socket) -> asyncio.Event:
        """Goes on with this connection, in place of any other; what is returned is set when it has gone."""
        self.lose()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_watch(connection)
        self._connection, self._is_gone = connection, asyncio.Event()
        asyncio.get_running_loop().add_reader(connection, self._on_readable, self)
        return self._is_gone

    def lose(self) -> None:
        """The connection has gone, with what waited for it: TCP inside sends it again."""
        if self._connection is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._connection)
        loop.remove_writer(self._connection)
        self._connection.close()
        self._connection = None
        self.rest = b""
        self._waiting.clear()
        self._waiting_bytes, self.is_stalled = 0, False
        self._is_gone.set()
        self._on_drained()

    def receive_into(self, buffer: memoryview) -> int:
        """Reads what has come; 0: nothing has, or the connection has gone."""
        if self._connection is None:
            return 0
        try:
            size = self._connection.recv_into(buffer)
        except BlockingIOError:
            return 0
        except OSError:
            size = 0
        if not size:
            self.lose()
        return size

    def send(self, packets: memoryview) -> bool:
        """Sends whole packets, or keeps them to be sent; whether it does: not where there is no connection, or one that
        has stalled.
        """
        if self._connection is None or self.is_stalled:
            return False
        sent = 0
        if not self._waiting:
            try:
                sent = self._connection.send(packets)
            except BlockingIOError:
                pass
            except OSError:
                self.lose()
                return False
            if sent == len(packets):
                return True
            asyncio.get_running_loop().add_writer(self._connection, self._send_waiting)
        self._waiting.append(memoryview(bytes(packets[sent:])))
        self._waiting_bytes += len(packets) - sent
        return True

    def _send_waiting(self) -> None:
        assert self._connection is not None  # noqa: S101 - its writer goes with it
        try:
            while self._waiting:
                piece = self._waiting[0]
                sent = self._connection.send(piece)
                self._waiting_bytes -= sent
                if sent == len(piece):
                    self._waiting.popleft()
                else:
                    self._waiting[0] = piece[sent:]
        except BlockingIOError:
            pass
        except OSError:
            self.lose()
            return
        if not self._waiting:
            asyncio.get_running_loop().remove_writer(self._connection)
        if self._waiting_bytes <= QUEUE_BYTES // 2:
            self.is_stalled = False
            self._on_drained()
