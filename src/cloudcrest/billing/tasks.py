"""Background work of billing: usage that waits for a price is priced when it can be; what is over is forgotten."""

from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.billing.service.granting import Granting
from cloudcrest.billing.service.ingest import UsageIngest
from cloudcrest.billing.service.rate_cards import Defer
from cloudcrest.infra.database import Database
from cloudcrest.infra.jobs import Blueprint, Jobs

NAMESPACE = "billing"
_PRICE_WAITING = f"{NAMESPACE}:price_waiting"
_FORGET_GRANTS = f"{NAMESPACE}:forget_grants"


def blueprint(ingest: UsageIngest, granting: Granting, database: Database) -> Blueprint:
    """The tasks, for `jobs.register(NAMESPACE, …)`."""
    tasks = Blueprint()

    @tasks.periodic(cron="* * * * *")
    @tasks.task(name="price_waiting", queueing_lock=_PRICE_WAITING)
    async def price_waiting(timestamp: int = 0) -> None:  # noqa: ARG001 - periodic tasks are given their time
        await ingest.price_waiting(database)

    @tasks.periodic(cron="*/5 * * * *")
    @tasks.task(name="forget_grants", queueing_lock=_FORGET_GRANTS)
    async def forget_grants(timestamp: int = 0) -> None:  # noqa: ARG001 - periodic tasks are given their time
        await granting.forget(database)

    return tasks


def deferrer(jobs: Jobs) -> Defer:
    """Defers `price_waiting` inside a transaction. One that waits already will do, or the next minute's."""

    async def defer(session: AsyncSession) -> None:
        await jobs.defer(session, _PRICE_WAITING, queueing_lock=_PRICE_WAITING)

    return defer
