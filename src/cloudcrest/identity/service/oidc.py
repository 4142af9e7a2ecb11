"""Sign-in through an OpenID Connect provider: begun here, done there, come back with a code."""

import re
from datetime import UTC, datetime, timedelta

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.identity.authority import check_may_register
from cloudcrest.identity.id_token import Person
from cloudcrest.identity.provider import Attempt, IdentityProvider
from cloudcrest.identity.records import User
from cloudcrest.identity.repository import accounts as repository
from cloudcrest.identity.repository import external_identities
from cloudcrest.identity.service.accounts import AccountService, SignedIn
from cloudcrest.identity.service.organizations import OrganizationService
from cloudcrest.identity.service.verification import SEND_EMAIL_VERIFICATION_TASK
from cloudcrest.identity.settings import IdentitySettings
from cloudcrest.identity.tokens import NewSecret, same, sha256_hex
from cloudcrest.infra.database import Database
from cloudcrest.infra.jobs import Jobs
from cloudcrest.infra.sealing import Sealer
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import Conflict, InvalidInput, NotFound, PermissionDenied, SetupError
from cloudcrest.kernel.ids import NewId

CALLBACK_PATH = "/api/v1/auth/oidc/callback"
BEGUN_LASTS_SECONDS = 600
_EMAIL = re.compile(r"[a-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[a-z0-9](?:[a-z0-9.-]{0,187}[a-z0-9])?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NAME_CHARACTERS_MAX = 100
_ORGANIZATION_SUFFIX = "'s organization"


class Begun(msgspec.Struct, frozen=True, tag="oidc", tag_field="kind"):
    """What the browser keeps, sealed, while it is at the provider."""

    attempt: Attempt
    return_to: str
    expires_unix_seconds: float


class Answer(msgspec.Struct, frozen=True):
    """What the provider sent the browser back with."""

    state: str
    code: str | None
    error: str | None
    issuer: str | None


class OidcService:
    """Calls to the provider are made before the request's transaction takes a connection."""

    def __init__(
        self,
        *,
        provider: IdentityProvider | None,
        accounts: AccountService,
        organizations: OrganizationService,
        database: Database,
        sealer: Sealer,
        jobs: Jobs,
        settings: IdentitySettings,
        clock: Clock,
        new_id: NewId,
        new_secret: NewSecret,
    ) -> None:
        self._provider = provider
        self._accounts = accounts
        self._organizations = organizations
        self._database = database
        self._sealer = sealer
        self._jobs = jobs
        self._settings = settings
        self._clock = clock
        self._new_id = new_id
        self._new_secret = new_secret
        self._redirect_uri = settings.public_url.rstrip("/") + CALLBACK_PATH

    @property
    def provider(self) -> IdentityProvider:
        """Raises `NotFound` where none is configured."""
        if self._provider is None:
            raise NotFound(
                "no identity provider is configured",
                code="no_identity_provider",
                hint="sign in with a password; an operator can set CLOUDCREST_OIDC_ISSUER",
            )
        return self._provider

    async def begin(self, return_to: str, address: str) -> tuple[str, str]:
        """Where the browser goes, and the sealed cookie that it comes back with. `return_to`: a path of this cloud."""
        provider = self.provider
        self._accounts.count_address(address)
        attempt = Attempt(state=self._new_secret(), nonce=self._new_secret(), verifier=self._new_secret())
        url = await provider.sign_in_url(attempt, self._redirect_uri)
        begun = Begun(
            attempt=attempt,
            return_to=return_to,
            expires_unix_seconds=self._clock.now().timestamp() + BEGUN_LASTS_SECONDS,
        )
        return url, self._sealer.seal(msgspec.json.encode(begun).decode())

    async def complete(self, session: AsyncSession, answer: Answer, cookie: str, address: str) -> tuple[SignedIn, str]:
        """The session of who signed in, and the path to return to. A sign-in comes back once."""
        provider = self.provider
        self._accounts.count_address(address)
        begun = self._open(cookie, answer.state)
        if answer.issuer not in (None, provider.issuer):  # RFC 9207
            raise _lost()
        await self._use(begun)
        if answer.code is None:
            raise PermissionDenied(
                f"the identity provider did not sign you in: {answer.error or 'it sent no code'}", code="oidc_refused"
            )
        found = await provider.person(answer.code, begun.attempt, self._redirect_uri)
        user = await self._user(session, provider.issuer, found)
        return await self._accounts.sign_in(session, user), begun.return_to

    def _open(self, cookie: str, state: str) -> Begun:
        try:
            begun = msgspec.json.decode(self._sealer.open(cookie), type=Begun)
        except (SetupError, msgspec.DecodeError, ValueError) as error:
            raise _lost() from error
        is_over = begun.expires_unix_seconds <= self._clock.now().timestamp()
        if is_over or not same(begun.attempt.state, state):
            raise _lost()
        return begun

    async def _use(self, begun: Begun) -> None:
        """In a transaction of its own: a sign-in that fails afterwards is used up too."""
        expires_at = datetime.fromtimestamp(begun.expires_unix_seconds, UTC) + timedelta(seconds=1)
        async with self._database.transaction() as session:
            state_sha256 = sha256_hex(begun.attempt.state)
            if not await external_identities.use_state(session, state_sha256, expires_at, self._clock.now()):
                raise _lost()

    async def _user(self, session: AsyncSession, issuer: str, found: Person) -> User:
        """Whose account it is: the linked one, else the one of a proved address, else a new one."""
        linked_id = await external_identities.user_id_of(session, issuer, found.subject)
        linked = None if linked_id is None else await repository.user_by_id(session, linked_id)
        if linked is not None:
            return linked
        email = found.email
        if email is None or not _EMAIL.fullmatch(email):
            raise PermissionDenied(
                "the identity provider gave no e-mail address that can be used",
                code="oidc_no_email",
                hint="give it one there, or let this client have the scope `email`",
            )
        known = await repository.user_by_email(session, email)
        user = await self._new_user(session, email, found) if known is None else known
        if known is not None and not (found.email_verified and known.email_verified_at is not None):
            raise _not_linked()
        if not await external_identities.add_identity(session, issuer, found.subject, user.id, self._clock.now()):
            raise Conflict("another sign-in of this account is going on", hint="start the sign-in again")
        return user

    async def _new_user(self, session: AsyncSession, email: str, found: Person) -> User:
        check_may_register(self._settings.registration)
        now = self._clock.now()
        name = _CONTROL.sub(" ", found.name or "").strip() or email.partition("@")[0]
        user = User(
            id=self._new_id("user"),
            email=email,
            name=name[:_NAME_CHARACTERS_MAX],
            password_hash=None,
            is_operator=False,
            created_at=now,
            email_verified_at=now if found.email_verified else None,
        )
        if not await repository.add_user(session, user):
            raise _not_linked()
        if not found.email_verified:
            await self._jobs.defer(session, SEND_EMAIL_VERIFICATION_TASK, user_id=user.id)
        owner = user.name[: _NAME_CHARACTERS_MAX - len(_ORGANIZATION_SUFFIX)]
        await self._organizations.found(session, owner + _ORGANIZATION_SUFFIX, user.id)
        return user


def _lost() -> InvalidInput:
    return InvalidInput(
        "this sign-in was not begun in this browser, has come back before, or took too long",
        code="oidc_state_invalid",
        hint="start the sign-in again",
    )


def _not_linked() -> Conflict:
    return Conflict(
        "there is an account with this e-mail address, and it is not proved that it is yours",
        code="account_not_linked",
        hint="sign in with its password (reset it if need be), and verify the address both there and at the provider",
    )
