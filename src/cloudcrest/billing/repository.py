"""Reading and writing rate cards, accounts, ledger entries and unpriced usage. SQL stands here alone in billing."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Date, Text, delete, exists, func, literal_column, select, update
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.billing.api import (
    Account,
    EntryKind,
    LedgerEntry,
    PricedLine,
    RateCard,
    UnpricedReason,
    UnpricedUsage,
)
from cloudcrest.billing.tables import AccountRow, LedgerEntryRow, RateCardRow, UnpricedUsageRow
from cloudcrest.kernel.money import plain
from cloudcrest.metering.api import GroupBy, UsageFilter

_PRICES_LOCK = 0x707269636573


async def hold_prices(session: AsyncSession, *, to_change_them: bool = False) -> None:
    """No rate card appears or goes while usage is priced: pricing shares this lock, a change of cards has it alone."""
    lock = func.pg_advisory_xact_lock if to_change_them else func.pg_advisory_xact_lock_shared
    await session.execute(select(lock(_PRICES_LOCK)))


async def add_rate_card(session: AsyncSession, card: RateCard, *, created_at: datetime, created_by: str | None) -> bool:
    """False: there is one of this model, currency and moment."""
    values = {**msgspec.structs.asdict(card), "created_at": created_at, "created_by": created_by}
    statement = insert(RateCardRow).values(values).on_conflict_do_nothing().returning(RateCardRow.id)
    return (await session.execute(statement)).scalar_one_or_none() is not None


async def delete_rate_card(session: AsyncSession, rate_card_id: str) -> None:
    """Only one that was never in force; the database refuses others."""
    await session.execute(delete(RateCardRow).where(RateCardRow.id == rate_card_id))


async def rate_card(session: AsyncSession, rate_card_id: str) -> RateCard | None:
    """The card of this id."""
    row = await session.get(RateCardRow, rate_card_id)
    return None if row is None else _to_card(row)


async def rate_cards(
    session: AsyncSession,
    *,
    models: Iterable[str] | None = None,
    currency: str | None = None,
    before_id: str | None = None,
    limit: int | None = None,
) -> list[RateCard]:
    """Cards, newest first."""
    statement = select(RateCardRow).order_by(RateCardRow.id.desc())
    if models is not None:
        statement = statement.where(RateCardRow.model.in_(list(models)))
    if currency is not None:
        statement = statement.where(RateCardRow.currency == currency)
    if before_id is not None:
        statement = statement.where(RateCardRow.id < before_id)
    return [_to_card(row) for row in await session.scalars(statement.limit(limit))]


async def current_rate_cards(
    session: AsyncSession, at: datetime, *, model: str | None, currency: str | None, before_id: str | None, limit: int
) -> list[RateCard]:
    """The card in force at a moment, for each model and currency."""
    in_force = select(RateCardRow.id).ext(distinct_on(RateCardRow.model, RateCardRow.currency))
    in_force = in_force.where(RateCardRow.valid_from <= at)
    in_force = in_force.order_by(RateCardRow.model, RateCardRow.currency, RateCardRow.valid_from.desc())
    statement = select(RateCardRow).where(RateCardRow.id.in_(in_force)).order_by(RateCardRow.id.desc())
    if model is not None:
        statement = statement.where(RateCardRow.model == model)
    if currency is not None:
        statement = statement.where(RateCardRow.currency == currency)
    if before_id is not None:
        statement = statement.where(RateCardRow.id < before_id)
    return [_to_card(row) for row in await session.scalars(statement.limit(limit))]


async def latest_priced_at(session: AsyncSession, model: str, currency: str) -> datetime | None:
    """When the latest request began whose usage of `model` was priced in `currency`."""
    return (
        await session.execute(
            select(func.max(LedgerEntryRow.usage_started_at))
            .where(LedgerEntryRow.model == model)
            .where(LedgerEntryRow.currency == currency)
        )
    ).scalar_one()


async def add_account(session: AsyncSession, organization_id: str, currency: str, created_at: datetime) -> bool:
    """False: the organization has one."""
    statement = (
        insert(AccountRow)
        .values(
            organization_id=organization_id,
            currency=currency,
            balance=Decimal(0),
            is_suspended=False,
            created_at=created_at,
        )
        .on_conflict_do_nothing()
        .returning(AccountRow.organization_id)
    )
    return (await session.execute(statement)).scalar_one_or_none() is not None


async def account(session: AsyncSession, organization_id: str) -> Account | None:
    """The account of an organization, as it is now."""
    return (await read_accounts(session, [organization_id])).get(organization_id)


async def read_accounts(
    session: AsyncSession, organization_ids: Iterable[str], *, lock: bool = False
) -> dict[str, Account]:
    """The accounts by organization. `lock` keeps them until the transaction ends; always taken in the order of their
    ids, so that no two transactions wait for each other.
    """
    statement = (
        select(AccountRow)
        .where(AccountRow.organization_id.in_(sorted(set(organization_ids))))
        .order_by(AccountRow.organization_id)
        .execution_options(populate_existing=True)  # another statement of this session may have changed it
    )
    if lock:
        statement = statement.with_for_update(key_share=True)
    return {row.organization_id: _to_account(row) for row in await session.scalars(statement)}


async def accounts_after(
    session: AsyncSession, after_id: str, limit: int, organization_id: str | None
) -> list[tuple[Account, Decimal]]:
    """Accounts in order, each with the sum of its entries in its currency."""
    sums = (
        select(func.coalesce(func.sum(LedgerEntryRow.amount), 0))
        .where(LedgerEntryRow.organization_id == AccountRow.organization_id)
        .where(LedgerEntryRow.currency == AccountRow.currency)
        .scalar_subquery()
    )
    statement = select(AccountRow, sums).where(AccountRow.organization_id > after_id)
    if organization_id is not None:
        statement = statement.where(AccountRow.organization_id == organization_id)
    rows = await session.execute(statement.order_by(AccountRow.organization_id).limit(limit))
    return [(_to_account(row[0]), row[1]) for row in rows]


async def save_account(session: AsyncSession, changed: Account) -> None:
    """Writes the balance of an account that is locked."""
    await session.execute(
        update(AccountRow)
        .where(AccountRow.organization_id == changed.organization_id)
        .values(balance=changed.balance)
        .execution_options(synchronize_session=False)
    )


async def add_entries(session: AsyncSession, entries: Sequence[LedgerEntry]) -> None:
    """Appends to the ledger."""
    if entries:
        await session.execute(insert(LedgerEntryRow), [_entry_values(entry) for entry in entries])


async def entry(session: AsyncSession, entry_id: str) -> LedgerEntry | None:
    """The entry of this id."""
    row = await session.get(LedgerEntryRow, entry_id)
    return None if row is None else _to_entry(row)


async def entry_by_reference(session: AsyncSession, organization_id: str, reference: str) -> LedgerEntry | None:
    """The credit or adjustment with an operator's reference."""
    row = (
        await session.scalars(
            select(LedgerEntryRow)
            .where(LedgerEntryRow.organization_id == organization_id)
            .where(LedgerEntryRow.reference == reference)
        )
    ).one_or_none()
    return None if row is None else _to_entry(row)


