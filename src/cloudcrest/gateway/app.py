"""What is answered where: the gateway's paths, and an inference request's way through its stages.

check (at the head)   refuse what is refused without its body
handle (whole body)   authenticate → validate → route → admit → open the account → relay
"""

import asyncio
from collections.abc import Callable
from math import inf
from time import time as unix_time

import msgspec

from cloudcrest.gateway import pages
from cloudcrest.gateway.account import Account, Origin
from cloudcrest.gateway.admit import Admit, OverLimit, admit, limit_headers
from cloudcrest.gateway.authenticate import key_digest, key_of
from cloudcrest.gateway.call import Calls
from cloudcrest.gateway.claims import Claims
from cloudcrest.gateway.connection import Upstream
from cloudcrest.gateway.conversation import conversation
from cloudcrest.gateway.counting import Counting
from cloudcrest.gateway.deadline import set_deadline
from cloudcrest.gateway.desk import Desk, WaitingForBudget, refused
from cloudcrest.gateway.errors import MethodNotAllowed
from cloudcrest.gateway.fallback import Fallback
from cloudcrest.gateway.fanout import Fanout, PlainFanout, StreamFanout, needs_fanout
from cloudcrest.gateway.http1 import JSON
from cloudcrest.gateway.parts import Admitted, Parts
from cloudcrest.gateway.proxy import ProxyExchange, is_internal
from cloudcrest.gateway.purse import Claim
from cloudcrest.gateway.relay import PlainRelay, Relay, StreamRelay
from cloudcrest.gateway.request import Connection, Request, Responder
from cloudcrest.gateway.settings import GatewaySettings
from cloudcrest.gateway.snapshot import Access, Route, Snapshot
from cloudcrest.gateway.validate import DECODERS, Parsed, build, check_engine, forwarded_fields, parse
from cloudcrest.gateway.waiting import Waiter, WaitingRoom, asked_wait_seconds, wait_seconds
from cloudcrest.identity.api import KeyDocument
from cloudcrest.kernel.errors import CloudcrestError, NotFound, Unavailable
from cloudcrest.kernel.units import KIB

CHECKED_EARLY_BYTES = 16 * KIB
CONTROL_CONNECTIONS = 32
_ALLOWED = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_CORS_LIFETIME_SECONDS = 600
_READ = (b"GET", b"HEAD")

Page = Callable[[Connection, Request], None]


