"""An inference request's way through its stages.

check (at the head)   refuse what is refused without its body
begin (whole body)    authenticate → validate → guard → route → admit → reserve → open the account → relay
"""

import asyncio
from collections.abc import Callable
from functools import partial
from math import inf
from time import time as unix_time

from cloudcrest.gateway.account import Account, Origin
from cloudcrest.gateway.admit import Admit, Grant, OverLimit, admit, limit_headers
from cloudcrest.gateway.authenticate import key_digest, key_of
from cloudcrest.gateway.behalf import check_idle
from cloudcrest.gateway.call import Calls
from cloudcrest.gateway.claims import Claims
from cloudcrest.gateway.conversation import conversation
from cloudcrest.gateway.counting import Counting
from cloudcrest.gateway.deadline import set_deadline
from cloudcrest.gateway.desk import Desk, WaitingForBudget, refused
from cloudcrest.gateway.detached import BatchAccounts, Detached
from cloudcrest.gateway.errors import MethodNotAllowed, unknown_key
from cloudcrest.gateway.fallback import Fallback
from cloudcrest.gateway.fanout import Fanout, PlainFanout, StreamFanout, needs_fanout
from cloudcrest.gateway.fields import ImageBody
from cloudcrest.gateway.guardrails import Screening
from cloudcrest.gateway.images import ImageRelay
from cloudcrest.gateway.lenient import fit_leniently, ignored_header, read_leniently
from cloudcrest.gateway.marks import without_marks
from cloudcrest.gateway.parsed import Parsed
from cloudcrest.gateway.parts import Admitted, Parts
from cloudcrest.gateway.plain import CHAT_PATH, read_plain, written_for
from cloudcrest.gateway.purse import Claim
from cloudcrest.gateway.relay import PlainRelay, Relay, StreamRelay
from cloudcrest.gateway.request import Connection, Request, Responder
from cloudcrest.gateway.snapshot import Access, Route, Snapshot
from cloudcrest.gateway.sound.relay import SoundRelay
from cloudcrest.gateway.sound.request import form_for, form_type
from cloudcrest.gateway.tools.adapt import adapted
from cloudcrest.gateway.validate import build, check_engine, forwarded_fields, parse
from cloudcrest.gateway.waiting import Waiter, WaitingRoom, asked_wait_seconds, wait_seconds
from cloudcrest.identity.api import KeyDocument
from cloudcrest.identity.api import Scope as KeyScope
from cloudcrest.kernel.errors import CloudcrestError, NotFound, Unavailable
from cloudcrest.kernel.units import KIB
from cloudcrest.serving.api import RouteDocument

CHECKED_EARLY_BYTES = 16 * KIB


