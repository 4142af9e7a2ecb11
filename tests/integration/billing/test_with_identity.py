"""Identity and billing together: a new organization has credit; without balance its gateways hear that it is over."""

from decimal import Decimal

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.billing.service.accounts import Accounts
from cloudcrest.billing.service.ingest import UsageIngest
from cloudcrest.billing.settings import BillingSettings
from cloudcrest.identity.api import ORGANIZATION_KIND, SYSTEM_ORGANIZATION_ID
from cloudcrest.identity.service.organizations import OrganizationService
from cloudcrest.identity.settings import IdentitySettings
from cloudcrest.infra.publication import read_page
from cloudcrest.kernel.ids import new_id
from cloudcrest.kernel.money import Money
from cloudcrest.kernel.usage import Usage
from cloudcrest.metering.api import UsageBatch
from cloudcrest.metering.repository import UsageRepository
from tests.integration.billing.conftest import Billing
from tests.unit.metering.events import usage_event

pytestmark = pytest.mark.anyio


async def published_reason(billing: Billing) -> object:
    async with billing.database.transaction() as session:
        page = await read_page(session, "", region="local")
    (document,) = [document for document in page.documents if document.kind == ORGANIZATION_KIND]
    assert document.body is not None
    return document.body.get("suspended_reason")


async def found(billing: Billing, starting_credit: int, organization_id: str | None = None) -> str:
    """Founds an organization with billing's account; its id."""
    opening = Opening()
    organizations = OrganizationService(
        clock=billing.clock, new_id=new_id, settings=IdentitySettings(), organization_created=opening
    )
    settings = BillingSettings(starting_credit=Decimal(starting_credit))
    opening.accounts = Accounts(organizations, settings, billing.clock, new_id)
    async with billing.database.transaction() as session:
        await session.execute(
            text(
                "insert into users (id, email, name, is_operator, created_at)"
                " values ('user_a', 'a@b.c', 'A', false, now())"
            )
        )
        organization = await organizations.found(session, "A", "user_a", organization_id=organization_id)
    return organization.suspended_reason or ""


class Opening:
    """Hands on to billing, which is made later."""

    accounts: Accounts

    async def organization_created(self, session: AsyncSession, organization_id: str, currency: str) -> None:
        await self.accounts.organization_created(session, organization_id, currency)


async def test_without_a_starting_credit_gateways_hear_that_an_organization_waits_for_one(billing: Billing) -> None:
    assert "used up" in await found(billing, 0)
    assert "used up" in str(await published_reason(billing))


async def test_the_clouds_own_organization_answers_probes_without_balance(billing: Billing) -> None:
    assert await found(billing, 0, SYSTEM_ORGANIZATION_ID) == ""
    assert await published_reason(billing) is None


@pytest.mark.parametrize("credit", ["NaN", "Infinity", "-1", "1e-30", "1e30"])
def test_a_starting_credit_is_an_amount(credit: str) -> None:
    with pytest.raises(ValueError, match="starting_credit"):
        BillingSettings(starting_credit=Decimal(credit))


async def test_a_new_organization_spends_its_credit_and_is_suspended(billing: Billing) -> None:
    organizations = OrganizationService(
        clock=billing.clock, new_id=new_id, settings=IdentitySettings(), organization_created=billing.accounts
    )
    accounts = Accounts(organizations, BillingSettings(), billing.clock, new_id)
    ingest = UsageIngest(UsageRepository(), accounts, billing.granting, billing.clock, new_id)
    async with billing.database.transaction() as session:
        await session.execute(
            text(
                "insert into users (id, email, name, is_operator, created_at)"
                " values ('user_a', 'a@b.c', 'A', false, now())"
            )
        )
        organization = await organizations.found(session, "A", "user_a")
    assert await published_reason(billing) is None
    async with billing.database.transaction() as session:
        event = usage_event(1, organization_id=organization.id, usage=Usage(600_000_000, 0))
        await ingest.ingest(session, "local", UsageBatch((event,)))
    assert "used up" in str(await published_reason(billing))
    async with billing.database.transaction() as session:
        account = await accounts.get(session, organization.id)
        await accounts.credit(
            session,
            account.organization_id,
            "credit",
            Money(-account.balance + 1, "USD"),
            note="paid",
            reference=None,
            created_by="user_o",
        )
    assert await published_reason(billing) is None
