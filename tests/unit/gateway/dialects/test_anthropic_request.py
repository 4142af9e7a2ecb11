"""Bodies of Anthropic's Messages: what they become, and what is refused by which name."""

import json
from typing import Any

import pytest

from cloudcrest.gateway.dialects.anthropic.dialect import CountTokens, Messages
from cloudcrest.gateway.dialects.anthropic.request import canonical, decode
from cloudcrest.gateway.lenient import read_leniently
from cloudcrest.gateway.marks import without_marks
from cloudcrest.gateway.parsed import Parsed
from cloudcrest.gateway.request import Request
from cloudcrest.gateway.validate import check_engine, forwarded_fields
from cloudcrest.kernel.errors import InvalidInput
from tests.support.gateway_cloud import route_document

WEATHER: dict[str, Any] = {"name": "weather", "input_schema": {"type": "object"}}
HELLO: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}


def chat_of(**changes: Any) -> dict[str, Any]:
    return canonical(decode(json.dumps(HELLO | changes).encode()))


def said(*messages: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
    """The messages as an engine gets them that is told of no marks."""
    parsed = without_marks(read(messages=messages, **changes))
    messages_of: list[dict[str, Any]] = json.loads(parsed.fields["messages"])
    return messages_of


def marked(*messages: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
    """The messages with their marks."""
    messages_of: list[dict[str, Any]] = chat_of(messages=messages, **changes)["messages"]
    return messages_of


def read(**changes: Any) -> Parsed:
    request = Request(b"POST", b"/v1/messages", "1.1", [], True)
    request.body = json.dumps(HELLO | changes).encode()
    return Messages().read(request)


def refused(**changes: Any) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        read(**changes)
    return caught.value


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words, "cache_control": {"type": "ephemeral", "ttl": "1h"}}


def test_a_plain_body_becomes_a_plain_chat() -> None:
    assert chat_of(temperature=0.5, top_p=0.9, top_k=4, stop_sequences=["END"], metadata={"user_id": "u"}) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 4,
        "stop": ["END"],
        "user": "u",
    }


def test_system_blocks_are_one_message_before_all_others() -> None:
    assert said({"role": "user", "content": "hi"}, system=[text("a"), text("b")])[0] == {
        "role": "system",
        "content": "a\n\nb",
    }
    assert said({"role": "user", "content": "hi"}, system="a")[0]["content"] == "a"


def test_a_tool_round_trip_keeps_its_order() -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Zürich"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [text("rain"), text("wind")]}
    failed = {"type": "tool_result", "tool_use_id": "toolu_2", "content": "no such city", "is_error": True}
    empty = {"type": "tool_result", "tool_use_id": "toolu_3"}
    turns = said(
        user(text("weather?")),
        {"role": "system", "content": "be short"},
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": "hm", "signature": ""}, text("I look."), call],
        },
        user(result, failed, empty, text("well?")),
        {"role": "user", "content": "quick"},
    )
    assert [turn["role"] for turn in turns] == ["user", "system", "assistant", "tool", "tool", "tool", "user"]
    function = {"name": "weather", "arguments": '{"city":"Zürich"}'}
    assert turns[2] == {
        "role": "assistant",
        "content": "I look.",
        "reasoning_content": "hm",
        "tool_calls": [{"id": "toolu_1", "type": "function", "function": function}],
    }
    assert [turn["content"] for turn in turns[3:]] == ["rain\n\nwind", "Error: no such city", "", "well?\n\nquick"]
    assert turns[3]["tool_call_id"] == "toolu_1"


def test_a_call_alone_has_no_content() -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
    assert said(HELLO["messages"][0], {"role": "assistant", "content": [call]})[1]["content"] is None


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        (
            {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
            {"tool_choice": {"type": "function", "function": {"name": "weather"}}, "parallel_tool_calls": False},
        ),
    ],
)
def test_tools_and_what_is_chosen_of_them(choice: dict[str, Any], expected: dict[str, Any]) -> None:
    tool = WEATHER | {"description": "of a city", "strict": True, "type": "custom", "eager_input_streaming": True}
    chat = chat_of(tools=[tool], tool_choice=choice)
    function = {"name": "weather", "parameters": {"type": "object"}, "description": "of a city", "strict": True}
    assert chat["tools"] == [{"type": "function", "function": function}]
    assert {name: chat[name] for name in ("tool_choice", "parallel_tool_calls") if name in chat} == expected
    assert "tool_choice" not in chat_of(tool_choice={"type": "auto"})


