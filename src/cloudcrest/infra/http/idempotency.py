"""`Idempotency-Key`: a POST that is repeated is done once, and answered twice.

The first request with a key claims it. When it succeeds, its answer is kept (sealed: answers carry secrets that are
shown once) for 24 hours and given to whoever repeats the same request as the same caller. A request that fails changes
nothing, so its key is free again. Keys belong to callers: nobody meets another's. Callers without an identity (signing
in, registering) have no key space, so the header does nothing for them.

A process that dies half-way leaves a claim. The request's own transaction notes that it took effect
(`note_effect`, called by the unit of work), so the repetition knows whether it may run.
"""

import base64
import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, cast

import msgspec
import structlog
from anyio import CancelScope
from sqlalchemy import Index, Select, delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloudcrest.infra.database import Base, Database
from cloudcrest.infra.http.problems import problem_response
from cloudcrest.infra.sealing import Sealer
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import Conflict
from cloudcrest.kernel.ids import NewId
from cloudcrest.kernel.units import MIB

HEADER = "idempotency-key"
REPLAYED_HEADER = "idempotent-replayed"
KEPT_FOR = timedelta(hours=24)
_ABANDONED_AFTER = timedelta(seconds=60)
_MAX_KEY_CHARACTERS = 255
_MAX_KEPT_BYTES = 1 * MIB
_PURGE_ROWS = 50
_KEPT_HEADERS = ("content-type", "location", "set-cookie")
_log = structlog.get_logger(__name__)

CallerOf = Callable[[Request], str | None]
"""The identity of a request's caller ("key:key_…"), None where there is none."""


class IdempotentRequest(Base):
    """A claimed key. `sealed_response` null: still running, or its process died."""

    __tablename__ = "idempotent_requests"
    __table_args__ = (Index("ix_idempotent_requests_started_at", "started_at"),)

    caller_sha256: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[str]
    attempt: Mapped[str]
    started_at: Mapped[datetime]
    took_effect: Mapped[bool]
    sealed_response: Mapped[str | None]


class _KeptResponse(msgspec.Struct, frozen=True):
    status: int
    headers: list[tuple[str, str]]
    body_base64: str


async def note_effect(session: AsyncSession, request: Request) -> None:
    """Notes inside the request's transaction that it takes effect. The unit of work calls it before it commits.

    Raises `Conflict` where a repetition has taken the key over, believing this attempt dead: only one of them counts.
    """
    attempt = getattr(request.state, "idempotency_attempt", None)
    if attempt is None:
        return
    statement = update(IdempotentRequest).where(IdempotentRequest.attempt == attempt).values(took_effect=True)
    if (await session.execute(statement.returning(IdempotentRequest.attempt))).scalar_one_or_none() is None:
        raise Conflict(
            "a repetition of this request took over", code="idempotent_request_in_progress", hint="repeat it once more"
        )


