"""Background work of billing: usage that waits for a price is priced when it can be."""

from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.billing.service.ingest import UsageIngest
from cloudcrest.billing.service.rate_cards import Defer
from cloudcrest.infra.database import Database
from cloudcrest.infra.jobs import Blueprint, Jobs

NAMESPACE = "billing"
_PRICE_WAITING = f"{NAMESPACE}:price_waiting"


def blueprint(ingest: UsageIngest, database: Database) -> Blueprint:
    """The tasks, for `jobs.register(NAMESPACE, …)`."""
    tasks = Blueprint()

    @tasks.periodic(cron="* * * * *")
    @tasks.task(name="price_waiting", queueing_lock=_PRICE_WAITING)
    async def price_waiting(timestamp: int = 0) -> None:  # noqa: ARG001 - periodic tasks are given their time
        await ingest.price_waiting(database)

    return tasks


def deferrer(jobs: Jobs) -> Defer:
    """Defers `price_waiting` inside a transaction. One that waits already will do, or the next minute's."""

    async def defer(session: AsyncSession) -> None:
        await jobs.defer(session, _PRICE_WAITING, queueing_lock=_PRICE_WAITING)

    return defer
