"""Reading and writing budgets, their scopes and grants. SQL stands here and in repository.py alone in billing."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, cast

import msgspec
from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.billing.api import Budget
from cloudcrest.billing.grants import MAX_RECALLED, Grant
from cloudcrest.billing.periods import Period, microseconds, moment
from cloudcrest.billing.tables import BudgetGrantRow, BudgetRow, BudgetScopeRow, LedgerEntryRow
from cloudcrest.metering.api import UsageFilter


async def add_budget(session: AsyncSession, budget: Budget) -> None:
    """Writes a new budget."""
    await session.execute(insert(BudgetRow).values(msgspec.structs.asdict(budget)))


async def budget(session: AsyncSession, budget_id: str) -> Budget | None:
    """The budget of this id."""
    return (await budgets_by_ids(session, [budget_id])).get(budget_id)


async def budgets_by_ids(session: AsyncSession, ids: Collection[str]) -> dict[str, Budget]:
    """Those of these that there are."""
    rows = await session.scalars(
        select(BudgetRow).where(BudgetRow.id.in_(ids)).execution_options(populate_existing=True)
    )
    return {row.id: _to_budget(row) for row in rows}


async def budgets_of(session: AsyncSession, organization_ids: Collection[str]) -> list[Budget]:
    """All of these organizations."""
    rows = await session.scalars(select(BudgetRow).where(BudgetRow.organization_id.in_(organization_ids)))
    return [_to_budget(row) for row in rows]


async def all_budgets(session: AsyncSession) -> list[Budget]:
    """Every one there is."""
    return [_to_budget(row) for row in await session.scalars(select(BudgetRow))]


async def page(session: AsyncSession, wanted: UsageFilter, *, before_id: str | None, limit: int) -> list[Budget]:
    """Budgets, newest first."""
    row = BudgetRow
    statement = select(row)
    if wanted.organization_ids is not None or wanted.project_ids is not None:
        statement = statement.where(
            row.organization_id.in_(wanted.organization_ids or ()) | row.project_id.in_(wanted.project_ids or ())
        )
    for column, value in (
        (row.organization_id.expression, wanted.organization_id),
        (row.project_id.expression, wanted.project_id),
        (row.key_id.expression, wanted.key_id),
    ):
        if value is not None:
            statement = statement.where(column == value)
    if before_id is not None:
        statement = statement.where(row.id < before_id)
    return [_to_budget(found) for found in await session.scalars(statement.order_by(row.id.desc()).limit(limit))]


async def count_of_target(session: AsyncSession, wanted: Budget) -> int:
    """How many budgets hold the same organization, project or key."""
    row = BudgetRow
    statement = (
        select(func.count())
        .select_from(row)
        .where(row.organization_id == wanted.organization_id)
        .where(row.project_id.is_not_distinct_from(wanted.project_id))
        .where(row.key_id.is_not_distinct_from(wanted.key_id))
    )
    return (await session.execute(statement)).scalar_one()


async def set_amount(session: AsyncSession, budget_id: str, amount: Decimal) -> None:
    """Changes the limit."""
    await session.execute(
        update(BudgetRow)
        .where(BudgetRow.id == budget_id)
        .values(amount=amount)
        .execution_options(synchronize_session=False)
    )


async def delete_budget(session: AsyncSession, budget_id: str) -> None:
    """With its scopes and grants."""
    scopes = select(BudgetScopeRow.scope).where(BudgetScopeRow.budget_id == budget_id)
    await session.execute(delete(BudgetGrantRow).where(BudgetGrantRow.scope.in_(scopes)))
    await session.execute(delete(BudgetScopeRow).where(BudgetScopeRow.budget_id == budget_id))
    await session.execute(delete(BudgetRow).where(BudgetRow.id == budget_id))


async def charged_units(session: AsyncSession, scopes: Collection[str]) -> dict[str, int]:
    """What was charged of those of these scopes that were used."""
    row = BudgetScopeRow
    rows = await session.execute(select(row.scope, row.charged_units).where(row.scope.in_(scopes)))
    return {scope: int(units) for scope, units in rows}


async def save_charged(session: AsyncSession, scope: str, budget_id: str, units: int) -> None:
    """What is charged of a scope now; the caller holds the account's lock."""
    statement = insert(BudgetScopeRow).values(scope=scope, budget_id=budget_id, charged_units=units)
    set_ = {"charged_units": statement.excluded.charged_units}
    await session.execute(statement.on_conflict_do_update(index_elements=["scope"], set_=set_))


