"""Reads and writes of the table of quotas."""

from typing import Any

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.compute.quotas.records import StoredQuota
from cloudcrest.compute.quotas.tables import QuotaRow
from cloudcrest.identity.api import Reach
from cloudcrest.infra.http.paging import PageRequest

_FIELDS = StoredQuota.__struct_fields__


async def lock(session: AsyncSession, region: str, organization_id: str) -> None:
    """Holds an organization's quotas in a region until the transaction ends: sums over them stay true."""
    name = f"quotas/{region}/{organization_id}"
    await session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))


async def add(session: AsyncSession, quota: StoredQuota) -> bool:
    """False: there is one of this owner and resource."""
    statement = insert(QuotaRow).values(**_values(quota)).on_conflict_do_nothing()
    return (await session.execute(statement.returning(QuotaRow.id))).first() is not None


async def save(session: AsyncSession, quota: StoredQuota) -> None:
    """Writes a changed quota."""
    await session.execute(update(QuotaRow).where(QuotaRow.id == quota.id).values(**_values(quota)))


async def remove(session: AsyncSession, quota_id: str) -> None:
    """Deletes a quota."""
    await session.execute(delete(QuotaRow).where(QuotaRow.id == quota_id))


async def find(session: AsyncSession, quota_id: str) -> StoredQuota | None:
    """One quota."""
    row = await session.get(QuotaRow, quota_id, populate_existing=True)
    return None if row is None else _quota(row)


async def of_organization(session: AsyncSession, region: str, organization_id: str, resource: str) -> list[StoredQuota]:
    """An organization's own quota of a resource and its projects', the organization's first."""
    wanted = QuotaRow.region == region, QuotaRow.organization_id == organization_id, QuotaRow.resource == resource
    return [_quota(row) for row in await session.scalars(select(QuotaRow).where(*wanted).order_by(QuotaRow.project_id))]


async def page(
    session: AsyncSession, request: PageRequest, *, reach: Reach, organization_id: str | None, region: str | None
) -> list[StoredQuota]:
    """A page within reach, newest first, with one more where there are more."""
    statement = select(QuotaRow)
    if not reach.everywhere:
        statement = statement.where(
            or_(QuotaRow.organization_id.in_(reach.organization_ids), QuotaRow.project_id.in_(reach.project_ids))
        )
    if organization_id is not None:
        statement = statement.where(QuotaRow.organization_id == organization_id)
    if region is not None:
        statement = statement.where(QuotaRow.region == region)
    return [_quota(row) for row in await session.scalars(request.apply(statement, QuotaRow.id))]


def _values(quota: StoredQuota) -> dict[str, Any]:
    return {field: getattr(quota, field) for field in _FIELDS}


def _quota(row: QuotaRow) -> StoredQuota:
    return StoredQuota(**{field: getattr(row, field) for field in _FIELDS})
