"""Stand-ins for what identity reaches outside: a mailer that keeps mails, jobs that wait to be run."""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.identity.mail import Mail


class FakeMailer:
    """Keeps what was sent, newest last."""

    def __init__(self) -> None:
        self.sent: list[Mail] = []

    async def send(self, mail: Mail) -> None:
        self.sent.append(mail)


class FakeJobs:
    """Keeps what was deferred, as (task name, arguments), whether or not the transaction commits."""

    def __init__(self) -> None:
        self.deferred: list[tuple[str, dict[str, Any]]] = []

    async def defer(self, session: AsyncSession, task_name: str, **args: Any) -> None:  # noqa: ARG002 - the interface
        self.deferred.append((task_name, args))


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
