"""Replicas that answer with anything, in any pieces: each request ends once, with no byte of another's answer."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.gateway.connection import Upstream, UpstreamConnection
from cloudcrest.gateway.http1 import MAX_HEAD_BYTES
from cloudcrest.gateway.kept import Kept
from cloudcrest.gateway.passage import Passage
from cloudcrest.gateway.rounds import Rounds
from cloudcrest.gateway.sse import StreamScanner
from tests.fuzz.edits import Edit, cuts, edited, edits, often, pieces
from tests.support.wire import client_of_chunks

answers = st.sampled_from([
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"a":"b\\n"}',
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\ndata: {}\n\n\r\n0\r\nTrailer: t\r\n\r\n",
    b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n17\r\ndata: {"content":"a"}\n\n\r\n'
    b'17\r\ndata: {"content":"b"}\n\n\r\n18\r\ndata: {"content":"cd"}\n\n\r\n0\r\n\r\n',
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbusy",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
])  # fmt: skip
said = st.tuples(answers, edits)


class Sink:
    """What one request got."""

    def __init__(self) -> None:
        self.status = 0
        self.data = b""
        self.ending = ""

    def answer_head(self, status: int, head: bytes) -> None:
        assert not self.status
        assert not self.ending
        assert head.startswith(b"HTTP/1.")
        self.status = status

    def answer_data(self, data: bytes) -> None:
        assert self.status
        assert not self.ending
        self.data += data

    def answer_whole(self, body: bytes) -> None:
        """A whole answer of a shape seen before."""
        self.answer_head(200, b"HTTP/1.1")
        self.answer_data(body)
        self.answer_end()

    def answer_end(self) -> None:
        self._end("whole")

    def answer_lost(self, reason: str, *, was_reused: bool) -> None:  # noqa: ARG002
        self._end(reason)

    def upstream_paused(self, is_paused: bool) -> None: ...

    def _end(self, ending: str) -> None:
        assert not self.ending
        self.ending = ending

    @property
    def outline(self) -> tuple[int, bytes, bool]:
        return self.status, self.data, self.ending == "whole"


class Socket:
    """A transport to a replica. `connection_lost` comes when it is told to."""

    def __init__(self) -> None:
        self.is_closed = False

    def write(self, data: bytes) -> None: ...

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_extra_info(self, name: str) -> None: ...


class Wire:
    """A connection to a replica, and the pool it goes back to."""

    def __init__(self) -> None:
        self.upstream = Upstream("http://127.0.0.1:1", rounds=Rounds(soon=lambda end: end()))
        self.connection = UpstreamConnection(self.upstream, 1)
        self.socket = Socket()
        self.connection.connection_made(self.socket)  # type: ignore[arg-type]  # it has what is used of a transport

    def ask(self, reads: Sequence[bytes], *, has_passage: bool = False) -> Sink:
        """Sends a request over the idle connection; what comes back in these reads."""
        sink = Sink()
        self.connection.send(b"", sink, whole_sink=sink)
        for data in reads:
            if has_passage and sink.status == 200 and self.connection.passage is None and not sink.ending:
                scanner = StreamScanner(passes_usage=True)
                self.connection.passage = Passage(scanner, Kept(200), client_of_chunks(sink.answer_data))
            if not self.socket.is_closed:
                self.connection.data_received(data)
        return sink

    def end(self) -> None:
        """The replica hangs up."""
        self.socket.is_closed = True
        self.connection.connection_lost(None)

    @property
    def is_idle(self) -> bool:
        return self.upstream.idle == [self.connection]


@often(600)
@given(said=said, places=cuts, has_passage=st.booleans())
def test_however_an_answer_is_cut_it_is_the_same(
    said: tuple[bytes, list[Edit]], places: list[int], has_passage: bool
) -> None:
    data = edited(*said)
    outlines = []
    for reads in ([data], pieces(data, places), [data[at : at + 1] for at in range(len(data))]):
        wire = Wire()
        sink = wire.ask(reads, has_passage=has_passage)
        if not sink.ending:
            assert not wire.is_idle
            wire.end()
        assert sink.ending
        outlines.append(sink.outline)
        wire.end()
        assert wire.upstream.idle == []
    whole, cut, in_bytes = outlines
    assert (whole[0], whole[2]) == (cut[0], cut[2]) == (in_bytes[0], in_bytes[2])
    # What came before the fault of a broken one may have been passed on or not.
    assert whole[1] == cut[1] == in_bytes[1] if whole[2] else in_bytes[1].startswith((whole[1], cut[1]))


@often(400)
@given(said=st.lists(said, min_size=2, max_size=4), places=cuts)
def test_no_byte_of_one_answer_is_in_the_next(said: list[tuple[bytes, list[Edit]]], places: list[int]) -> None:
    wire = Wire()
    for each in said:
        data = edited(*each)
        alone, sink = Wire(), wire.ask(pieces(data, places))
        expected = alone.ask([data])
        assert (sink.status, sink.ending == "whole") == (expected.status, expected.ending == "whole")
        assert sink.data == expected.data or sink.ending != "whole"
        assert wire.is_idle == alone.is_idle
        if not wire.is_idle:
            return
        wire.upstream.idle.clear()


def test_interim_answers_and_lines_without_end_cost_no_stack_and_no_memory() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000
    assert Wire().ask([interim + b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"]).outline == (200, b"{}", True)
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    for start in (b"", b"HTTP/1.1 200 OK\r\n", chunked, chunked + b"0\r\n", chunked + b"3\r\nabc\r\n"):
        wire = Wire()
        sink = wire.ask([start + b"1", *[b"1" * 1_000] * (2 * MAX_HEAD_BYTES // 1_000)])
        assert sink.ending not in ("", "whole")
        assert wire.socket.is_closed