class IdempotencyMiddleware:
    """Applies `Idempotency-Key` to POST requests under `/api/`. Stands inside authentication: a caller is known."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        database: Database,
        sealer: Sealer,
        clock: Clock,
        new_id: NewId,
        caller_of: CallerOf,
    ) -> None:
        self._app = app
        self._database = database
        self._sealer = sealer
        self._clock = clock
        self._new_id = new_id
        self._caller_of = caller_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].startswith("/api/"):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        key = request.headers.get(HEADER)
        caller = self._caller_of(request)
        if key is None or caller is None:
            await self._app(scope, receive, send)
            return
        if not (0 < len(key) <= _MAX_KEY_CHARACTERS and key.isascii() and key.isprintable()):
            await _invalid_key()(scope, receive, send)
            return
        await self._once(request, key, caller, send)

    async def _once(self, request: Request, key: str, caller: str, send: Send) -> None:
        body = await request.body()
        attempt = self._new_id("try")
        refusal = await self._claim(key, _digest(caller), _request_digest(request, body), attempt)
        if refusal is not None:
            await refusal(request.scope, request.receive, send)
            return
        request.state.idempotency_attempt = attempt
        captured = _Captured()
        keep = False
        try:
            await self._app(request.scope, _replay(body, request.receive), captured.send)
            keep = captured.status is not None and captured.status < 400 and captured.size_bytes <= _MAX_KEPT_BYTES
            if keep:
                await self._keep(attempt, captured)
        finally:
            if not keep:
                with CancelScope(shield=True):
                    await self._release(attempt)
        for message in captured.messages:
            await send(message)

    async def _claim(self, key: str, caller: str, digest: str, attempt: str) -> Response | None:
        """None when the key is this attempt's now; else what to answer."""
        now = self._clock.now()
        row = {
            "caller_sha256": caller,
            "key": key,
            "request_sha256": digest,
            "attempt": attempt,
            "started_at": now,
            "took_effect": False,
            "sealed_response": None,
        }
        table = IdempotentRequest
        is_free = (table.started_at < now - KEPT_FOR) | (
            (table.started_at < now - _ABANDONED_AFTER) & table.sealed_response.is_(None) & ~table.took_effect
        )
        statement = insert(table).values(row)
        claim = statement.on_conflict_do_update(index_elements=["caller_sha256", "key"], set_=row, where=is_free)
        async with self._database.transaction() as session:
            await session.execute(_purge(now))
            claimed = (await session.execute(claim.returning(table.attempt))).scalar_one_or_none()
            if claimed is not None:
                return None
            kept = (await session.execute(_find(caller, key))).scalar_one_or_none()
        if kept is None:
            return _in_progress()  # released between the two statements
        return self._answer(kept, digest)

    def _answer(self, kept: IdempotentRequest, digest: str) -> Response:
        if kept.request_sha256 != digest:
            return problem_response(
                422,
                title="Idempotency key reused",
                detail="this idempotency key was used for another request",
                code="idempotency_key_reused",
                hint="use a fresh key for each request that is not a repetition",
            )
        if kept.sealed_response is not None:
            return _response(msgspec.json.decode(self._sealer.open(kept.sealed_response), type=_KeptResponse))
        if kept.took_effect and kept.started_at < self._clock.now() - _ABANDONED_AFTER:
            return problem_response(
                409,
                title="Answer lost",
                detail="the first request took effect, but its answer was lost",
                code="idempotent_answer_lost",
                hint="list what it made instead of repeating it",
            )
        return _in_progress()

    async def _keep(self, attempt: str, captured: "_Captured") -> None:
        sealed = self._sealer.seal(msgspec.json.encode(captured.kept()).decode())
        async with self._database.transaction() as session:
            await session.execute(
                update(IdempotentRequest).where(IdempotentRequest.attempt == attempt).values(sealed_response=sealed)
            )

    async def _release(self, attempt: str) -> None:
        table = IdempotentRequest
        async with self._database.transaction() as session:
            await session.execute(delete(table).where(table.attempt == attempt, ~table.took_effect))


class _Captured:
    """A whole answer, held back until it is kept."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.status: int | None = None
        self.size_bytes = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        self.size_bytes += len(message.get("body", b""))
        self.messages.append(message)

    def kept(self) -> _KeptResponse:
        start = cast(dict[str, Any], self.messages[0])
        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in start["headers"]]
        body = b"".join(message.get("body", b"") for message in self.messages[1:])
        return _KeptResponse(
            status=start["status"],
            headers=[header for header in headers if header[0] in _KEPT_HEADERS],
            body_base64=base64.b64encode(body).decode(),
        )


def _response(kept: _KeptResponse) -> Response:
    response = Response(base64.b64decode(kept.body_base64), status_code=kept.status)
    for name, value in kept.headers:
        response.headers.append(name, value)
    response.headers[REPLAYED_HEADER] = "true"
    return response


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body again for who comes after, then the connection's own messages."""
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


def _find(caller: str, key: str) -> Select[IdempotentRequest]:
    table = IdempotentRequest
    return select(table).where(table.caller_sha256 == caller, table.key == key)


def _purge(now: datetime) -> Any:
    """Removes some that are too old, a few at each claim, so that nothing grows."""
    table = IdempotentRequest
    old = select(table.attempt).where(table.started_at < now - KEPT_FOR).order_by(table.started_at).limit(_PURGE_ROWS)
    return delete(table).where(table.attempt.in_(old.with_for_update(skip_locked=True).scalar_subquery()))


def _request_digest(request: Request, body: bytes) -> str:
    head = f"{request.method} {request.url.path}?{request.url.query} {request.headers.get('content-type', '')}"
    return hashlib.sha256(head.encode() + b"\n" + body).hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _in_progress() -> Response:
    return problem_response(
        409,
        title="In progress",
        detail="a request with this idempotency key is running",
        code="idempotent_request_in_progress",
        hint="repeat it in a moment to get its answer",
        headers={"retry-after": "1"},
    )


def _invalid_key() -> Response:
    return problem_response(
        400,
        title="Invalid request",
        detail=f"Idempotency-Key must have 1 to {_MAX_KEY_CHARACTERS} printable ASCII characters",
        code="invalid_value",
    )
