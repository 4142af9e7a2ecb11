"""An upload's form (multipart/form-data), read in pieces: the file's bytes go on as they come, fields are kept."""

from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from cloudcrest.kernel.errors import InvalidInput

MAX_FIELDS = 16
MAX_FIELD_BYTES = 4096
MAX_HEADER_BYTES = 4096
MAX_FILENAME_CHARACTERS = 255
FILE_FIELD = "file"


class Upload(msgspec.Struct):
    """What a form held beside the bytes of its file. `filename` None: it had no file."""

    fields: dict[str, str]
    filename: str | None = None


async def read_upload(
    body: AsyncIterator[bytes], content_type: str, write: Callable[[bytes], Awaitable[None]]
) -> Upload:
    """Reads a form whole and hands on its file. Raises `InvalidInput`."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidInput("an upload is a form: send multipart/form-data with a file and a purpose")
    reader = _Reader()
    parser = MultipartParser(boundary, reader.callbacks())  # type: ignore[arg-type]  # its own TypedDict
    try:
        async for data in body:
            parser.write(data)
            for piece in reader.take():
                await write(piece)
        parser.finalize()
    except MultipartParseError as error:
        raise InvalidInput(f"the form is broken: {error}", code="invalid_form") from None
    if not reader.is_whole:
        raise InvalidInput("the form ends before its last boundary", code="invalid_form")
    return Upload(reader.fields, reader.filename)


def clean_filename(given: str) -> str:
    """A name without folders and control characters, of bounded length."""
    name = given.replace("\\", "/").rpartition("/")[2]
    name = "".join(character for character in name if character.isprintable())
    return name[-MAX_FILENAME_CHARACTERS:] or "upload"


class _Reader:
    """The parser's callbacks. What they keep is bounded (it counts headers); the file's bytes wait for `take`."""

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.is_whole = False
        self._pieces: list[bytes] = []
        self._name: str | None = None
        self._is_file = False
        self._value = b""
        self._header_name = b""
        self._header_value = b""
        self._headers: dict[bytes, bytes] = {}

    def callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_data,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def take(self) -> list[bytes]:
        pieces, self._pieces = self._pieces, []
        return pieces

    def _part_begin(self) -> None:
        self._headers, self._header_name, self._header_value = {}, b"", b""
        self._name, self._value, self._is_file = None, b"", False

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name = _bounded(self._header_name + data[start:end], MAX_HEADER_BYTES)

    def _header_data(self, data: bytes, start: int, end: int) -> None:
        self._header_value = _bounded(self._header_value + data[start:end], MAX_HEADER_BYTES)

    def _header_end(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        name = options.get(b"name")
        if name is None:
            raise InvalidInput("a part of the form has no name", code="invalid_form")
        self._name = name.decode("utf-8", "replace")
        self._is_file = self._name == FILE_FIELD
        if self._is_file:
            if self.filename is not None:
                raise InvalidInput("one file at a time", param=FILE_FIELD)
            self.filename = clean_filename(options.get(b"filename", b"upload").decode("utf-8", "replace"))
        elif len(self.fields) >= MAX_FIELDS:
            raise InvalidInput("the form has too many fields", code="invalid_form")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._pieces.append(data[start:end])
        else:
            self._value = _bounded(self._value + data[start:end], MAX_FIELD_BYTES)

    def _part_end(self) -> None:
        if self._is_file or self._name is None:
            return
        if self._name in self.fields:
            raise InvalidInput(f"{self._name[:100]} is given twice", param=self._name[:100])
        self.fields[self._name] = self._value.decode("utf-8", "replace")

    def _end(self) -> None:
        self.is_whole = True


def _bounded(value: bytes, most: int) -> bytes:
    if len(value) > most:
        raise InvalidInput("a field or header of the form is too long", code="invalid_form")
    return value
