"""Reads and writes of serving's tables."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import delete, exists, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.catalog.api import ModelDocument, PullProgress
from cloudcrest.identity.api import Limits
from cloudcrest.infra.http.paging import PageRequest
from cloudcrest.infra.publication import PublishedDocument
from cloudcrest.serving.api import DEPLOYMENT_KIND, Placement, ReplicaState, ReplicaStatus
from cloudcrest.serving.records import Deployment, ReportedReplica
from cloudcrest.serving.tables import DeploymentRow, ReplicaStatusRow


async def add(session: AsyncSession, deployment: Deployment) -> None:
    """Adds a deployment."""
    await session.execute(insert(DeploymentRow).values(id=deployment.id, **_values(deployment)))


async def named(session: AsyncSession, region: str, name: str) -> list[Deployment]:
    """The deployments of a public name, the first one first; no other is added or changed until the transaction ends.

    The lock is on the name: where it has no deployment yet, there is no row to hold.
    """
    lock = func.pg_advisory_xact_lock(func.hashtextextended(f"deployments/{region}/{name}", 0))
    await session.execute(select(lock))
    statement = select(DeploymentRow).where(DeploymentRow.region == region, DeploymentRow.name == name)
    rows = (await session.execute(statement.order_by(DeploymentRow.id).with_for_update())).scalars()
    return [_deployment(row) for row in rows]


async def save(session: AsyncSession, deployment: Deployment) -> None:
    """Writes a changed deployment."""
    await session.execute(update(DeploymentRow).where(DeploymentRow.id == deployment.id).values(**_values(deployment)))


async def remove(session: AsyncSession, deployment_id: str) -> None:
    """Deletes a deployment and what was reported of it."""
    await session.execute(delete(DeploymentRow).where(DeploymentRow.id == deployment_id))
    await session.execute(delete(ReplicaStatusRow).where(ReplicaStatusRow.deployment_id == deployment_id))


async def find(session: AsyncSession, deployment_id: str, *, for_update: bool = False) -> Deployment | None:
    """One deployment; `for_update` holds it until the transaction ends."""
    statement = select(DeploymentRow).where(DeploymentRow.id == deployment_id)
    row = (await session.execute(statement.with_for_update() if for_update else statement)).scalar_one_or_none()
    return None if row is None else _deployment(row)


async def page(
    session: AsyncSession, request: PageRequest, *, organizations: Sequence[str] | None, region: str | None
) -> list[Deployment]:
    """A page, with one more when there are more: all of them (`organizations` None), or the public and these's own."""
    statement = select(DeploymentRow)
    if organizations is not None:
        is_public = DeploymentRow.organization_id.is_(None)
        statement = statement.where(or_(is_public, DeploymentRow.organization_id.in_(organizations)))
    if region is not None:
        statement = statement.where(DeploymentRow.region == region)
    rows = (await session.execute(request.apply(statement, DeploymentRow.id))).scalars()
    return [_deployment(row) for row in rows]


async def was_any_published(session: AsyncSession) -> bool:
    """Whether there ever was a deployment: deleted ones leave their mark in the feed."""
    statement = select(exists().where(PublishedDocument.kind == DEPLOYMENT_KIND))
    return bool((await session.execute(statement)).scalar_one())


async def replicas_of(session: AsyncSession, deployments: Sequence[Deployment]) -> dict[str, list[ReportedReplica]]:
    """What the deployments' own regions last reported of their replicas, by deployment."""
    found: dict[str, list[ReportedReplica]] = {deployment.id: [] for deployment in deployments}
    regions = {deployment.id: deployment.region for deployment in deployments}
    statement = select(ReplicaStatusRow).where(ReplicaStatusRow.deployment_id.in_(found)).order_by(ReplicaStatusRow.id)
    for row in (await session.execute(statement)).scalars():
        if row.region == regions[row.deployment_id]:
            found[row.deployment_id].append(_reported(row))
    return found


async def replace_region_status(
    session: AsyncSession, region: str, replicas: Sequence[ReplicaStatus], reported_at: datetime
) -> None:
    """Keeps a region's report in place of its last one."""
    await session.execute(delete(ReplicaStatusRow).where(ReplicaStatusRow.region == region))
    if replicas:
        rows = [{"region": region, "reported_at": reported_at} | msgspec.to_builtins(replica) for replica in replicas]
        await session.execute(insert(ReplicaStatusRow), rows)


def _values(deployment: Deployment) -> dict[str, Any]:
    return {
        "name": deployment.name,
        "model_id": deployment.model.id,
        "model_document": msgspec.to_builtins(deployment.model),
        "engine": deployment.engine,
        "engine_options": deployment.engine_options,
        "region": deployment.region,
        "generation": deployment.generation,
        "replicas_min": deployment.replicas_min,
        "replicas_max": deployment.replicas_max,
        "context_tokens": deployment.context_tokens,
        "slots": deployment.slots,
        "memory_bytes": deployment.memory_bytes,
        "cpu_threads": deployment.cpu_threads,
        "organization_id": deployment.organization_id,
        "requests_per_minute": deployment.limits.requests_per_minute,
        "tokens_per_minute": deployment.limits.tokens_per_minute,
        "concurrent_requests": deployment.limits.concurrent_requests,
        "growth_percent_per_minute": deployment.limits.growth_percent_per_minute,
        "growth_floor_requests_per_minute": deployment.limits.growth_floor_requests_per_minute,
        "weight": deployment.weight,
        "placement": msgspec.to_builtins(deployment.placement),
        "created_at": deployment.created_at,
        "updated_at": deployment.updated_at,
    }


def _deployment(row: DeploymentRow) -> Deployment:
    fields = {
        field: getattr(row, field)
        for field in Deployment.__struct_fields__
        if field not in ("model", "limits", "placement")
    }
    return Deployment(
        **fields,
        model=msgspec.convert(row.model_document, ModelDocument),
        placement=msgspec.convert(row.placement, Placement),
        limits=Limits(
            requests_per_minute=row.requests_per_minute,
            tokens_per_minute=row.tokens_per_minute,
            concurrent_requests=row.concurrent_requests,
            growth_percent_per_minute=row.growth_percent_per_minute,
            growth_floor_requests_per_minute=row.growth_floor_requests_per_minute,
        ),
    )


def _reported(row: ReplicaStatusRow) -> ReportedReplica:
    status = ReplicaStatus(
        id=row.id,
        deployment_id=row.deployment_id,
        generation=row.generation,
        state=msgspec.convert(row.state, ReplicaState),
        restarts=row.restarts,
        reason=row.reason,
        pull=None if row.pull is None else msgspec.convert(row.pull, PullProgress),
        node_id=row.node_id,
    )
    return ReportedReplica(status=status, reported_at=row.reported_at)
