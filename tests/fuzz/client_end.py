"""A client's connection without sockets: what the server side reads is handed to it, what it writes is kept."""

from collections.abc import Callable
from typing import Any

from cloudcrest.gateway.protocol import ServerConnection
from cloudcrest.gateway.request import Connection, Request
from cloudcrest.gateway.rounds import Rounds
from cloudcrest.gateway.settings import GatewaySettings
from cloudcrest.gateway.state import ServerState


class Responding:
    """Who answers a request, when it is told to. `gone`: how often it heard that its client is gone."""

    def __init__(
        self, connection: Connection, request: Request, ended: Callable[["Responding"], None], *, at_once: bool
    ) -> None:
        self.connection = connection
        self.request = request
        self.body = b""
        self.is_whole = not request.is_streamed
        self.has_begun = False
        self.is_over = False
        self.gone = 0
        self._ended = ended
        self._at_once = at_once

    def answer(self) -> None:
        """All of it, or the rest."""
        self.is_over = True
        self._ended(self)
        if self.has_begun:
            self.connection.write(b"0\r\n\r\n")
            self.connection.finish()
        else:
            self.connection.respond(200, b"text/plain", b"ok")

    def begin(self) -> None:
        """A part of it."""
        if not self.has_begun and not self.request.is_head and not self.request.is_http_1_0:
            self.has_begun = True
            self.connection.start_answer(200, b"transfer-encoding: chunked\r\n")
        if self.has_begun:
            self.connection.write(b"2\r\nhi\r\n")

    def client_gone(self) -> None:
        assert not self.is_over
        self.gone += 1
        self.is_over = True
        self._ended(self)

    def deadline_passed(self) -> None:
        self.answer()

    def client_paused(self) -> None: ...

    def client_resumed(self) -> None: ...

    def body_data(self, data: bytes) -> None:
        assert not self.is_whole
        self.body += data

    def body_end(self) -> None:
        self.is_whole = True
        if self._at_once:
            self.answer()


class App:
    """Takes every request; what is under /api with its body as it comes. `at_once`: answers what is whole at once."""

    def __init__(self, *, at_once: bool) -> None:
        self._at_once = at_once
        self.taken: list[Responding] = []
        self.at_work: list[Responding] = []

    def check(self, request: Request) -> None:
        request.is_streamed = request.path.startswith("/api")

    def handle(self, connection: Connection, request: Request) -> Responding | None:
        responding = Responding(connection, request, self.at_work.remove, at_once=self._at_once)
        if not request.is_streamed:
            responding.body = request.body
        self.taken.append(responding)
        self.at_work.append(responding)
        if self._at_once and responding.is_whole:
            responding.answer()
            return None
        return responding

    @property
    def seen(self) -> list[tuple[bytes, bytes, bytes]]:
        """Method, target and body of each request that was whole."""
        return [(each.request.method, each.request.target, each.body) for each in self.taken if each.is_whole]


class ClientEnd:
    """A connection's transport. What is sent while the server does not read waits; nothing comes after a close."""

    def __init__(self, app: App, **settings: Any) -> None:
        self.got = b""
        self.is_closed = False
        self.is_lost = False
        self.is_reading = True
        self.unread: list[bytes] = []
        names: dict[str, Any] = {"name": "g", "region": "r", "spool_folder": "s", "feed_state_path": "f"}
        self.state = ServerState(GatewaySettings(**names, **settings), app, rounds=Rounds(soon=lambda end: end()))
        self.state.date_line = b""
        self.connection = ServerConnection(self.state)
        self.connection.connection_made(self)  # type: ignore[arg-type]  # it has what is used of a transport

    def send(self, data: bytes) -> None:
        """Bytes for the server, as soon as it reads."""
        self.unread.append(data)
        self._deliver()

    def lose(self) -> None:
        """The connection is gone."""
        if not self.is_lost:
            self.is_lost = self.is_closed = True
            self.connection.connection_lost(None)

    def _deliver(self) -> None:
        while self.unread and self.is_reading and not self.is_closed:
            self.connection.data_received(self.unread.pop(0))

    def get_extra_info(self, name: str) -> object:
        return ("1.2.3.4", 5) if name == "peername" else None

    def set_write_buffer_limits(self, high: int) -> None: ...

    def write(self, data: bytes) -> None:
        if not self.is_closed:
            self.got += data

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True