MARK = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}


def test_marks_stay_where_they_were_set() -> None:
    plain = {"type": "text", "text": "plain"}
    result = {"type": "tool_result", "tool_use_id": "t", "content": "rain", "cache_control": {"type": "ephemeral"}}
    scoped = {**text("you are"), "cache_control": {"type": "ephemeral", "scope": "org"}}
    turns = marked(user(result, plain, text("see")), user(plain), system=[scoped, plain])
    part = {"type": "text", "text": "rain", "cache_control": {"type": "ephemeral"}}
    assert turns == [
        {
            "role": "system",
            "content": [
                {"type": "text", "text": "you are\n\n", "cache_control": {"type": "ephemeral"}},
                {"type": "text", "text": "plain"},
            ],
        },
        {"role": "tool", "tool_call_id": "t", "content": [part]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "plain\n\n"},
                {"type": "text", "text": "see\n\n", **MARK},
                {"type": "text", "text": "plain"},
            ],
        },
    ]
    [only] = marked(user(plain), cache_control=MARK["cache_control"])
    assert only["content"] == [{"type": "text", "text": "plain", **MARK}]
    [shown] = marked(user(IMAGE | MARK, plain))
    assert shown["content"] == [SHOWN | MARK, plain]
    [tool] = chat_of(tools=[WEATHER | MARK])["tools"]
    assert tool["cache_control"] == MARK["cache_control"]


def test_an_empty_text_has_no_mark() -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": "", **MARK}
    [only] = marked(user(result), cache_control=MARK["cache_control"])
    assert only == {"role": "tool", "tool_call_id": "t", "content": ""}
    first, last = marked(user(result, text("see"), text("")))[1]["content"]
    assert (first, last) == ({"type": "text", "text": "see\n\n", **MARK}, {"type": "text", "text": ""})


def test_without_marks_it_is_as_if_nothing_had_been_marked() -> None:
    asked: dict[str, Any] = {"system": [text("a"), text("b")], "tools": [WEATHER | MARK], **MARK}
    asked["messages"] = [user(text("c"), text("d")), user(text("e")), user(IMAGE | MARK, text("f"))]
    plain = json.loads(json.dumps(asked), object_hook=lambda each: {k: v for k, v in each.items() if k not in MARK})
    one, other = without_marks(read(**asked)), read(**plain)
    assert {name: json.loads(raw) for name, raw in one.fields.items() if name != "messages"} == {
        name: json.loads(raw) for name, raw in other.fields.items() if name != "messages"
    }
    assert json.loads(one.fields["messages"])[0] == {"role": "system", "content": "a\n\nb"}
    assert b"cache_control" not in one.fields["messages"] + one.fields["tools"]


def test_a_schema_for_the_answer() -> None:
    form = {"type": "json_schema", "schema": {"type": "object"}}
    expected = {"type": "json_schema", "json_schema": {"name": "output", "schema": {"type": "object"}, "strict": True}}
    assert chat_of(output_config={"format": form, "effort": "high"})["response_format"] == expected
    assert chat_of(output_format=form)["response_format"] == expected


def test_what_claude_code_sends_is_taken() -> None:
    parsed = read(
        stream=True,
        thinking={"type": "adaptive"},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        output_config={"effort": "high"},
        cache_control={"type": "ephemeral"},
        service_tier="auto",
    )
    assert parsed.is_stream
    assert parsed.wants_usage
    assert parsed.outlet is not None
    fields = forwarded_fields(parsed, route_document())
    assert set(fields) == {"messages", "model", "max_tokens", "stream", "stream_options"}
    assert next(iter(fields)) == "messages"  # the router looks for them near the start


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
SHOWN = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}


def test_images_are_shown_by_the_user_those_of_results_too() -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": [IMAGE]}
    other = {"type": "tool_result", "tool_use_id": "u", "content": [text("both"), IMAGE]}
    turns = said(user(result, other, text("see"), IMAGE, text("what?")), {"role": "user", "content": "quick"})
    assert [turn["content"] for turn in turns[:2]] == ["The image follows.", "both"]
    words = [{"type": "text", "text": each} for each in ("see", "what?", "quick")]
    assert turns[2] == {"role": "user", "content": [SHOWN, SHOWN, words[0], SHOWN, *words[1:]]}
    seen = read(messages=[user(IMAGE)])
    assert seen.images == 1
    with pytest.raises(InvalidInput, match="no images"):
        check_engine(seen, route_document())


