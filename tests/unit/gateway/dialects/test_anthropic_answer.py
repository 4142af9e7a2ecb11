"""Answers in Anthropic's shape: whole and streamed they say the same, however a stream was split; errors and models."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.gateway.dialects.anthropic import models
from cloudcrest.gateway.dialects.anthropic.answer import About
from cloudcrest.gateway.dialects.anthropic.errors import error_document, status_of
from cloudcrest.gateway.dialects.anthropic.stream import MessageOutlet
from cloudcrest.gateway.snapshot import Snapshot
from cloudcrest.kernel.errors import (
    CloudcrestError,
    ContextTooLong,
    EngineFault,
    InvalidInput,
    LimitExceeded,
    NotFound,
    PermissionDenied,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from tests.support.gateway_cloud import feed_state, key_document, route_document

ABOUT = About("m", ("END",), shows_thinking=True)
USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 4,
    "prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 1},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
DONE = b"data: [DONE]\n\n"


def event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def chunk(delta: dict[str, Any], finish_reason: str | None = None, **choice: Any) -> bytes:
    return event({"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason, **choice}]})


def outlet(about: About = ABOUT) -> MessageOutlet:
    return MessageOutlet("req_1", about)


def told(stream: bytes) -> list[dict[str, Any]]:
    """The events of a stream, each named as its data is."""
    events = []
    for part in filter(None, stream.split(b"\n\n")):
        name, data = part.split(b"\n")
        events.append(json.loads(data.removeprefix(b"data: ")))
        assert name == b"event: " + events[-1]["type"].encode()
    return events


def put_together(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a client makes of a stream's events. Each block is begun, told and ended in its turn."""
    assert events[0]["type"] == "message_start"
    assert events[1]["type"] == "ping"
    assert [e["type"] for e in events[-2:]] == ["message_delta", "message_stop"]
    message: dict[str, Any] = events[0]["message"]
    inputs = ""
    is_open = False
    for e in events[2:-2]:
        assert e["index"] == len(message["content"]) - (1 if e["type"] != "content_block_start" else 0)
        assert is_open == (e["type"] != "content_block_start")
        if e["type"] == "content_block_start":
            message["content"].append(e["content_block"])
            inputs, is_open = "", True
        elif e["type"] == "content_block_delta":
            block, delta = message["content"][-1], e["delta"]
            if delta["type"] == "input_json_delta":
                inputs += delta["partial_json"]
            else:
                field = delta["type"].removesuffix("_delta")
                block[field] += delta[field]
        else:
            if message["content"][-1]["type"] == "tool_use":
                message["content"][-1]["input"] = json.loads(inputs or "{}")
            is_open = False
    assert not is_open
    return {**message, **events[-2]["delta"], "usage": events[-2]["usage"]}


texts = st.text(max_size=8)
calls = st.lists(st.tuples(st.sampled_from(["a", "b"]), st.dictionaries(texts, texts, max_size=2)), max_size=3)


@st.composite
def answers(draw: st.DrawFn) -> tuple[dict[str, Any], list[bytes]]:
    """A whole answer, and the events in which it could have come."""
    thought, said = draw(st.lists(texts)), draw(st.lists(texts))
    made: list[dict[str, Any]] = [
        {"id": f"call_{at}", "type": "function", "function": {"name": name, "arguments": json.dumps(given_)}}
        for at, (name, given_) in enumerate(draw(calls))
    ]
    reason = draw(st.sampled_from(["stop", "length", "content_filter"])) if not made else "tool_calls"
    message: dict[str, Any] = {"role": "assistant", "content": "".join(said) or None}
    message |= {"reasoning_content": "".join(thought)} | ({"tool_calls": made} if made else {})
    events = [chunk({"role": "assistant", "content": None})]
    events += [chunk({"reasoning_content": piece}) for piece in thought]
    events += [chunk({"content": piece}) for piece in said]
    for at, call in enumerate(made):
        arguments = call["function"]["arguments"]
        cut = draw(st.integers(0, len(arguments)))
        first = {"name": call["function"]["name"], "arguments": arguments[:cut]}
        events.append(chunk({"tool_calls": [{"index": at, "id": call["id"], "function": first}]}))
        events.append(chunk({"tool_calls": [{"index": at, "function": {"arguments": arguments[cut:]}}]}))
    events += [chunk({}, reason), event({"model": "m", "choices": [], "usage": USAGE}), DONE]
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return {"model": "m", "choices": [choice], "usage": USAGE}, events


@given(answers(), st.data())
def test_a_stream_says_what_a_whole_answer_says_however_it_is_split(
    answer: tuple[dict[str, Any], list[bytes]], data: st.DataObject
) -> None:
    body, events = answer
    single, grouped = outlet(), outlet()
    one_by_one = b"".join(map(single.events, events)) + single.end()
    together = b""
    while events:
        size = data.draw(st.integers(1, len(events)))
        together += grouped.events(b"".join(events[:size]))
        events = events[size:]
    together += grouped.end()
    assert together == one_by_one
    assert single.is_over
    assert put_together(told(together)) == json.loads(outlet().answer(json.dumps(body).encode()))


def whole(message: dict[str, Any], finish_reason: str = "stop", about: About = ABOUT, **choice: Any) -> dict[str, Any]:
    body = {"model": "m", "choices": [{"index": 0, "message": message, "finish_reason": finish_reason, **choice}]}
    answer: dict[str, Any] = json.loads(outlet(about).answer(json.dumps(body | {"usage": USAGE}).encode()))
    return answer


def test_a_whole_answer() -> None:
    assert whole({"content": "hi", "reasoning_content": "hm"}) == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "thinking", "thinking": "hm", "signature": ""}, {"type": "text", "text": "hi"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 4,
            "cache_creation_input_tokens": 1,
            "cache_read_input_tokens": 5,
            "output_tokens": 4,
            "output_tokens_details": {"thinking_tokens": 2},
        },
    }


