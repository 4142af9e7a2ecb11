"""Building blocks of HTTP/1.1 messages: status lines, heads, chunks. Pure."""

import re
from http import HTTPStatus
from time import gmtime, strftime
from typing import Final, NamedTuple

from cloudcrest.kernel.units import KIB

STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
LAST_CHUNK: Final = b"0\r\n\r\n"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
JSON: Final = b"application/json"
HTML: Final = b"text/html; charset=utf-8"
EVENT_STREAM: Final = b"text/event-stream; charset=utf-8"
HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)

MAX_HEAD_BYTES: Final = 32 * KIB
# In place of a length: how a body ends that announces none.
CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2

_STATUS = re.compile(rb"HTTP/1\.([01]) (\d{3})[ \r]")
_HEXADECIMAL = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;.*)?")
# For heads in lower case: a pattern that begins with fixed bytes is searched for fast.
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*(?=\r\n|$)")
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*(?=\r\n|$)")
_CLOSE = re.compile(rb"\r\nconnection:[^\r]*close")

Headers = list[tuple[bytes, bytes]]


def status_line(status: int) -> bytes:
    """`HTTP/1.1 200 OK` with its line end; an unknown status gets no phrase."""
    return STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def head(status: int, headers: Headers) -> bytes:
    """A response head with its final empty line."""
    lines = b"".join(b"%b: %b\r\n" % header for header in headers)
    return status_line(status) + lines + b"\r\n"


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; `data` is not empty (that would end the body)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _chunk_lines(below_bytes: int) -> list[bytes]:
    lines = [b"-" * below_bytes] * below_bytes  # longer than all that is looked up: nothing begins with it
    for size_bytes in range(1, below_bytes):
        line = b"%x\r\n" % size_bytes
        whole_bytes = len(line) + size_bytes + 2
        if whole_bytes < below_bytes:
            lines[whole_bytes] = line
    return lines


MAX_LINE_KNOWN_BYTES: Final = 4096
CHUNK_LINES: Final = _chunk_lines(MAX_LINE_KNOWN_BYTES)
"""By a whole chunk's size with its framing: the line that it begins with. No chunk has some of the sizes."""


def one_chunk_at(data: bytes) -> int:
    """Where the payload begins, if this is one whole chunk with its framing, of less than 4 KiB, as most write it; else
    0.
    """
    if len(data) >= MAX_LINE_KNOWN_BYTES:
        return 0
    line = CHUNK_LINES[len(data)]
    return len(line) if data.startswith(line) and data.endswith(b"\r\n") else 0


def chunk_size(line: bytes) -> int | None:
    """Of the chunk that begins with this line; None where it is none."""
    match = _HEXADECIMAL.fullmatch(line)
    return None if match is None else int(match[1], 16)


class AnswerHead(NamedTuple):
    """`lines`: the status line and the header lines. `length`: of the body, or `CHUNKED` or `UNTIL_CLOSE`. `stays`:
    whether its connection does. `rest`: what follows. Status 0: the head is not whole, `rest` is all there is of it.
    """

    status: int
    lines: bytes
    length: int
    stays: bool
    rest: bytes


def answer_head(data: bytes, *, is_of_head: bool) -> AnswerHead:
    """The head at the beginning of an answer, to a HEAD or another request. Interim answers before it are passed over.

    Raises `ValueError` with what is wrong.
    """
    while True:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > MAX_HEAD_BYTES:
                raise ValueError("the head of its answer is too large")
            return AnswerHead(0, b"", 0, False, data)
        lines, data = data[:end], data[end + 4 :]
        match = _STATUS.match(lines + b"\r")
        if match is None or end > MAX_HEAD_BYTES or match[2] == b"101":
            raise ValueError("its answer is not HTTP/1.1")
        status = int(match[2])
        if status >= 200:
            length, stays = _framing(status, lines, is_of_head)
            return AnswerHead(status, lines, length, stays and match[1] == b"1", data)


def _framing(status: int, lines: bytes, is_of_head: bool) -> tuple[int, bool]:
    lower = lines.lower()
    lengths = {int(length) for length in _LENGTH.findall(lower)}
    is_chunked = b"\r\ntransfer-encoding:" in lower and _CHUNKED.search(lower) is not None
    if len(lengths) > 1 or (lengths and is_chunked):
        raise ValueError("its answer has two lengths")
    stays = b"\r\nconnection:" not in lower or not _CLOSE.search(lower)
    if is_of_head or status in (204, 304):
        return 0, stays
    if is_chunked:
        return CHUNKED, stays
    return (lengths.pop(), stays) if lengths else (UNTIL_CLOSE, False)


def http_date(unix_seconds: float) -> bytes:
    """IMF-fixdate, as the Date header has it."""
    return strftime("%a, %d %b %Y %H:%M:%S GMT", gmtime(unix_seconds)).encode()


def listed(value: bytes) -> set[bytes]:
    """The lower-case members of a comma-separated header value."""
    return {part.strip().lower() for part in value.split(b",") if part.strip()}