class Inference:
    """The stages of one worker.

    `admit` holds callers to their limits; of several workers, each is given that of the table that they share.
    """

    def __init__(
        self,
        *,
        snapshot: Snapshot,
        origin: Origin,
        calls: Calls,
        counting: Counting,
        claims: Claims,
        desk: Desk,
        admit: Admit = admit,
    ) -> None:
        self._snapshot = snapshot
        self._origin = origin
        self._calls = calls
        self._counting = counting
        self._admit = admit
        self.waiting = WaitingRoom(calls.monotonic, origin.metrics.waits, _call_later)
        self._claims = claims
        self._desk = desk
        self._batch_accounts = BatchAccounts()

    def check(self, request: Request) -> None:
        """Refuses at the head what is refused without its body."""
        if request.method == b"OPTIONS":
            return
        if request.method != b"POST":
            raise MethodNotAllowed(f"{request.path} takes POST")
        # Who has no key cannot make us read a large body. Small ones are checked when they are whole.
        if request.is_chunked or request.expects_continue or (request.content_length or 0) > CHECKED_EARLY_BYTES:
            self.authenticate(request)

    def authenticate(self, request: Request, scope: KeyScope = "inference") -> KeyDocument:
        """The key that a request was sent with, or is for. Raises `Unauthenticated`, `PermissionDenied`."""
        if request.behalf_of is not None:
            digest = self._snapshot.digest_of(request.behalf_of.decode("latin-1"))
            if digest is None:
                raise unknown_key()
            return key_of(self._snapshot, digest, unix_time(), scope)
        if request.key_digest is None:
            request.key_digest = key_digest(request.credentials)
        return key_of(self._snapshot, request.key_digest, unix_time(), scope)

    def begin(self, connection: Connection, request: Request) -> Responder:
        """Begins the answer to a whole request. Raises before anything is sent."""
        key = self.authenticate(request)
        parsed = self.read(request, key)
        request.body = b""
        policies = self._snapshot.policies
        policy = policies.of(key) if policies.is_any else None
        if policy is None:
            return self.serve(connection, request, key, parsed)
        return Screening(
            policy,
            connection,
            request,
            key,
            parsed,
            metrics=self._origin.metrics,
            go_on=lambda screened: self.serve(connection, request, self.authenticate(request), screened),
            soon=_call_soon,
        ).start()

    def serve(self, connection: Connection, request: Request, key: KeyDocument, parsed: Parsed) -> Responder:
        """Has it answered, or wait for room."""
        asked_seconds, head = asked_wait_seconds(request), request.extra_head
        try:
            responder = self._answer(connection, request, key, parsed)
            return Detached(responder) if request.is_batch and not parsed.is_stream else responder
        except OverLimit as error:
            seconds = wait_seconds(asked_seconds, self._snapshot.access(key, parsed.model).scopes)
            if seconds == 0:
                raise
            return self._wait(connection, request, key, parsed, waits_at=error, seconds=seconds, head=head)

    def read(self, request: Request, key: KeyDocument) -> Parsed:
        """The body, checked. Raises `InvalidInput`."""
        if key.project_id not in self._snapshot.lenient_projects:
            return _read(request, request.body)
        parsed, dropped = read_leniently(partial(_read, request), request.body, form_type(request))
        if dropped:
            request.extra_head += ignored_header(dropped)
        return parsed

    def fit(self, request: Request, key: KeyDocument, parsed: Parsed, document: RouteDocument) -> Parsed:
        """The request as this route's engine and model can take it. Raises `InvalidInput`."""
        if key.project_id not in self._snapshot.lenient_projects:
            return _fitted(document, parsed)
        parsed, dropped = fit_leniently(partial(_fitted, document), parsed)
        if dropped:
            request.extra_head += ignored_header(dropped)
        return parsed

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
            begin=lambda: self._answer(connection, request, self.authenticate(request), parsed),
            fail=fail,
            error=waits_at,
            head=head,
        )
        self.waiting.enter(waiter, seconds)
        return waiter

    def _answer(self, connection: Connection, request: Request, key: KeyDocument, parsed: Parsed) -> Responder:
        """Begins the answer by the model that is asked for, or those that take its place."""
        model = parsed.model
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
        parsed = self.fit(request, key, parsed, document)
        if not route.replicas:
            raise _not_ready(route)
        if request.is_batch:
            self._batch_accounts.check(request.id)
            check_idle((replica.slots, replica.in_flight) for replica in route.replicas)
        started_at = self._origin.microseconds()
        beside = parsed.beside
        if beside is not None:
            claim = self._claims.of_other(key, document.model_name, beside, started_at)
        else:
            claim = self._claims.of(key, parsed, document, started_at, "batch" if request.is_batch else "standard")
        now = self._calls.monotonic()
        if request.deadline == inf:  # a fallback has what is left
            set_deadline(request, access.timeout_seconds, self._calls.settings.request_timeout_seconds, now)
        try:
            self.waiting.check(scopes)
            grant = self._admit(scopes, parsed.estimated_tokens(document.context_tokens), now)
            grant.freed = self.waiting.freed
            if claim is not None and not self._desk.wallet.reserve(claim):
                admitted = Admitted(connection, request, key, route, parsed, grant, claim, started_at, fallback)
                return self._wait_for_budget(admitted, claim)
            return self._open(connection, request, key, route, parsed, grant, claim, started_at, fallback)
        finally:  # for the answer: the engine need not wait for them
            if scopes:
                request.extra_head += limit_headers(scopes, now)

    def _wait_for_budget(self, admitted: Admitted, claim: Claim) -> Responder:
        """Has a request wait for its budget; refused, it gives back what it took of its limits."""
        fallback = admitted.fallback
        if fallback is not None and fallback.has_open_account:  # which cannot wait until this one takes its place
            admitted.grant.settle(0)
            raise refused(self._desk.wallet.short_of(claim))
        waiting = WaitingForBudget(admitted, self._open_for, self._origin.metrics)
        try:
            waiting.cancel = self._desk.wait(claim, waiting.decided)
        except CloudcrestError:
            admitted.grant.settle(0)
            raise
        return waiting

    def _open_for(self, admitted: Admitted) -> Responder:
        return self._open(*admitted)

    def _open(  # noqa: PLR0917  # an `Admitted`, which is made only for those that wait
        self,
        connection: Connection,
        request: Request,
        key: KeyDocument,
        route: Route,
        parsed: Parsed,
        grant: Grant,
        claim: Claim | None,
        started_at: int,
        fallback: Fallback | None,
    ) -> Responder:
        """Opens the account of an admitted request and sends it on its way."""
        document = route.document
        if claim is not None and claim.is_capped:
            parsed.max_tokens = claim.limit_for(document.engine, document.context_tokens)
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
            tier="batch" if request.is_batch else "standard",
        )
        if request.is_batch:
            self._batch_accounts.add(account)
        try:
            branches: dict[str, bytes] | None = None
            if parsed.plain is not None:
                body = written_for(parsed.plain, parsed, document)
            elif parsed.sound is not None and parsed.sound.data:
                body = form_for(parsed, parsed.sound, document.model_name)
            elif needs_fanout(parsed, document.engine):
                body, branches = b"", forwarded_fields(parsed, document)
            else:
                body = build(forwarded_fields(parsed, document))
            outlet = parsed.make_outlet(request.id)
            parts = Parts(
                calls=self._calls,
                counting=self._counting,
                connection=connection,
                request=request,
                route=route,
                parsed=parsed,
                account=account,
                body=body,
                fallback=fallback,
                outlet=outlet,
            )
            relay = _relay_of(parts, branches)
            relay.start()
        except CloudcrestError:
            grant.settle(0)
            if claim is not None:
                claim.settle(0)
            raise
        return relay


