"""What is answered where: inference by its stages (inference.py), the gateway's own pages, the rest passed through.

check (at the head)   refuse what is refused without its body
handle (whole body)   answer, or say who will
"""

from collections.abc import Callable
from time import time as unix_time
from typing import Final, NamedTuple

import msgspec

from cloudcrest.gateway import pages
from cloudcrest.gateway.account import Origin
from cloudcrest.gateway.behalf import is_content, is_of_job, is_of_volume, take_behalf
from cloudcrest.gateway.call import Calls
from cloudcrest.gateway.connection import Upstream
from cloudcrest.gateway.dialects.anthropic import models as anthropic
from cloudcrest.gateway.dialects.registry import ANTHROPIC, COMPATIBLE, COUNTS, DIALECTS, dialect_of, without_alias
from cloudcrest.gateway.errors import MethodNotAllowed
from cloudcrest.gateway.http1 import JSON
from cloudcrest.gateway.inference import Inference
from cloudcrest.gateway.moderations import PATH as MODERATIONS
from cloudcrest.gateway.moderations import Moderations
from cloudcrest.gateway.proxy import ProxyExchange, RegionExchange, is_internal
from cloudcrest.gateway.request import Connection, Request, Responder
from cloudcrest.gateway.settings import GatewaySettings
from cloudcrest.gateway.snapshot import Snapshot
from cloudcrest.gateway.token_count import TokenCounts
from cloudcrest.gateway.validate import DECODERS
from cloudcrest.identity.api import Scope
from cloudcrest.kernel.errors import CloudcrestError, NotFound

CONTROL_CONNECTIONS = 32
CONTENT_CONNECTIONS = 32
JOB_CONNECTIONS = 32
_CONTENT_IS = "files, batches, responses, conversations and volumes"
_JOBS_ARE = "what jobs write and show"
_ALLOWED = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_CORS_LIFETIME_SECONDS = 600
_READ = (b"GET", b"HEAD")
_now: Final = unix_time  # compiled, a name that is not Final is looked up each time

Page = Callable[[Connection, Request], None]


class _Service(NamedTuple):
    """A service of the region: the token it knows, what is away without it, and what a key must be for."""

    upstream: Upstream
    token: str
    what: str
    scope: Scope