async def recall(session: AsyncSession, scopes: dict[str, str], until: datetime) -> None:
    """Somebody was refused of these scopes (with their budgets)."""
    for scope, budget_id in sorted(scopes.items()):
        statement = insert(BudgetScopeRow).values(
            scope=scope, budget_id=budget_id, charged_units=0, recalled_until=until
        )
        set_ = {"recalled_until": statement.excluded.recalled_until}
        await session.execute(statement.on_conflict_do_update(index_elements=["scope"], set_=set_))


async def recalled(session: AsyncSession, now: datetime) -> list[str]:
    """The scopes of which somebody was refused lately, the last of them if they are many."""
    row = BudgetScopeRow
    statement = select(row.scope).where(row.recalled_until > now).order_by(row.recalled_until.desc())
    found = await session.scalars(statement.limit(MAX_RECALLED))
    return [*found]


async def spent(session: AsyncSession, of: Budget, since: int, until: int) -> Decimal:
    """What the ledger holds of a budget between two moments (Unix microseconds), as a positive amount."""
    row = LedgerEntryRow
    statement = (
        select(func.coalesce(-func.sum(row.amount), 0))
        .where(row.organization_id == of.organization_id)
        .where(row.kind == "usage")
        .where(row.currency == of.currency)
    )
    conditions: list[ColumnElement[bool]] = []
    if of.project_id is not None:
        conditions.append(row.project_id == of.project_id)
    if of.key_id is not None:
        conditions.append(row.key_id == of.key_id)
    if of.period != "total":
        conditions += [row.usage_started_at >= moment(since), row.usage_started_at < moment(until)]
    return Decimal((await session.execute(statement.where(*conditions))).scalar_one())


async def grants(
    session: AsyncSession, *, scopes: Collection[str] = (), ids: Collection[str] = ()
) -> list[tuple[Grant, str]]:
    """Those of the scopes that may still be drawn on, and those of the ids, each with its region."""
    row = BudgetGrantRow
    wanted = (row.scope.in_(scopes) & (row.units > row.drawn_units)) | row.id.in_(ids)
    rows = await session.scalars(select(row).where(wanted).execution_options(populate_existing=True))
    return [(_to_grant(found), found.region) for found in rows]


async def save_grants(session: AsyncSession, region: str, changed: Iterable[Grant]) -> None:
    """Writes new grants of a region, and what became of older ones."""
    values = [
        {
            "id": grant.id,
            "scope": grant.scope,
            "region": region,
            "holder": grant.holder,
            "units": grant.units,
            "drawn_units": grant.drawn_units,
            "ends_at": moment(grant.ends_at_microseconds),
        }
        for grant in sorted(changed, key=lambda grant: grant.id)
    ]
    if not values:
        return
    statement = insert(BudgetGrantRow)
    set_ = {name: statement.excluded[name] for name in ("units", "drawn_units")}
    await session.execute(statement.on_conflict_do_update(index_elements=["id"], set_=set_), values)


async def outstanding_units(session: AsyncSession, scopes: Collection[str]) -> dict[str, int]:
    """What may still be drawn of these scopes, by scope."""
    row = BudgetGrantRow
    statement = (
        select(row.scope, func.sum(row.units - row.drawn_units)).where(row.scope.in_(scopes)).group_by(row.scope)
    )
    return {scope: int(units) for scope, units in await session.execute(statement)}


async def holders(session: AsyncSession, region: str) -> list[str]:
    """Who may still draw on something in a region."""
    row = BudgetGrantRow
    statement = select(row.holder).distinct().where(row.region == region).where(row.units > row.drawn_units)
    return [*await session.scalars(statement)]


async def delete_grants_of(session: AsyncSession, region: str, drained: Sequence[str]) -> int:
    """These holders draw on nothing any more; how many grants were over by that."""
    row = BudgetGrantRow
    statement = delete(row).where(row.region == region).where(row.holder.in_(drained)).returning(row.id)
    return len((await session.execute(statement)).all())


async def forget_grants(session: AsyncSession, until: datetime) -> None:
    """Drops grants that ended by then and can draw nothing more."""
    row = BudgetGrantRow
    await session.execute(delete(row).where(row.ends_at <= until).where(row.units <= row.drawn_units))


def _to_budget(row: BudgetRow) -> Budget:
    values: dict[str, Any] = {name: getattr(row, name) for name in Budget.__struct_fields__}
    return Budget(**values | {"period": cast("Period", row.period)})


def _to_grant(row: BudgetGrantRow) -> Grant:
    return Grant(row.id, row.scope, row.holder, int(row.units), microseconds(row.ends_at), int(row.drawn_units))
