"""What becomes of a chat with tools on each kind of route."""

import json
from typing import Any

import pytest

from cloudcrest.catalog.api import ToolFormat
from cloudcrest.gateway.fields import ChatBody
from cloudcrest.gateway.parsed import Parsed
from cloudcrest.gateway.tools.adapt import adapted
from cloudcrest.gateway.validate import forwarded_fields, parse
from cloudcrest.kernel.errors import InvalidInput
from cloudcrest.serving.api import EngineName
from tests.support.gateway_cloud import route_document

WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
NOW = {"type": "function", "function": {"name": "now"}}
CALL = {"id": "a", "type": "function", "function": {"name": "now", "arguments": "{}"}}


def sent(
    tool_format: ToolFormat | None, engine: EngineName = "llamacpp", **fields: Any
) -> tuple[Parsed, dict[str, Any]]:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}
    route = route_document("m", engine=engine, tool_format=tool_format)
    parsed = adapted(parse("/v1/chat/completions", json.dumps(body).encode()), route)
    return parsed, {name: json.loads(raw) for name, raw in forwarded_fields(parsed, route).items()}


def test_a_template_that_takes_tools_gets_them_as_they_are() -> None:
    parsed, fields = sent("hermes", tools=[WEATHER], tool_choice="auto", parallel_tool_calls=True)
    assert fields["tools"] == [WEATHER]
    assert fields["tool_choice"] == "auto"
    assert parsed.calls_outlet is not None


def test_other_models_are_told_in_words() -> None:
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    parsed, fields = sent("prompted", messages=messages, tools=[WEATHER, NOW])
    assert "tools" not in fields
    system, user = fields["messages"]
    assert system["role"] == "system"
    assert system["content"].startswith("Be brief.\n\n")
    assert '"name":"get_weather"' in system["content"]
    assert user == messages[1]
    assert parsed.size_bytes > len(json.dumps(messages)) + len(system["content"]) - len("Be brief.")


def test_calls_and_results_are_told_in_words_with_user_and_assistant_in_turns() -> None:
    messages = [
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "tool_calls": [CALL, CALL]},
        {"role": "tool", "tool_call_id": "a", "content": "noon"},
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "midnight"}]},
        {"role": "user", "content": "Well?"},
    ]
    _, fields = sent("prompted", messages=messages)
    assert [message["role"] for message in fields["messages"]] == ["user", "assistant", "user"]
    assert fields["messages"][1]["content"].count("<tool_call>") == 2
    assert fields["messages"][2]["content"] == (
        "<tool_response>\nnoon\n</tool_response>\n<tool_response>\nmidnight\n</tool_response>\nWell?"
    )


def test_messages_stay_where_no_tool_was_ever_spoken_of() -> None:
    parsed, _ = sent("prompted")
    assert parsed.calls_outlet is None
    assert parsed.fields["messages"] == b'[{"role": "user", "content": "Hi"}]'


@pytest.mark.parametrize("tool_format", ["hermes", "prompted"])
def test_a_forced_call_is_a_grammar(tool_format: ToolFormat) -> None:
    _, fields = sent(tool_format, tools=[WEATHER, NOW], tool_choice="required")
    assert "tool_choice" not in fields
    assert len(fields["response_format"]["json_schema"]["schema"]["anyOf"]) == 2
    parsed, fields = sent(
        tool_format, tools=[WEATHER, NOW], tool_choice={"type": "function", "function": {"name": "now"}}
    )
    assert fields["response_format"]["json_schema"]["schema"]["properties"]["name"] == {"const": "now"}
    assert isinstance(parsed.body, ChatBody)
    assert parsed.body.response_format is not None  # what resumes decides by it


def test_none_hides_the_tools() -> None:
    parsed, fields = sent("prompted", tools=[WEATHER], tool_choice="none")
    assert parsed.calls_outlet is None
    assert fields["messages"] == [{"role": "user", "content": "Hi"}]


def test_vllm_does_what_its_template_can_by_itself() -> None:
    parsed, fields = sent("hermes", "vllm", tools=[WEATHER], tool_choice="required")
    assert (parsed.calls_outlet, fields["tool_choice"]) == (None, "required")
    parsed, fields = sent("prompted", "vllm", tools=[WEATHER], tool_choice="required")
    assert parsed.calls_outlet is not None
    assert "tools" not in fields


@pytest.mark.parametrize("engine", ["upstream", "simulated"])
def test_other_engines_get_what_was_asked(engine: EngineName) -> None:
    parsed, fields = sent(None, engine, tools=[WEATHER], tool_choice="required")
    assert (parsed.calls_outlet, fields["tools"], fields["tool_choice"]) == (None, [WEATHER], "required")


def test_a_model_that_is_not_known_to_call_tools_is_not_asked_to() -> None:
    with pytest.raises(InvalidInput) as caught:
        sent(None, tools=[WEATHER])
    assert caught.value.param == "tools"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [NOW, NOW]}, "tools[1].function.name"),
        ({"tools": [NOW], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice.function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
    ],
)
def test_wrong_tools_are_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        sent("hermes", **fields)
    assert caught.value.param == param
