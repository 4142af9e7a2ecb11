"""Plain chats: read in one pass, they are what the whole check makes of them; everything else is left to it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.gateway.fields import ChatBody
from cloudcrest.gateway.parsed import Parsed
from cloudcrest.gateway.plain import read_plain, written_for
from cloudcrest.gateway.validate import build, check_engine, forwarded_fields, parse
from cloudcrest.kernel.errors import InvalidInput
from tests.support.gateway_cloud import route_document

CHAT = "/v1/chat/completions"
HELLO = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
TOOL = {"type": "function", "function": {"name": "f"}}


def chat(**changes: Any) -> bytes:
    return json.dumps(HELLO | changes).encode()


def sent(body: bytes, **route: Any) -> bytes:
    """What an engine gets of a plain chat."""
    parsed, document = read_plain(body), route_document(**route)
    assert parsed is not None
    assert parsed.plain is not None
    check_engine(parsed, document)
    return written_for(parsed.plain, parsed, document)


def known(parsed: Parsed) -> tuple[object, ...]:
    return (
        *(parsed.endpoint, parsed.model, parsed.kind, parsed.size_bytes, parsed.is_stream, parsed.wants_usage),
        *(parsed.max_tokens, parsed.choices, parsed.prompts, parsed.images, parsed.has_tools, parsed.input_field),
        *(parsed.estimated_tokens(512), parsed.role_events, parsed.body),
        {name: json.loads(raw) for name, raw in parsed.fields.items() if raw != b"null"},
    )


_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_messages = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": _texts})
_bodies = st.fixed_dictionaries(
    {"model": st.just("m"), "messages": st.lists(_messages, min_size=1, max_size=4)},
    optional={
        "max_tokens": st.integers(1, 1000),
        "temperature": st.floats(0, 2),
        "top_p": st.floats(0, 1),
        "top_k": st.integers(-1, 100),
        "stop": st.one_of(_texts, st.lists(st.text('ab]"\\', min_size=1), max_size=3)),
        "seed": st.integers(-(2**63), 2**63 - 1),
        "presence_penalty": st.integers(-2, 2),
        "user": st.text(max_size=9),
        "n": st.none(),
    },
)


@given(
    body=_bodies,
    is_ascii=st.booleans(),
    stream=st.sampled_from([{}, {"stream": False}, {"stream": True}, {"stream": True, "stream_options": {}}]),
    engine=st.sampled_from(["llamacpp", "vllm", "simulated", "upstream"]),
)
def test_it_is_what_the_whole_check_makes_of_it(
    body: dict[str, Any], is_ascii: bool, stream: dict[str, Any], engine: str
) -> None:
    del_none = {name: value for name, value in body.items() if value is not None}
    data = json.dumps(del_none | stream, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
    parsed, whole, route = read_plain(data), parse(CHAT, data), route_document(engine=engine)
    assert parsed is not None
    assert parsed.plain is not None
    assert known(parsed) == known(whole)
    for one in (parsed, whole):
        check_engine(one, route)
    assert json.loads(written_for(parsed.plain, parsed, route)) == json.loads(build(forwarded_fields(whole, route)))


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_limit_of_the_output_goes_by_the_name_that_the_engine_knows(name: str) -> None:
    body = chat(**{name: 9})
    assert json.loads(sent(body, engine="upstream"))[name] == 9
    assert json.loads(sent(body, engine="vllm"))["max_tokens"] == 9
    assert sent(body).count(b"tokens") == 1
    assert json.loads(sent(chat(max_tokens=900), engine="vllm", context_tokens=512))["max_tokens"] == 512


@pytest.mark.parametrize("engine", ["llamacpp", "vllm", "simulated", "upstream"])
def test_what_a_budget_affords_is_the_limit_where_the_caller_names_none(engine: str) -> None:
    for null in ({}, {"max_tokens": None}, {"max_completion_tokens": None}):
        parsed, document = read_plain(chat(**null)), route_document(engine=engine)
        assert parsed is not None
        assert parsed.plain is not None
        parsed.max_tokens = 7
        body = written_for(parsed.plain, parsed, document)
        assert (json.loads(body)["max_tokens"], body.count(b"tokens")) == (7, 1)


def test_what_one_engine_can_hold_does_not_limit_the_next() -> None:
    parsed, sent = read_plain(chat(max_completion_tokens=900)), []
    assert parsed is not None
    for route in (route_document(context_tokens=512), route_document(engine="upstream", context_tokens=512)):
        twin = parsed.twin()
        check_engine(twin, route)
        assert twin.plain is not None
        sent.append(json.loads(written_for(twin.plain, twin, route)))
    assert [body.get("max_tokens") for body in sent] == [512, None]
    assert [body.get("max_completion_tokens") for body in sent] == [None, 900]


def test_texts_pass_as_they_were_written() -> None:
    body = b'{"model":"m" , "messages": [ {"content" : "a\\u00e9 \\"n_predict\\": 5\\/" , "role":"user"} ]}'
    assert b'"content":"a\\u00e9 \\"n_predict\\": 5\\/"' in sent(body)


def test_each_field_reaches_the_engine_once() -> None:
    body = (
        b'{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"x"}],"max_tokens":7,"max_t\\u006fkens":9,'
        b'"m\\u0065ssages":[{"role":"user","content":"no","c\\u006fntent":"y"}],"temperature":null}'
    )
    assert json.loads(sent(body)) == {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "y"}]}
    assert sent(body).count(b"messages") == sent(body).count(b"tokens") == sent(body).count(b"content") == 1


@pytest.mark.parametrize("first", [b"5", b"null", b"[1]", b"{}", b"1e999", b"[" * 900 + b"]" * 900])
def test_a_text_given_twice_is_the_last_one_whenever_it_is_asked_for(first: bytes) -> None:
    parsed = read_plain(b'{"model":"m","messages":[{"role":"user","content":%b,"content":"x"}]}' % first)
    assert parsed is not None
    assert parsed.fields == {"model": b'"m"', "messages": b'[{"role":"user","content":"x"}]'}
    assert isinstance(parsed.body, ChatBody)
    assert parsed.body.messages[0].content == "x"


@pytest.mark.parametrize("content", [None, 5, True, ["x"], [{"type": "text", "text": "x"}], {"x": 1}])
def test_what_is_no_text_is_read_in_full(content: object) -> None:
    assert read_plain(chat(messages=[HELLO["messages"][0], {"role": "user", "content": content}])) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"tools": [TOOL]},
        {"n": 2},
        {"logprobs": True},
        {"enable_thinking": False},
        {"n_predict": 5},
        {"messages": [{"role": "developer", "content": "x"}]},
        {"messages": [{"role": "tool", "content": "x", "tool_call_id": "c"}]},
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": []}]},
        {"messages": [{"role": "user"}]},
        {"messages": []},
        {"max_tokens": 3, "max_completion_tokens": 3},
        {"stream_options": {"include_usage": True}},
        {"temperature": 3},
        {"model": ""},
    ],
)
def test_what_is_more_or_wrong_is_read_in_full(changes: dict[str, Any]) -> None:
    assert read_plain(chat(**changes)) is None


@pytest.mark.parametrize(
    "text",
    [b"\xff", b"\xed\xa0\x80", b"\xe4\xba", b"a\nb", b"\x00", b"\\q", b"\\u12", b"\\ud800", b"\\ud800\\u0041"],
)
def test_texts_are_valid_though_nobody_reads_them(text: bytes) -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}' % text
    assert read_plain(body) is None
    with pytest.raises(InvalidInput):
        parse(CHAT, body)


def test_nesting_without_end_is_refused_and_not_followed() -> None:
    for body in (b'{"messages":' + b"[" * 200_000, b'{"messages":[{"role":"user","content":' + b"[" * 200_000):
        assert read_plain(body) is None
