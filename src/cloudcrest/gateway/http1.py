"""Building blocks of HTTP/1.1 messages: status lines, heads, chunks. Pure."""

from http import HTTPStatus
from time import gmtime, strftime

STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
LAST_CHUNK = b"0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
JSON = b"application/json"
HTML = b"text/html; charset=utf-8"
EVENT_STREAM = b"text/event-stream; charset=utf-8"
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


def http_date(unix_seconds: float) -> bytes:
    """IMF-fixdate, as the Date header has it."""
    return strftime("%a, %d %b %Y %H:%M:%S GMT", gmtime(unix_seconds)).encode()


def listed(value: bytes) -> set[bytes]:
    """The lower-case members of a comma-separated header value."""
    return {part.strip().lower() for part in value.split(b",") if part.strip()}
