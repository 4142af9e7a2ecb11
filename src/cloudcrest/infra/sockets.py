"""TCP connections whose other end may go without a word: a host that lost its power, a firewall that forgot us."""

import socket
from typing import Protocol

_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
_UNACKNOWLEDGED_MILLISECONDS = 30_000


class Options(Protocol):
    """What takes a socket's options: a socket, or what an event loop has for one."""

    def setsockopt(self, level: int, name: int, value: int, /) -> None: ...


def keep_watch(connection: Options | None) -> None:
    """Has the kernel end it half a minute after the other end has gone, idle or not. None: there is none to watch."""
    if connection is None:
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {**_KEEPALIVE, "TCP_USER_TIMEOUT": _UNACKNOWLEDGED_MILLISECONDS}
    for name, value in options.items():
        if hasattr(socket, name):  # each system has some of them
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
