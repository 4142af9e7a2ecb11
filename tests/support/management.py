"""Slices' management routes in memory, over a real database: who calls is said by the header `x-caller`."""

import hashlib
from collections.abc import Mapping

import httpx2
from fastapi import APIRouter, FastAPI
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from cloudcrest.identity.api import Caller
from cloudcrest.infra.database import Database
from cloudcrest.infra.http import problems
from cloudcrest.kernel.clock import Clock
from cloudcrest.regions import seed
from cloudcrest.regions.service import RegionService

REGION_TOKEN = "rt-cc-for-tests"


def management_client(
    database: Database, *routers: APIRouter, callers: Mapping[str, Caller], regions: RegionService | None = None
) -> httpx2.AsyncClient:
    """A client of an app with these routes. `callers` by what `x-caller` says; "" is who calls without the header."""
    app = FastAPI(middleware=[Middleware(_Callers, callers=callers)])
    problems.install(app)
    app.state.database = database
    app.state.regions = regions
    for router in routers:
        app.include_router(router)
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://control")


async def linked_region(database: Database, clock: Clock, token: str = REGION_TOKEN) -> RegionService:
    """Seeds the region `local`, whose service calls with this token."""
    async with database.transaction() as session:
        await seed.seed(session, clock=clock, token_sha256=hashlib.sha256(token.encode()).hexdigest())
    return RegionService(clock=clock)


class _Callers:
    def __init__(self, app: ASGIApp, callers: Mapping[str, Caller]) -> None:
        self._app = app
        self._callers = callers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope)
            request.state.caller = self._callers.get(request.headers.get("x-caller", ""))
        await self._app(scope, receive, send)
