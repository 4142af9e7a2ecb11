"""Management errors as problem documents (RFC 9457), rendered once for every route."""

from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloudcrest.kernel.errors import CloudcrestError

MEDIA_TYPE = "application/problem+json"
_log = structlog.get_logger(__name__)


class FieldError(BaseModel):
    """One wrong field: `field` is its path, as in `body.limits.requests_per_minute`."""

    field: str = Field(examples=["body.name"])
    message: str = Field(examples=["Field required"])


class Problem(BaseModel):
    """What went wrong, in the shape of RFC 9457. `code` is stable; `hint` says what to do."""

    type: str = Field(examples=["https://cloudcrest.dev/problems/not_found"])
    title: str = Field(examples=["Not found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["there is no key 'key_01k9zq3v5e8m2n4p6r8t0w2y4z'"])
    code: str = Field(examples=["not_found"])
    hint: str | None = None
    errors: list[FieldError] | None = None


def problem_response(
    status: int,
    *,
    title: str,
    detail: str,
    code: str,
    hint: str | None = None,
    errors: list[FieldError] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """A problem document as a response."""
    problem = Problem(
        type=f"https://cloudcrest.dev/problems/{code}",
        title=title,
        status=status,
        detail=detail,
        code=code,
        hint=hint,
        errors=errors,
    )
    body = problem.model_dump(exclude_none=True)
    return JSONResponse(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def render(error: CloudcrestError) -> JSONResponse:
    """A domain error as a problem document; `retry_after_seconds` becomes `retry-after`."""
    headers: dict[str, str] = {}
    if error.retry_after_seconds is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_seconds)))
    errors = [FieldError(field=error.param, message=error.message)] if error.param else None
    return problem_response(
        error.status,
        title=error.title,
        detail=error.message,
        code=error.code,
        hint=error.hint,
        errors=errors,
        headers=headers,
    )


class ProblemsMiddleware:
    """Makes problem documents of what middleware raises: it stands outside the app's own exception handlers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_started = False

        async def send_noted(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        except (CloudcrestError, HTTPException, DBAPIError, PoolTimeout) as error:
            if scope["type"] != "http" or has_started:
                raise
            response = await _response_to(Request(scope), error)
            await response(scope, receive, send)


async def _response_to(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, CloudcrestError):
        return render(error)
    if isinstance(error, HTTPException):
        return await _on_http_exception(request, error)
    return await _on_database_error(request, error)


def install(app: FastAPI) -> None:
    """Makes every error of the app a problem document."""
    app.add_exception_handler(CloudcrestError, _on_domain_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(DBAPIError, _on_database_error)
    app.add_exception_handler(PoolTimeout, _on_database_error)
    app.add_exception_handler(Exception, _on_unexpected)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries for the problems a route can answer with."""
    return {status: {"model": Problem, "content": {MEDIA_TYPE: {}}} for status in statuses}


async def _on_domain_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, CloudcrestError)  # noqa: S101 - registered for this class
    return render(error)


def _said(item: dict[str, Any]) -> str:
    """pydantic's words, save where they speak of its inner workings: secrets are checked as lists of characters."""
    bounds = item.get("ctx", {})
    if item["type"] == "too_short" and isinstance(item.get("input"), str):
        return f"has to have {bounds.get('min_length')} characters or more"
    if item["type"] == "too_long" and isinstance(item.get("input"), str):
        return f"has to have {bounds.get('max_length')} characters or fewer"
    return str(item["msg"]).removeprefix("Value error, ")


async def _on_validation_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class
    errors = [
        FieldError(field=".".join(str(part) for part in item["loc"]), message=_said(item)) for item in error.errors()
    ]
    detail = "; ".join(f"{item.field}: {item.message}" for item in errors[:3])
    return problem_response(
        422, title="Invalid request", detail=detail or "the request is not valid", code="invalid_value", errors=errors
    )


async def _on_http_exception(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
    codes = {400: "invalid_value", 404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}
    return problem_response(
        error.status_code,
        title=HTTPStatus(error.status_code).phrase,
        detail=str(error.detail),
        code=codes.get(error.status_code, "http_error"),
        headers=dict(error.headers or {}),
    )


async def _on_database_error(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, (OperationalError, InterfaceError, PoolTimeout)):
        _log.warning("database_unavailable", path=request.url.path, error=str(error).splitlines()[0])
        return problem_response(
            503,
            title="Unavailable",
            detail="the database did not answer",
            code="unavailable",
            hint="try again in a moment",
            headers={"retry-after": "2"},
        )
    if isinstance(error, DataError):
        # Text that PostgreSQL cannot hold (a NUL character) or a number out of a column's range.
        return problem_response(422, title="Invalid request", detail="a value cannot be stored", code="invalid_value")
    if isinstance(error, IntegrityError):
        _log.info("integrity_conflict", path=request.url.path, error=str(error.orig).splitlines()[0])
        return problem_response(
            409,
            title="Conflict",
            detail="this collides with something that exists, or names something that is gone",
            code="conflict",
        )
    return await _on_unexpected(request, error)


async def _on_unexpected(request: Request, error: Exception) -> JSONResponse:
    _log.error("unexpected_error", path=request.url.path, method=request.method, exc_info=error)
    return problem_response(
        500,
        title="Internal error",
        detail="something went wrong on our side; it is logged",
        code="internal_error",
    )
