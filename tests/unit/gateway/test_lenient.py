"""What nobody honours is dropped where a project is not strict, and said so; what is wrong stays wrong."""

import json
from functools import partial
from typing import Any

import pytest

from cloudcrest.gateway.fields import ChatBody
from cloudcrest.gateway.lenient import MAX_DROPPED, MAX_READ_BYTES, fit_leniently, ignored_header, read_leniently
from cloudcrest.gateway.parsed import Parsed
from cloudcrest.gateway.validate import check_engine, parse
from cloudcrest.kernel.errors import InvalidInput
from tests.support.gateway_cloud import route_document

CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "Hi"}


def read(**fields: Any) -> tuple[Parsed, list[str]]:
    body = {"model": "m", "messages": [USER], **fields}
    return read_leniently(partial(parse, CHAT), json.dumps(body).encode())


def test_a_strict_reading_drops_nothing() -> None:
    assert read(temperature=1)[1] == []


def test_unknown_fields_are_dropped_wherever_they_are() -> None:
    message = USER | {"cache": 1}
    parsed, dropped = read(
        top_a=1, store=True, messages=[message, USER, message], stream_options={"foo": 1}, stream=True
    )
    assert sorted(dropped) == ["messages[0].cache", "messages[2].cache", "store", "stream_options.foo", "top_a"]
    assert json.loads(parsed.fields["messages"]) == [USER] * 3
    assert parsed.is_stream
    assert "store" not in parsed.fields


@pytest.mark.parametrize("fields", [{"temperature": 9}, {"messages": []}, {"n": "two"}, {"tool_choice": "required"}])
def test_wrong_values_are_refused_all_the_same(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        read(**fields)


def test_a_name_that_cannot_be_found_again_is_refused() -> None:
    for name in ("a.b", "x[0]", "[", ""):
        with pytest.raises(InvalidInput):
            read(**{name: 1})


def test_there_is_an_end_to_it() -> None:
    with pytest.raises(InvalidInput) as caught:
        read(**{f"unknown_{number}": 1 for number in range(MAX_DROPPED + 1)})
    assert caught.value.code == "unknown_parameter"


def test_what_an_engine_does_not_honour_is_dropped_for_it() -> None:
    def fit(parsed: Parsed) -> Parsed:
        check_engine(parsed, route_document("m", engine="llamacpp"))
        return parsed

    parsed = parse(CHAT, json.dumps({"model": "m", "messages": [USER], "reasoning_effort": "low"}).encode())
    fitted, dropped = fit_leniently(fit, parsed)
    assert dropped == ["reasoning_effort"]
    assert isinstance(fitted.body, ChatBody)
    assert fitted.body.reasoning_effort is None
    assert "reasoning_effort" not in fitted.fields
    with pytest.raises(InvalidInput):  # another task is no parameter
        fit_leniently(fit, parse("/v1/embeddings", b'{"model":"m","input":"x"}'))


def test_the_answer_says_what_was_dropped() -> None:
    assert ignored_header(["a", "messages[...].b"]) == b"x-cloudcrest-ignored: a, messages[...].b\r\n"
    assert ignored_header(["ä\r\nset-cookie: x"]) == b"x-cloudcrest-ignored: ???set-cookie: x\r\n"


def test_a_large_body_is_not_read_again_and_again() -> None:
    text = "x" * (MAX_READ_BYTES // 2)
    with pytest.raises(InvalidInput, match="not a known field"):
        read(messages=[USER | {"content": text}], top_a=1, top_b=1)
    assert read(messages=[USER | {"content": text[: MAX_READ_BYTES // 4]}], top_a=1, top_b=1)[1] == ["top_a", "top_b"]
