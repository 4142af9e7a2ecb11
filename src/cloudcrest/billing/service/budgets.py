"""Hard budgets: made, changed and shown. How they hold: grants.py and service/granting.py."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.billing import budget_repository, repository
from cloudcrest.billing.api import Budget, BudgetState
from cloudcrest.billing.periods import (
    BUDGET_KIND,
    Period,
    balance_document,
    bounds,
    microseconds,
    moment,
    scope_at,
)
from cloudcrest.billing.service.granting import document_of
from cloudcrest.billing.tariff import to_amount, to_units
from cloudcrest.identity.api import SYSTEM_ORGANIZATION_ID
from cloudcrest.infra.publication import publish, published_ids
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import Conflict, InvalidInput, NotFound
from cloudcrest.kernel.ids import NewId
from cloudcrest.metering.api import UsageFilter

MAX_PER_TARGET = 10
"""Each is reserved from by every request."""


class Budgets:
    """Makes, changes and shows budgets. Every call is inside the caller's transaction."""

    def __init__(self, clock: Clock, new_id: NewId) -> None:
        self._clock = clock
        self._new_id = new_id

    async def create(
        self,
        session: AsyncSession,
        *,
        organization_id: str,
        project_id: str | None,
        key_id: str | None,
        period: Period,
        amount: Decimal,
        currency: str | None,
        created_by: str,
    ) -> BudgetState:
        """A new budget, in force at once; what was spent in its present period counts. Raises `InvalidInput`,
        `NotFound`, `Conflict` where the target has too many.
        """
        accounts = await repository.read_accounts(session, [organization_id], lock=True)
        account = accounts.get(organization_id)
        if account is None:
            raise NotFound(f"there is no account of organization '{organization_id}'")
        if currency is not None and currency != account.currency:
            raise InvalidInput(
                f"the account of '{organization_id}' is in {account.currency}, not {currency}", param="body.currency"
            )
        budget = Budget(
            id=self._new_id("bud"),
            organization_id=organization_id,
            project_id=project_id,
            key_id=key_id,
            period=period,
            currency=account.currency,
            amount=_amount(amount),
            created_at=self._clock.now(),
            created_by=created_by,
        )
        if await budget_repository.count_of_target(session, budget) >= MAX_PER_TARGET:
            raise Conflict(
                f"it has {MAX_PER_TARGET} budgets, which is the most", code="too_many", hint="delete some first"
            )
        await budget_repository.add_budget(session, budget)
        await publish(session, BUDGET_KIND, budget.id, document_of(budget))
        return await self._state(session, budget)

    async def get(self, session: AsyncSession, budget_id: str) -> BudgetState:
        """The budget as it stands. Raises `NotFound`."""
        found = await budget_repository.budget(session, budget_id)
        if found is None:
            raise _missing(budget_id)
        return await self._state(session, found)

    async def page(
        self, session: AsyncSession, wanted: UsageFilter, *, before_id: str | None, limit: int
    ) -> list[BudgetState]:
        """At most `limit`, newest first."""
        found: Sequence[Budget] = await budget_repository.page(session, wanted, before_id=before_id, limit=limit)
        return [await self._state(session, budget) for budget in found]

    async def set_amount(self, session: AsyncSession, budget_id: str, amount: Decimal) -> BudgetState:
        """Changes the limit. Below what is spent and reserved, nothing new is granted; what was granted stays."""
        budget = await self._locked(session, budget_id)
        await budget_repository.set_amount(session, budget_id, _amount(amount))
        return await self._state(session, replace(budget, amount=amount))

    async def delete(self, session: AsyncSession, budget_id: str) -> None:
        """It holds nothing any more."""
        budget = await self._locked(session, budget_id)
        await budget_repository.delete_budget(session, budget.id)
        await publish(session, BUDGET_KIND, budget.id, None)

    async def publish_missing(self, session: AsyncSession) -> None:
        """Tells gateways of what they were not told of: balances of accounts that are older than budgets."""
        there = await published_ids(session, BUDGET_KIND)
        after_id = ""
        while page := await repository.accounts_after(session, after_id, 1_000, None):
            after_id = page[-1][0].organization_id
            for account, _ in page:
                document = balance_document(account.organization_id, account.currency)
                if document.id not in there and account.organization_id != SYSTEM_ORGANIZATION_ID:
                    await publish(session, BUDGET_KIND, document.id, document)

    async def _locked(self, session: AsyncSession, budget_id: str) -> Budget:
        found = await budget_repository.budget(session, budget_id)
        if found is not None:
            await repository.read_accounts(session, [found.organization_id], lock=True)
            found = await budget_repository.budget(session, budget_id)
        if found is None:
            raise _missing(budget_id)
        return found

    async def _state(self, session: AsyncSession, budget: Budget) -> BudgetState:
        now = microseconds(self._clock.now())
        since, until = bounds(budget.period, now)
        scope = scope_at(budget.id, budget.period, now)
        charged = await budget_repository.charged_units(session, [scope])
        if scope in charged:
            spent = to_amount(charged[scope])
        else:
            spent = await budget_repository.spent(session, budget, since, until)
        reserved = (await budget_repository.outstanding_units(session, [scope])).get(scope, 0)
        is_total = budget.period == "total"
        span: tuple[datetime | None, datetime | None] = (None, None) if is_total else (moment(since), moment(until))
        return BudgetState(budget, *span, spent, to_amount(reserved))


def _amount(amount: Decimal) -> Decimal:
    if amount < 0:
        raise InvalidInput("a budget is not below zero", param="body.amount")
    to_units(amount)
    return amount


def _missing(budget_id: str) -> NotFound:
    return NotFound(f"there is no budget '{budget_id}'")
