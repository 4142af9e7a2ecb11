"""Reads and writes accelerator types."""

from datetime import datetime
from typing import Literal

import msgspec
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.compute.accelerator_types.tables import AcceleratorTypeRow
from cloudcrest.compute.api import AcceleratorType
from cloudcrest.infra.http.paging import PageRequest

Origin = Literal["known", "detected", "operator"]
_LOCK = 0x616363656C


class StoredType(msgspec.Struct, frozen=True):
    """A type and where it is from."""

    type: AcceleratorType
    origin: Origin
    known_sha256: str | None
    created_at: datetime
    updated_at: datetime


async def hold(session: AsyncSession) -> None:
    """No other adds or changes types until the transaction ends."""
    await session.execute(select(func.pg_advisory_xact_lock(_LOCK)))


async def all_types(session: AsyncSession) -> list[StoredType]:
    """Every type, by id."""
    return [_stored(row) for row in await session.scalars(select(AcceleratorTypeRow).order_by(AcceleratorTypeRow.id))]


async def ids(session: AsyncSession) -> list[str]:
    """The id of every type."""
    return list(await session.scalars(select(AcceleratorTypeRow.id).order_by(AcceleratorTypeRow.id)))


async def find(session: AsyncSession, type_id: str) -> StoredType | None:
    """One type."""
    row = await session.get(AcceleratorTypeRow, type_id, populate_existing=True)
    return None if row is None else _stored(row)


async def page(session: AsyncSession, request: PageRequest) -> list[StoredType]:
    """The types of a page in the order of their ids, with one more than the page when there are more."""
    statement = select(AcceleratorTypeRow)
    if request.cursor is not None:
        statement = statement.where(AcceleratorTypeRow.id > request.cursor)
    rows = await session.scalars(statement.order_by(AcceleratorTypeRow.id).limit(request.limit + 1))
    return [_stored(row) for row in rows]


async def save(
    session: AsyncSession, item: AcceleratorType, origin: Origin, now: datetime, *, known_sha256: str | None = None
) -> None:
    """Writes a type: new, or over the one of its id."""
    statement = insert(AcceleratorTypeRow).values(
        id=item.id,
        document=msgspec.to_builtins(item),
        origin=origin,
        known_sha256=known_sha256,
        created_at=now,
        updated_at=now,
    )
    changed = {name: statement.excluded[name] for name in ("document", "origin", "known_sha256", "updated_at")}
    await session.execute(statement.on_conflict_do_update(index_elements=["id"], set_=changed))


def _stored(row: AcceleratorTypeRow) -> StoredType:
    return msgspec.convert(
        {
            "type": row.document,
            "origin": row.origin,
            "known_sha256": row.known_sha256,
            "created_at": row.created_at,
            "updated_at": row.updated_at,
        },
        StoredType,
    )
