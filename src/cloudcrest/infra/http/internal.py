"""What the processes that answer only others of the cloud share: a token at the door, bodies of bounded size."""

import hmac

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cloudcrest.kernel.errors import TooLarge
from cloudcrest.kernel.units import format_bytes


class TokenRequired:
    """Answers nothing to who does not have the token, or leaves out one of `named` headers; `/healthz` is open."""

    def __init__(self, app: ASGIApp, token: str, named: tuple[str, ...] = ()) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()
        self._named = tuple(name.encode() for name in named)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/healthz":
            headers = dict(scope["headers"])
            has_token = hmac.compare_digest(headers.get(b"authorization", b""), self._expected)
            if not has_token or not all(name in headers for name in self._named):
                await Response(status_code=401)(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def read_body(request: Request, most_bytes: int) -> bytes:
    """A whole body. Raises `TooLarge`."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most_bytes:
            raise TooLarge(f"the request's body is over {format_bytes(most_bytes)}")
    return bytes(body)
