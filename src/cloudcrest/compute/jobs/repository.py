"""Reads and writes of the control plane's tables of jobs."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.compute.jobs.api import JobDocument, JobReport, JobState
from cloudcrest.compute.jobs.records import ComputePolicy, Job, ProjectSecret
from cloudcrest.compute.jobs.tables import ComputePolicyRow, JobRow, ProjectSecretRow
from cloudcrest.identity.api import Reach
from cloudcrest.infra.http.paging import PageRequest


async def lock_project(session: AsyncSession, project_id: str) -> None:
    """Holds a project's jobs and secrets until the transaction ends."""
    await session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"jobs/{project_id}", 0))))


async def add(session: AsyncSession, job: Job) -> None:
    """Adds a job."""
    await session.execute(insert(JobRow).values(id=job.id, **_values(job)))


async def save(session: AsyncSession, job: Job) -> None:
    """Writes a changed job."""
    await session.execute(update(JobRow).where(JobRow.id == job.id).values(**_values(job)))


async def find(session: AsyncSession, job_id: str, *, for_update: bool = False) -> Job | None:
    """One job; `for_update` holds it until the transaction ends."""
    statement = select(JobRow).where(JobRow.id == job_id)
    row = (await session.execute(statement.with_for_update() if for_update else statement)).scalar_one_or_none()
    return None if row is None else _job(row)


async def page(
    session: AsyncSession,
    request: PageRequest,
    *,
    reach: Reach,
    organization_id: str | None,
    project_id: str | None,
    states: Collection[str],
) -> list[Job]:
    """The jobs of a page within reach, newest first, with one more where there are more."""
    statement = select(JobRow)
    if not reach.everywhere:
        statement = statement.where(
            or_(JobRow.organization_id.in_(reach.organization_ids), JobRow.project_id.in_(reach.project_ids))
        )
    if organization_id is not None:
        statement = statement.where(JobRow.organization_id == organization_id)
    if project_id is not None:
        statement = statement.where(JobRow.project_id == project_id)
    if states:
        statement = statement.where(JobRow.state.in_(states))
    rows = await session.scalars(request.apply(statement, JobRow.id))
    return [_job(row) for row in rows]


async def count_unfinished(session: AsyncSession, project_id: str) -> int:
    """How many of a project's jobs have not ended."""
    unfinished = JobRow.project_id == project_id, JobRow.ended_at.is_(None)
    return await session.scalar(select(func.count()).where(*unfinished)) or 0


async def projects_with_unfinished(session: AsyncSession) -> list[str]:
    """The projects that have jobs that have not ended."""
    return list(await session.scalars(select(JobRow.project_id).where(JobRow.ended_at.is_(None)).distinct()))


async def to_cancel(session: AsyncSession, project_ids: Collection[str], most: int) -> list[Job]:
    """At most so many jobs of these projects that go on and are not being cancelled, held by this transaction."""
    statement = (
        select(JobRow)
        .where(JobRow.project_id.in_(project_ids), JobRow.ended_at.is_(None))
        .where(JobRow.document["is_cancelled"].astext.is_distinct_from("true"))
        .order_by(JobRow.id)
        .limit(most)
    )
    return [_job(row) for row in await session.scalars(statement.with_for_update())]


async def placed(session: AsyncSession, region: str, organization_id: str) -> list[Job]:
    """An organization's jobs that have their places in a region."""
    statement = select(JobRow).where(
        JobRow.region == region, JobRow.organization_id == organization_id, JobRow.state.in_(("preparing", "running"))
    )
    return [_job(row) for row in await session.scalars(statement)]


async def of_region(session: AsyncSession, region: str, job_ids: Collection[str]) -> dict[str, Job]:
    """Those of these jobs that are a region's and have not ended, held until the transaction ends, by id."""
    statement = select(JobRow).where(JobRow.region == region, JobRow.id.in_(job_ids), JobRow.ended_at.is_(None))
    rows = await session.scalars(statement.order_by(JobRow.id).with_for_update())
    return {row.id: _job(row) for row in rows}


async def remove(session: AsyncSession, job_id: str) -> None:
    """Deletes a job."""
    await session.execute(delete(JobRow).where(JobRow.id == job_id))


async def forget(session: AsyncSession, before: datetime, most: int) -> int:
    """Deletes jobs that ended before this moment, at most so many; how many."""
    old = select(JobRow.id).where(JobRow.ended_at < before).order_by(JobRow.ended_at).limit(most)
    deleted = await session.execute(delete(JobRow).where(JobRow.id.in_(old)).returning(JobRow.id))
    return len(deleted.all())


