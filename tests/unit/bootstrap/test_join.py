"""Who joins at an address where no Ray head is hears so at once."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cloudcrest.bootstrap import join
from cloudcrest.bootstrap.join import own_address
from cloudcrest.kernel.errors import SetupError

SETTINGS = bytes(3) + b"\x04" + bytes(5)


@contextmanager
def answering(answer: bytes | None) -> Iterator[str]:
    """What answers so to who speaks to it; None: it closes at once."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                if answer is not None:
                    connection.recv(64)
                    connection.sendall(answer)

        serving = threading.Thread(target=serve)
        serving.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        serving.join()


def test_a_head_greets_by_http2() -> None:
    with answering(SETTINGS) as head:
        assert own_address(head) == "127.0.0.1"


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH\r\n", b"", None])
def test_what_is_no_head_is_told_with_where_to_join(answer: bytes | None) -> None:
    with answering(answer) as head, pytest.raises(SetupError, match=f"what listens at {head} is no Ray head") as raised:
        own_address(head)
    assert "6379" in (raised.value.hint or "")


def test_a_head_that_is_busy_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "_GREETING_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listening:  # it is connected to, and nobody is there yet
        assert own_address(f"127.0.0.1:{listening.getsockname()[1]}") == "127.0.0.1"


def test_where_nothing_listens_it_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        head = f"127.0.0.1:{listening.getsockname()[1]}"
    with pytest.raises(SetupError, match="no cloud answers"):
        own_address(head)