async def entries_of_events(session: AsyncSession, event_ids: Sequence[str]) -> dict[str, LedgerEntry]:
    """The usage entries of events, by the event's id."""
    rows = await session.scalars(select(LedgerEntryRow).where(LedgerEntryRow.event_id.in_(event_ids)))
    return {row.event_id: _to_entry(row) for row in rows if row.event_id is not None}


async def entries(
    session: AsyncSession, wanted: UsageFilter, *, kind: EntryKind | None, before_id: str | None, limit: int
) -> list[LedgerEntry]:
    """Entries, newest first."""
    statement = select(LedgerEntryRow).where(*_conditions(wanted, LedgerEntryRow.created_at.expression))
    if kind is not None:
        statement = statement.where(LedgerEntryRow.kind == kind)
    if before_id is not None:
        statement = statement.where(LedgerEntryRow.id < before_id)
    rows = await session.scalars(statement.order_by(LedgerEntryRow.id.desc()).limit(limit))
    return [_to_entry(row) for row in rows]


async def entries_after(
    session: AsyncSession, after_id: str, limit: int, organization_id: str | None
) -> list[LedgerEntry]:
    """Entries in the order of their ids; for going through all of them."""
    statement = select(LedgerEntryRow).where(LedgerEntryRow.id > after_id)
    if organization_id is not None:
        statement = statement.where(LedgerEntryRow.organization_id == organization_id)
    return [_to_entry(row) for row in await session.scalars(statement.order_by(LedgerEntryRow.id).limit(limit))]


async def charges(
    session: AsyncSession, wanted: UsageFilter, *, group_by: GroupBy
) -> dict[str, list[tuple[str, Decimal, int]]]:
    """What usage cost, by group: for each, the currencies with their sums (positive) and numbers of requests."""
    row = LedgerEntryRow
    day = sql_cast(sql_cast(func.timezone("UTC", row.usage_started_at), Date), Text)
    keys: dict[GroupBy, ColumnElement[Any]] = {
        "model": row.model.expression,
        "project": row.project_id.expression,
        "key": row.key_id.expression,
        "day": day,
        "day_model": day + " " + row.model.expression,
    }
    statement = (
        select(keys[group_by].label("group_key"), row.currency, -func.sum(row.amount), func.count())
        .where(row.kind == "usage", *_conditions(wanted, row.usage_started_at.expression))
        .group_by(literal_column("group_key"), row.currency)
        .order_by(literal_column("group_key"), row.currency)
    )
    found: dict[str, list[tuple[str, Decimal, int]]] = {}
    for group, currency, amount, requests in await session.execute(statement):
        found.setdefault(group, []).append((currency, amount, requests))
    return found


async def add_unpriced(session: AsyncSession, waiting: Sequence[UnpricedUsage]) -> None:
    """Notes events that cannot be priced yet."""
    if waiting:
        values = [msgspec.structs.asdict(item) for item in waiting]
        await session.execute(insert(UnpricedUsageRow).values(values).on_conflict_do_nothing())


