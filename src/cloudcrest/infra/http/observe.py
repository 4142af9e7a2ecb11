"""What every request gets: an id, a log line, a metric, and safe headers."""

import re
import time

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloudcrest.kernel.ids import NewId

REQUEST_ID_HEADER = "x-request-id"
_ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9_\-]{1,64}")
_log = structlog.get_logger(__name__)


class RequestMetrics:
    """The control process's request counters, in a registry of their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "cloudcrest_management_requests", "Requests answered", ["method", "route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "cloudcrest_management_request_seconds", "Time to answer", ["method", "route"], registry=registry
        )


class ObserveMiddleware:
    """Names each request (the caller's `x-request-id` where it is a sane one), logs it and counts it."""

    def __init__(self, app: ASGIApp, *, metrics: RequestMetrics, new_id: NewId) -> None:
        self._app = app
        self._metrics = metrics
        self._new_id = new_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        given = request.headers.get(REQUEST_ID_HEADER, "")
        request_id = given if _ACCEPTABLE_ID.fullmatch(given) else self._new_id("req")
        request.state.request_id = request_id
        started = time.perf_counter()
        status = 500

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = request_id
                headers.setdefault("x-content-type-options", "nosniff")
                headers.setdefault("cache-control", "no-store")
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_named)
            finally:
                self._note(scope, status, time.perf_counter() - started)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        # Unknown paths share one label: labels are made by callers otherwise, and grow without a bound.
        route = getattr(scope.get("route"), "path", "(none)")
        method = scope["method"] if scope["method"] in _METHODS else "(other)"
        self._metrics.requests.labels(method, route, status).inc()
        self._metrics.seconds.labels(method, route).observe(seconds)
        note = _log.debug if scope["path"].startswith(_EVERY_SECOND) and status < 400 else _log.info
        note("request", method=method, path=scope["path"], status=status, milliseconds=round(seconds * 1000, 1))


_EVERY_SECOND = "/internal/v1/grants"
"""Each gateway worker calls it as often."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
