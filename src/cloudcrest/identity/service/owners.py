"""Whose projects and keys are."""

from collections.abc import Collection, Mapping

from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.identity.repository import keys, organizations


class OwnerLookup:
    """Implements `api.Owners` and `api.Standing`."""

    async def of_project(self, session: AsyncSession, project_id: str) -> str | None:
        project = await organizations.project_by_id(session, project_id)
        return None if project is None or project.archived_at is not None else project.organization_id

    async def of_key(self, session: AsyncSession, key_id: str) -> tuple[str, str] | None:
        key = await keys.key_by_id(session, key_id)
        return None if key is None or key.revoked_at is not None else (key.organization_id, key.project_id)

    async def stopped(self, session: AsyncSession, project_ids: Collection[str]) -> Mapping[str, str]:
        return await organizations.stopped_projects(session, project_ids)
