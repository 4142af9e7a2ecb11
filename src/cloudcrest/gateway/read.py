"""A request's body, read as its endpoint and dialect have it: in one pass where it is a plain chat."""

from typing import Final

from cloudcrest.gateway.parsed import Parsed
from cloudcrest.gateway.plain import read_plain
from cloudcrest.gateway.request import Request
from cloudcrest.gateway.validate import parse

_CHAT: Final = "/v1/chat/completions"
_TRY_EACH: Final = 16
_MAX_KEYS: Final = 50_000


class Reader:
    """Reads bodies. Who sends other chats than plain ones mostly goes on so: theirs are tried as one now and then."""

    def __init__(self) -> None:
        self._others: dict[str, int] = {}

    def read(self, request: Request, key_id: str) -> Parsed:
        """The body, checked. Raises `InvalidInput`."""
        if request.dialect is not None or request.path != _CHAT:
            return read_in_full(request, request.body)
        others = self._others
        count = others.get(key_id, 0)
        if count % _TRY_EACH == 0:
            parsed = read_plain(_CHAT, request.body)
            if parsed is not None:
                if count:
                    del others[key_id]
                return parsed
        if len(others) >= _MAX_KEYS:
            others.clear()
        others[key_id] = count + 1
        return parse(_CHAT, request.body)


def read_in_full(request: Request, body: bytes) -> Parsed:
    """The same, in two passes."""
    if request.dialect is None:
        return parse(request.path, body)
    request.body = body
    return request.dialect.read(request)
