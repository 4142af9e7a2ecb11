"""A head recognised on its connection means what it means to the parser: a connection's memory changes no answer."""

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cloudcrest.gateway.known_head import head_shape, known_head
from cloudcrest.gateway.protocol import ServerConnection
from cloudcrest.gateway.request import Connection, Request, Responder
from cloudcrest.gateway.rounds import Rounds
from cloudcrest.gateway.settings import GatewaySettings
from cloudcrest.gateway.state import ServerState

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer k\r\nContent-Length: "
SETTINGS: dict[str, Any] = {"name": "g", "region": "r", "spool_folder": "s", "feed_state_path": "f"}

heads = st.sampled_from([
    (HEAD, b"\r\n\r\n"),
    (HEAD, b"\r\nX-Request-Timeout-Ms: 5\r\n\r\n"),
    (HEAD, b"\r\nContent-Length: 2\r\n\r\n"),
    (HEAD, b"\r\nTransfer-Encoding: chunked\r\n\r\n"),
    (HEAD, b"\r\nConnection: close\r\n\r\n"),
    (HEAD, b"\r\nExpect: 100-continue\r\n\r\n"),
    (HEAD, b"\r\n x\r\n\r\n"),
    (HEAD, b" \r\n\r\n"),
    (HEAD.replace(b"POST", b"\r\nPOST"), b"\r\n\r\n"),
    (HEAD.replace(b"POST", b"PUT"), b"\r\n\r\n"),
    (HEAD.replace(b"Bearer k", b"Bearer other"), b"\r\n\r\n"),
    (HEAD.replace(b"Host", b"X: content-length: 3\r\nHost"), b"\r\n\r\n"),
    (HEAD.replace(b"1.1", b"1.0"), b"\r\n\r\n"),
])  # fmt: skip
lengths = st.sampled_from([None, b"0", b"2", b"02", b"+2", b"2 ", b"2, 2", b"0x2", b"-2", b"99", b"9" * 20, b""])
requests = st.tuples(heads, lengths, st.sampled_from([b"", b"{}", b"hello, you", HEAD + b"2\r\n\r\n{}"]))


class Handled(Responder):
    """Answers nothing by itself."""

    def client_gone(self) -> None: ...

    def client_paused(self) -> None: ...

    def client_resumed(self) -> None: ...

    def deadline_passed(self) -> None: ...

    def body_data(self, data: bytes) -> None: ...

    def body_end(self) -> None: ...


class App:
    """Notes what it is asked."""

    def __init__(self) -> None:
        self.seen: list[tuple[object, ...]] = []

    def check(self, request: Request) -> None: ...

    def handle(self, connection: Connection, request: Request) -> Responder:  # noqa: ARG002  # the test answers
        self.seen.append((
            request.method, request.path, request.authorization, request.timeout, request.peer, request.keep_alive,
            request.content_length, request.body, request.headers if request.method != b"POST" else None,
        ))  # fmt: skip
        return Handled()


class Client:
    """The client's end of a connection, as a transport."""

    def __init__(self) -> None:
        self.got = b""
        self.is_closed = False

    def get_extra_info(self, name: str) -> object:
        return ("1.2.3.4", 5) if name == "peername" else None

    def set_write_buffer_limits(self, high: int) -> None: ...

    def write(self, data: bytes) -> None:
        self.got += data

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def talk(reads: list[bytes], *, remembers: bool) -> tuple[list[tuple[object, ...]], bytes, bool]:
    """What the application was asked, what the client got, and whether it was closed."""
    app, client = App(), Client()
    state = ServerState(GatewaySettings(**SETTINGS), app, rounds=Rounds(soon=lambda end: end()))
    state.date_line = b""
    connection = ServerConnection(state)
    connection.connection_made(client)  # type: ignore[arg-type]  # it has what is used of a transport
    for data in reads:
        if not remembers:
            connection._known = None
        if not client.is_closed:
            connection.data_received(data)
        answered = -1
        while answered != len(app.seen) and not client.is_closed:
            answered = len(app.seen)
            connection.respond(200, b"text/plain", b"ok")
    return app.seen, client.got, client.is_closed


@settings(deadline=None, max_examples=300)
@given(asked=st.lists(requests, min_size=1, max_size=6))
def test_what_is_recognised_is_what_the_parser_would_have_read(
    asked: list[tuple[tuple[bytes, bytes], bytes | None, bytes]],
) -> None:
    reads = []
    for (before, after), length, body in asked:
        reads.append(before + (b"%d" % len(body) if length is None else length) + after + body)

    async def both() -> None:
        assert talk(reads, remembers=True) == talk(reads, remembers=False)

    asyncio.run(both())


def test_only_the_length_may_differ() -> None:
    headers = [(b"host", b"a"), (b"authorization", b"Bearer k"), (b"content-length", b"2")]
    request = Request(b"POST", b"/v1/chat/completions", "1.1", headers, True)
    request.read_head()
    known = known_head(HEAD + b"2\r\n\r\n{}", request, 100)
    assert known is not None
    found = known.request_in(HEAD + b"5\r\n\r\n[1,2]")
    assert found is not None
    assert (found.body, found.content_length, found.authorization) == (b"[1,2]", 5, b"Bearer k")
    for other in (
        HEAD + b"5\r\n\r\n[1,2",
        HEAD + b"5\r\n\r\n[1,2] ",
        HEAD + b"101\r\n\r\n" + b"x" * 101,
        HEAD.replace(b"k", b"x") + b"2\r\n\r\n{}",
        HEAD + b"\r\n\r\n",
        HEAD,
        b"",
    ):
        assert known.request_in(other) is None


def test_every_length_is_known_however_many_digits_the_one_before_had() -> None:
    shape = head_shape(HEAD + b"2\r\n\r\n", 2)
    assert shape is not None
    for length in (2, 9, 10, 11, 99, 9, 100, 101, 10, 999, 1000, 9999, 10_000, 1):
        head = HEAD + b"%d\r\n\r\n" % length
        for _ in range(2):  # after many digits the first of few may go to the parser
            found = shape.body_at(head + b"x" * length)
        assert found == len(head)
        for other in (length - 1, length + 1):
            assert shape.body_at(head + b"x" * other) == 0


def test_a_second_request_behind_the_first_teaches_nothing() -> None:
    request = Request(b"POST", b"/v1/chat/completions", "1.1", [], True)
    request.content_length = 2
    assert known_head(HEAD + b"2\r\n\r\n{}" + HEAD, request, 100) is None
    assert known_head(b"\r\n" + HEAD + b"2\r\n\r\n{}", request, 100) is None
