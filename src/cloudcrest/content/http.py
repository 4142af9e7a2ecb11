"""The service's HTTP: who calls, JSON in and out, errors in OpenAI's shape.

Only our gateways reach it. They bring the internal token and say whose key it was; without the token nothing is
answered.
"""

import hmac
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import structlog
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from cloudcrest.content.api import Caller
from cloudcrest.gateway.behalf import KEY_HEADER, ORGANIZATION_HEADER, PROJECT_HEADER
from cloudcrest.gateway.errors import MethodNotAllowed, error_document
from cloudcrest.gateway.explain import explain
from cloudcrest.kernel.errors import CloudcrestError, InvalidInput, NotFound, TooLarge, Unavailable
from cloudcrest.kernel.units import MIB, format_bytes

MAX_JSON_BYTES = 32 * MIB
Body = TypeVar("Body")
_log = structlog.get_logger(__name__)


def make_app(token: str, routes: Sequence[BaseRoute]) -> Starlette:
    """The application: `/healthz` for whoever is on this machine, everything else for who has the token."""

    async def healthz(_: Request) -> Response:
        return Response(b'{"status":"ok"}', media_type="application/json")

    return Starlette(
        routes=[Route("/healthz", healthz), *routes],
        middleware=[Middleware(_TokenMiddleware, token=token)],
        exception_handlers={
            CloudcrestError: _on_error,
            HTTPException: _on_http_exception,
            DataError: _on_data_error,
            OperationalError: _on_database_error,
            InterfaceError: _on_database_error,
            PoolTimeout: _on_database_error,
            ClientDisconnect: _on_disconnect,
            OSError: _on_disk_error,
            Exception: _on_unexpected,
        },
    )


def caller_of(request: Request) -> Caller:
    """Who the gateway says calls."""
    headers = request.headers
    return Caller(headers[ORGANIZATION_HEADER], headers[PROJECT_HEADER], headers[KEY_HEADER])


def json_response(document: Any, status: int = 200) -> Response:
    """A document as JSON."""
    return Response(msgspec.json.encode(document), status_code=status, media_type="application/json")


def error_response(error: CloudcrestError) -> Response:
    """An error in OpenAI's shape."""
    headers: Mapping[str, str] = {}
    if error.retry_after_seconds is not None:
        headers = {"retry-after": str(max(1, round(error.retry_after_seconds)))}
    return Response(error_document(error), status_code=error.status, media_type="application/json", headers=headers)


async def read_body(request: Request, most: int = MAX_JSON_BYTES) -> bytes:
    """A whole body. Raises `TooLarge`."""
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > most:
            raise TooLarge(f"the request's body is over {format_bytes(most)}")
        pieces.append(piece)
    return b"".join(pieces)


async def read_json(request: Request, wanted: type[Body], most: int = MAX_JSON_BYTES) -> Body:
    """A JSON body of this struct. Raises `InvalidInput` whose `param` is the wrong field's path."""
    return decode(await read_body(request, most), wanted)


def decode(data: bytes, wanted: type[Body]) -> Body:
    """JSON as this struct. Raises `InvalidInput` whose `param` is the wrong field's path."""
    try:
        return msgspec.json.decode(data or b"{}", type=wanted)
    except msgspec.ValidationError as error:
        raise explain(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the body is not valid JSON: {error}", code="invalid_json") from None
    except RecursionError:
        raise InvalidInput("the body is nested too deeply", code="invalid_json") from None


class _TokenMiddleware:
    """Answers nothing to who does not have the token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/healthz":
            headers = dict(scope["headers"])
            has_token = hmac.compare_digest(headers.get(b"authorization", b""), self._expected)
            named = (ORGANIZATION_HEADER, PROJECT_HEADER, KEY_HEADER)
            if not has_token or not all(name.encode() in headers for name in named):
                await Response(status_code=401)(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _on_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, CloudcrestError)  # noqa: S101 - as it is registered
    return error_response(error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:
        return error_response(MethodNotAllowed(f"{request.url.path} does not take {request.method}"))
    return error_response(NotFound("there is nothing at this path", hint="see docs/how/files.md"))


async def _on_data_error(_: Request, __: Exception) -> Response:
    return error_response(InvalidInput("an id or a text holds a NUL character, or a number is too large"))


async def _on_database_error(_: Request, error: Exception) -> Response:
    lines = str(error.orig if isinstance(error, DBAPIError) else error).splitlines()
    _log.warning("database_away", error=lines[0] if lines else "")
    away = "the region's database does not answer"
    return error_response(Unavailable(away, code="content_unavailable", retry_after_seconds=2))


async def _on_disconnect(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _on_disk_error(_: Request, error: Exception) -> Response:
    _log.error("object_store_failed", error=repr(error))
    return error_response(
        Unavailable("the region's object store takes nothing now", code="storage_unavailable", retry_after_seconds=30)
    )


async def _on_unexpected(request: Request, error: Exception) -> Response:
    _log.error("unexpected_error", path=request.url.path, method=request.method, exc_info=error)
    return error_response(CloudcrestError("something went wrong on our side; it is logged"))
