"""People: registration, sign-in, sessions, passwords."""

from datetime import datetime, timedelta

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.identity.api import Caller
from cloudcrest.identity.attempts import AttemptLimiter, guesser
from cloudcrest.identity.authority import check_may_register
from cloudcrest.identity.documents import withdraw_key
from cloudcrest.identity.mail import Mailer, password_reset_mail
from cloudcrest.identity.passwords import Passwords
from cloudcrest.identity.records import Organization, User
from cloudcrest.identity.repository import accounts as repository
from cloudcrest.identity.repository import external_identities, links
from cloudcrest.identity.repository import keys as key_repository
from cloudcrest.identity.repository import members as member_repository
from cloudcrest.identity.service.members import NewAccount
from cloudcrest.identity.service.organizations import OrganizationService
from cloudcrest.identity.service.verification import SEND_EMAIL_VERIFICATION_TASK
from cloudcrest.identity.settings import IdentitySettings
from cloudcrest.identity.tokens import NewSecret, csrf_token, sha256_hex
from cloudcrest.infra.database import Database
from cloudcrest.infra.jobs import Jobs
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import Conflict, InvalidInput, PermissionDenied, Unauthenticated
from cloudcrest.kernel.ids import NewId

SEND_PASSWORD_RESET_TASK = "identity:send_password_reset"  # noqa: S105 - a task's name


class SignedIn(msgspec.Struct, frozen=True):
    """A fresh session: `token` goes into the cookie and nowhere else."""

    user: User
    token: str
    csrf_token: str
    expires_at: datetime
    lifetime_seconds: int