async def set_secret(session: AsyncSession, secret: ProjectSecret, sealed: str) -> ProjectSecret:
    """Adds a secret, or gives one another value."""
    values = {"project_id": secret.project_id, "name": secret.name, "sealed": sealed, "created_by": secret.created_by}
    statement = insert(ProjectSecretRow).values(**values, created_at=secret.created_at, updated_at=secret.updated_at)
    changed = {"sealed": statement.excluded.sealed, "updated_at": statement.excluded.updated_at}
    upsert = statement.on_conflict_do_update(index_elements=["project_id", "name"], set_=changed)
    row = (await session.execute(upsert.returning(ProjectSecretRow))).scalar_one()
    return _secret(row)


async def secrets(session: AsyncSession, project_id: str) -> list[ProjectSecret]:
    """A project's secrets, by name."""
    statement = select(ProjectSecretRow).where(ProjectSecretRow.project_id == project_id)
    return [_secret(row) for row in await session.scalars(statement.order_by(ProjectSecretRow.name))]


async def sealed_secrets(session: AsyncSession, project_id: str, names: Collection[str]) -> Mapping[str, str]:
    """The sealed values of those of these secrets that there are, by name."""
    statement = select(ProjectSecretRow.name, ProjectSecretRow.sealed).where(
        ProjectSecretRow.project_id == project_id, ProjectSecretRow.name.in_(names)
    )
    return {row[0]: row[1] for row in await session.execute(statement)}


async def all_sealed(session: AsyncSession) -> list[tuple[str, str, str]]:
    """Every secret's project, name and sealed value, locked."""
    statement = select(ProjectSecretRow.project_id, ProjectSecretRow.name, ProjectSecretRow.sealed)
    return [(row[0], row[1], row[2]) for row in await session.execute(statement.with_for_update())]


async def reseal(session: AsyncSession, project_id: str, name: str, sealed: str) -> None:
    """The same value, sealed in another way."""
    statement = update(ProjectSecretRow).where(ProjectSecretRow.project_id == project_id, ProjectSecretRow.name == name)
    await session.execute(statement.values(sealed=sealed))


async def delete_secret(session: AsyncSession, project_id: str, name: str) -> bool:
    """False: there was none."""
    statement = delete(ProjectSecretRow).where(ProjectSecretRow.project_id == project_id, ProjectSecretRow.name == name)
    return (await session.execute(statement.returning(ProjectSecretRow.name))).first() is not None


async def policy(session: AsyncSession, organization_id: str) -> ComputePolicy:
    """An organization's; the plain one where nothing was granted."""
    row = await session.get(ComputePolicyRow, organization_id)
    if row is None:
        return ComputePolicy(organization_id)
    return ComputePolicy(organization_id, row.is_trusted, row.may_run_high)


async def set_policy(session: AsyncSession, granted: ComputePolicy, at: datetime) -> None:
    """Grants it from now on."""
    values: dict[str, Any] = {"is_trusted": granted.is_trusted, "may_run_high": granted.may_run_high, "updated_at": at}
    statement = insert(ComputePolicyRow).values(organization_id=granted.organization_id, **values)
    await session.execute(statement.on_conflict_do_update(index_elements=["organization_id"], set_=values))


def _values(job: Job) -> dict[str, Any]:
    return {
        "organization_id": job.organization_id,
        "project_id": job.project_id,
        "region": job.region,
        "name": job.name,
        "state": job.state,
        "reason": job.reason,
        "secrets": list(job.secrets),
        "document": msgspec.to_builtins(job.document),
        "report": None if job.report is None else msgspec.to_builtins(job.report),
        "created_by": job.created_by,
        "created_at": job.created_at,
        "reported_at": job.reported_at,
        "ended_at": job.ended_at,
    }


def _job(row: JobRow) -> Job:
    plain = ("id", "organization_id", "project_id", "region", "name", "reason", "created_by")
    times = ("created_at", "reported_at", "ended_at")
    return Job(
        **{field: getattr(row, field) for field in (*plain, *times)},
        state=msgspec.convert(row.state, JobState),
        secrets=tuple(row.secrets),
        document=msgspec.convert(row.document, JobDocument),
        report=None if row.report is None else msgspec.convert(row.report, JobReport),
    )


def _secret(row: ProjectSecretRow) -> ProjectSecret:
    return ProjectSecret(row.project_id, row.name, row.created_by, row.created_at, row.updated_at)