def _read(request: Request, body: bytes) -> Parsed:
    if request.dialect is not None:
        request.body = body
        return request.dialect.read(request)
    plain = read_plain(body) if request.path == CHAT_PATH else None
    return parse(request.path, body) if plain is None else plain


def _fitted(document: RouteDocument, parsed: Parsed) -> Parsed:
    if parsed.plain is not None:
        check_engine(parsed, document)
        return parsed
    if parsed.has_marks and not document.takes_marks:
        parsed = without_marks(parsed)
    elif "tools" in parsed.fields and document.engine != "upstream":
        # Engines leave out a part's mark; of a tool they show the model all there is.
        parsed = without_marks(parsed, ("tools",))
    check_engine(parsed, document)
    return adapted(parsed, document)


def _relay_of(parts: Parts, branches: dict[str, bytes] | None) -> Relay | Fanout:
    """What passes an answer on. `branches`: the fields of a request that takes several to one engine."""
    parsed = parts.parsed
    if branches is not None:
        return (StreamFanout if parsed.is_stream else PlainFanout)(parts, branches)
    if parsed.sound is not None:
        return SoundRelay(parts, parsed.sound)
    if parsed.kind is ImageBody and isinstance(parsed.body, ImageBody):  # a plain chat's body is made when asked for
        return ImageRelay(parts, parsed.body.n or 1)
    return StreamRelay(parts) if parsed.is_stream else PlainRelay(parts)


def _call_soon(call: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(call)


def _call_later(seconds: float, call: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(seconds, call)


def _not_ready(route: Route) -> Unavailable:
    reason = route.document.unavailable_reason or "no replica of it is ready"
    return Unavailable(
        f"the model '{route.document.model_name}' cannot answer now: {reason}",
        code="model_unavailable",
        retry_after_seconds=5,
    )
