"""DashScope's native requests as canonical ones, and answers and errors on their way back."""

import json
from typing import Any

import pytest

from cloudcrest.gateway.dialects.dashscope.dialect import (
    EMBEDDING_PATH,
    MULTIMODAL_PATH,
    RERANK_SERVICE_PATH,
    TEXT_PATH,
)
from cloudcrest.gateway.dialects.registry import dialect_of, without_alias
from cloudcrest.gateway.fields import ChatBody
from cloudcrest.gateway.parsed import Parsed
from cloudcrest.kernel.errors import (
    CloudcrestError,
    InvalidInput,
    LimitExceeded,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from tests.support.dashscope import HELLO, STREAM, TOOLS, dialect_at, outlet, read, request_at


def canonical(parsed: Parsed) -> dict[str, Any]:
    return {name: json.loads(raw) for name, raw in parsed.fields.items()}


def wrong(*args: Any, **kwargs: Any) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        read(*args, **kwargs)
    return caught.value


# requests


def test_messages_and_parameters_become_the_canonical_request() -> None:
    parsed = read(None, max_tokens=5, temperature=0.5, stop=["x"], repetition_penalty=1.1, seed=7, enable_search=False)
    assert parsed.endpoint == "/v1/chat/completions"
    assert canonical(parsed) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 5,
        "temperature": 0.5,
        "stop": ["x"],
        "repetition_penalty": 1.1,
        "seed": 7,
    }
    assert not parsed.is_stream


def test_a_prompt_is_a_message_of_the_user() -> None:
    assert canonical(read({"prompt": "hello"}))["messages"] == HELLO["messages"]


@pytest.mark.parametrize("header", [STREAM, (b"accept", b"text/event-stream")])
def test_a_stream_is_asked_for_by_a_header(header: tuple[bytes, bytes]) -> None:
    parsed = read(None, header)
    assert parsed.is_stream
    assert parsed.wants_usage


def test_parts_become_parts() -> None:
    content = [{"text": "what is "}, {"text": "it", "type": "text", "cache_control": {"type": "ephemeral"}}]
    parsed = read({"messages": [{"role": "user", "content": content}]}, path=MULTIMODAL_PATH)
    assert isinstance(parsed.body, ChatBody)
    assert canonical(parsed)["messages"][0]["content"][1]["cache_control"] == {"type": "ephemeral"}
    assert [part.text for part in parsed.body.messages[0].content or () if hasattr(part, "text")] == ["what is ", "it"]


def test_results_of_calls_find_their_call_by_name_where_they_say_no_id() -> None:
    def call(name: str, call_id: str, index: int) -> dict[str, Any]:
        return {
            "id": call_id,
            "index": index,
            "type": "function",
            "function": {"name": name, "arguments": "{}"},
        }

    messages = [
        *HELLO["messages"],
        {"role": "assistant", "content": "", "tool_calls": [call("a", "", 0), call("b", "b1", 1), call("b", "b2", 2)]},
        {"role": "tool", "name": "b", "content": "1"},
        {"role": "tool", "name": "a", "content": "2"},
        {"role": "tool", "tool_call_id": "b2", "content": "3"},
    ]
    told = canonical(read({"messages": messages}, tools=TOOLS))["messages"]
    assert [call["id"] for call in told[1]["tool_calls"]] == ["call_1_0", "b1", "b2"]
    assert [message["tool_call_id"] for message in told[2:]] == ["b1", "call_1_0", "b2"]


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"enable_search": True}, "parameters.enable_search"),
        ({"search_options": {}}, "parameters.search_options"),
        ({"temperature": 3}, "parameters.temperature"),
        ({"max_tokens": 0}, "parameters.max_tokens"),
        ({"repetition_penalty": 0}, "parameters.repetition_penalty"),
        ({"stop": [1]}, "parameters.stop[0]"),
        ({"thinking_budget": 5}, "parameters.thinking_budget"),
        ({"result_format": "xml"}, "parameters.result_format"),
        ({"result_format": "text", "tools": TOOLS}, "parameters.result_format"),
        ({"tool_choice": "auto"}, "parameters.tool_choice"),
        ({"stream": True}, "parameters.stream"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_path(parameters: dict[str, Any], path: str) -> None:
    error = wrong(None, **parameters)
    assert error.param == path
    dialect = dialect_at(TEXT_PATH)
    told = json.loads(dialect.error(error, "req_1"))
    assert (told["code"], told["request_id"]) == ("InvalidParameter", "req_1")
    assert path in told["message"]


@pytest.mark.parametrize(
    ("messages", "path"),
    [
        ([], "input.messages"),
        ([{"role": "bot", "content": "x"}], "input.messages[0].role"),
        ([{"role": "user"}], "input.messages[0].content"),
        ([{"role": "user", "content": [{"video": "x"}]}], "input.messages[0].content[0].video"),
        ([{"role": "user", "content": [{"text": "x", "image": "y"}]}], "input.messages[0].content[0]"),
        ([{"role": "user", "content": [{"audio": "http://x"}]}], "input.messages[0].content[0].audio"),
        ([{"role": "assistant", "content": "x", "partial": True}], "input.messages[0].partial"),
        ([{"role": "tool", "content": "x"}], "input.messages[0].tool_call_id"),
    ],
)
def test_messages_are_refused_by_their_path(messages: list[Any], path: str) -> None:
    assert wrong({"messages": messages}).param == path


@pytest.mark.parametrize("given_input", [{}, {"prompt": "x", **HELLO}])
def test_it_is_messages_or_a_prompt(given_input: dict[str, Any]) -> None:
    assert wrong(given_input).param == "input.messages"


def test_headers_that_ask_for_what_is_not_done_are_refused() -> None:
    assert wrong(None, (b"x-dashscope-async", b"enable")).param == "x-dashscope-async"
    assert wrong(None, (b"x-dashscope-datainspection", b'{"input":"cip"}')).param == "x-dashscope-datainspection"
    read(None, (b"x-dashscope-async", b"disable"), (b"x-dashscope-workspace", b"ws_1"))
    assert wrong({"texts": ["x"]}, STREAM, path=EMBEDDING_PATH).param == "X-DashScope-SSE"


def test_embedding_and_rerank_requests() -> None:
    assert canonical(read({"texts": ["a", "b"]}, path=EMBEDDING_PATH)) == {"model": "m", "input": ["a", "b"]}
    assert wrong({"texts": ["a", ""]}, path=EMBEDDING_PATH).param == "input.texts[1]"
    assert wrong({"texts": ["a"]}, path=EMBEDDING_PATH, dimension=64).param == "parameters.dimension"
    ranking = read({"query": "q", "documents": ["a", {"text": "b"}]}, path=RERANK_SERVICE_PATH, top_n=1)
    assert canonical(ranking) == {"model": "m", "query": "q", "documents": ["a", {"text": "b"}], "top_n": 1}
    assert wrong({"query": "q", "documents": ["a"]}, path=RERANK_SERVICE_PATH, top_n=0).param == "parameters.top_n"
    assert wrong({"query": "", "documents": ["a"]}, path=RERANK_SERVICE_PATH).param == "input.query"


def test_paths_under_other_names() -> None:
    assert without_alias("/compatible-mode/v1/chat/completions") == "/v1/chat/completions"
    assert without_alias("/compatible-mode/v1/models/x") == "/v1/models/x"
    assert without_alias("/compatible-api/v1/reranks") == "/v1/rerank"
    assert without_alias("/compatible-mode/v2") == "/compatible-mode/v2"
    assert dialect_of(request_at("/v1/chat/completions")) is None
    dialect_at("/api/v1/services/aigc/text2image/image-synthesis")


# errors


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (Unauthenticated("x"), "InvalidApiKey", 401),
        (NotFound("x"), "ModelNotFound", 404),
        (LimitExceeded("x"), "Throttling.RateQuota", 429),
        (LimitExceeded("x", code="insufficient_quota"), "Arrearage", 400),
        (Unavailable("x"), "ServiceUnavailable", 503),
        (CloudcrestError("x"), "InternalError", 500),
    ],
)
def test_errors_have_its_codes(error: CloudcrestError, code: str, status: int) -> None:
    dialect = dialect_at(TEXT_PATH)
    told = json.loads(dialect.error(error, "req_1"))
    assert told == {"code": code, "message": "x", "request_id": "req_1"}
    assert dialect.status(error) == status


