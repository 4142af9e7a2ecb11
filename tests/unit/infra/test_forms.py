"""Forms, read and written anew."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.infra.forms import MAX_FIELD_BYTES, MAX_PARTS, Part, read_form, without, write_form
from cloudcrest.kernel.errors import InvalidInput, TooLarge

KIND = "multipart/form-data; boundary=limit"


@given(st.lists(st.tuples(st.sampled_from(["model", "file"]), st.binary(max_size=200)), max_size=5))
def test_what_is_written_is_read_again(given_parts: list[tuple[str, bytes]]) -> None:
    boundary = b"a-boundary-that-nobody-knows"
    parts = [Part(name, data, "a.wav" if name == "file" else None) for name, data in given_parts]
    if not parts:
        return
    assert read_form(f"multipart/form-data; boundary={boundary.decode()}", write_form(boundary, parts)) == parts


def test_names_cannot_leave_their_quotes() -> None:
    part = Part('a"\r\nx: y', b"1", 'b"; name="c')
    [read] = read_form(KIND, write_form(b"limit", [part]))
    assert read == Part("a___x__y", b"1", "b___name__c")


def test_a_field_is_taken_out_and_the_rest_is_as_it_was() -> None:
    parts = [Part("a", b"1"), Part("b[]", b"2"), Part("b[]", b"3"), Part("b", b"sound", "b.wav")]
    body = write_form(b"limit", parts)
    assert read_form(KIND, without(KIND, body, "b")) == [parts[0], parts[3]]
    with pytest.raises(LookupError):
        without(KIND, body, "c")


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        ("application/json", b"{}", "invalid_form"),
        ("", b"", "invalid_form"),
        ("multipart/form-data", b"--limit--", "invalid_form"),
        (KIND, b"", "invalid_form"),
        (KIND, b"no form", "invalid_form"),
        (KIND, write_form(b"limit", [Part("a", b"1")])[:-8], "invalid_form"),
        (KIND, b"--limit\r\ncontent-disposition: form-data\r\n\r\n1\r\n--limit--\r\n", "invalid_form"),
        (KIND, write_form(b"limit", [Part("a", b"1")] * (MAX_PARTS + 1)), "request_too_large"),
        (KIND, write_form(b"limit", [Part("a", bytes(MAX_FIELD_BYTES + 1))]), "request_too_large"),
        (KIND, b"--limit\r\n" + b"x: " + b"1" * 5_000 + b"\r\n\r\n1\r\n--limit--\r\n", "invalid_form"),
    ],
)
def test_what_is_no_form_or_too_much_of_one_is_refused(kind: str, body: bytes, code: str) -> None:
    with pytest.raises((InvalidInput, TooLarge)) as raised:
        read_form(kind, body)
    assert raised.value.code == code
