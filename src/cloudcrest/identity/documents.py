"""What gateways are told: pure copies of records, and their publication in the transaction that changes them."""

from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.identity.api import (
    KEY_KIND,
    ORGANIZATION_KIND,
    PROJECT_KIND,
    KeyDocument,
    OrganizationDocument,
    ProjectDocument,
)
from cloudcrest.identity.authority import tighter
from cloudcrest.identity.records import ApiKey, Organization, Project
from cloudcrest.infra.publication import publish


def organization_document(organization: Organization) -> OrganizationDocument:
    return OrganizationDocument(
        id=organization.id,
        limits=tighter(organization.limits, organization.ceiling),
        suspended_reason=organization.suspended_reason,
        guardrails=organization.guardrails,
    )


def project_document(project: Project) -> ProjectDocument | None:
    """None for an archived one."""
    if project.archived_at is not None:
        return None
    fallbacks = {model: tuple(others) for model, others in project.fallbacks.items()}
    return ProjectDocument(
        id=project.id,
        organization_id=project.organization_id,
        limits=project.limits,
        fallbacks=fallbacks,
        strict=project.strict,
        guardrails=project.guardrails,
    )


def key_document(key: ApiKey) -> KeyDocument | None:
    """None for a revoked one."""
    if key.revoked_at is not None:
        return None
    return KeyDocument(
        id=key.id,
        key_sha256=key.key_sha256,
        project_id=key.project_id,
        organization_id=key.organization_id,
        scopes=key.scopes,
        models=key.models,
        expires_at_unix_seconds=None if key.expires_at is None else int(key.expires_at.timestamp()),
        limits=key.limits,
    )


async def publish_organization(session: AsyncSession, organization: Organization) -> None:
    await publish(session, ORGANIZATION_KIND, organization.id, organization_document(organization))


async def publish_project(session: AsyncSession, project: Project) -> None:
    await publish(session, PROJECT_KIND, project.id, project_document(project))


async def publish_key(session: AsyncSession, key: ApiKey) -> None:
    await publish(session, KEY_KIND, key.id, key_document(key))


async def withdraw_key(session: AsyncSession, key_id: str) -> None:
    """Tells gateways that a key is no more."""
    await publish(session, KEY_KIND, key_id, None)
