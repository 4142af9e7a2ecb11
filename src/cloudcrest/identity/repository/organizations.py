"""Organizations and projects."""

from collections.abc import Collection
from typing import Any

import msgspec
from sqlalchemy import func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.identity.api import Guardrails, Limits
from cloudcrest.identity.records import Organization, Project
from cloudcrest.identity.tables import OrganizationRow, ProjectRow
from cloudcrest.infra.http.paging import PageRequest


async def add_organization(session: AsyncSession, organization: Organization, *, created_by: str | None) -> None:
    session.add(
        OrganizationRow(
            id=organization.id,
            name=organization.name,
            limits=msgspec.to_builtins(organization.limits),
            ceiling=msgspec.to_builtins(organization.ceiling),
            guardrails=msgspec.to_builtins(organization.guardrails),
            operator_suspended_reason=organization.operator_suspended_reason,
            created_by=created_by,
            created_at=organization.created_at,
        )
    )
    await session.flush()


async def organization_by_id(session: AsyncSession, organization_id: str, *, lock: bool = False) -> Organization | None:
    """`lock` holds the row until the transaction ends: changes that count members or projects go one at a time."""
    statement = select(OrganizationRow).where(OrganizationRow.id == organization_id)
    statement = statement.execution_options(populate_existing=True)  # this session may have changed it since it read it
    row = (await session.execute(statement.with_for_update(key_share=True) if lock else statement)).scalar_one_or_none()
    return None if row is None else _organization(row)


async def list_organizations(
    session: AsyncSession, page: PageRequest, only: frozenset[str] | None
) -> list[Organization]:
    """Newest first; of the ids in `only`, None for all."""
    statement = page.apply(select(OrganizationRow), OrganizationRow.id)
    if only is not None:
        statement = statement.where(OrganizationRow.id.in_(only))
    return [_organization(row) for row in (await session.execute(statement)).scalars()]


async def update_organization(session: AsyncSession, organization_id: str, changes: dict[str, Any]) -> None:
    """Writes columns; limits and guardrails become JSON."""
    await session.execute(update(OrganizationRow).where(OrganizationRow.id == organization_id).values(_plain(changes)))


async def count_organizations_created_by(session: AsyncSession, user_id: str) -> int:
    statement = select(func.count()).select_from(OrganizationRow).where(OrganizationRow.created_by == user_id)
    return (await session.execute(statement)).scalar_one()


async def add_project(session: AsyncSession, project: Project) -> None:
    session.add(
        ProjectRow(
            id=project.id,
            organization_id=project.organization_id,
            name=project.name,
            limits=msgspec.to_builtins(project.limits),
            fallbacks=project.fallbacks,
            strict=project.strict,
            guardrails=msgspec.to_builtins(project.guardrails),
            created_at=project.created_at,
            archived_at=project.archived_at,
        )
    )
    await session.flush()


async def project_by_id(session: AsyncSession, project_id: str, *, lock: bool = False) -> Project | None:
    """Archived ones too. `lock`: as for organizations."""
    statement = select(ProjectRow).where(ProjectRow.id == project_id)
    row = (await session.execute(statement.with_for_update(key_share=True) if lock else statement)).scalar_one_or_none()
    return None if row is None else _project(row)


async def list_projects(
    session: AsyncSession,
    page: PageRequest,
    *,
    organization_id: str | None,
    organizations: frozenset[str] | None,
    projects: frozenset[str],
) -> list[Project]:
    """Those not archived, newest first: of `organization_id`, within `organizations` (None: any) or `projects`."""
    statement = page.apply(select(ProjectRow), ProjectRow.id).where(ProjectRow.archived_at.is_(None))
    if organization_id is not None:
        statement = statement.where(ProjectRow.organization_id == organization_id)
    if organizations is not None:
        statement = statement.where(ProjectRow.organization_id.in_(organizations) | ProjectRow.id.in_(projects))
    return [_project(row) for row in (await session.execute(statement)).scalars()]


async def count_projects(session: AsyncSession, organization_id: str) -> int:
    """Archived ones do not count."""
    statement = (
        select(func.count())
        .select_from(ProjectRow)
        .where(ProjectRow.organization_id == organization_id, ProjectRow.archived_at.is_(None))
    )
    return (await session.execute(statement)).scalar_one()


async def stopped_projects(session: AsyncSession, project_ids: Collection[str]) -> dict[str, str]:
    """Those of these projects that are archived or of a suspended organization, each with why."""
    statement = (
        select(ProjectRow.id, ProjectRow.archived_at, OrganizationRow.operator_suspended_reason)
        .join(OrganizationRow, OrganizationRow.id == ProjectRow.organization_id)
        .where(ProjectRow.id.in_(project_ids))
        .where(or_(ProjectRow.archived_at.is_not(None), OrganizationRow.operator_suspended_reason.is_not(None)))
    )
    return {
        project_id: "this project is archived" if reason is None else f"this organization is suspended: {reason}"
        for project_id, _, reason in await session.execute(statement)
    }


async def update_project(session: AsyncSession, project_id: str, changes: dict[str, Any]) -> None:
    """Writes columns; limits and guardrails become JSON."""
    await session.execute(update(ProjectRow).where(ProjectRow.id == project_id).values(_plain(changes)))


def _plain(changes: dict[str, Any]) -> dict[str, Any]:
    return {
        name: msgspec.to_builtins(value) if isinstance(value, Limits | Guardrails) else value
        for name, value in changes.items()
    }


def _organization(row: OrganizationRow) -> Organization:
    return Organization(
        id=row.id,
        name=row.name,
        limits=msgspec.convert(row.limits, Limits),
        ceiling=msgspec.convert(row.ceiling, Limits),
        operator_suspended_reason=row.operator_suspended_reason,
        created_at=row.created_at,
        guardrails=msgspec.convert(row.guardrails, Guardrails),
    )


def _project(row: ProjectRow) -> Project:
    return Project(
        id=row.id,
        organization_id=row.organization_id,
        name=row.name,
        limits=msgspec.convert(row.limits, Limits),
        created_at=row.created_at,
        archived_at=row.archived_at,
        fallbacks=row.fallbacks,
        strict=row.strict,
        guardrails=msgspec.convert(row.guardrails, Guardrails),
    )
