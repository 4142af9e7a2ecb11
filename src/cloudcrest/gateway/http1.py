"""Building blocks of HTTP/1.1 messages: status lines, heads, chunks. Pure."""

import re
from http import HTTPStatus
from time import gmtime, strftime
from typing import Final

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
    lines = [b"no chunk"] * below_bytes
    for size_bytes in range(1, below_bytes):
        line = b"%x\r\n" % size_bytes
        whole_bytes = len(line) + size_bytes + 2
        if whole_bytes < below_bytes:
            lines[whole_bytes] = line
    return lines


_CHUNK_LINES: Final = _chunk_lines(4096)
"""By a whole chunk's size with its framing: the line that it begins with. No chunk has some of the sizes."""


def one_chunk_at(data: bytes) -> int:
    """Where the payload begins, if this is one whole chunk with its framing, of less than 4 KiB, as most write it; else
    0.
    """
    if len(data) >= 4096:
        return 0
    line = _CHUNK_LINES[len(data)]
    return len(line) if data.startswith(line) and data.endswith(b"\r\n") else 0


def framing(head: bytes) -> tuple[set[int], bool, bool]:
    """Of an answer's header lines, each after a CRLF: the lengths it announces, whether it is chunked, and closes."""
    lower = head.lower()
    lengths = {int(length) for length in _LENGTH.findall(lower)}
    is_chunked = b"\r\ntransfer-encoding:" in lower and _CHUNKED.search(lower) is not None
    return lengths, is_chunked, b"\r\nconnection:" in lower and _CLOSE.search(lower) is not None


def http_date(unix_seconds: float) -> bytes:
    """IMF-fixdate, as the Date header has it."""
    return strftime("%a, %d %b %Y %H:%M:%S GMT", gmtime(unix_seconds)).encode()


def listed(value: bytes) -> set[bytes]:
    """The lower-case members of a comma-separated header value."""
    return {part.strip().lower() for part in value.split(b",") if part.strip()}
