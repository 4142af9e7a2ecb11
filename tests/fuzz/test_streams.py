"""Engines that stream anything, in any pieces: what goes out does not depend on the pieces, and nothing breaks."""

import json
from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from cloudcrest.gateway.http1 import chunk
from cloudcrest.gateway.kept import Kept
from cloudcrest.gateway.passage import Passage
from cloudcrest.gateway.resume_rewrite import Repetition, Rewriter, ToolHold
from cloudcrest.gateway.sse import StreamScanner, event_data, usage_in_answer
from tests.fuzz.edits import Edit, cuts, edited, edits, often, pieces
from tests.support.gateway_cloud import COMPLETION, chunk_event, usage
from tests.support.wire import client

CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{"}}

events = st.one_of(
    st.text(max_size=12).map(chunk_event),
    st.sampled_from([
        chunk_event(),
        chunk_event("x", usage=None),
        chunk_event("x", usage=usage(5, 7)),
        chunk_event("x").replace(b"\n\n", b"\r\n\r\n"),
        chunk_event(choices=[], usage=usage(5, 7, 3)),
        chunk_event(choices=[{"index": 0, "delta": {"tool_calls": [CALL]}, "finish_reason": None}]),
        chunk_event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]),
        chunk_event(choices=[{"index": 1, "delta": {"reasoning_content": "hm"}, "finish_reason": None}]),
        b'data: {"error":{"code":500,"message":"boom"}}\n\n',
        b": ping\n\n",
        b"data: [DONE]\n\n",
    ]),
)  # fmt: skip
streams = st.tuples(st.lists(events, min_size=1, max_size=6).map(b"".join), edits)


def scan(reads: Sequence[bytes], *, passes_usage: bool) -> tuple[object, ...]:
    """What of it goes on, and what was seen in it."""
    scanner = StreamScanner(passes_usage=passes_usage)
    out = b"".join([scanner.feed(data) for data in reads]) + scanner.end()
    return out, scanner.usage, scanner.is_finished, scanner.error


@often(500)
@given(stream=streams, places=cuts, passes_usage=st.booleans())
@example(stream=(b'data: x\n\n\ndata: {"error":{"message":"boom"}}\n\n', []), places=[10], passes_usage=False)
def test_however_a_stream_is_cut_the_same_goes_on(
    stream: tuple[bytes, list[Edit]], places: list[int], passes_usage: bool
) -> None:
    data = edited(*stream)
    whole = scan([data], passes_usage=passes_usage)
    assert scan(pieces(data, places), passes_usage=passes_usage) == whole
    assert scan([data[at : at + 1] for at in range(len(data))], passes_usage=passes_usage) == whole


@often(300)
@given(stream=streams, places=cuts)
def test_the_short_way_takes_only_what_would_pass_untouched(
    stream: tuple[bytes, list[Edit]], places: list[int]
) -> None:
    scanner, alone = StreamScanner(passes_usage=False), StreamScanner(passes_usage=False)
    kept, written = Kept(200), list[bytes]()
    passage = Passage(scanner, kept, client(written.append))
    for data in pieces(edited(*stream), places):
        expected = alone.feed(data)
        if passage.take(chunk(data)):
            assert written.pop() == chunk(expected) == chunk(data)
        else:
            assert scanner.feed(data) == expected
        assert scanner.events + passage.events == alone.events
        assert (scanner.partial, scanner.usage) == (alone.partial, alone.usage)
        assert (scanner.is_finished, scanner.error) == (alone.is_finished, alone.error)
        assert kept.size_bytes <= kept.max_bytes


@often(400)
@given(stream=streams, places=cuts, has_role=st.booleans(), told=st.text(max_size=3))
@example(stream=(chunk_event(), [Edit(149, 0, b"\x80")]), places=[], has_role=True, told="")
@example(stream=(chunk_event("x").replace(b"created", rb"\reated"), []), places=[], has_role=True, told="")
def test_whatever_a_resumed_stream_says_its_client_is_told_of_one_answer(
    stream: tuple[bytes, list[Edit]], places: list[int], has_role: bool, told: str
) -> None:
    identity = {"id": b'"chatcmpl-9"', "created": b"9"}
    scanner, hold = StreamScanner(passes_usage=True), ToolHold()
    rewriter, repetition = Rewriter(identity, has_role=has_role), Repetition(told)
    held, let_go, out = b"", b"", b""
    for data in pieces(edited(*stream), places):
        rewritten = rewriter.feed(scanner.feed(data))
        held += rewritten
        let_go += hold.feed(rewritten) if rewritten else b""
        out += repetition.feed(rewritten)
    assert let_go + hold.release() == held
    roles = 0
    for event in (held + out).split(b"\n\n")[:-1]:
        document = json.loads(event_data(event).decode(errors="replace"))
        assert (document["id"], document["created"]) == ("chatcmpl-9", 9)
        assert document.keys().isdisjoint({"usage", "timings"})
    for event in held.split(b"\n\n")[:-1]:
        choices = json.loads(event_data(event).decode(errors="replace"))["choices"]
        if isinstance(choices, list) and all(
            isinstance(each, dict) and isinstance(each.get("delta"), dict) for each in choices
        ):
            roles += any("role" in each["delta"] for each in choices)
    assert roles <= (0 if has_role else 1)


@often(200)
@given(stream=streams, most=st.integers(0, 400))
def test_what_is_kept_says_the_same_however_little_is_kept_as_it_was(
    stream: tuple[bytes, list[Edit]], most: int
) -> None:
    few, all_of_it = Kept(most), Kept(1 << 20)
    for event in edited(*stream).replace(b"\r\n", b"\n").split(b"\n\n"):
        few.add(event + b"\n\n")
        all_of_it.add(event + b"\n\n")
        assert few.size_bytes <= most
    assert (few.text(), few.said().hindrance) == (all_of_it.text(), all_of_it.said().hindrance)
    assert (few.said().identity, few.said().finish_reason) == (
        all_of_it.said().identity,
        all_of_it.said().finish_reason,
    )


@often(300)
@given(indent=st.sampled_from([None, 1]), changes=edits)
def test_usage_of_a_whole_answer_is_found_or_not_and_never_below_nothing(
    indent: int | None, changes: list[Edit]
) -> None:
    found = usage_in_answer(edited(json.dumps(COMPLETION, indent=indent).encode(), changes))
    if found is not None:
        assert 0 <= found.cached_input_tokens <= found.input_tokens
        assert 0 <= found.reasoning_tokens <= found.output_tokens
