"""A new rate card prices what has waited for it, in the background."""

from datetime import timedelta
from decimal import Decimal

import pytest

from cloudcrest.billing import tasks
from cloudcrest.billing.service.rate_cards import Prices, RateCards
from cloudcrest.infra.jobs import Jobs
from cloudcrest.kernel.ids import new_id
from cloudcrest.metering.api import UsageBatch
from tests.integration.billing.conftest import Billing
from tests.unit.metering.events import usage_event

pytestmark = pytest.mark.anyio


async def test_a_new_card_prices_what_waited(billing: Billing) -> None:
    jobs = Jobs(billing.database)
    jobs.register(tasks.NAMESPACE, tasks.blueprint(billing.ingest, billing.granting, billing.database))
    cards = RateCards(billing.clock, new_id, tasks.deferrer(jobs))
    await billing.open_account("org_a")
    async with billing.database.transaction() as session:
        await billing.ingest.ingest(session, "local", UsageBatch((usage_event(1, model="new-model"),)))
    early, prices = billing.clock.now() - timedelta(days=1), Prices(Decimal(1), Decimal(1), Decimal(1))
    async with billing.database.transaction() as session:
        await cards.create(session, "new-model", "USD", prices, valid_from=early, created_by=None)
    await jobs.run_waiting()
    async with billing.database.transaction() as session:
        assert (await billing.accounts.get(session, "org_a")).balance == Decimal("9.999943")
