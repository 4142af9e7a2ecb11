"""Connections that are watched: the kernel asks after the other end, and gives up on what it does not acknowledge."""

import socket

import pytest

from cloudcrest.infra.sockets import keep_watch


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has other options")
def test_the_kernel_is_told_to_ask_after_the_other_end() -> None:
    with socket.socket() as connection:
        keep_watch(connection)
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000


def test_what_has_no_socket_is_let_be() -> None:
    keep_watch(None)
