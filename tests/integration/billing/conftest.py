"""Billing over a real database."""

import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.billing.seed import seed
from cloudcrest.billing.service.accounts import Accounts
from cloudcrest.billing.service.budgets import Budgets
from cloudcrest.billing.service.granting import Granting
from cloudcrest.billing.service.ingest import UsageIngest
from cloudcrest.billing.service.rate_cards import RateCards
from cloudcrest.billing.service.usage import UsageReport
from cloudcrest.billing.service.verification import Verification
from cloudcrest.billing.settings import BillingSettings
from cloudcrest.infra.database import Database
from cloudcrest.kernel.clock import ManualClock
from cloudcrest.kernel.ids import new_id
from cloudcrest.metering.repository import UsageRepository


class Billing(msgspec.Struct):
    """Everything of billing, wired."""

    database: Database
    clock: ManualClock
    accounts: Accounts
    ingest: UsageIngest
    granting: Granting
    budgets: Budgets
    cards: RateCards
    report: UsageReport
    verification: Verification
    deferred: list[str]

    async def open_account(self, organization_id: str, currency: str = "USD") -> None:
        async with self.database.transaction() as session:
            await self.accounts.organization_created(session, organization_id, currency)


@pytest.fixture
async def billing(database: Database, clock: ManualClock) -> Billing:
    """Billing with the seeded prices."""
    events, deferred = UsageRepository(), []

    async def defer(session: AsyncSession) -> None:
        deferred.append("price_waiting")

    granting = Granting(clock)
    accounts = Accounts(BillingSettings(), clock, new_id)
    async with database.transaction() as session:
        await seed(session, clock, new_id)
        await seed(session, clock, new_id)
    return Billing(
        database,
        clock,
        accounts,
        UsageIngest(events, accounts, granting, clock, new_id),
        granting,
        Budgets(clock, new_id),
        RateCards(clock, new_id, defer),
        UsageReport(events),
        Verification(events),
        deferred,
    )
