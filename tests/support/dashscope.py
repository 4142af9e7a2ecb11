"""DashScope's requests for tests of the dialect."""

import json
from typing import Any

from cloudcrest.gateway.dialects.api import Dialect
from cloudcrest.gateway.dialects.dashscope.dialect import TEXT_PATH
from cloudcrest.gateway.dialects.registry import dialect_of
from cloudcrest.gateway.outlet import Outlet
from cloudcrest.gateway.parsed import Parsed
from cloudcrest.gateway.request import Request

HELLO = {"messages": [{"role": "user", "content": "hello"}]}
TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]
STREAM = (b"x-dashscope-sse", b"enable")


def request_at(path: str, *headers: tuple[bytes, bytes]) -> Request:
    """A request's head, read."""
    request = Request(b"POST", path.encode(), "1.1", [(b"host", b"x"), *headers], True)
    request.read_head()
    return request


def dialect_at(path: str) -> Dialect:
    """Who translates what is asked there."""
    dialect = dialect_of(request_at(path))
    assert dialect is not None
    return dialect


def read(
    given_input: dict[str, Any] | None = None,
    *headers: tuple[bytes, bytes],
    path: str = TEXT_PATH,
    **parameters: Any,
) -> Parsed:
    """The canonical request of one with this input and these parameters."""
    request = request_at(path, *headers)
    body = {"model": "m", "input": HELLO if given_input is None else given_input, "parameters": parameters}
    request.body = json.dumps(body).encode()
    return dialect_at(path).read(request)


def outlet(parsed: Parsed) -> Outlet:
    assert parsed.outlet is not None
    return parsed.outlet("req_1")
