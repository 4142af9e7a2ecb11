"""Stand-ins for what identity reaches outside: a mailer that keeps mails, and billing's part in a new organization."""

from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.identity.mail import Mail


class FakeMailer:
    """Keeps what was sent, newest last."""

    def __init__(self) -> None:
        self.sent: list[Mail] = []

    async def send(self, mail: Mail) -> None:
        self.sent.append(mail)


class FakeOrganizationCreated:
    """Keeps whom it was called for, as (organization id, currency)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    async def organization_created(
        self,
        session: AsyncSession,  # noqa: ARG002 - the interface
        organization_id: str,
        currency: str,
    ) -> None:
        self.calls.append((organization_id, currency))