def test_errors_of_later_stages_name_the_callers_field() -> None:
    dialect = dialect_at(TEXT_PATH)
    error = InvalidInput("this model's engine has none", param="repetition_penalty")
    assert json.loads(dialect.error(error, "r"))["message"].startswith("'parameters.repetition_penalty': this")


# answers


def answer(choices: list[dict[str, Any]]) -> bytes:
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 2}}
    return json.dumps({"id": "x", "choices": choices, "usage": usage}).encode()


def test_a_whole_answer_as_message_and_as_text() -> None:
    said = answer([{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}])
    usage = {
        "input_tokens": 5,
        "output_tokens": 7,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 2},
    }
    message = {"role": "assistant", "content": "hi"}
    assert json.loads(outlet(read(result_format="message")).answer(said)) == {
        "output": {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]},
        "usage": usage,
        "request_id": "req_1",
    }
    assert json.loads(outlet(read()).answer(said))["output"] == {"text": "hi", "finish_reason": "stop"}
    parts = json.loads(outlet(read(path=MULTIMODAL_PATH)).answer(said))["output"]["choices"][0]["message"]["content"]
    assert parts == [{"text": "hi"}]


def test_tool_calls_come_as_messages() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"a":1}'}}
    said = answer([{"finish_reason": "tool_calls", "message": {"content": None, "tool_calls": [call]}}])
    choice = json.loads(outlet(read(tools=TOOLS)).answer(said))["output"]["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {"role": "assistant", "content": "", "tool_calls": [{**call, "index": 0}]}


def test_an_answer_that_is_none_is_an_error_in_its_shape() -> None:
    assert json.loads(outlet(read()).answer(b"<html>"))["code"] == "InternalError"


def test_embeddings_and_rankings() -> None:
    vectors = {"data": [{"index": 0, "embedding": [1.0, 2.0]}], "usage": {"prompt_tokens": 3, "total_tokens": 3}}
    told = outlet(read({"texts": ["a"]}, path=EMBEDDING_PATH)).answer(json.dumps(vectors).encode())
    assert json.loads(told) == {
        "output": {"embeddings": [{"embedding": [1.0, 2.0], "text_index": 0}]},
        "usage": {"total_tokens": 3},
        "request_id": "req_1",
    }
    ranking = {"results": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}]}
    asked = read({"query": "q", "documents": ["a", "b"]}, path=RERANK_SERVICE_PATH, return_documents=True, top_n=1)
    told = outlet(asked).answer(json.dumps({**ranking, "usage": {"total_tokens": 9}}).encode())
    assert json.loads(told) == {
        "output": {
            "results": [{"index": 1, "relevance_score": 0.9, "document": {"text": "b"}}],
            "method": "reranker",
        },
        "usage": {"total_tokens": 9},
        "request_id": "req_1",
    }