def test_how_hard_a_model_tries() -> None:
    assert chat_of(output_config={"effort": "low"})["reasoning_effort"] == "low"
    assert "reasoning_effort" not in chat_of(output_config={"effort": "high"})
    assert chat_of(thinking={"type": "enabled"}) == chat_of()


def test_projects_that_are_lenient_go_without_what_is_not_honoured() -> None:
    body = HELLO | {
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]},
        "output_config": {"effort": "max"},
        "container": "c",
        "tools": [WEATHER | {"input_examples": []}],
    }
    request = Request(b"POST", b"/v1/messages", "1.1", [], True)

    def read_body(data: bytes) -> Parsed:
        request.body = data
        return Messages().read(request)

    parsed, dropped = read_leniently(read_body, json.dumps(body).encode())
    assert set(dropped) == {
        "thinking.budget_tokens",
        "context_management",
        "output_config.effort",
        "container",
        "tools[0].input_examples",
    }
    assert set(parsed.fields) == {"messages", "model", "tools", "max_tokens"}


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": True}, "logprobs"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking.budget_tokens"),
        ({"output_config": {"effort": "max"}}, "output_config.effort"),
        ({"output_config": {"effort": "most"}}, "output_config.effort"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management"),
        (
            {"messages": [user({"type": "image", "source": {"type": "url", "url": "http://x"}})]},
            "messages[0].content[0].source.type",
        ),
        ({"messages": [{"role": "assistant", "content": [IMAGE]}]}, "messages[0].content[0].type"),
        ({"messages": [user(text("see"), {"type": "document", "source": {}})]}, "messages[0].content[1].type"),
        ({"messages": [user(text("see"), {"type": "video"})]}, "messages[0].content[1].type"),
        ({"messages": [user({"type": "redacted_thinking", "data": ""})]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [user(text("a"), {"type": "tool_result", "tool_use_id": "t"})]}, "messages[0].content[1]"),
        ({"messages": [{"role": "system", "content": [IMAGE]}]}, "messages[0].content[0].type"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}]}, "tools[0].type"),
        ({"tools": [WEATHER, WEATHER | {"colour": "red"}]}, "tools[1].colour"),
        ({"tools": [{"name": "weather"}]}, "tools[0].input_schema"),
        ({"tools": [WEATHER | {"name": "two words"}]}, "tools[0].name"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "other"}}, "tool_choice.name"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_name(changes: dict[str, Any], param: str) -> None:
    assert refused(**changes).param == param


def test_what_is_nested_is_bounded_in_depth() -> None:
    deep: dict[str, Any] = {}
    for _ in range(70):
        deep = {"items": deep}
    assert refused(tools=[WEATHER | {"input_schema": deep}]).param == "tools[0].input_schema"
    form = {"type": "json_schema", "schema": deep}
    assert refused(output_format=form).param == "output_format.schema"
    assert refused(output_config={"format": form}).param == "output_config.format.schema"
    call = {"type": "tool_use", "id": "t", "name": "weather", "input": deep}
    assert refused(messages=[{"role": "assistant", "content": [call]}]).param == "messages[0].content[0].input"


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"{", b'{"model":"m"}', b"[" * 100_000])
def test_no_body_breaks_it(body: bytes) -> None:
    request = Request(b"POST", b"/v1/messages", "1.1", [], True)
    request.body = body
    for dialect in (Messages(), CountTokens()):
        with pytest.raises(InvalidInput):
            dialect.read(request)


def test_an_answer_that_is_begun_goes_to_engines_that_go_on_with_it() -> None:
    begun = read(messages=[*HELLO["messages"], {"role": "assistant", "content": "It is"}])
    assert begun.goes_on
    check_engine(begun, route_document(engine="llamacpp"))
    with pytest.raises(InvalidInput, match="go on with"):
        check_engine(begun, route_document(engine="vllm"))


def test_a_count_takes_no_limit() -> None:
    request = Request(b"POST", b"/v1/messages/count_tokens", "1.1", [], True)
    request.body = json.dumps({name: HELLO[name] for name in ("model", "messages")} | {"tools": [WEATHER]}).encode()
    assert set(CountTokens().read(request).fields) == {"messages", "model", "tools"}
    request.body = json.dumps(HELLO).encode()
    with pytest.raises(InvalidInput, match="max_tokens"):
        CountTokens().read(request)
