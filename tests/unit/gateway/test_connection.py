"""The framing of replicas' answers: however an answer is cut into reads, sink and short way get the same."""

import itertools

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudcrest.gateway.connection import Upstream, UpstreamConnection
from cloudcrest.gateway.http1 import CHUNK_LINES, LAST_CHUNK, MAX_LINE_KNOWN_BYTES, chunk, one_chunk_at
from cloudcrest.gateway.kept import Kept
from cloudcrest.gateway.passage import Passage
from cloudcrest.gateway.resume import Said
from cloudcrest.gateway.rounds import Rounds
from cloudcrest.gateway.sse import StreamScanner
from tests.support.wire import client, client_of_chunks

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

payloads = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=40),
        st.integers(1, 5_000).map(lambda size: b"x" * size),
        st.sampled_from([
            b"data: {}\n\n",
            b"}\n\n",
            b'data: {"content":"a"}\n\n',
            b'data: {"content":"bc"}\n\n',
            b'data: {"a":1}\n\ndata: {"a":2}\n\n',
            b"data: {}\r\n\r\n",
            b"data: half",
            b'data: {"usage":1}\n\n',
            b"data: [DONE]\n\n",
            b"5\r\n",
            b"0\r\n",
            b"\n",
            b"\n\n",
        ]),
    ),
    max_size=8,
)  # fmt: skip


class Gathered:
    """A sink that keeps the payload."""

    def __init__(self) -> None:
        self.data = b""
        self.is_whole = False

    def answer_head(self, status: int, head: bytes) -> None:
        assert (status, head[:6]) == (200, b"HTTP/1")

    def answer_data(self, data: bytes) -> None:
        self.data += data

    def answer_end(self) -> None:
        self.is_whole = True

    def answer_lost(self, reason: str, *, was_reused: bool) -> None:
        raise AssertionError(reason, was_reused)

    def upstream_paused(self, is_paused: bool) -> None: ...


class Socket:
    """As much of a transport as an answer needs."""

    def get_extra_info(self, name: str) -> None: ...

    def write(self, data: bytes) -> None: ...

    def is_closing(self) -> bool:
        return False

    def resume_reading(self) -> None: ...

    def close(self) -> None: ...


def asked(sink: Gathered) -> UpstreamConnection:
    connection = UpstreamConnection(Upstream("http://127.0.0.1:1", rounds=Rounds(soon=lambda end: end())), 1)
    connection.connection_made(Socket())  # type: ignore[arg-type]  # it has what is used of a transport
    connection.send(b"", sink)
    connection.data_received(HEAD)
    return connection


@settings(deadline=None)
@given(payloads=payloads, cuts=st.lists(st.integers(0, 30_000)), has_passage=st.booleans())
def test_any_cut_gives_the_same_payload(payloads: list[bytes], cuts: list[int], has_passage: bool) -> None:
    framed = b"".join(map(chunk, payloads)) + LAST_CHUNK
    places = sorted({0, len(framed), *(cut % (len(framed) + 1) for cut in cuts)})
    by_chunk = [*map(chunk, payloads), LAST_CHUNK]
    with_end = [*by_chunk[:-2], b"".join(by_chunk[-2:])]
    for reads in (by_chunk, with_end, [framed[start:end] for start, end in itertools.pairwise(places)]):
        sink = Gathered()
        connection = asked(sink)
        if has_passage:
            connection.passage = Passage(
                StreamScanner(passes_usage=True), Kept(1_000), client_of_chunks(sink.answer_data)
            )
        for data in reads:
            connection.data_received(data)
        assert sink.data == b"".join(payloads)
        assert sink.is_whole


@settings(deadline=None)
@given(payloads=payloads, cuts=st.lists(st.integers(0, 30_000)))
def test_an_answer_under_a_head_that_came_before_is_read_as_the_first(payloads: list[bytes], cuts: list[int]) -> None:
    first, second = Gathered(), Gathered()
    connection = asked(first)
    connection.data_received(LAST_CHUNK)
    assert first.is_whole
    data = HEAD + b"".join(map(chunk, payloads)) + LAST_CHUNK
    connection.send(b"", second)
    for start, end in itertools.pairwise(sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})):
        connection.data_received(data[start:end])
    assert (second.data, second.is_whole) == (b"".join(payloads), True)


@settings(deadline=None)
@given(payloads=payloads)
def test_the_short_way_takes_what_a_scanner_would_pass_untouched(payloads: list[bytes]) -> None:
    scanner, fed = StreamScanner(passes_usage=False), StreamScanner(passes_usage=False)
    written: list[bytes] = []
    kept = Kept(1_000)
    passage = Passage(scanner, kept, client(written.append))
    for payload in payloads:
        expected = fed.feed(payload)
        if passage.take(chunk(payload)):
            assert written.pop() == chunk(expected) == chunk(payload)
            assert kept.size_bytes <= kept.max_bytes
        else:
            assert scanner.feed(payload) == expected
        assert scanner.partial == fed.partial
        assert scanner.events + passage.events == fed.events
        assert (scanner.usage, scanner.is_finished) == (fed.usage, fed.is_finished)


words = st.one_of(
    st.text(max_size=6).map(lambda text: msgspec.json.encode(text)[1:-1]),
    st.sampled_from(
        [b"usage", b"error", b"[DONE]", b'a\\"b', b'"', b'","usage":{"prompt_tokens":1},"a":"', b"\\", b"\n\n", b"\xff"]
    ),
)


