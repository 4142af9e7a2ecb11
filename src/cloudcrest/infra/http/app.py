"""The application that every slice's routes are put into.

A request goes through, outermost first: observe (id, log, metrics) → problems → CORS → body limit → authentication
(identity's, handed in) → idempotency → routes.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import APIRouter, FastAPI
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request

from cloudcrest.infra.database import Database
from cloudcrest.infra.http import docs, health, problems
from cloudcrest.infra.http.body_limit import INTERNAL_BODY_BYTES, MANAGEMENT_BODY_BYTES, BodyLimitMiddleware
from cloudcrest.infra.http.idempotency import REPLAYED_HEADER, CallerOf, IdempotencyMiddleware
from cloudcrest.infra.http.observe import REQUEST_ID_HEADER, ObserveMiddleware, RequestMetrics
from cloudcrest.infra.http.openapi import install_openapi
from cloudcrest.infra.sealing import Sealer
from cloudcrest.kernel.clock import Clock, SystemClock
from cloudcrest.kernel.ids import NewId, new_id

CSRF_HEADER = "x-csrf-token"
"""What a page sends with writes that a session cookie signs (identity checks it)."""

API_PREFIX = "/api/v1"
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(
    title: str,
    database: Database,
    *,
    sealer: Sealer,
    version: str,
    description: str = "",
    routers: Sequence[APIRouter] = (),
    authentication: Sequence[Middleware] = (),
    caller_of: CallerOf | None = None,
    session_cookie: str = "cloudcrest_session",
    cors_origins: Sequence[str] = (),
    checks: Mapping[str, health.Check] | None = None,
    lifespan: Lifespan | None = None,
    clock: Clock | None = None,
    make_id: NewId = new_id,
) -> FastAPI:
    """The management API with what every route shares.

    `authentication`: middleware that sets `request.state.caller`; what it raises becomes a problem document.
    `checks`: what `/readyz` asks besides the database. `database` is closed by whoever made it.
    """
    registry = _metrics_registry()
    idempotency = Middleware(
        IdempotencyMiddleware,
        database=database,
        sealer=sealer,
        clock=clock or SystemClock(),
        new_id=make_id,
        caller_of=caller_of or caller_in_state,
    )
    app = FastAPI(
        title=title,
        version=version,
        description=description,
        openapi_url=f"{API_PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan or _no_lifespan,
        middleware=[
            Middleware(ObserveMiddleware, metrics=RequestMetrics(registry), new_id=make_id),
            Middleware(problems.ProblemsMiddleware),
            *_cors(cors_origins),
            _body_limit(),
            *authentication,
            idempotency,
        ],
    )
    app.state.database = database
    app.state.metrics_registry = registry
    problems.install(app)
    app.include_router(health.router({"database": health.database_check(database), **(checks or {})}, registry))
    for router in routers:
        app.include_router(router)
    install_openapi(app, session_cookie=session_cookie)
    docs.install(app, f"{API_PREFIX}/docs")
    return app


def caller_in_state(request: Request) -> str | None:
    """The identity of the caller that authentication left in `request.state.caller` (a thing with `kind` and `id`)."""
    caller = getattr(request.state, "caller", None)
    return None if caller is None else f"{caller.kind}:{caller.id}"


def _metrics_registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def _cors(origins: Sequence[str]) -> list[Middleware]:
    if not origins:
        return []
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        # Signed-in sessions are for origins that are named: with `*` any page could act for who is signed in.
        allow_credentials="*" not in origins,
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["authorization", "content-type", "idempotency-key", CSRF_HEADER, REQUEST_ID_HEADER],
        expose_headers=[REQUEST_ID_HEADER, REPLAYED_HEADER, "retry-after"],
    )
    return [cors]


def _body_limit() -> Middleware:
    return Middleware(
        BodyLimitMiddleware,
        default_bytes=MANAGEMENT_BODY_BYTES,
        by_prefix={"/internal/": INTERNAL_BODY_BYTES},
    )


@asynccontextmanager
async def _no_lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