class GatewayApp:
    """The application behind the connections of one worker. `new_id` makes a request id of a time in Unix seconds.

    `admit` holds callers to their limits; of several workers, each is given that of the table that they share.
    """

    def __init__(
        self,
        *,
        settings: GatewaySettings,
        snapshot: Snapshot,
        origin: Origin,
        calls: Calls,
        counting: Counting,
        new_id: Callable[[float], str],
        claims: Claims,
        desk: Desk,
        admit: Admit = admit,
    ) -> None:
        self._settings = settings
        self._snapshot = snapshot
        self._origin = origin
        self._calls = calls
        self._counting = counting
        self._new_id = new_id
        self._admit = admit
        self.waiting = WaitingRoom(calls.monotonic, origin.metrics.waits, _call_later)
        self._claims = claims
        self._desk = desk
        self._control = (
            Upstream(settings.control_url, name="control", slots=CONTROL_CONNECTIONS) if settings.control_url else None
        )
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
        if self._control is not None:
            self._control.prune(now)

    def check(self, request: Request) -> None:
        """Decides at the head: streamed, refused, or to be handled when it is whole."""
        path = request.path
        request.id = self._new_id(unix_time())
        is_inference = path in DECODERS
        is_own = is_inference or path in self._pages or path.startswith("/v1/") or path == "/v1"
        request.extra_head = f"x-request-id: {request.id}\r\n".encode()
        if is_own and request.origin is not None:
            request.extra_head += self._cors(request.origin)
        try:
            if is_inference:
                if request.method != b"POST" or not request.body:  # else it is whole, and looked at just now
                    self._check_inference(request)
                return
            if is_internal(path):
                raise _no_such_path()
            request.is_streamed = not is_own and request.method != b"OPTIONS" and self._control is not None
        except CloudcrestError as error:
            self._origin.metrics.responses[error.status] += 1
            request.refusal = error

    def handle(self, connection: Connection, request: Request) -> Responder | None:
        """Answers a request, or returns who will."""
        path = request.path
        try:
            if path in DECODERS and request.method == b"POST":
                return self._infer(connection, request)
            if request.method == b"OPTIONS" and (path.startswith("/v1") or path in self._pages):
                self._preflight(connection, request)
                return None
            page = self._pages.get(path)
            if page is None and path.startswith("/v1/models/"):
                page = self._model
            if page is not None:
                if request.method not in _READ:
                    raise MethodNotAllowed(f"{path} is read with GET")
                page(connection, request)
                return None
            if path == "/v1" or path.startswith("/v1/") or self._control is None:
                raise _no_such_path()
        except CloudcrestError as error:
            self._origin.metrics.responses[error.status] += 1
            connection.respond_error(error)
            return None
        exchange = ProxyExchange(self._calls, self._control, connection, request)
        exchange.start()
        return exchange

    # inference

    def _check_inference(self, request: Request) -> None:
        if request.method == b"OPTIONS":
            return
        if request.method != b"POST":
            raise MethodNotAllowed(f"{request.path} takes POST")
        # Who has no key cannot make us read a large body. Small ones are checked when they are whole.
        if request.is_chunked or request.expects_continue or (request.content_length or 0) > CHECKED_EARLY_BYTES:
            self._authenticate(request)

    def _authenticate(self, request: Request) -> KeyDocument:
        if request.key_digest is None:
            request.key_digest = key_digest(request.authorization)
        return key_of(self._snapshot, request.key_digest, unix_time())

    def _infer(self, connection: Connection, request: Request) -> Responder:
        key = self._authenticate(request)
        parsed = parse(request.path, request.body)
        request.body = b""
        asked_seconds, head = asked_wait_seconds(request), request.extra_head
        try:
            return self._answer(connection, request, key, parsed)
        except OverLimit as error:
            seconds = wait_seconds(asked_seconds, self._snapshot.access(key, parsed.body.model).scopes)
            if seconds == 0:
                raise
            return self._wait(connection, request, key, parsed, waits_at=error, seconds=seconds, head=head)

    def _wait(
        self,
        connection: Connection,
        request: Request,
        key: KeyDocument,
        parsed: Parsed,
        *,
        waits_at: OverLimit,
        seconds: float,
        head: bytes,
    ) -> Responder:
        """Has a request wait for room. Raises `LimitExceeded` where too many do."""

        def fail(error: CloudcrestError) -> None:
            self._origin.metrics.responses[error.status] += 1
            connection.respond_error(error)

        waiter = Waiter(
            self.waiting,
            connection,
            request,
            organization_id=key.organization_id,
            body_bytes=parsed.size_bytes,
            # The key anew: meanwhile it may have been revoked.
            begin=lambda: self._answer(connection, request, self._authenticate(request), parsed),
            fail=fail,
            error=waits_at,
            head=head,
        )
        self.waiting.enter(waiter, seconds)
        return waiter

    def _answer(self, connection: Connection, request: Request, key: KeyDocument, parsed: Parsed) -> Responder:
        """Begins the answer by the model that is asked for, or those that take its place."""
        model = parsed.body.model
        missing: NotFound | None = None
        try:
            access = self._snapshot.access(key, model)
        except NotFound as error:  # a model that is gone is one that cannot answer
            if not self._snapshot.has_fallbacks(key, model):
                raise
            missing = error
        else:
            if access.is_sole:
                return self._serve(connection, request, key, parsed, access=access)
        candidates = self._snapshot.candidates(key, model, conversation(parsed.body))
        taken = self._origin.metrics.fallbacks
        return Fallback(self._serve_by, connection, request, key, parsed, candidates=candidates, taken=taken).start(
            missing
        )

    def _serve_by(
        self,
        connection: Connection,
        request: Request,
        key: KeyDocument,
        parsed: Parsed,
        *,
        route: Route,
        fallback: Fallback | None,
    ) -> Responder:
        access = Access(route, self._snapshot.scopes_of(key, route))
        return self._serve(connection, request, key, parsed, access=access, fallback=fallback)

    def _serve(
        self,
        connection: Connection,
        request: Request,
        key: KeyDocument,
        parsed: Parsed,
        *,
        access: Access,
        fallback: Fallback | None = None,
    ) -> Responder:
        """Begins an answer by one route. Raises before anything is sent."""
        route, scopes = access.route, access.scopes
        document = route.document
        check_engine(parsed, document)
        if not route.replicas:
            raise _not_ready(route)
        started_at = self._origin.microseconds()
        claim = self._claims.of(key, parsed, document, started_at)
        now = self._calls.monotonic()
        if request.deadline == inf:  # a fallback has what is left
            set_deadline(request, access.timeout_seconds, self._settings.request_timeout_seconds, now)
        try:
            self.waiting.check(scopes)
            grant = self._admit(scopes, parsed.estimated_tokens(document.context_tokens), now)
        finally:
            if scopes:
                request.extra_head += limit_headers(scopes, now)
        grant.freed = self.waiting.freed
        admitted = Admitted(connection, request, key, route, parsed, grant, claim, started_at, fallback)
        if claim is not None and not self._desk.wallet.reserve(claim):
            return self._wait_for_budget(admitted, claim)
        return self._begin(admitted)

    def _wait_for_budget(self, admitted: Admitted, claim: Claim) -> Responder:
        """Has a request wait for its budget; refused, it gives back what it took of its limits."""
        fallback = admitted.fallback
        if fallback is not None and fallback.has_open_account:  # which cannot wait until this one takes its place
            admitted.grant.settle(0)
            raise refused(self._desk.wallet.short_of(claim))
        waiting = WaitingForBudget(admitted, self._begin, self._origin.metrics)
        try:
            waiting.cancel = self._desk.wait(claim, waiting.decided)
        except CloudcrestError:
            admitted.grant.settle(0)
            raise
        return waiting

    def _begin(self, admitted: Admitted) -> Responder:
        """Opens the account of an admitted request and sends it on its way."""
        connection, request, key, route, parsed, grant, claim, started_at, fallback = admitted
        document = route.document
        if claim is not None and claim.is_capped:
            parsed.max_tokens = claim.limit_for(document.engine, document.context_tokens)
        fields = forwarded_fields(parsed, document)
        account = Account(
            self._origin,
            request_id=request.id,
            endpoint=request.path,
            key=key,
            route=document,
            grant=grant,
            is_stream=parsed.is_stream,
            claim=claim,
            started_at=started_at,
        )
        try:
            is_fanout = needs_fanout(parsed, document.engine)
            body = b"" if is_fanout else build(fields)
            parts = Parts(self._calls, self._counting, connection, request, route, parsed, account, body, fallback)
            relay: Relay | Fanout
            if is_fanout:
                relay = (StreamFanout if parsed.is_stream else PlainFanout)(parts, fields)
            else:
                relay = (StreamRelay if parsed.is_stream else PlainRelay)(parts)
            relay.start()
        except CloudcrestError:
            grant.settle(0)
            if claim is not None:
                claim.settle(0)
            raise
        return relay

    # pages

    def _home(self, connection: Connection, request: Request) -> None:
        accept = next((value for name, value in request.headers if name == b"accept"), b"")
        scheme = "https" if connection.is_tls else "http"
        base_url = f"{scheme}://{(request.host or b'localhost').decode('latin-1')}"
        content_type, body = pages.home(
            accepts_html=b"text/html" in accept, base_url=base_url, docs_url=self._settings.docs_url
        )
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
        key = self._authenticate(request)
        connection.respond(200, JSON, pages.model_list(self._snapshot, key))

    def _model(self, connection: Connection, request: Request) -> None:
        key = self._authenticate(request)
        model = request.path.removeprefix("/v1/models/")
        self._snapshot.access(key, model)
        connection.respond(200, JSON, msgspec.json.encode(pages.model_object(self._snapshot, model)))

    # CORS

    def _cors(self, origin: bytes) -> bytes:
        if b"*" not in self._origins and origin not in self._origins:
            return b""
        return (
            b"access-control-allow-origin: %b\r\nvary: origin\r\n"
            b"access-control-expose-headers: x-request-id, retry-after, x-ratelimit-limit-requests, "
            b"x-ratelimit-remaining-requests, x-ratelimit-reset-requests, x-ratelimit-limit-tokens, "
            b"x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens, "
            b"x-cloudcrest-fallback, x-cloudcrest-waited\r\n" % origin
        )

    def _preflight(self, connection: Connection, request: Request) -> None:
        extra = b"allow: " + _ALLOWED + b"\r\n"
        if request.origin is not None and self._cors(request.origin):
            extra += (
                b"access-control-allow-methods: %b\r\naccess-control-allow-headers: *, authorization\r\n" % _ALLOWED
            )
            extra += b"access-control-max-age: %d\r\n" % _CORS_LIFETIME_SECONDS
        connection.respond(204, JSON, b"", extra)


def _call_later(seconds: float, call: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(seconds, call)


def _no_such_path() -> NotFound:
    return NotFound("there is nothing at this path", hint="the inference API is at /v1, the management API at /api/v1")


def _not_ready(route: Route) -> Unavailable:
    reason = route.document.unavailable_reason or "no replica of it is ready"
    return Unavailable(
        f"the model '{route.document.model_name}' cannot answer now: {reason}",
        code="model_unavailable",
        retry_after_seconds=5,
    )
