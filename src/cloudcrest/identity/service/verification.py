"""Who an e-mail address belongs to: its verification, and what one cannot do without."""

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.identity.api import Caller
from cloudcrest.identity.attempts import AttemptLimiter
from cloudcrest.identity.mail import Mailer, verification_mail
from cloudcrest.identity.repository import accounts as repository
from cloudcrest.identity.repository.links import EMAIL_VERIFICATION, put_link, take_link
from cloudcrest.identity.settings import IdentitySettings
from cloudcrest.identity.tokens import NewSecret, sha256_hex
from cloudcrest.infra.database import Database
from cloudcrest.infra.jobs import Jobs
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import InvalidInput, PermissionDenied

SEND_EMAIL_VERIFICATION_TASK = "identity:send_email_verification"


class VerificationService:
    """Mails links that prove an address. Using one takes a session of the account as well: an address whose owner
    clicks on what a stranger had sent does not become the stranger's.
    """

    def __init__(
        self, *, database: Database, clock: Clock, settings: IdentitySettings, new_secret: NewSecret, jobs: Jobs
    ) -> None:
        self._database = database
        self._clock = clock
        self._settings = settings
        self._new_secret = new_secret
        self._jobs = jobs
        self._by_account = AttemptLimiter(
            clock, attempts=settings.attempts_per_account, window_seconds=settings.attempt_window_seconds
        )

    async def resend(self, session: AsyncSession, user_id: str) -> None:
        """Mails a fresh link, which replaces the last; none where the address is verified. Raises `LimitExceeded`."""
        self._by_account.attempt(user_id)
        await self._jobs.defer(session, SEND_EMAIL_VERIFICATION_TASK, user_id=user_id)

    async def send(self, user_id: str, mailer: Mailer) -> None:
        """The job: opens a verification and mails its link."""
        token = self._new_secret()
        lifetime_seconds = self._settings.email_verification_lifetime_seconds
        expires_at = self._clock.now() + timedelta(seconds=lifetime_seconds)
        async with self._database.transaction() as session:
            user = await repository.user_by_id(session, user_id)
            if user is None or user.email_verified_at is not None:
                return
            await put_link(session, EMAIL_VERIFICATION, user.id, sha256_hex(token), expires_at)
        link = f"{self._settings.public_url.rstrip('/')}/verify-email#token={token}"
        await mailer.send(verification_mail(user.email, link, lifetime_seconds))

    async def confirm(self, session: AsyncSession, user_id: str, token: str) -> None:
        """Notes that the signed-in person's address is theirs. The link works once, for them alone.

        Where the address is theirs already, as after a password reset, which took the link with it, all is well.
        """
        now = self._clock.now()
        user = await repository.user_by_id(session, user_id)
        if user is not None and user.email_verified_at is not None:
            return
        if await take_link(session, EMAIL_VERIFICATION, sha256_hex(token), now) != user_id:
            raise InvalidInput(
                "this link is used up, replaced, expired or another account's",
                code="invalid_token",
                hint="ask for another one, signed in to the account it is for",
            )
        await repository.set_email_verified(session, user_id, now)


async def require_verified(session: AsyncSession, settings: IdentitySettings, caller: Caller) -> None:
    """Raises `PermissionDenied` where addresses must be verified and the caller's is not; a key counts as its maker."""
    if not settings.require_verified_email or caller.is_operator:
        return
    user = await repository.user_by_id(session, caller.user_id or "")
    if user is None or user.email_verified_at is None:
        raise PermissionDenied(
            "your e-mail address is not verified yet",
            code="email_not_verified",
            hint="open the link that was mailed to you, or ask for another at POST /api/v1/auth/verify-email/resend",
        )
