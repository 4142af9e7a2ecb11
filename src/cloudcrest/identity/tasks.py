"""Identity's background jobs: mails, and forgetting. Arguments lie in the database, so what is secret in them is
sealed.
"""

import msgspec
from procrastinate import RetryStrategy

from cloudcrest.identity.mail import Mail, Mailer
from cloudcrest.identity.service.accounts import AccountService
from cloudcrest.identity.service.keys import KeyService
from cloudcrest.identity.service.verification import VerificationService
from cloudcrest.infra.database import Database
from cloudcrest.infra.jobs import Blueprint
from cloudcrest.infra.sealing import Sealer

_RETRY = RetryStrategy(max_attempts=8, exponential_wait=4)


def blueprint(
    *,
    accounts: AccountService,
    verification: VerificationService,
    keys: KeyService,
    mailer: Mailer,
    sealer: Sealer,
    database: Database,
) -> Blueprint:
    """The jobs `send_mail`, `send_password_reset`, `send_email_verification` and, each night, `forget_revoked_keys`, in
    the namespace `identity`.
    """
    tasks = Blueprint()

    @tasks.task(name="send_mail", retry=_RETRY)
    async def send_mail(sealed_mail: str) -> None:
        await mailer.send(msgspec.json.decode(sealer.open(sealed_mail), type=Mail))

    @tasks.task(name="send_password_reset", retry=_RETRY)
    async def send_password_reset(email: str) -> None:
        await accounts.send_password_reset(email, mailer)

    @tasks.task(name="send_email_verification", retry=_RETRY)
    async def send_email_verification(user_id: str) -> None:
        await verification.send(user_id, mailer)

    @tasks.periodic(cron="41 3 * * *")
    @tasks.task(name="forget_revoked_keys", queueing_lock="identity:forget_revoked_keys")
    async def forget_revoked_keys(timestamp: int = 0) -> None:  # noqa: ARG001 - periodic tasks are given their time
        async with database.transaction() as session:
            await keys.forget_revoked(session)

    return tasks
