"""Health and metrics of the control process: `/healthz` (it runs), `/readyz` (it can serve), `/metrics`."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog
from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from sqlalchemy import text

from cloudcrest.infra.database import Database

Check = Callable[[], Awaitable[None]]
"""Raises when the part cannot serve."""

_CHECK_SECONDS = 2.0
_log = structlog.get_logger(__name__)


def router(checks: Mapping[str, Check], registry: CollectorRegistry) -> APIRouter:
    """The three routes, outside the API document: they are for machines beside this one."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @routes.get("/readyz")
    async def readyz() -> JSONResponse:
        names = list(checks)
        results = await asyncio.gather(*(_passes(name, checks[name]) for name in names))
        parts = dict(zip(names, results, strict=True))
        ready = all(result == "ok" for result in results)
        body = {"status": "ready" if ready else "not ready", "checks": parts}
        return JSONResponse(body, status_code=200 if ready else 503)

    @routes.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return routes


def database_check(database: Database) -> Check:
    """Passes when the database answers a query."""

    async def check() -> None:
        async with database.engine.connect() as connection:
            await connection.execute(text("select 1"))

    return check


async def _passes(name: str, check: Check) -> str:
    try:
        await asyncio.wait_for(check(), _CHECK_SECONDS)
    except Exception as error:  # noqa: BLE001 - whatever a part fails with, readiness reports it and stays up
        _log.warning("check_failed", check=name, error=repr(error))
        return "failed"
    return "ok"