async def remove_unpriced(session: AsyncSession, event_ids: Sequence[str]) -> None:
    """These are priced now."""
    await session.execute(delete(UnpricedUsageRow).where(UnpricedUsageRow.event_id.in_(event_ids)))


async def set_unpriced_reason(session: AsyncSession, event_ids: Sequence[str], reason: UnpricedReason) -> None:
    """What these wait for now."""
    await session.execute(
        update(UnpricedUsageRow)
        .where(UnpricedUsageRow.event_id.in_(event_ids))
        .values(reason=reason)
        .execution_options(synchronize_session=False)
    )


async def lock_unpriced(session: AsyncSession, after_id: str, limit: int) -> list[UnpricedUsage]:
    """Waiting events that something changed for since, in order; those that another transaction has in hand are passed
    over, so that whatever waits for good costs nothing.
    """
    row = UnpricedUsageRow
    has_account = exists().where(AccountRow.organization_id == row.organization_id)
    has_card = exists().where(
        AccountRow.organization_id == row.organization_id,
        RateCardRow.currency == AccountRow.currency,
        RateCardRow.model == row.model,
    )
    statement = (
        select(row)
        .where(row.event_id > after_id)
        .where(has_card | ((row.reason == "unknown_organization") & has_account))
        .order_by(row.event_id)
        .limit(limit)
        .with_for_update(of=row, skip_locked=True)
    )
    return [_to_unpriced(found) for found in await session.scalars(statement)]


async def unpriced(
    session: AsyncSession, wanted: UsageFilter, *, before_id: str | None, limit: int
) -> list[UnpricedUsage]:
    """Waiting events, newest first."""
    row = UnpricedUsageRow
    statement = select(row)
    if wanted.organization_ids is not None or wanted.project_ids is not None:
        statement = statement.where(
            row.organization_id.in_(wanted.organization_ids or ()) | row.project_id.in_(wanted.project_ids or ())
        )
    if wanted.organization_id is not None:
        statement = statement.where(row.organization_id == wanted.organization_id)
    if wanted.model is not None:
        statement = statement.where(row.model == wanted.model)
    if before_id is not None:
        statement = statement.where(row.event_id < before_id)
    rows = await session.scalars(statement.order_by(row.event_id.desc()).limit(limit))
    return [_to_unpriced(found) for found in rows]


async def unpriced_of_events(session: AsyncSession, event_ids: Sequence[str]) -> dict[str, UnpricedUsage]:
    """Those of these events that wait, by id."""
    rows = await session.scalars(select(UnpricedUsageRow).where(UnpricedUsageRow.event_id.in_(event_ids)))
    return {row.event_id: _to_unpriced(row) for row in rows}


def _conditions(wanted: UsageFilter, time: ColumnElement[Any]) -> list[ColumnElement[bool]]:
    row = LedgerEntryRow
    conditions: list[ColumnElement[bool]] = []
    if wanted.organization_ids is not None or wanted.project_ids is not None:
        conditions.append(
            row.organization_id.in_(wanted.organization_ids or ()) | row.project_id.in_(wanted.project_ids or ())
        )
    for column, value in (
        (row.organization_id.expression, wanted.organization_id),
        (row.project_id.expression, wanted.project_id),
        (row.key_id.expression, wanted.key_id),
        (row.model.expression, wanted.model),
    ):
        if value is not None:
            conditions.append(column == value)
    if wanted.since is not None:
        conditions.append(time >= wanted.since)
    if wanted.until is not None:
        conditions.append(time < wanted.until)
    return conditions


def _to_card(row: RateCardRow) -> RateCard:
    return RateCard(**{name: getattr(row, name) for name in RateCard.__struct_fields__})


def _to_account(row: AccountRow) -> Account:
    return Account(row.organization_id, row.currency, row.balance)


def _to_unpriced(row: UnpricedUsageRow) -> UnpricedUsage:
    return UnpricedUsage(**{name: getattr(row, name) for name in UnpricedUsage.__struct_fields__})


def _to_entry(row: LedgerEntryRow) -> LedgerEntry:
    values = {name: getattr(row, name) for name in LedgerEntry.__struct_fields__}
    lines = [_of_today(line) for line in row.lines or ()]
    return LedgerEntry(**values | {"lines": msgspec.convert(lines, tuple[PricedLine, ...], strict=False)})


def _of_today(line: dict[str, Any]) -> dict[str, Any]:
    """A stored line; those of older versions knew of tokens alone."""
    if "tokens" not in line:
        return line
    price = line["price_per_million_tokens"]
    return {"kind": line["kind"], "quantity": line["tokens"], "price": price, "amount": line["amount"]}


def _entry_values(item: LedgerEntry) -> dict[str, Any]:
    lines = [
        {
            "kind": line.kind,
            "quantity": line.quantity,
            "price": plain(line.price),
            "amount": plain(line.amount),
        }
        for line in item.lines
    ]
    return msgspec.structs.asdict(item) | {"lines": lines if item.kind == "usage" else None}
