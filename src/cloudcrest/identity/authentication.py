"""Who calls: an API key or a session cookie, looked up in the database each time, into `request.state.caller`.

Management calls are rare, so nothing is cached and a revocation holds at once. What goes wrong is kept in
`request.state.caller_problem` and raised where a caller is needed: signing in works with a stale cookie.
"""

from fastapi import Request
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from cloudcrest.identity.api import Caller
from cloudcrest.identity.authority import key_memberships
from cloudcrest.identity.records import ApiKey
from cloudcrest.identity.repository import accounts, keys, members
from cloudcrest.identity.tokens import csrf_token, same, sha256_hex
from cloudcrest.infra.database import Database
from cloudcrest.infra.http.app import CSRF_HEADER
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import CloudcrestError, PermissionDenied, Unauthenticated

SESSION_COOKIE = "cloudcrest_session"
CSRF_COOKIE = "cloudcrest_csrf"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
CREDENTIAL_CHARACTERS_MAX = 512
_MANAGED_PATHS = "/api/"


class Authenticator:
    """Finds the caller of a request. Raises `Unauthenticated` or `PermissionDenied` (CSRF)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def by_key(self, session: AsyncSession, secret: str) -> Caller:
        """The caller that a management key acts as: its creator's roles, narrowed to the key's place."""
        key = await keys.key_by_sha256(session, sha256_hex(secret))
        if key is None or key.revoked_at is not None:
            raise Unauthenticated("this API key is unknown or revoked", hint="make a new one, or check for typos")
        if key.expires_at is not None and key.expires_at <= self._clock.now():
            raise Unauthenticated("this API key has expired", hint="make a new one")
        if "management" not in key.scopes:
            raise PermissionDenied(
                "this API key is for inference only", code="missing_scope", hint="use one with the management scope"
            )
        return await self._caller_of(session, key)

    async def by_session(self, session: AsyncSession, token: str, *, csrf: str | None, is_write: bool) -> Caller | None:
        """The person a session belongs to; None where it has ended. A write must show the session's CSRF token."""
        found = await accounts.find_session(session, sha256_hex(token), self._clock.now())
        user = None if found is None else await accounts.user_by_id(session, found.user_id)
        if user is None:
            return None
        if is_write and not same(csrf or "", csrf_token(token)):
            raise PermissionDenied(
                "a write with a session cookie needs the session's CSRF token",
                code="csrf_token_invalid",
                hint=f"send the value of the cookie {CSRF_COOKIE} in the header {CSRF_HEADER}",
            )
        return Caller(
            kind="user",
            id=user.id,
            memberships=await members.memberships_of(session, user.id),
            is_operator=user.is_operator,
            user_id=user.id,
        )

    async def _caller_of(self, session: AsyncSession, key: ApiKey) -> Caller:
        creator = None if key.created_by is None else await accounts.user_by_id(session, key.created_by)
        roles = () if creator is None else await members.memberships_of(session, creator.id)
        return Caller(
            kind="key",
            id=key.id,
            memberships=key_memberships(
                roles, key.organization_id, key.project_id, organization_wide=key.organization_wide
            ),
            # An operator's key is one only as long as its maker is an operator.
            is_operator=key.is_operator and creator is not None and creator.is_operator,
            user_id=key.created_by,
        )


class AuthenticationMiddleware:
    """Sets `request.state.caller` (None: anonymous) for `/api/`. `/internal/` has credentials of its own."""

    def __init__(self, app: ASGIApp, *, database: Database, authenticator: Authenticator) -> None:
        self._app = app
        self._database = database
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            state = scope.setdefault("state", {})
            state["caller"] = None
            state["caller_problem"] = None
            if scope["path"].startswith(_MANAGED_PATHS):
                try:
                    state["caller"] = await self._find(Request(scope))
                except CloudcrestError as problem:
                    state["caller_problem"] = problem
        await self._app(scope, receive, send)

    async def _find(self, request: Request) -> Caller | None:
        authorization = request.headers.get("authorization")
        if authorization is not None:
            scheme, _, secret = authorization.partition(" ")
            secret = secret.strip()
            if scheme.lower() != "bearer" or not 0 < len(secret) <= CREDENTIAL_CHARACTERS_MAX:
                raise Unauthenticated("the Authorization header is not `Bearer <key>`")
            async with self._database.transaction() as session:
                return await self._authenticator.by_key(session, secret)
        token = request.cookies.get(SESSION_COOKIE, "")
        if not 0 < len(token) <= CREDENTIAL_CHARACTERS_MAX:
            return None
        async with self._database.transaction() as session:
            return await self._authenticator.by_session(
                session, token, csrf=request.headers.get(CSRF_HEADER), is_write=request.method not in SAFE_METHODS
            )


def authentication(*, database: Database, clock: Clock) -> Middleware:
    """The middleware, for `create_app(authentication=[…])`: it stands before what needs to know the caller."""
    return Middleware(AuthenticationMiddleware, database=database, authenticator=Authenticator(clock))
