"""Reads and writes regions."""

from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.infra.http.paging import PageRequest
from cloudcrest.regions.api import Region
from cloudcrest.regions.tables import RegionRow


async def find(session: AsyncSession, region_id: str) -> Region | None:
    """One region, None when there is none of this id."""
    row = await session.get(RegionRow, region_id)
    return None if row is None else _region(row)


async def find_by_token(session: AsyncSession, token_sha256: str) -> Region | None:
    """The region whose link token has this hash."""
    row = await session.scalar(select(RegionRow).where(RegionRow.token_sha256 == token_sha256))
    return None if row is None else _region(row)


async def page(session: AsyncSession, request: PageRequest) -> list[Region]:
    """The regions of a page, with one more than the page when there are more."""
    rows = await session.scalars(request.apply(select(RegionRow), RegionRow.id))
    return [_region(row) for row in rows]


async def all_regions(session: AsyncSession) -> list[Region]:
    """Every region; operators make them, and there are few."""
    return [_region(row) for row in await session.scalars(select(RegionRow))]


async def ids(session: AsyncSession) -> list[str]:
    """Every region's id, sorted."""
    return [*(await session.scalars(select(RegionRow.id).order_by(RegionRow.id)))]


async def add(session: AsyncSession, region: Region, token_sha256: str) -> bool:
    """Adds a region; False when there is one of this id already."""
    values = {
        "id": region.id,
        "name": region.name,
        "jurisdiction": region.jurisdiction,
        "endpoint_url": region.endpoint_url,
        "token_sha256": token_sha256,
        "created_at": region.created_at,
    }
    statement = insert(RegionRow).values(values).on_conflict_do_nothing(index_elements=["id"])
    added = await session.scalar(statement.returning(RegionRow.id))
    return added is not None


async def set_token(session: AsyncSession, region_id: str, token_sha256: str) -> bool:
    """Replaces the link token; False when there is no such region."""
    statement = update(RegionRow).where(RegionRow.id == region_id).values(token_sha256=token_sha256)
    changed = await session.scalar(statement.returning(RegionRow.id))
    return changed is not None


async def set_last_seen(session: AsyncSession, region_id: str, now: datetime) -> None:
    """Notes that the region was heard of."""
    await session.execute(update(RegionRow).where(RegionRow.id == region_id).values(last_seen_at=now))


def _region(row: RegionRow) -> Region:
    return Region(
        id=row.id,
        name=row.name,
        jurisdiction=row.jurisdiction,
        endpoint_url=row.endpoint_url,
        created_at=row.created_at,
        last_seen_at=row.last_seen_at,
    )
