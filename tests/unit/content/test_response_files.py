"""Files in an input: which are read, what the model reads of them, what is said of others."""

import base64
from typing import Any

import msgspec
import pytest

from cloudcrest.content.responses.fields import InputFile, ResponseBody
from cloudcrest.content.responses.files import MAX_FILES_BYTES, check_file, files_in, sent_bytes, text_of
from cloudcrest.content.responses.request import items_of, references_in
from cloudcrest.kernel.errors import InvalidInput


def body(*items: dict[str, Any]) -> ResponseBody:
    return msgspec.convert({"model": "m", "input": [*items]}, ResponseBody)


def test_each_file_is_found_at_its_place() -> None:
    parts = [{"type": "input_text", "text": "Read:"}, {"type": "input_file", "file_id": "file_1"}]
    items = items_of(body({"role": "user", "content": "Hi"}, {"role": "user", "content": parts}), lambda kind: kind)
    [(path, among, place, part)] = files_in(items, "input")
    assert (path, place, part.file_id) == ("input[1].content[1]", 1, "file_1")
    assert among[place] is part


@pytest.mark.parametrize("written", ["aGVs", "data:text/plain;base64,aGVs"])
def test_what_is_sent_is_read(written: str) -> None:
    assert sent_bytes(written, "input[0]") == b"hel"
    assert text_of(b"\xef\xbb\xbfa,b\n", 'my "own".csv', "p").text == "<file name=\"my 'own'.csv\">\na,b\n\n</file>"


@pytest.mark.parametrize("content", [b"\x89PNG\r\n", b"a\0b", b"\xff\xfe"])
def test_what_is_no_text_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"'a\.png' is no text") as refused:
        text_of(content, "a.png", "input[0].content[0].file_id")
    assert (refused.value.param, refused.value.code) == ("input[0].content[0].file_id", "unsupported_file")


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("data:text/plain,abc", "invalid_value"),
        ("not base64!", "invalid_value"),
        ("ü", "invalid_value"),
        (base64.b64encode(bytes(MAX_FILES_BYTES + 9)).decode(), "file_too_large"),
    ],
)
def test_what_cannot_be_read_is_named(written: str, code: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        sent_bytes(written, "input[0].content[0]")
    assert (refused.value.param, refused.value.code) == ("input[0].content[0].file_data", code)


@pytest.mark.parametrize(
    ("part", "param"),
    [
        (InputFile(file_url="https://example.com/a.txt"), "p.file_url"),
        (InputFile(), "p"),
        (InputFile(file_id="a", file_data="b"), "p"),
    ],
)
def test_a_file_is_here_or_in_the_request(part: InputFile, param: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_file(part, "p")
    assert refused.value.param == param


def test_items_that_are_referred_to_take_their_place() -> None:
    asked = body(
        {"type": "item_reference", "id": "msg_1"},
        {"id": "msg_2"},
        {"type": "item_reference", "id": "msg_1"},
        {"role": "user", "content": "Hi"},
    )
    assert references_in(asked) == [("msg_1", "input[0].id"), ("msg_2", "input[1].id"), ("msg_1", "input[2].id")]
    [one] = items_of(body({"role": "user", "content": "one", "id": "msg_1"}), lambda kind: kind)
    [two] = items_of(body({"role": "assistant", "content": "two", "id": "msg_2"}), lambda kind: kind)
    items = items_of(asked, lambda kind: kind, {"msg_1": one, "msg_2": two})
    assert [item.id for item in items] == ["msg_1", "msg_2", "msg_1", "msg"]


@pytest.mark.parametrize(
    ("reference", "param"),
    [
        ({"type": "item_reference"}, "input[0].id"),
        ({"type": "item_reference", "id": 3}, "input[0].id"),
        ({"type": "item_reference", "id": "x", "role": "user"}, "input[0].role"),
    ],
)
def test_a_reference_that_is_none_is_named(reference: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        references_in(body(reference))
    assert refused.value.param == param
