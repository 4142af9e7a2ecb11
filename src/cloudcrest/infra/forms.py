"""Forms of `multipart/form-data` (RFC 7578): read whole from memory within bounds, and written anew. No I/O.

Written anew, the parts are framed in one way alone: nobody further on can read them differently.
"""

from collections.abc import Callable, Sequence

import msgspec
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from cloudcrest.kernel.errors import InvalidInput, TooLarge
from cloudcrest.kernel.units import KIB

MAX_PARTS = 32
MAX_FIELD_BYTES = 64 * KIB
MAX_HEAD_BYTES = 4 * KIB
_MAX_NAME_CHARACTERS = 256


class Part(msgspec.Struct, frozen=True):
    """One part of a form. `filename` is None for a field; then `data` is its text in UTF-8."""

    name: str
    data: bytes
    filename: str | None = None


def read_form(content_type: str, body: bytes) -> list[Part]:
    """The parts in order. Raises `InvalidInput` for what is no form, and `TooLarge` where a part of it is too much."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidInput(
            "the body is to be a form with a file",
            code="invalid_form",
            hint="send multipart/form-data, as `curl -F file=@speech.wav` does",
        )
    reader = _Reader()
    try:
        parser = MultipartParser(boundary, reader.callbacks())  # type: ignore[arg-type]  # its own TypedDict
        parser.write(body)
        parser.finalize()
    except MultipartParseError as error:
        raise InvalidInput(f"the form is malformed: {error}", code="invalid_form") from None
    if not reader.is_whole:
        raise InvalidInput("the form ends before its last boundary", code="invalid_form")
    return reader.parts


class _Reader:
    """The parser's callbacks: what they keep is bounded, but for a file's bytes, which are a part of the body."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.is_whole = False
        self._pieces: list[bytes] = []
        self._size_bytes = 0
        self._head: dict[bytes, bytes] = {}
        self._line = (b"", b"")
        self._name = ""
        self._filename: str | None = None

    def callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _part_begin(self) -> None:
        if len(self.parts) >= MAX_PARTS:
            raise TooLarge(f"the form has more than {MAX_PARTS} parts")
        self._pieces, self._size_bytes, self._head, self._line = [], 0, {}, (b"", b"")

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._set_line(self._line[0] + data[start:end], self._line[1])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._set_line(self._line[0], self._line[1] + data[start:end])

    def _set_line(self, name: bytes, value: bytes) -> None:
        if len(name) + len(value) > MAX_HEAD_BYTES:
            raise TooLarge(f"a part of the form has a head over {MAX_HEAD_BYTES} bytes")
        self._line = (name, value)

    def _header_end(self) -> None:
        self._head[self._line[0].lower()] = self._line[1]
        self._line = (b"", b"")

    def _headers_finished(self) -> None:
        kind, options = parse_options_header(self._head.get(b"content-disposition"))
        name = options.get(b"name")
        if kind != b"form-data" or not name:
            raise InvalidInput("a part of the form has no name", code="invalid_form")
        self._name = name.decode("utf-8", "replace")[:_MAX_NAME_CHARACTERS]
        filename = options.get(b"filename")
        self._filename = None if filename is None else filename.decode("utf-8", "replace")[:_MAX_NAME_CHARACTERS]

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._size_bytes += end - start
        if self._filename is None and self._size_bytes > MAX_FIELD_BYTES:
            raise TooLarge(f"the form's field '{self._name}' is over {MAX_FIELD_BYTES} bytes", param=self._name)
        self._pieces.append(data[start:end])

    def _part_end(self) -> None:
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self.parts.append(Part(self._name, data, self._filename))

    def _end(self) -> None:
        self.is_whole = True


def without(content_type: str, body: bytes, name: str) -> bytes:
    """The form without its fields of this name, or of `name[]`. Raises `LookupError` where it has none."""
    parts = read_form(content_type, body)
    kept = [part for part in parts if part.filename is not None or part.name.removesuffix("[]") != name]
    if len(kept) == len(parts):
        raise LookupError(name)
    _, options = parse_options_header(content_type)
    return write_form(options[b"boundary"], kept)  # which is in no part, or it would have been read otherwise


def write_form(boundary: bytes, parts: Sequence[Part]) -> bytes:
    """A form. `boundary` must occur in no part: take one that nobody outside knows. Names are plain words."""
    pieces: list[bytes] = []
    for part in parts:
        is_file = part.filename is not None
        named = b'; filename="%b"' % _plain(part.filename or "") if is_file else b""
        kind = b"content-type: application/octet-stream\r\n" if is_file else b""
        head = b'--%b\r\ncontent-disposition: form-data; name="%b"%b\r\n%b\r\n'
        pieces += (head % (boundary, _plain(part.name), named, kind), part.data, b"\r\n")
    pieces.append(b"--%b--\r\n" % boundary)
    return b"".join(pieces)


def _plain(text: str) -> bytes:
    """What may stand between quotes in a head: nothing that could end it."""
    return "".join(letter if letter.isalnum() or letter in "._-[]" else "_" for letter in text).encode()
