"""What our own engine servers share: a Starlette app behind a token, that ends with its lifeline."""

import asyncio
import hmac
import os
import signal
from collections.abc import Awaitable, Callable

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from cloudcrest.infra.lifeline import exit_with_lifeline
from cloudcrest.serving.engines.api import TOKEN_VARIABLE

_STOP_SECONDS = 2
MAX_BODY_BYTES = 64 * 1024 * 1024


def error_response(
    status: int, message: str, *, kind: str = "invalid_request_error", code: str | None = None, param: str | None = None
) -> JSONResponse:
    """An error in OpenAI's shape."""
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return JSONResponse(body, status_code=status)


class TokenRequired:
    """Lets through who sends the replica's token; `/health` is open."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/health":
            sent = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(sent, self._expected):
                response = error_response(401, "the replica's token is wrong or missing", code="invalid_api_key")
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def read_body(request: Request) -> bytes:
    """The whole body. Raises `ValueError` when it is over `MAX_BODY_BYTES`."""
    parts = bytearray()
    async for part in request.stream():
        parts += part
        if len(parts) > MAX_BODY_BYTES:
            raise ValueError(f"the body is over {MAX_BODY_BYTES} bytes")
    return bytes(parts)


async def unless_disconnected(request: Request, work: Awaitable[Response]) -> Response:
    """The answer, or nothing sent and the work cancelled at once when the client goes away before it is there.

    The request's body must have been read.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return Response(status_code=499)
        return task.result()
    finally:
        gone.cancel()
        task.cancel()


def serve(
    routes: list[Route], host: str, port: int, *, background: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Serves on `host`:`port` until SIGTERM; `background` runs beside it. The token comes from the environment."""
    exit_with_lifeline()
    token = os.environ.pop(TOKEN_VARIABLE)
    app = Starlette(routes=routes, middleware=[Middleware(TokenRequired, token=token)])
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        access_log=False,
        log_level="warning",
        lifespan="off",
        timeout_graceful_shutdown=_STOP_SECONDS,
        server_header=False,
    )

    async def run() -> None:
        server = uvicorn.Server(config)
        beside = asyncio.ensure_future(background()) if background else None
        await server.serve()
        if beside:
            beside.cancel()

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(run())
