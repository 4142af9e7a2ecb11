"""Identity and billing together: a new organization has an account, and gateways hear of its balance."""

from decimal import Decimal

import pytest
from sqlalchemy import text

from cloudcrest.billing.periods import BUDGET_KIND, balance_document
from cloudcrest.billing.service.accounts import Accounts
from cloudcrest.billing.settings import BillingSettings
from cloudcrest.identity.api import SYSTEM_ORGANIZATION_ID
from cloudcrest.identity.service.organizations import OrganizationService
from cloudcrest.identity.settings import IdentitySettings
from cloudcrest.infra.publication import read_page
from cloudcrest.kernel.ids import new_id
from tests.integration.billing.conftest import Billing

pytestmark = pytest.mark.anyio


async def found(billing: Billing, starting_credit: int, organization_id: str | None = None) -> str:
    """Founds an organization with billing's account; its id."""
    accounts = Accounts(BillingSettings(starting_credit=Decimal(starting_credit)), billing.clock, new_id)
    organizations = OrganizationService(
        clock=billing.clock, new_id=new_id, settings=IdentitySettings(), organization_created=accounts
    )
    async with billing.database.transaction() as session:
        await session.execute(
            text(
                "insert into users (id, email, name, is_operator, created_at)"
                " values ('user_a', 'a@b.c', 'A', false, now())"
            )
        )
        return (await organizations.found(session, "A", "user_a", organization_id=organization_id)).id


async def balances_told(billing: Billing) -> list[str]:
    async with billing.database.transaction() as session:
        page = await read_page(session, "", region="local")
    return [document.id for document in page.documents if document.kind == BUDGET_KIND]


@pytest.mark.parametrize("credit", [0, 7])
async def test_a_new_organization_has_its_credit_and_gateways_hear_of_its_balance(
    billing: Billing, credit: int
) -> None:
    organization_id = await found(billing, credit)
    async with billing.database.transaction() as session:
        assert (await billing.accounts.get(session, organization_id)).balance == credit
    assert await balances_told(billing) == [balance_document(organization_id, "USD").id]


async def test_the_clouds_own_organization_answers_probes_without_balance(billing: Billing) -> None:
    await found(billing, 0, SYSTEM_ORGANIZATION_ID)
    async with billing.database.transaction() as session:
        await billing.budgets.publish_missing(session)
    assert await balances_told(billing) == []


@pytest.mark.parametrize("credit", ["NaN", "Infinity", "-1", "1e-30", "1e30"])
def test_a_starting_credit_is_an_amount(credit: str) -> None:
    with pytest.raises(ValueError, match="starting_credit"):
        BillingSettings(starting_credit=Decimal(credit))