def test_what_the_model_thinks_is_for_those_who_asked() -> None:
    message = {"content": "hi", "reasoning_content": "hm"}
    assert whole(message, about=About("m"))["content"] == [{"type": "text", "text": "hi"}]
    hidden = whole(message, about=About("m", shows_thinking=True, omits_thought=True))["content"]
    assert hidden[0] == {"type": "thinking", "thinking": "", "signature": ""}
    quiet = outlet(About("m"))
    assert b"hm" not in quiet.events(chunk({"reasoning_content": "hm"}) + chunk({"content": "hi"}))


def test_why_it_ended() -> None:
    said = {"content": "hi"}
    assert whole(said, "length")["stop_reason"] == "max_tokens"
    assert whole(said, "content_filter")["stop_reason"] == "refusal"
    assert whole({"content": None, "refusal": "no"})["stop_reason"] == "refusal"
    ended = whole(said, stop_reason="END")
    assert (ended["stop_reason"], ended["stop_sequence"]) == ("stop_sequence", "END")
    assert whole(said, stop_reason=128_001)["stop_reason"] == "end_turn"
    call = {"function": {"name": "a", "arguments": "{}"}}
    assert whole({"content": None, "tool_calls": [call]})["stop_reason"] == "tool_use"  # forced calls end with "stop"


def test_arguments_that_are_no_object_are_told_in_one() -> None:
    calls = [{"function": {"name": "a", "arguments": arguments}} for arguments in ('{"x":', "3", "")]
    blocks = whole({"content": None, "tool_calls": calls})["content"]
    assert [block["input"] for block in blocks] == [{"INVALID_JSON": '{"x":'}, {"INVALID_JSON": "3"}, {}]
    assert [block["id"] for block in blocks] == ["toolu_1_0", "toolu_1_1", "toolu_1_2"]


def test_what_cannot_be_read_becomes_an_error() -> None:
    assert json.loads(outlet().answer(b"{"))["error"]["type"] == "api_error"
    for events in (
        b"data: {\n\n",
        b"".join(chunk({"tool_calls": [{"index": at, "function": {"name": "a"}}]}) for at in (0, 1, 0)),
    ):
        broken = outlet()
        last = told(broken.events(events) + broken.events(chunk({"content": "hi"})) + broken.end())[-1]
        assert (last["type"], last["error"]["type"]) == ("error", "api_error")
        assert broken.is_over


def test_an_error_ends_a_stream_that_has_begun() -> None:
    lost = outlet()
    out = lost.events(chunk({"content": "hi"})) + lost.error(Unavailable("no replica is left"))
    last = told(out)[-1]
    assert last == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "no replica is left"},
        "request_id": "req_1",
    }


def test_an_empty_stream_is_a_whole_message() -> None:
    events = told(outlet().end())
    assert put_together(events)["content"] == []


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InvalidInput("x"), 400, "invalid_request_error"),
        (Unauthenticated("x"), 401, "authentication_error"),
        (LimitExceeded("x", code="insufficient_quota"), 402, "billing_error"),
        (PermissionDenied("x"), 403, "permission_error"),
        (NotFound("x"), 404, "not_found_error"),
        (TooLarge("x"), 413, "request_too_large"),
        (LimitExceeded("x"), 429, "rate_limit_error"),
        (EngineFault("x"), 500, "api_error"),
        (Unavailable("x"), 529, "overloaded_error"),
    ],
)
def test_errors_have_anthropics_types_and_statuses(error: CloudcrestError, status: int, kind: str) -> None:
    assert status_of(error) == status
    document = json.loads(error_document(error, "req_1"))
    assert document == {"type": "error", "error": {"type": kind, "message": "x"}, "request_id": "req_1"}


def test_an_errors_message_names_the_field_and_says_what_to_do() -> None:
    def message(error: CloudcrestError) -> str:
        return str(json.loads(error_document(error, "req_1"))["error"]["message"])

    assert message(InvalidInput("is too large", param="top_k", hint="take less")) == "top_k: is too large (take less)"
    assert message(InvalidInput("'top_k' is not known", param="top_k")) == "'top_k' is not known"
    assert message(ContextTooLong("it has 9 tokens", param="messages")).startswith("prompt is too long: ")


def test_models_come_in_pages_newest_first() -> None:
    snapshot = Snapshot(lambda: 0.0)
    made = [route_document(name, created_at_unix_seconds=at) for at, name in enumerate("abc")]
    state = feed_state([*made, route_document("vectors", task="embedding")])
    snapshot.update(state, set(state.documents))

    def page(query: bytes = b"") -> dict[str, Any]:
        listed: dict[str, Any] = json.loads(models.model_list(snapshot, key_document(), query))
        return {**listed, "data": [model["id"] for model in listed["data"]]}

    assert page() == {"data": ["c", "b", "a"], "has_more": False, "first_id": "c", "last_id": "a"}
    assert page(b"limit=2&beta=true") == {"data": ["c", "b"], "has_more": True, "first_id": "c", "last_id": "b"}
    assert page(b"limit=2&after_id=b")["data"] == ["a"]
    assert page(b"limit=1&before_id=a") == {"data": ["b"], "has_more": True, "first_id": "b", "last_id": "b"}
    assert page(b"after_id=a") == {"data": [], "has_more": False, "first_id": None, "last_id": None}
    assert models.model_object(snapshot, "a")["created_at"] == "1970-01-01T00:00:00Z"
    for query in (b"limit=0", b"limit=x", b"limit=9999", b"after_id=z", b"after_id=a&before_id=b", b"a=1&" * 20):
        with pytest.raises(InvalidInput):
            page(query)
