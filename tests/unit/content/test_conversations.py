"""Conversations' items: whole as OpenAI's are, told apart by their ids, bounded."""

import itertools
from typing import Any

import msgspec
import pytest

from cloudcrest.content.responses.conversation import Size, apart, check_ids, check_room, document_of
from cloudcrest.content.responses.fields import Item, ResponseBody
from cloudcrest.content.responses.request import check_state, read_items, said_before
from cloudcrest.kernel.errors import InvalidInput

MESSAGE = {"role": "user", "content": "Hi"}


def read(*written: dict[str, Any]) -> list[Item]:
    numbers = itertools.count(1)
    return read_items(written, "items", lambda prefix: f"{prefix}_{next(numbers)}")


def test_an_item_has_the_fields_that_openais_always_have() -> None:
    items = read(
        MESSAGE,
        {"role": "assistant", "content": "Hello"},
        {"type": "reasoning"},
        {"type": "function_call", "call_id": "c", "name": "add", "arguments": "{}", "id": "mine"},
    )
    said = {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}
    shown = [document_of(item) for item in items]
    kept = {"status": "completed"}
    assert [item.pop("id") for item in shown] == ["msg_1", "msg_2", "rs_3", "mine"]
    assert shown == [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}], **kept},
        {"type": "message", "role": "assistant", "content": [said], **kept},
        {"type": "reasoning", "summary": [], **kept},
        {"type": "function_call", "call_id": "c", "name": "add", "arguments": "{}", **kept},
    ]
    again = said_before([document_of(item) for item in items], "conversation")
    assert [document_of(item) for item in again] == [document_of(item) for item in items]


def test_what_a_model_made_that_none_can_be_asked_with_is_named() -> None:
    call = {"type": "function_call", "id": "fc_odd", "call_id": "c", "name": "not a name", "arguments": "{}"}
    with pytest.raises(InvalidInput, match="'fc_odd' cannot be asked again") as refused:
        said_before([call], "conversation")
    assert refused.value.param == "conversation"


@pytest.mark.parametrize(
    ("ids", "code"),
    [(["a", "a"], "duplicate_item"), (["b", "taken"], "duplicate_item"), (["a", "a/b"], "invalid_value")],
)
def test_items_that_cannot_be_told_apart_are_refused(ids: list[str], code: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_ids(read(*({**MESSAGE, "id": given} for given in ids)), "items", {"taken"})
    assert (refused.value.code, refused.value.param) == (code, "items[1].id")


def test_of_two_turns_with_the_same_ids_none_is_lost() -> None:
    documents = [{"type": "message", "id": "msg_a"}, {"type": "function_call", "id": "fc_b"}]
    numbers = itertools.count(1)
    new = apart(documents, {"fc_b"}, lambda prefix: f"{prefix}_{next(numbers)}")
    assert [item["id"] for item in new] == ["msg_a", "fc_1"]


@pytest.mark.parametrize("more", [Size(2, 1), Size(1, 11)])
def test_it_grows_up_to_its_bounds(more: Size) -> None:
    there, most = Size(9, 90), Size(10, 100)
    check_room(there, Size(1, 10), most, "items")
    with pytest.raises(InvalidInput) as refused:
        check_room(there, more, most, "items")
    assert refused.value.code == "conversation_full"


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"previous_response_id": "resp_1"}, "previous_response_id"), ({"store": False}, "store")],
)
def test_a_conversation_goes_on_alone_and_is_kept(fields: dict[str, Any], param: str) -> None:
    body = {"model": "m", "input": "Hi", "conversation": {"id": "conv_1"}}
    asked = msgspec.convert(body, ResponseBody)
    check_state(asked)
    assert asked.conversation_id == "conv_1"
    with pytest.raises(InvalidInput) as refused:
        check_state(msgspec.convert({**body, **fields}, ResponseBody))
    assert refused.value.param == param
