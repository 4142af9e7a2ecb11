"""What becomes of a lost stream, what is sent for it, and how its rest is rewritten: any cut, any split."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.gateway.kept import Kept
from cloudcrest.gateway.resume import (
    MAX_TEXT_CHARACTERS,
    Continue,
    Finish,
    Impossible,
    Repeat,
    Restart,
    Said,
    decide,
    next_body,
    tokens_left,
)
from cloudcrest.gateway.resume_rewrite import Repetition, Rewriter, ToolHold, finish_event, usage_event
from cloudcrest.gateway.sse import StreamScanner, event_data
from cloudcrest.gateway.validate import build, forwarded_fields, parse
from cloudcrest.kernel.usage import Usage
from cloudcrest.serving.api import EngineName
from tests.support.gateway_cloud import chunk_event, route_document, usage

HELLO = [{"role": "user", "content": "hello"}]
DONE = b"data: [DONE]\n\n"
USAGE = chunk_event(choices=[], usage=usage(5, 7))
IDENTITY = {"id": b'"chatcmpl-first"', "created": b"7", "model": b'"m"', "object": b'"chat.completion.chunk"'}
ENGINES: list[EngineName] = ["llamacpp", "vllm", "simulated"]

texts = st.lists(st.text(min_size=1, max_size=8), max_size=10)


def choice_event(delta: dict[str, Any] | None = None, finish: str | None = None, **extra: Any) -> bytes:
    return chunk_event(choices=[{"index": 0, "delta": delta or {}, "finish_reason": finish, **extra}])


def said_by(*events: bytes) -> Said:
    said = Said()
    for event in events:
        said.add(event)
    return said


def chat(**fields: Any) -> Any:
    return parse("/v1/chat/completions", json.dumps({"model": "m", "messages": HELLO} | fields).encode())


def completion(**fields: Any) -> Any:
    return parse("/v1/completions", json.dumps({"model": "m", "prompt": "Once"} | fields).encode())


@given(pieces=texts, cut=st.integers(0, 12), max_kept_bytes=st.sampled_from([0, 300, 10_000]))
def test_a_chat_goes_on_from_what_was_said_wherever_it_is_cut(pieces: list[str], cut: int, max_kept_bytes: int) -> None:
    kept = Kept(max_kept_bytes)
    events = [chunk_event(), *map(chunk_event, pieces)]
    for event in events[:cut]:
        kept.add(event)
    text = "".join(pieces[: max(0, cut - 1)])
    decision = decide(kept.said(), chat(), "simulated")
    assert decision == (Continue(text) if text else Restart())
    assert kept.said().has_role is (cut > 0)
    assert kept.said().identity.keys() == ({"id", "object", "created", "model"} if cut else set())
    for event in events[cut:]:
        kept.add(event)
    assert kept.text() == "".join(pieces)


@pytest.mark.parametrize("engine", ENGINES)
@given(text=st.text(min_size=1), left=st.one_of(st.none(), st.integers(1, 100)))
def test_the_next_body_is_the_first_one_and_what_was_said(engine: EngineName, text: str, left: int | None) -> None:
    limit = {} if left is None else {"max_tokens": 100}
    parsed = chat(temperature=0, seed=3, stop=["x"], **limit)
    first = build(forwarded_fields(parsed, route_document(engine=engine)))
    body = json.loads(next_body(first, parsed, engine, text, text_tokens=[1], left=left))
    expected = json.loads(first) | {"messages": [*HELLO, {"role": "assistant", "content": text}]}
    if left is not None:
        expected["max_tokens"] = left
    if engine == "vllm":
        expected |= {"add_generation_prompt": False, "continue_final_message": True}
    assert body == expected


@pytest.mark.parametrize("content", ["Well, ", [{"type": "text", "text": "We"}, {"type": "text", "text": "ll, "}]])
def test_an_answer_that_the_caller_began_goes_on_in_one_message(content: Any) -> None:
    parsed = chat(messages=[*HELLO, {"role": "assistant", "content": content}])
    first = build(parsed.fields)
    for engine in ("llamacpp", "simulated"):
        body = json.loads(next_body(first, parsed, engine, "yes", text_tokens=[], left=None))
        assert body["messages"] == [*HELLO, {"role": "assistant", "content": "Well, yes"}]
    body = json.loads(next_body(first, parsed, "vllm", "yes", text_tokens=[], left=None))
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "assistant"]


def test_a_raw_completion_goes_on_from_prompt_and_text() -> None:
    for prompt, longer in (("Once", "Once upon"), ([1, 2], [1, 2, 8, 9])):
        parsed = completion(prompt=prompt)
        body = json.loads(next_body(build(parsed.fields), parsed, "llamacpp", " upon", text_tokens=[8, 9], left=4))
        assert (body["prompt"], body["max_tokens"]) == (longer, 4)
        assert "messages" not in body


def test_the_limit_shrinks_by_what_was_said() -> None:
    assert [tokens_left(b'{"max_tokens":10}', said) for said in (0, 4, 10, 12)] == [10, 6, 0, 0]
    assert tokens_left(b"{}", 4) is None


JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}
TOOL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{"}}


@pytest.mark.parametrize(
    ("engine", "parsed", "events", "expected"),
    [
        ("llamacpp", chat(response_format=JSON_SCHEMA), [chunk_event("{")], Continue("{")),
        ("vllm", chat(response_format=JSON_SCHEMA), [chunk_event("{")], Impossible),
        ("vllm", chat(response_format=JSON_SCHEMA, temperature=1), [chunk_event("{")], Impossible),
        ("vllm", chat(response_format=JSON_SCHEMA, temperature=0), [chunk_event("{")], Repeat("{")),
        ("vllm", chat(response_format=JSON_SCHEMA, seed=1), [chunk_event("{")], Repeat("{")),
        ("vllm", chat(response_format=JSON_SCHEMA), [chunk_event()], Restart()),
        ("upstream", chat(), [chunk_event("a")], Impossible),
        ("upstream", chat(), [chunk_event()], Restart()),
        ("llamacpp", chat(logprobs=True), [chunk_event("a")], Impossible),
        ("vllm", completion(logprobs=1), [chunk_event("a")], Impossible),
        ("vllm", chat(n=2), [chunk_event("a")], Impossible),
        ("vllm", chat(), [choice_event({"content": "a"}, index=1)], Impossible),
        ("llamacpp", chat(), [choice_event({"reasoning_content": "hm"})], Impossible),
        ("vllm", chat(), [choice_event({"reasoning": "hm"})], Impossible),
        ("vllm", chat(), [choice_event({"refusal": "no"})], Impossible),
        ("vllm", chat(), [choice_event({"tool_calls": [TOOL]})], Impossible),
        ("vllm", chat(), [choice_event({"tool_calls": [TOOL]}), choice_event({}, "tool_calls")], Finish("f{")),
        ("vllm", chat(), [chunk_event("a"), choice_event({}, "stop")], Finish("a")),
        ("vllm", chat(), [choice_event({}, "stop")], Finish("")),
        ("vllm", chat(), [], Restart()),
        ("vllm", chat(), [b": ping\n\n", b"data: x\n\n", b"\n\n"], Restart()),
        ("vllm", chat(), [b"data: {broken\n\n"], Impossible),
        ("vllm", chat(), [b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n'], Impossible),
        ("vllm", chat(), [b'data: {"choices":[{"delta":{"content":"\\ud800"}}]}\n\n'], Impossible),
        ("vllm", chat(), [b'data: {"choices":3}\n\n'], Impossible),
        (
            "llamacpp",
            chat(messages=[*HELLO, {"role": "assistant", "tool_calls": [{"id": "c", "type": "function",
                 "function": {"name": "f", "arguments": "{}"}}]}]),
            [chunk_event("a")],
            Impossible,
        ),
        ("simulated", chat(), [chunk_event("a" * MAX_TEXT_CHARACTERS), chunk_event("b"), chunk_event("c")], Impossible),
    ],
)  # fmt: skip
def test_what_can_go_on(engine: EngineName, parsed: Any, events: list[bytes], expected: Any) -> None:
    decision = decide(said_by(*events), parsed, engine)
    if isinstance(expected, type):
        assert isinstance(decision, expected)
    else:
        assert decision == expected


def test_the_text_of_events_of_every_kind_is_counted() -> None:
    tool = {"choices": [{"delta": {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}}]}
    assert said_by(b"data: " + json.dumps(tool).encode()).text == "f{}"
    assert said_by(b'data: {"choices":[{"text":"a"},{"text":"b"}]}').text == "ab"
    assert said_by(b"data: [DONE]", b"data: {broken", b": ping").text == ""


def second_stream(pieces: list[str], *, first: bytes) -> bytes:
    chunks = [first, *map(chunk_event, pieces), choice_event({}, "stop"), USAGE, DONE]
    return b"".join(chunks).replace(b'"created":1', b'"created":99')


@given(
    pieces=texts,
    cuts=st.lists(st.integers(0, 4_000)),
    first=st.sampled_from([chunk_event(), choice_event({"role": "assistant", "content": ""}), b": ping\n\n"]),
    has_role=st.booleans(),
    crlf=st.booleans(),
)
def test_any_split_of_a_resumed_stream_is_rewritten_to_the_same(
    pieces: list[str], cuts: list[int], first: bytes, has_role: bool, crlf: bool
) -> None:
    data = second_stream(pieces, first=first)
    data = data.replace(b"\n\n", b"\r\n\r\n") if crlf else data

    def rewrite(parts: list[bytes]) -> bytes:
        scanner, rewriter = StreamScanner(passes_usage=False), Rewriter(IDENTITY, has_role=has_role)
        return b"".join([rewriter.feed(scanner.feed(part)) for part in parts])

    whole = rewrite([data])
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    assert rewrite([data[start:end] for start, end in itertools.pairwise(places)]) == whole
    events = [json.loads(event_data(event)) for event in whole.split(b"\n\n") if event]
    assert {(event["id"], event["created"]) for event in events} == {("chatcmpl-first", 7)}
    assert "".join(event["choices"][0]["delta"].get("content") or "" for event in events) == "".join(pieces)
    roles = [event for event in events if "role" in event["choices"][0]["delta"]]
    assert len(roles) == (0 if has_role or first.startswith(b":") else 1)
    assert [event["choices"][0]["finish_reason"] for event in events][-1:] == ["stop"]
    assert not any("usage" in event for event in events)
    assert DONE not in whole


def test_a_stream_that_had_no_chunk_takes_over_the_next_ones_identity() -> None:
    rewriter = Rewriter({}, has_role=False)
    first = rewriter.feed(chunk_event())
    later = rewriter.feed(chunk_event("a", id="other", created=5, timings={"ms": 1}))
    assert (first, later) == (chunk_event(), chunk_event("a"))


def test_a_role_beside_text_goes_without_the_text() -> None:
    rewritten = Rewriter(IDENTITY, has_role=True).feed(choice_event({"role": "assistant", "content": "hi"}))
    assert json.loads(event_data(rewritten))["choices"][0]["delta"] == {"content": "hi"}


def test_garbage_is_not_passed_on() -> None:
    rewriter = Rewriter(IDENTITY, has_role=True)
    assert rewriter.feed(b'data: {"\xff":1,"choices":[]}\n\n') == b""
    assert rewriter.feed(b'data: {broken\n\ndata: {"a":1}\n\n: ping\n\nevent: x\n\n') == b""
    odd = b'data: {"choices":[{"role":3}]}\n\n'
    assert json.loads(event_data(rewriter.feed(odd)))["choices"] == [{"role": 3}]


def test_the_ends_that_are_said_for_an_engine() -> None:
    finish = json.loads(event_data(finish_event(IDENTITY, "length", is_chat=True)))
    assert finish["choices"] == [{"index": 0, "delta": {}, "finish_reason": "length"}]
    assert finish["id"] == "chatcmpl-first"
    text = json.loads(event_data(finish_event(IDENTITY, "length", is_chat=False)))
    assert text["choices"] == [{"index": 0, "text": "", "finish_reason": "length"}]
    counted = json.loads(event_data(usage_event(IDENTITY, Usage(5, 7, 2))))
    assert (counted["choices"], counted["usage"]) == ([], usage(5, 7, 2))


@given(pieces=texts, said=st.integers(0, 80), cuts=st.lists(st.integers(0, 9)))
def test_of_an_answer_that_is_made_again_only_what_is_new_goes_out(
    pieces: list[str], said: int, cuts: list[int]
) -> None:
    text = "".join(pieces)
    events = [*map(chunk_event, pieces), choice_event({}, "stop")]
    repetition = Repetition(text[:said])
    places = sorted({0, len(events), *(cut % (len(events) + 1) for cut in cuts)})
    passed = b"".join(repetition.feed(b"".join(events[start:end])) for start, end in itertools.pairwise(places))
    assert not repetition.is_other
    assert said_by(*passed.split(b"\n\n")).text == text[said:]
    assert said_by(*passed.split(b"\n\n")).finish_reason == "stop"


@pytest.mark.parametrize(
    "events",
    [
        [chunk_event("{"), chunk_event("'")],
        [chunk_event("{"), choice_event({}, "stop")],
        [chunk_event("{"), choice_event({"content": '"'}, "stop")],
        [b"data: 3\n\n"],
    ],
)
def test_an_answer_that_begins_otherwise_is_known(events: list[bytes]) -> None:
    repetition = Repetition('{"a')
    assert b"".join(map(repetition.feed, events)) == b""
    assert repetition.is_other


TOOL_CHUNKS = [choice_event({"tool_calls": [TOOL]}) for _ in range(3)]
TOOL_STREAM = [chunk_event(), chunk_event("I look. "), *TOOL_CHUNKS, choice_event({}, "tool_calls"), DONE]


@given(sizes=st.lists(st.integers(1, 4), min_size=7, max_size=7))
def test_a_tool_call_is_held_until_it_is_whole(sizes: list[int]) -> None:
    hold, passed, rest = ToolHold(), b"", list(TOOL_STREAM)
    for size in sizes:
        fed, rest = rest[:size], rest[size:]
        passed += hold.feed(b"".join(fed))
        is_whole = b'"finish_reason":"tool_calls"' in b"".join(TOOL_STREAM[: len(TOOL_STREAM) - len(rest)])
        assert is_whole or b"tool_calls" not in passed
    assert passed + hold.feed(b"".join(rest)) == b"".join(TOOL_STREAM)


def test_a_dropped_tool_call_is_forgotten_and_an_endless_one_let_go() -> None:
    hold = ToolHold()
    assert hold.feed(b"".join(TOOL_CHUNKS)) == b""
    hold.drop()
    assert hold.feed(chunk_event("a")) == chunk_event("a")
    large = choice_event({"tool_calls": [TOOL | {"function": {"arguments": "x" * 5_000_000}}]})
    assert hold.feed(large) == large


def test_a_chunk_that_only_lists_no_tool_calls_is_no_tool_call() -> None:
    event = choice_event({"content": "a", "tool_calls": []})
    assert ToolHold().feed(event) == event
