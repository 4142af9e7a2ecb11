"""Identity's background jobs: mails. Their arguments lie in the database, so what is secret in them is sealed."""

import msgspec
from procrastinate import RetryStrategy

from cloudcrest.identity.mail import Mail, Mailer
from cloudcrest.identity.service.accounts import AccountService
from cloudcrest.identity.service.verification import VerificationService
from cloudcrest.infra.jobs import Blueprint
from cloudcrest.infra.sealing import Sealer

_RETRY = RetryStrategy(max_attempts=8, exponential_wait=4)


def blueprint(
    *, accounts: AccountService, verification: VerificationService, mailer: Mailer, sealer: Sealer
) -> Blueprint:
    """The jobs `send_mail`, `send_password_reset` and `send_email_verification`, in the namespace `identity`."""
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

    return tasks
