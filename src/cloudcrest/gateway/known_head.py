"""A head that was read before, recognised when it comes again: clients and engines send the same one every time.

Only the digits of its content-length may differ. It has to come in one read with its whole body and nothing behind it;
everything else goes to the parser. Nothing is believed here that the parser has not read: the bytes before and after
the digits are compared, and other digits in that one field change nothing but the length.
"""

import re

from cloudcrest.gateway.request import Request
from cloudcrest.kernel.units import KIB

MAX_KNOWN_BYTES = 4 * KIB
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n")


class HeadShape:
    """The bytes before and after the digits of a head's content-length."""

    __slots__ = ("_after", "_around_bytes", "_before", "_digits")

    def __init__(self, before: bytes, after: bytes) -> None:
        self._before = before
        self._after = after
        self._around_bytes = len(before) + len(after)
        self._digits = 1
        """How many there were last: most often there are as many the next time."""

    def body_at(self, data: bytes) -> int:
        """Where the body begins, if `data` is a head of this shape, its whole body and nothing more; else 0.

        Of what is that long only one head can be the beginning, so it is made and compared.
        """
        rest_bytes = len(data) - self._around_bytes  # the digits and the body
        length = b"%d" % (rest_bytes - self._digits)
        if len(length) != self._digits:
            self._digits = len(length)
            length = b"%d" % (rest_bytes - self._digits)
            if len(length) != self._digits:
                return 0
        if not data.startswith(self._before + length + self._after):
            return 0
        return self._around_bytes + self._digits


def head_shape(head: bytes, length: int) -> HeadShape | None:
    """Of a head with its empty line at the end, which was read as announcing `length` bytes; None: it is unusual."""
    lower = head.lower()
    match = _LENGTH.search(lower)
    if match is None or int(match[1]) != length or lower.count(b"content-length") != 1:
        return None
    return HeadShape(head[: match.start(1)], head[match.end(1) :])


class KnownHead:
    """A client's head, and the request that it was."""

    __slots__ = ("_max_body_bytes", "_request", "_shape")

    def __init__(self, shape: HeadShape, request: Request, max_body_bytes: int) -> None:
        self._shape = shape
        self._request = request
        self._max_body_bytes = max_body_bytes

    def request_in(self, data: bytes) -> Request | None:
        """The request with this head that `data` is, with its body; None: it is something else, or not all of one."""
        body_at = self._shape.body_at(data)
        if not body_at or len(data) - body_at > self._max_body_bytes:
            return None
        return self._request.again(data[body_at:])


def known_head(data: bytes, request: Request, max_body_bytes: int) -> KnownHead | None:
    """What to keep of `request`, which the parser found at the start of `data`; None: no more of it than this once."""
    end = data.find(b"\r\n\r\n", 0, MAX_KNOWN_BYTES) + 4
    # What comes before the method, or a second request behind the first, is no part of the head.
    if end < 4 or not data.startswith(request.method + b" " + request.target + b" ") or not _is_plain(request):
        return None
    if len(data) > end + (request.content_length or 0):
        return None
    shape = head_shape(data[:end], request.content_length or 0)
    return None if shape is None else KnownHead(shape, request.pristine(), max_body_bytes)


def _is_plain(request: Request) -> bool:
    """A POST of a known length, on a connection that stays; nothing to be said to it before its answer.

    What our content service asks on behalf of a key is read each time: `again` knows of nobody's behalf.
    """
    return (
        request.method == b"POST"
        and request.keep_alive
        and not (request.is_http_1_0 or request.is_chunked or request.expects_continue)
        and not request.is_streamed
        and request.refusal is None
        and request.behalf_of is None
    )
