"""The service's HTTP: who calls, JSON in and out, errors in OpenAI's shape.

Only our gateways reach it. They bring the internal token and say whose key it was; without the token nothing is
answered.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import structlog
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from cloudcrest.content.api import Caller
from cloudcrest.content.passed_on import door, error_handlers, error_response
from cloudcrest.content.reading import Body, decode
from cloudcrest.gateway.behalf import KEY_HEADER, ORGANIZATION_HEADER, PROJECT_HEADER
from cloudcrest.infra.http.internal import read_body
from cloudcrest.kernel.errors import InvalidInput, Unavailable
from cloudcrest.kernel.units import MIB

MAX_JSON_BYTES = 32 * MIB
_log = structlog.get_logger(__name__)


def make_app(token: str, routes: Sequence[BaseRoute]) -> Starlette:
    """The application: `/healthz` for whoever is on this machine, everything else for who has the token."""

    async def healthz(_: Request) -> Response:
        return Response(b'{"status":"ok"}', media_type="application/json")

    return Starlette(
        routes=[Route("/healthz", healthz), *routes],
        middleware=[door(token)],
        exception_handlers={
            **error_handlers(see="docs/how/files.md"),
            DataError: _on_data_error,
            OperationalError: _on_database_error,
            InterfaceError: _on_database_error,
            PoolTimeout: _on_database_error,
            ClientDisconnect: _on_disconnect,
            OSError: _on_disk_error,
        },
    )


def caller_of(request: Request) -> Caller:
    """Who the gateway says calls."""
    headers = request.headers
    return Caller(headers[ORGANIZATION_HEADER], headers[PROJECT_HEADER], headers[KEY_HEADER])


def json_response(document: Any, status: int = 200) -> Response:
    """A document as JSON."""
    return Response(msgspec.json.encode(document), status_code=status, media_type="application/json")


async def read_json(request: Request, wanted: type[Body], most: int = MAX_JSON_BYTES) -> Body:
    """A JSON body of this struct. Raises `InvalidInput` whose `param` is the wrong field's path."""
    return decode(await read_body(request, most), wanted)


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
