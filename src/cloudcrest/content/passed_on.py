"""How a region's services answer what gateways pass on to them: a token at the door, errors in OpenAI's shape."""

from collections.abc import Mapping
from typing import Any

import structlog
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from cloudcrest.gateway.behalf import KEY_HEADER, ORGANIZATION_HEADER, PROJECT_HEADER
from cloudcrest.gateway.errors import MethodNotAllowed, error_document
from cloudcrest.infra.http.internal import TokenRequired
from cloudcrest.kernel.errors import CloudcrestError, NotFound

_log = structlog.get_logger(__name__)


def door(token: str) -> Middleware:
    """Lets gateways in, who have the token and say whose key came; nobody else is answered, but at `/healthz`."""
    return Middleware(TokenRequired, token=token, named=(ORGANIZATION_HEADER, PROJECT_HEADER, KEY_HEADER))


def error_handlers(*, see: str) -> dict[Any, Any]:
    """For an application: every fault becomes an answer. `see`: where callers read what paths there are."""

    async def on_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, CloudcrestError)  # noqa: S101 - as it is registered
        return error_response(error)

    async def on_http_exception(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException) and error.status_code == 405:
            return error_response(MethodNotAllowed(f"{request.url.path} does not take {request.method}"))
        return error_response(NotFound("there is nothing at this path", hint=f"see {see}"))

    async def on_unexpected(request: Request, error: Exception) -> Response:
        _log.error("unexpected_error", path=request.url.path, method=request.method, exc_info=error)
        return error_response(CloudcrestError("something went wrong on our side; it is logged"))

    return {CloudcrestError: on_error, HTTPException: on_http_exception, Exception: on_unexpected}


def error_response(error: CloudcrestError) -> Response:
    """An error in OpenAI's shape."""
    headers: Mapping[str, str] = {}
    if error.retry_after_seconds is not None:
        headers = {"retry-after": str(max(1, round(error.retry_after_seconds)))}
    return Response(error_document(error), status_code=error.status, media_type="application/json", headers=headers)
