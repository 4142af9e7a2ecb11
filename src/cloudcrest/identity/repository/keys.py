"""API keys."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.identity.api import Limits, Scope
from cloudcrest.identity.records import ApiKey
from cloudcrest.identity.tables import ApiKeyRow
from cloudcrest.infra.http.paging import PageRequest


async def add_key(session: AsyncSession, key: ApiKey) -> None:
    session.add(
        ApiKeyRow(
            id=key.id,
            organization_id=key.organization_id,
            project_id=key.project_id,
            created_by=key.created_by,
            name=key.name,
            prefix=key.prefix,
            key_sha256=key.key_sha256,
            scopes=list(key.scopes),
            models=None if key.models is None else list(key.models),
            labels=key.labels,
            limits=msgspec.to_builtins(key.limits),
            organization_wide=key.organization_wide,
            is_operator=key.is_operator,
            created_at=key.created_at,
            expires_at=key.expires_at,
            revoked_at=key.revoked_at,
        )
    )
    await session.flush()


async def key_by_id(session: AsyncSession, key_id: str, *, lock: bool = False) -> ApiKey | None:
    """Revoked ones too. `lock` holds the row until the transaction ends."""
    statement = select(ApiKeyRow).where(ApiKeyRow.id == key_id)
    row = (await session.execute(statement.with_for_update() if lock else statement)).scalar_one_or_none()
    return None if row is None else _key(row)


async def key_by_sha256(session: AsyncSession, key_sha256: str) -> ApiKey | None:
    """Revoked and expired ones too."""
    row = (await session.execute(select(ApiKeyRow).where(ApiKeyRow.key_sha256 == key_sha256))).scalar_one_or_none()
    return None if row is None else _key(row)


async def list_keys(
    session: AsyncSession,
    page: PageRequest,
    *,
    organization_id: str | None,
    project_id: str | None,
    organizations: frozenset[str] | None,
    projects: frozenset[str],
) -> list[ApiKey]:
    """Newest first: of an organization or project, within `organizations` (None: any) or `projects`."""
    statement = page.apply(select(ApiKeyRow), ApiKeyRow.id)
    if organization_id is not None:
        statement = statement.where(ApiKeyRow.organization_id == organization_id)
    if project_id is not None:
        statement = statement.where(ApiKeyRow.project_id == project_id)
    if organizations is not None:
        statement = statement.where(ApiKeyRow.organization_id.in_(organizations) | ApiKeyRow.project_id.in_(projects))
    return [_key(row) for row in (await session.execute(statement)).scalars()]


async def count_live_keys(session: AsyncSession, project_id: str) -> int:
    """Revoked ones do not count."""
    statement = (
        select(func.count())
        .select_from(ApiKeyRow)
        .where(ApiKeyRow.project_id == project_id, ApiKeyRow.revoked_at.is_(None))
    )
    return (await session.execute(statement)).scalar_one()


async def update_key(session: AsyncSession, key_id: str, changes: dict[str, Any]) -> None:
    """Writes columns; `Limits` become JSON."""
    values = {
        name: msgspec.to_builtins(value) if isinstance(value, Limits) else value for name, value in changes.items()
    }
    await session.execute(update(ApiKeyRow).where(ApiKeyRow.id == key_id).values(values))


async def revoke_keys_of_project(session: AsyncSession, project_id: str, now: datetime) -> list[str]:
    """Revokes what is left of a project's keys; their ids."""
    statement = (
        update(ApiKeyRow)
        .where(ApiKeyRow.project_id == project_id, ApiKeyRow.revoked_at.is_(None))
        .values(revoked_at=now)
        .returning(ApiKeyRow.id)
    )
    return list((await session.execute(statement)).scalars())


async def revoke_management_keys_of(session: AsyncSession, user_id: str, now: datetime) -> list[str]:
    """Revokes what keys with the management scope a person made; their ids."""
    statement = (
        update(ApiKeyRow)
        .where(
            ApiKeyRow.created_by == user_id, ApiKeyRow.revoked_at.is_(None), ApiKeyRow.scopes.contains(["management"])
        )
        .values(revoked_at=now)
        .returning(ApiKeyRow.id)
    )
    return list((await session.execute(statement)).scalars())


async def delete_revoked(session: AsyncSession, before: datetime, kept_sha256: Collection[str]) -> int:
    """Forgets keys that were revoked before then, but for those with these hashes; how many."""
    statement = delete(ApiKeyRow).where(ApiKeyRow.revoked_at < before, ApiKeyRow.key_sha256.not_in(kept_sha256))
    return len((await session.execute(statement.returning(ApiKeyRow.id))).scalars().all())


def _key(row: ApiKeyRow) -> ApiKey:
    return ApiKey(
        id=row.id,
        organization_id=row.organization_id,
        project_id=row.project_id,
        created_by=row.created_by,
        name=row.name,
        prefix=row.prefix,
        key_sha256=row.key_sha256,
        scopes=msgspec.convert(row.scopes, tuple[Scope, ...]),
        models=None if row.models is None else tuple(row.models),
        labels=row.labels,
        limits=msgspec.convert(row.limits, Limits),
        organization_wide=row.organization_wide,
        is_operator=row.is_operator,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
