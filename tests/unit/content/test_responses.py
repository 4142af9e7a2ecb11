"""The translation between Responses and chat completions: items to messages, chunks to events."""

import itertools
from typing import Any

import msgspec
import pytest

from cloudcrest.content.responses.answer import Chunk, ResponseMaker, chunk_of
from cloudcrest.content.responses.fields import ResponseBody
from cloudcrest.content.responses.refusal import in_own_words
from cloudcrest.content.responses.request import chat_request, items_of
from cloudcrest.gateway.validate import parse
from cloudcrest.kernel.errors import InvalidInput

TOOL = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": True}


def ids() -> Any:
    numbers = itertools.count(1)
    return lambda prefix: f"{prefix}_{next(numbers)}"


def body(**fields: Any) -> ResponseBody:
    return msgspec.convert({"model": "m", "input": "Hi", **fields}, ResponseBody)


def chat(**fields: Any) -> dict[str, Any]:
    """The chat completion's body, which the gateway has to take."""
    asked = body(**fields)
    request = chat_request(asked, items_of(asked, ids()))
    parse("/v1/chat/completions", msgspec.json.encode(request))
    return request


def made(*chunks: dict[str, Any], **fields: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The events of a whole stream of chunks, and the response."""
    maker = ResponseMaker(body(**fields), "resp_1", 1, ids())
    events = list(maker.begin())
    for chunk in chunks:
        events += maker.take(msgspec.convert(chunk, Chunk))
    events += maker.end(2)
    return events, maker.document


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


DETAILS = {"cached_tokens": 3, "cache_write_tokens": 2}
USAGE = {
    "choices": [],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": DETAILS},
}


def test_items_become_messages_and_a_turn_is_one_message() -> None:
    items = [
        {"role": "user", "content": "What is 1+2?"},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Let me see.", "annotations": []}]},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "3"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "4"}]},
        {"role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
    ]
    calls = [{"id": f"c{n}", "type": "function", "function": {"name": "add", "arguments": "{}"}} for n in (1, 2)]
    assert chat(input=items, instructions="Be kind.", tools=[TOOL])["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "What is 1+2?"},
        {"role": "assistant", "reasoning_content": "hm", "content": "Let me see.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
        {"role": "tool", "tool_call_id": "c2", "content": "4"},
        {"role": "developer", "content": "Be brief."},
    ]


def test_options_have_their_chat_names() -> None:
    schema = {"type": "json_schema", "name": "s", "schema": {"type": "object"}, "strict": True}
    request = chat(
        tools=[TOOL],
        tool_choice={"type": "function", "name": "add"},
        parallel_tool_calls=False,
        max_output_tokens=9,
        temperature=0,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        text={"format": schema},
        reasoning={"effort": "low"},
        include=["message.output_text.logprobs"],
    )
    assert request["tools"] == [{"type": "function", "function": {k: v for k, v in TOOL.items() if k != "type"}}]
    assert request["tool_choice"] == {"type": "function", "function": {"name": "add"}}
    assert request["response_format"]["json_schema"]["schema"] == {"type": "object"}
    expected: dict[str, Any] = {
        "parallel_tool_calls": False,
        "max_completion_tokens": 9,
        "temperature": 0,
        "logprobs": True,
    }
    expected |= {"presence_penalty": 0.5, "frequency_penalty": -0.5}
    assert request.items() >= {**expected, "reasoning_effort": "low"}.items()


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"type": "web_search_call", "id": "x"}, "input[0].type"),
        ({"role": "robot", "content": "x"}, "input[0].role"),
        ({"role": "user", "content": [{"type": "input_video", "file_id": "x"}]}, "input[0].content[0].type"),
        ({"type": "item_reference"}, "input[0].type"),
        ({"type": "function_call", "name": "x", "arguments": ""}, "input[0].call_id"),
        ({"role": "user", "content": "x", "private": 1}, "input[0].private"),
    ],
)
def test_what_is_not_understood_is_named(item: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        items_of(body(input=[item]), ids())
    assert refused.value.param == param


def test_a_text_streams_in_openais_order() -> None:
    events, response = made(delta(content="Hel"), delta(content="lo"), delta("stop"), USAGE)
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(10))
    assert events[0]["response"]["output"] == []
    assert events[2]["item"]["status"] == "in_progress"
    assert events[6]["text"] == "Hello"
    assert {event["item_id"] for event in events if "item_id" in event} == {response["output"][0]["id"]}
    assert events[-1]["response"] == response
    assert (response["status"], response["completed_at"]) == ("completed", 2)
    assert response["output"][0]["content"][0]["text"] == "Hello"
    assert response["usage"]["total_tokens"] == 7
    assert response["usage"]["input_tokens_details"] == {"cached_tokens": 3, "cache_write_tokens": 2}


def test_thoughts_then_text_then_calls_are_items_of_their_own() -> None:
    first = {"index": 0, "id": "c1", "function": {"name": "add", "arguments": '{"a":'}}
    rest = {"index": 0, "function": {"arguments": "1}"}}
    second = {"index": 1, "id": "c2", "function": {"name": "sub", "arguments": "{}"}}
    events, response = made(
        delta(reasoning_content="hm"),
        delta(content="Wait."),
        delta(tool_calls=[first]),
        delta(tool_calls=[rest]),
        delta("tool_calls", tool_calls=[second]),
    )
    assert [item["type"] for item in response["output"]] == ["reasoning", "message", "function_call", "function_call"]
    assert [item.get("arguments") for item in response["output"][2:]] == ['{"a":1}', "{}"]
    assert all(item["status"] == "completed" for item in response["output"])
    done = [event for event in events if event["type"] == "response.function_call_arguments.done"]
    assert [(event["output_index"], event["arguments"]) for event in done] == [(2, '{"a":1}'), (3, "{}")]
    # What is given back is read again, as the next request's history.
    items_of(body(input=response["output"]), ids())


def test_an_answer_that_is_cut_off_says_why() -> None:
    events, response = made(delta("length", content="Hel"))
    assert events[-1]["type"] == "response.incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][0]["status"] == "incomplete"


def test_an_answer_that_breaks_off_fails() -> None:
    maker = ResponseMaker(body(), "resp_1", 1, ids())
    list(maker.begin())
    list(maker.take(msgspec.convert(delta(content="Hel"), Chunk)))
    last = list(maker.fail("server_error", "it broke"))[-1]
    assert (last["type"], last["response"]["error"]) == (
        "response.failed",
        {"code": "server_error", "message": "it broke"},
    )


def test_a_whole_completion_becomes_the_response_that_its_stream_would_have() -> None:
    calls = [
        {"id": f"c{number}", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
        for number in (1, 2)
    ]
    message = {"role": "assistant", "content": "Let me see.", "reasoning_content": "hm", "tool_calls": calls}
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": DETAILS}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls", "logprobs": None}
    chunk = chunk_of(msgspec.json.encode({"id": "x", "choices": [choice], "usage": usage}))
    maker = ResponseMaker(body(tools=[TOOL]), "resp_1", 1, ids())
    for _ in (*maker.begin(), *maker.take(chunk), *maker.end(2)):
        continue
    _, streamed = made(
        delta(reasoning_content="hm"),
        delta(content="Let me see."),
        *(delta(tool_calls=[{"index": index, **call}]) for index, call in enumerate(calls)),
        delta("tool_calls"),
        USAGE,
        tools=[TOOL],
    )
    assert maker.document == streamed
    assert [item["type"] for item in streamed["output"]] == ["reasoning", "message", "function_call", "function_call"]
    assert streamed["usage"]["input_tokens_details"]["cached_tokens"] == 3


def test_a_refusal_is_told_in_the_callers_own_words() -> None:
    for asked, told in (("reasoning_effort", "reasoning.effort"), ("messages[2].content", "input"), ("user", "user")):
        refusal = msgspec.json.encode({"error": {"message": "no", "param": asked}})
        assert msgspec.json.decode(in_own_words(refusal))["error"]["param"] == told
    assert in_own_words(b"<html>") == b"<html>"
