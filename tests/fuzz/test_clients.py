"""Clients that send anything, in any pieces: nothing breaks, nothing is read in two ways, nothing is left behind."""

import asyncio
from collections.abc import Callable

import h11
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.gateway.protocol import MAX_PIPELINED
from tests.fuzz.client_end import App, ClientEnd
from tests.fuzz.edits import Edit, cuts, edited, edits, often, pieces

Seen = list[tuple[bytes, bytes, bytes]]

requests = st.sampled_from([
    b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HEAD /b HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 31\r\n\r\nGET /no HTTP/1.1\r\nHost: none\r\n\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nTrailer: t\r\n\r\n",
    b"PUT /api/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /api/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    b"DELETE /api/x HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /v1/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
    b"GET /old HTTP/1.0\r\n\r\n",
])  # fmt: skip
sent = st.tuples(st.lists(requests, min_size=1, max_size=4).map(b"".join), edits)


def talk(reads: list[bytes]) -> tuple[Seen, bytes, bool]:
    """What the application was asked, what the client got, and whether it was closed."""

    async def run() -> tuple[Seen, bytes, bool]:
        app = App(at_once=True)
        client = ClientEnd(app)
        for data in reads:
            client.send(data)
        seen, got, is_closed = app.seen, client.got, client.is_closed
        client.lose()
        assert (client.state.gathered_bytes, client.state.connections, app.at_work) == (0, set(), [])
        return seen, got, is_closed

    return asyncio.run(run())


@often(400)
@given(sent=sent, places=cuts)
def test_however_requests_are_cut_they_are_the_same(sent: tuple[bytes, list[Edit]], places: list[int]) -> None:
    data = edited(*sent)
    whole = talk([data])
    assert talk(pieces(data, places)) == whole
    assert talk([data[at : at + 1] for at in range(len(data))]) == whole


def another_reading(data: bytes) -> tuple[Seen, bool]:
    """What h11 makes of it, and whether it refuses the rest."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    seen: Seen = []
    head: h11.Request | None = None
    body = b""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            return seen, True
        if isinstance(event, h11.Request):
            head, body = event, b""
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            seen.append((bytes(head.method), bytes(head.target), body))
            connection.send(h11.Response(status_code=204, headers=[]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is h11.MUST_CLOSE:
                return seen, True
            connection.start_next_cycle()
        else:
            return seen, False


@often(800)
@given(sent=sent)
def test_requests_end_where_another_parser_says(sent: tuple[bytes, list[Edit]]) -> None:
    data = edited(*sent)
    seen, _, is_closed = talk([data])
    others, refuses = another_reading(data)
    assert seen == others[: len(seen)] or (refuses and seen[: len(others)] == others)
    assert len(seen) >= len(others) or is_closed


Step = Callable[[ClientEnd, App], None]


def _answer(_: ClientEnd, app: App) -> None:
    for each in app.at_work[:1]:
        each.answer()


def _begin(_: ClientEnd, app: App) -> None:
    for each in app.at_work[:1]:
        each.begin()


def _hold(client: ClientEnd, app: App) -> None:
    if app.at_work and app.at_work[0].request.is_streamed:
        client.connection.hold_body(True)


def _let_go(client: ClientEnd, app: App) -> None:
    client.connection.hold_body(False)


def _pause(client: ClientEnd, _: App) -> None:
    client.connection.pause_writing()


def _resume(client: ClientEnd, _: App) -> None:
    client.connection.resume_writing()


def _wait(client: ClientEnd, _: App) -> None:
    client.state.tick(client.state.now + 6)


def _drain(client: ClientEnd, _: App) -> None:
    client.state.drain()


def _leave(client: ClientEnd, _: App) -> None:
    client.connection.eof_received()


STEPS: tuple[Step, ...] = (_answer, _answer, _begin, _hold, _let_go, _pause, _resume, _wait, _drain, _leave)


@often(500)
@given(sent=sent, places=cuts, steps=st.lists(st.lists(st.sampled_from(STEPS), max_size=3), min_size=9, max_size=9))
def test_whatever_happens_when_nothing_is_left(
    sent: tuple[bytes, list[Edit]], places: list[int], steps: list[list[Step]]
) -> None:
    async def run() -> None:
        app = App(at_once=False)
        client = ClientEnd(app, max_head_bytes=300, max_body_bytes=200)
        connection = client.connection
        for data, then in zip([*pieces(edited(*sent), places), *[b""] * 9], steps, strict=False):
            if data:
                client.send(data)
            for step in then:
                if not client.is_closed:
                    step(client, app)
            assert len(app.at_work) <= 1
            assert len(connection._queue) <= MAX_PIPELINED
            assert 0 <= client.state.gathered_bytes <= 2_000
            assert client.got.count(b"HTTP/1.1 200 OK\r\n") <= len(app.taken)
        client.lose()
        assert (client.state.gathered_bytes, client.state.connections, app.at_work) == (0, set(), [])
        assert not connection._queue
        assert all(each.gone <= 1 for each in app.taken)

    asyncio.run(run())
