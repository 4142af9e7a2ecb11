"""Streams as DashScope has them: what is new or all so far, and the same however the bytes come in."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.gateway.parsed import Parsed
from cloudcrest.gateway.sse import StreamScanner
from cloudcrest.kernel.errors import Unavailable
from tests.support.dashscope import STREAM, TOOLS, outlet, read


def chunk(delta: dict[str, Any], finish_reason: str | None = None, index: int = 0) -> dict[str, Any]:
    return {"id": "x", "choices": [{"index": index, "delta": delta, "finish_reason": finish_reason}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}}


def wire(chunks: list[dict[str, Any]]) -> bytes:
    return b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in chunks) + b"data: [DONE]\n\n"


def translated(parsed: Parsed, data: bytes, cuts: list[int] | None = None) -> bytes:
    """What the client gets of a stream that comes in pieces cut at these places."""
    made, scanner = outlet(parsed), StreamScanner(passes_usage=True)
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts or [])})
    out = b""
    for start, end in itertools.pairwise(places):
        whole = scanner.feed(data[start:end])
        out += made.events(whole) if whole else b""
    return out + made.end()


def events_of(data: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Kind and document of each event, its lines checked."""
    events = []
    for number, event in enumerate(data.split(b"\n\n")[:-1], 1):
        lines = event.decode().split("\n")
        assert lines[0] == f"id:{number}"
        assert lines[2].startswith(":HTTP_STATUS/")
        events.append((lines[1].removeprefix("event:"), json.loads(lines[-1].removeprefix("data:"))))
    return events


TEXT = [chunk({"role": "assistant", "content": None}), chunk({"content": "Hel"}), chunk({"content": "lo"})]
TEXT += [chunk({}, "stop"), USAGE]
CALL = [
    chunk({"role": "assistant"}),
    chunk({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}),
    chunk({}, "tool_calls"),
    USAGE,
]


def test_a_stream_of_what_is_new() -> None:
    events = events_of(translated(read(None, STREAM, result_format="message", incremental_output=True), wire(TEXT)))
    choices = [document["output"]["choices"][0] for _, document in events]
    assert [kind for kind, _ in events] == ["result"] * 3
    assert [choice["message"]["content"] for choice in choices] == ["Hel", "lo", ""]
    assert [choice["finish_reason"] for choice in choices] == ["null", "null", "stop"]
    assert [document["usage"]["output_tokens"] for _, document in events] == [1, 2, 3]
    assert events[-1][1]["usage"]["input_tokens"] == 5


def test_a_stream_of_all_so_far() -> None:
    events = events_of(translated(read(None, STREAM), wire(TEXT)))
    assert [document["output"] for _, document in events] == [
        {"text": "Hel", "finish_reason": "null"},
        {"text": "Hello", "finish_reason": "null"},
        {"text": "Hello", "finish_reason": "stop"},
    ]


@pytest.mark.parametrize("is_incremental", [True, False])
def test_a_streamed_tool_call(is_incremental: bool) -> None:
    parsed = read(None, STREAM, tools=TOOLS, incremental_output=is_incremental)
    choices = [document["output"]["choices"][0] for _, document in events_of(translated(parsed, wire(CALL)))]
    told = [choice["message"].get("tool_calls", [{}])[0].get("function", {}).get("arguments") for choice in choices]
    assert told == (["", '{"a"', ":1}", None] if is_incremental else ["", '{"a"', '{"a":1}', '{"a":1}'])
    assert choices[0]["message"]["tool_calls"][0]["function"]["name"] == "f"
    assert choices[-1]["finish_reason"] == "tool_calls"


def test_reasoning_and_several_choices() -> None:
    said = [
        chunk({"reasoning_content": "hm"}),
        chunk({"content": "a"}),
        chunk({"content": "b"}, index=1),
        chunk({}, "stop"),
        chunk({}, "length", index=1),
        USAGE,
    ]
    events = events_of(translated(read(None, STREAM, n=2), wire(said)))
    assert events[0][1]["output"]["choices"][0]["message"]["reasoning_content"] == "hm"
    last = events[-1][1]["output"]["choices"]
    assert [(choice["message"]["content"], choice["finish_reason"]) for choice in last] == [
        ("a", "stop"),
        ("b", "length"),
    ]


def test_an_error_in_a_stream_is_an_event() -> None:
    made = outlet(read(None, STREAM))
    made.events(wire(TEXT)[:100])
    [(kind, document)] = events_of(made.error(Unavailable("gone")))
    assert (kind, document["code"], document["message"]) == ("error", "ServiceUnavailable", "gone")
    assert made.end() == b""


@given(
    st.sampled_from([TEXT, CALL]),
    st.lists(st.integers(min_value=0, max_value=10_000), max_size=12),
    st.booleans(),
)
def test_any_split_of_the_stream_gives_the_same_events(
    said: list[dict[str, Any]], cuts: list[int], is_incremental: bool
) -> None:
    parsed = read(None, STREAM, tools=TOOLS, incremental_output=is_incremental)
    assert translated(parsed, wire(said), cuts) == translated(parsed, wire(said))


@given(st.lists(st.text(min_size=1), min_size=1, max_size=8))
def test_nothing_of_a_text_is_lost(pieces: list[str]) -> None:
    said = [*(chunk({"content": piece}) for piece in pieces), chunk({}, "stop"), USAGE]
    new = events_of(translated(read(None, STREAM, result_format="message", incremental_output=True), wire(said)))
    assert "".join(document["output"]["choices"][0]["message"]["content"] for _, document in new) == "".join(pieces)
    so_far = events_of(translated(read(None, STREAM), wire(said)))
    assert so_far[-1][1]["output"]["text"] == "".join(pieces)
