"""Listening sockets, and what is said when there can be none."""

import contextlib
import itertools
import socket
import sys

import pytest

from cloudcrest.bootstrap import ports
from cloudcrest.kernel.errors import SetupError


def test_port_0_takes_a_free_one_and_says_which() -> None:
    with ports.listen_publicly("127.0.0.1", 0) as listening:
        url = ports.url_of(listening, host="127.0.0.1", has_tls=False)
        assert url == f"http://127.0.0.1:{ports.port_of(listening)}"
        socket.create_connection(("127.0.0.1", ports.port_of(listening))).close()


def test_a_port_in_use_is_said_with_what_to_do() -> None:
    with ports.listen_publicly("127.0.0.1", 0) as taken:
        port = ports.port_of(taken)
        with pytest.raises(SetupError, match=f"port {port} of 127.0.0.1 is in use.*--port"):
            ports.listen_publicly("127.0.0.1", port)


def test_the_sockets_of_several_workers_are_on_one_address_that_nobody_else_gets() -> None:
    with contextlib.ExitStack() as stack:
        sockets = ports.share(ports.listen_publicly("127.0.0.1", 0), 3)
        for each in sockets:
            stack.enter_context(each)
            each.setblocking(False)
        port = ports.port_of(sockets[0])
        assert {ports.port_of(each) for each in sockets} == {port}
        with pytest.raises(SetupError, match="is in use"):
            ports.listen_publicly("127.0.0.1", port)
        for _ in range(120):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        accepted = [_accept_all(stack, each) for each in sockets]
        assert sum(accepted) == 120
        assert min(accepted) > 10 or sys.platform != "linux"


def _accept_all(stack: contextlib.ExitStack, listening: socket.socket) -> int:
    for count in itertools.count():
        try:
            stack.enter_context(listening.accept()[0])
        except BlockingIOError:
            return count
    raise AssertionError


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7"])
def test_an_address_of_somebody_else_is_said(host: str) -> None:
    with pytest.raises(SetupError, match="address"):
        ports.listen_publicly(host, 0)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("0.0.0.0", "https://127.0.0.1:"), ("::1", "https://[::1]:"), ("localhost", "https://localhost:")],  # noqa: S104
)
def test_urls_can_be_reached_from_this_machine(host: str, expected: str) -> None:
    with ports.listen_on_loopback() as listening:
        assert ports.url_of(listening, host=host, has_tls=True).startswith(expected)
