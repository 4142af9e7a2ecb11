"""Files in an input, as the text that the model reads of them. Pure."""

import base64
import binascii
from collections.abc import Iterator, Sequence

from cloudcrest.content.responses.fields import InputFile, InputText, Item, MessageItem
from cloudcrest.kernel.errors import InvalidInput
from cloudcrest.kernel.units import MIB, format_bytes

MAX_FILES = 20
MAX_FILES_BYTES = 4 * MIB
"""Of all files of a request."""


def files_in(items: Sequence[Item], field: str) -> Iterator[tuple[str, list[object], int, InputFile]]:
    """Each file: its path, the parts that it is among, its place there, itself."""
    for index, item in enumerate(items):
        if isinstance(item, MessageItem) and isinstance(item.content, list):
            parts: list[object] = item.content  # type: ignore[assignment]
            for place, part in enumerate(item.content):
                if isinstance(part, InputFile):
                    yield f"{field}[{index}].content[{place}]", parts, place, part


def check_file(part: InputFile, path: str) -> None:
    """Raises `InvalidInput` where it is not one file that is here."""
    if part.file_url is not None:
        raise InvalidInput(
            "nothing is fetched for a caller",
            param=f"{path}.file_url",
            hint="upload it with POST /v1/files and send its file_id, or send file_data",
        )
    if (part.file_id is None) == (part.file_data is None):
        raise InvalidInput(f"'{path}' needs either file_id or file_data", param=path, code="missing_required_parameter")


def sent_bytes(file_data: str, path: str) -> bytes:
    """The bytes of `file_data`: base64, or a data: URI of it. Raises `InvalidInput`."""
    head, comma, rest = file_data.partition(",")
    is_uri = file_data.startswith("data:")
    if is_uri and not (comma and head.endswith(";base64")):
        raise InvalidInput("a data: URI is to be data:text/plain;base64,…", param=f"{path}.file_data")
    written = rest if is_uri else file_data
    if len(written) * 3 // 4 > MAX_FILES_BYTES + 3:
        raise too_large(f"{path}.file_data")
    try:
        return base64.b64decode(written, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput("file_data is to be base64", param=f"{path}.file_data") from None


def text_of(content: bytes, filename: str, param: str) -> InputText:
    """What the model reads of a file. Raises `InvalidInput` where it is no text."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InvalidInput(
            f"'{filename}' is no text in UTF-8, and only texts (txt, md, csv, json, code) and PDFs are read",
            param=param,
            code="unsupported_file",
            hint="send the text that is in it",
        )
    name = filename.replace('"', "'")
    return InputText(f'<file name="{name}">\n{text}\n</file>')


def too_large(param: str) -> InvalidInput:
    """The error for more than may be read of files."""
    return InvalidInput(
        f"the files of a request have at most {format_bytes(MAX_FILES_BYTES)} together",
        param=param,
        code="file_too_large",
    )