class GatewayApp:
    """The application behind the connections of one worker. `new_id` makes a request id of a time in Unix seconds."""

    def __init__(
        self,
        *,
        settings: GatewaySettings,
        snapshot: Snapshot,
        origin: Origin,
        calls: Calls,
        new_id: Callable[[float], str],
        inference: Inference,
        token_counts: TokenCounts,
        moderations: Moderations,
    ) -> None:
        self._settings = settings
        self._snapshot = snapshot
        self._origin = origin
        self._calls = calls
        self._new_id = new_id
        self._inference = inference
        self._token_counts = token_counts
        self._moderations = moderations
        self._control = (
            Upstream(settings.control_url, name="control", slots=CONTROL_CONNECTIONS) if settings.control_url else None
        )
        self._content = (
            Upstream(settings.content_url, name="content", slots=CONTENT_CONNECTIONS) if settings.content_url else None
        )
        self._jobs = Upstream(settings.jobs_url, name="jobs", slots=JOB_CONNECTIONS) if settings.jobs_url else None
        self._origins = frozenset(origin.encode() for origin in settings.cors_origins)
        self.metrics_page: Callable[[], bytes] = lambda: b""
        self._pages: dict[str, Page] = {
            "/": self._home,
            "/healthz": self._health,
            "/readyz": self._ready,
            "/metrics": self._metrics,
            "/v1/models": self._models,
        }

    def tick(self, now: float) -> None:
        """Housekeeping, a few times a second."""
        self._calls.tick(now)
        self._origin.recorder.retry()
        for route in self._snapshot.deployments.values():
            for replica in route.replicas:
                replica.prune(now)
        for passed_to in (self._control, self._content, self._jobs):
            if passed_to is not None:
                passed_to.prune(now)

    def check(self, request: Request) -> None:
        """Decides at the head: streamed, refused, or to be handled when it is whole."""
        request_id = request.id = self._new_id(_now())
        request.extra_head = _id_line(request_id)
        if request.is_plain:  # it was looked at when it came first, and is whole
            return
        path = without_alias(request.path)
        is_alias = path is not request.path
        if is_alias:
            request.path = path
            request.target = request.target.replace(COMPATIBLE.encode(), b"", 1)
        if request.behalf_of is not None:
            take_behalf(request, self._settings.content_token)
            request.extra_head = _id_line(request.id)
        request.dialect = dialect_of(request)
        is_inference = _is_inference(path)
        is_own = is_inference or path in self._pages or path.startswith("/v1/")
        is_own = is_own or path == "/v1" or request.dialect is not None
        if request.dialect is not None:
            request.extra_head += request.dialect.head(request.id)
        if is_own and request.origin is not None:
            request.extra_head += self._cors(request.origin)
        try:
            if is_inference:
                if request.method != b"POST" or not request.body:  # else it is whole, and looked at just now
                    self._inference.check(request)
                is_usual = not is_alias and request.method == b"POST" and request.origin is None
                request.is_plain = is_usual and path in DECODERS
                return
            if is_internal(path):
                raise _no_such_path()
            service = self._service_of(path)
            if service is not None and request.method != b"OPTIONS":
                self._inference.authenticate(request, service.scope)
                request.is_streamed = True
                return
            request.is_streamed = not is_own and request.method != b"OPTIONS" and self._control is not None
        except CloudcrestError as error:
            self._origin.metrics.responses[error.status] += 1
            request.refusal = error

    def handle(self, connection: Connection, request: Request) -> Responder | None:
        """Answers a request, or returns who will."""
        path = request.path
        try:
            if request.is_plain:
                return self._inference.begin(connection, request)
            is_inference = _is_inference(path)
            if is_inference and request.method == b"POST":
                if path in COUNTS:
                    return self._token_counts.begin(connection, request)
                if path == MODERATIONS:
                    return self._moderations.begin(connection, request)
                return self._inference.begin(connection, request)
            if request.method == b"OPTIONS" and (is_inference or path.startswith("/v1") or path in self._pages):
                self._preflight(connection, request)
                return None
            page = self._pages.get(path)
            if page is None and path.startswith("/v1/models/"):
                page = self._model
            service = self._service_of(path)
            if service is not None:
                key = self._inference.authenticate(request, service.scope)
                passed = RegionExchange(
                    self._calls, service.upstream, connection, request, key, service.token, service.what
                )
                passed.start()
                return passed
            if page is not None:
                if request.method not in _READ:
                    raise MethodNotAllowed(f"{path} is read with GET")
                page(connection, request)
                return None
            if path == "/v1" or path.startswith("/v1/") or request.dialect is not None or self._control is None:
                raise _no_such_path()
        except CloudcrestError as error:
            self._origin.metrics.responses[error.status] += 1
            connection.respond_error(error)
            return None
        exchange = ProxyExchange(self._calls, self._control, connection, request)
        exchange.start()
        return exchange

    def _service_of(self, path: str) -> _Service | None:
        """The region's service that answers a path. A job's shell runs what it is told, and jobs run what is in
        volumes: that is managing, not asking a model, and a key for inference alone is in many a program's hands.
        """
        if self._content is not None and is_content(path):
            scope: Scope = "management" if is_of_volume(path) else "inference"
            return _Service(self._content, self._settings.content_token, _CONTENT_IS, scope)
        if self._jobs is not None and is_of_job(path):
            return _Service(self._jobs, self._settings.jobs_token, _JOBS_ARE, "management")
        return None

    # pages

    def _home(self, connection: Connection, request: Request) -> None:
        accepts_html = any(name == b"accept" and b"text/html" in value for name, value in request.headers)
        scheme = "https" if connection.is_tls else "http"
        base_url = f"{scheme}://{(request.host or b'localhost').decode('latin-1')}"
        content_type, body = pages.home(accepts_html=accepts_html, base_url=base_url, docs_url=self._settings.docs_url)
        connection.respond(200, content_type, body)

    def _health(self, connection: Connection, _: Request) -> None:
        connection.respond(200, JSON, b'{"status":"ok"}')

    def _ready(self, connection: Connection, _: Request) -> None:
        missing = [] if self._snapshot.is_loaded else ["snapshot"]
        if not self._origin.recorder.is_writable():
            missing.append("spool")
        body = {"status": "waiting" if missing else "ready", "missing": missing}
        connection.respond(503 if missing else 200, JSON, msgspec.json.encode(body))

    def _metrics(self, connection: Connection, request: Request) -> None:
        if not pages.may_read_metrics(request.peer, request.authorization, self._settings.metrics_token):
            raise _no_such_path()
        connection.respond(200, b"text/plain; version=0.0.4; charset=utf-8", self.metrics_page())

    def _models(self, connection: Connection, request: Request) -> None:
        key = self._inference.authenticate(request)
        listed = anthropic.model_list if request.dialect is ANTHROPIC else pages.model_list
        connection.respond(200, JSON, listed(self._snapshot, key, request.query))

    def _model(self, connection: Connection, request: Request) -> None:
        key = self._inference.authenticate(request)
        model = request.path.removeprefix("/v1/models/")
        self._snapshot.access(key, model)
        described = anthropic.model_object if request.dialect is ANTHROPIC else pages.model_object
        connection.respond(200, JSON, msgspec.json.encode(described(self._snapshot, model)))

    # CORS

    def _cors(self, origin: bytes) -> bytes:
        if b"*" not in self._origins and origin not in self._origins:
            return b""
        return (
            b"access-control-allow-origin: %b\r\nvary: origin\r\n"
            b"access-control-expose-headers: x-request-id, request-id, retry-after, x-ratelimit-limit-requests, "
            b"x-ratelimit-remaining-requests, x-ratelimit-reset-requests, x-ratelimit-limit-tokens, "
            b"x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens, "
            b"x-cloudcrest-fallback, x-cloudcrest-waited, x-cloudcrest-guardrails\r\n" % origin
        )

    def _preflight(self, connection: Connection, request: Request) -> None:
        extra = b"allow: " + _ALLOWED + b"\r\n"
        if request.origin is not None and self._cors(request.origin):
            extra += (
                b"access-control-allow-methods: %b\r\naccess-control-allow-headers: *, authorization\r\n" % _ALLOWED
            )
            extra += b"access-control-max-age: %d\r\n" % _CORS_LIFETIME_SECONDS
        connection.respond(204, JSON, b"", extra)


def _id_line(request_id: str) -> bytes:
    return b"x-request-id: %b\r\n" % request_id.encode()


def _is_inference(path: str) -> bool:
    return path in DECODERS or path in DIALECTS or path in COUNTS or path == MODERATIONS


def _no_such_path() -> NotFound:
    return NotFound("there is nothing at this path", hint="the inference API is at /v1, the management API at /api/v1")