@settings(deadline=None)
@given(
    words=st.lists(words, max_size=12),
    ends=st.lists(st.sampled_from([b"null", b'"stop"', b"{}"]), min_size=1),
    max_bytes=st.sampled_from([0, 200, 1_000_000]),
)
def test_chunks_that_differ_in_a_word_are_read_as_by_the_scanner(
    words: list[bytes], ends: list[bytes], max_bytes: int
) -> None:
    scanner, fed = StreamScanner(passes_usage=False), StreamScanner(passes_usage=False)
    written: list[bytes] = []
    kept, every = Kept(max_bytes), Said()
    passage = Passage(scanner, kept, client(written.append))
    for index, word in enumerate(words):
        end = ends[index % len(ends)]
        event = b'data: {"choices":[{"delta":{"content":"%b"},"finish_reason":%b}]}\n\n' % (word, end)
        expected = fed.feed(event)
        if passage.take(chunk(event)):
            assert written.pop() == chunk(expected) == chunk(event)
        else:
            assert scanner.feed(event) == expected
            kept.add(expected)
        assert scanner.events + passage.events == fed.events
        assert (scanner.usage, scanner.error) == (fed.usage, fed.error)
        assert (scanner.partial, scanner.is_finished) == (fed.partial, fed.is_finished)
        assert kept.size_bytes <= max_bytes
        for each in expected.split(b"\n\n"):
            every.add(each)
    said = kept.said()
    assert (said.text, said.identity, said.finish_reason) == (every.text, every.identity, every.finish_reason)
    assert (said.has_role, said.hindrance) == (every.has_role, every.hindrance)


def test_what_only_seems_to_have_a_word_goes_the_long_way() -> None:
    written: list[bytes] = []
    kept = Kept(1_000_000)
    passage = Passage(StreamScanner(passes_usage=False), kept, client(written.append))
    taken = [chunk(b'data: {"content":"%b"}\n\n' % word) for word in (b"a", b"b")]
    taken.append(chunk(b'data: {"content":"}\n\n'))  # the two quotation marks are one
    taken.append(chunk(b'data: {"content":"c"}\n\n'))
    for data in taken:
        assert passage.take(data)
    assert written == taken
    assert kept.size_bytes == sum(map(len, taken)) - len(b"17\r\n")  # that line is not kept of the one with a word
    assert not passage.take(chunk(b'data: {"content":"%b"}\n\n' % (b"x" * MAX_LINE_KNOWN_BYTES)))


class Relaying(Gathered):
    """A sink that keeps what a passage does not take, as a relay does."""

    def __init__(self, scanner: StreamScanner, kept: Kept) -> None:
        super().__init__()
        self.scanner = scanner
        self.kept = kept

    def answer_data(self, data: bytes) -> None:
        events = self.scanner.feed(data)
        if events:
            self.data += events
            self.kept.add(events)

    def passed(self, data: bytes) -> None:
        self.data += data


@settings(deadline=None)
@given(
    words=st.lists(words, max_size=12),
    ends=st.lists(st.sampled_from([b"null", b'"stop"']), min_size=1, max_size=3),
    cuts=st.lists(st.integers(0, 3_000), max_size=8),
    max_bytes=st.sampled_from([0, 200, 1_000_000]),
    looks=st.sets(st.integers(0, 20), max_size=3),
)
def test_however_a_stream_is_cut_what_is_kept_says_what_went_out(
    words: list[bytes], ends: list[bytes], cuts: list[int], max_bytes: int, looks: set[int]
) -> None:
    chunks = [
        chunk(b'data: {"choices":[{"delta":{"content":"%b"},"finish_reason":%b}]}\n\n' % (word, ends[at % len(ends)]))
        for at, word in enumerate(words)
    ]
    ends_at = list(itertools.accumulate(map(len, chunks), initial=0))
    framed = b"".join(chunks)
    places = sorted({*ends_at, *(cut % (len(framed) + 1) for cut in cuts)} - set(ends_at[1:-1:3]))
    scanner, kept, every = StreamScanner(passes_usage=False), Kept(max_bytes), Said()
    sink = Relaying(scanner, kept)
    connection = asked(sink)
    connection.passage = Passage(scanner, kept, client_of_chunks(sink.passed))
    for number, (start, end) in enumerate(itertools.pairwise(places)):
        connection.data_received(framed[start:end])
        assert kept.size_bytes <= max_bytes
        if number in looks:
            kept.said()
    for event in sink.data.split(b"\n\n"):
        every.add(event)
    said = kept.said()
    assert (said.text, said.identity, said.finish_reason) == (every.text, every.identity, every.finish_reason)


def test_an_answer_is_noticed_until_it_is_looked_at() -> None:
    connection = asked(Gathered())
    assert connection.has_spoken
    connection.has_spoken = False
    connection.data_received(chunk(b"data: {}\n\n"))
    assert connection.has_spoken


def test_no_read_passes_for_a_chunk_of_a_size_that_no_chunk_has() -> None:
    sizes = {len(chunk(b"x" * size)) for size in range(1, MAX_LINE_KNOWN_BYTES)}
    for size in set(range(1, MAX_LINE_KNOWN_BYTES)) - sizes:
        line = CHUNK_LINES[size]
        assert not one_chunk_at((line + b"x" * size)[: size - 2] + b"\r\n")