class AccountService:
    """Hashing takes a while, so it happens before the request's transaction takes a connection."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        new_id: NewId,
        settings: IdentitySettings,
        new_secret: NewSecret,
        passwords: Passwords,
        organizations: OrganizationService,
        jobs: Jobs,
    ) -> None:
        self._database = database
        self._clock = clock
        self._new_id = new_id
        self._settings = settings
        self._new_secret = new_secret
        self._passwords = passwords
        self._organizations = organizations
        self._jobs = jobs
        window_seconds = settings.attempt_window_seconds
        self._by_account = AttemptLimiter(clock, attempts=settings.attempts_per_account, window_seconds=window_seconds)
        self._by_address = AttemptLimiter(clock, attempts=settings.attempts_per_address, window_seconds=window_seconds)

    def count_address(self, address: str) -> None:
        """Counts something guessable tried from `address`. Raises `LimitExceeded`."""
        self._by_address.attempt(guesser(address))

    async def register(
        self, session: AsyncSession, account: NewAccount, organization_name: str | None, address: str
    ) -> tuple[SignedIn, Organization]:
        """A person with an organization of their own, signed in."""
        check_may_register(self._settings.registration)
        self.count_address(address)
        check_password(account.password, account.email)
        password_hash = await self._passwords.hash(account.password)
        user = User(
            id=self._new_id("user"),
            email=account.email,
            name=account.name,
            password_hash=password_hash,
            is_operator=False,
            created_at=self._clock.now(),
        )
        if not await repository.add_user(session, user):
            raise Conflict(
                "this e-mail address has an account", code="email_taken", hint="sign in, or reset the password"
            )
        name = organization_name or f"{account.name}'s organization"
        organization = await self._organizations.found(session, name, user.id)
        await self._jobs.defer(session, SEND_EMAIL_VERIFICATION_TASK, user_id=user.id)
        return await self.sign_in(session, user), organization

    async def login(self, session: AsyncSession, email: str, password: str, address: str) -> SignedIn:
        """Raises `Unauthenticated`, the same and as late for an unknown account as for a wrong password."""
        self.count_address(address)
        self._by_account.attempt(f"login:{email}")
        async with self._database.transaction() as lookup:
            user = await repository.user_by_email(lookup, email)
        known_hash = None if user is None else user.password_hash
        if not await self._passwords.verify(password, known_hash) or user is None:
            raise Unauthenticated(
                "e-mail address or password is wrong",
                code="invalid_login",
                hint="reset the password if it is forgotten",
            )
        current = await repository.user_by_id(session, user.id)
        if current is None or current.password_hash != user.password_hash:
            raise Unauthenticated(
                "the password was just changed", code="invalid_login", hint="sign in with the new one"
            )
        self._by_account.forgive(f"login:{email}")
        return await self.sign_in(session, current)

    async def logout(self, session: AsyncSession, token: str) -> None:
        await repository.delete_session(session, sha256_hex(token))

    async def logout_everywhere(self, session: AsyncSession, caller: Caller) -> None:
        """Ends every session of a signed-in person."""
        await repository.delete_sessions_of(session, person(caller))

    async def user(self, session: AsyncSession, user_id: str) -> User | None:
        return await repository.user_by_id(session, user_id)

    async def change_password(
        self, session: AsyncSession, caller: Caller, present: str, wanted: str, address: str
    ) -> SignedIn:
        """Ends every session and starts a new one for who changes it."""
        user_id = person(caller)
        self.count_address(address)
        async with self._database.transaction() as lookup:
            user = await repository.user_by_id(lookup, user_id)
        if user is None:
            raise Unauthenticated("this account is gone", code="not_authenticated")
        self._by_account.attempt(f"login:{user.email}")
        check_password(wanted, user.email, field="body.new_password")
        if not await self._passwords.verify(present, user.password_hash):
            raise PermissionDenied("the present password is wrong", code="invalid_login")
        self._by_account.forgive(f"login:{user.email}")
        await self._set_password(session, user_id, await self._passwords.hash(wanted))
        return await self.sign_in(session, user)

    async def request_password_reset(self, session: AsyncSession, email: str, address: str) -> None:
        """Does the same whether there is such an account: the job that sends the mail finds out."""
        self.count_address(address)
        self._by_account.attempt(f"reset:{email}")
        await self._jobs.defer(session, SEND_PASSWORD_RESET_TASK, email=email)

    async def send_password_reset(self, email: str, mailer: Mailer) -> None:
        """The job: opens a reset and mails its link, if there is such an account."""
        token = self._new_secret()
        lifetime_seconds = self._settings.password_reset_lifetime_seconds
        expires_at = self._clock.now() + timedelta(seconds=lifetime_seconds)
        async with self._database.transaction() as session:
            user = await repository.user_by_email(session, email)
            if user is None:
                return
            await links.put_link(session, links.PASSWORD_RESET, user.id, sha256_hex(token), expires_at)
        link = f"{self._settings.public_url.rstrip('/')}/password-reset#token={token}"
        await mailer.send(password_reset_mail(email, link, lifetime_seconds))

    async def confirm_password_reset(self, session: AsyncSession, token: str, wanted: str, address: str) -> None:
        """Sets the password and ends every session. The link works once, and proves whose the address is."""
        self.count_address(address)
        check_password(wanted, field="body.new_password")
        token_sha256, kind = sha256_hex(token), links.PASSWORD_RESET
        async with self._database.transaction() as lookup:
            known = await links.has_link(lookup, kind, token_sha256, self._clock.now())
        password_hash = await self._passwords.hash(wanted) if known else ""
        user_id = await links.take_link(session, kind, token_sha256, self._clock.now()) if known else None
        if user_id is None:
            raise InvalidInput(
                "this link is used up, replaced or expired", code="invalid_token", hint="ask for another one"
            )
        await self._set_password(session, user_id, password_hash)
        user = await repository.user_by_id(session, user_id)
        if user is not None:
            self._by_account.forgive(f"login:{user.email}")
            if user.email_verified_at is None:
                await self._hand_over(session, user.id)

    async def _hand_over(self, session: AsyncSession, user_id: str) -> None:
        """Takes an account from whoever made it with an address that now proves to be someone's: their management
        keys, their ways in through a provider and their invitations end.
        """
        now = self._clock.now()
        await repository.set_email_verified(session, user_id, now)
        await links.delete_link_of(session, links.EMAIL_VERIFICATION, user_id)
        await external_identities.delete_identities_of(session, user_id)
        await member_repository.delete_open_invitations_by(session, None, user_id)
        for key_id in await key_repository.revoke_management_keys_of(session, user_id, now):
            await withdraw_key(session, key_id)

    async def _set_password(self, session: AsyncSession, user_id: str, password_hash: str) -> None:
        await repository.set_password_hash(session, user_id, password_hash)
        await repository.delete_sessions_of(session, user_id)
        await links.delete_link_of(session, links.PASSWORD_RESET, user_id)

    async def sign_in(self, session: AsyncSession, user: User) -> SignedIn:
        """A session for someone who has proved to be `user`."""
        now = self._clock.now()
        lifetime_seconds = self._settings.session_lifetime_seconds
        expires_at = now + timedelta(seconds=lifetime_seconds)
        token = self._new_secret()
        await repository.add_session(session, sha256_hex(token), user.id, now, expires_at)
        return SignedIn(
            user=user,
            token=token,
            csrf_token=csrf_token(token),
            expires_at=expires_at,
            lifetime_seconds=lifetime_seconds,
        )


def person(caller: Caller) -> str:
    """The id of a signed-in person. Raises `PermissionDenied` for a key: keys do not touch accounts."""
    if caller.kind != "user":
        raise PermissionDenied("an API key cannot do this", hint="sign in with a password")
    return caller.id


def check_password(password: str, email: str | None = None, *, field: str = "body.password") -> None:
    """Raises `InvalidInput` for a password that is the e-mail address or one character over and over."""
    if password.lower() == email or len(set(password)) < 3:
        raise InvalidInput("this password is too easy to guess", param=field, hint="use a few unrelated words")
