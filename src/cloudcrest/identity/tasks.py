"""Identity's background jobs: mails. Their arguments lie in the database, so what is secret in them is sealed."""

from typing import Protocol

import msgspec
from procrastinate import Blueprint, RetryStrategy

from cloudcrest.identity.mail import Mail, Mailer
from cloudcrest.identity.service.accounts import AccountService

_RETRY = RetryStrategy(max_attempts=8, exponential_wait=4)


class Opens(Protocol):
    """Decrypts what was sealed for a job."""

    def open(self, sealed: str) -> str: ...


def tasks(*, accounts: AccountService, mailer: Mailer, sealer: Opens) -> Blueprint:
    """The jobs `send_mail` and `send_password_reset`; to be added under the namespace `identity`."""
    blueprint = Blueprint()

    @blueprint.task(name="send_mail", retry=_RETRY)
    async def send_mail(sealed_mail: str) -> None:
        await mailer.send(msgspec.json.decode(sealer.open(sealed_mail), type=Mail))

    @blueprint.task(name="send_password_reset", retry=_RETRY)
    async def send_password_reset(email: str) -> None:
        await accounts.send_password_reset(email, mailer)

    return blueprint
