"""A limit on what a request may bring."""

from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloudcrest.kernel.units import MIB, format_bytes

MANAGEMENT_BODY_BYTES = 1 * MIB
INTERNAL_BODY_BYTES = 16 * MIB


class BodyLimitMiddleware:
    """Answers 413 where a body is over the limit of its path's prefix, announced or not."""

    def __init__(self, app: ASGIApp, *, default_bytes: int, by_prefix: Mapping[str, int]) -> None:
        self._app = app
        self._default_bytes = default_bytes
        self._by_prefix = dict(by_prefix)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit_bytes(scope["path"])
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdigit() and int(announced) > limit:
            raise _too_large(limit)
        received = 0

        async def receive_limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _too_large(limit)
            return message

        await self._app(scope, receive_limited, send)

    def _limit_bytes(self, path: str) -> int:
        for prefix, limit in self._by_prefix.items():
            if path.startswith(prefix):
                return limit
        return self._default_bytes


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"the body is larger than {format_bytes(limit)}")
