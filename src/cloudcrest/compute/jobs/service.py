"""The control plane's rules of jobs: who may run what, what regions are told, and what they report."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.compute.accelerator_types.service import AcceleratorTypes
from cloudcrest.compute.jobs import repository
from cloudcrest.compute.jobs.api import FINAL_STATES, JOB_KIND, JobDocument, JobReport, JobReports, JobState
from cloudcrest.compute.jobs.records import Job
from cloudcrest.identity.api import Caller, Owners, Standing
from cloudcrest.infra.http.paging import PageRequest
from cloudcrest.infra.publication import publish
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import Conflict, InvalidInput, LimitExceeded, NotFound, PermissionDenied
from cloudcrest.kernel.ids import NewId
from cloudcrest.kernel.registry import close_matches
from cloudcrest.regions.api import Regions

Priority = Literal["low", "normal", "high"]
PRIORITIES: dict[Priority, int] = {"low": -100, "normal": 0, "high": 100}
MAX_UNFINISHED = 1_000
"""Of a project."""
MAX_REPORTED = 20_000
KEPT_DAYS = 90
_AT_ONCE = 1_000
_MAX_REASON_CHARACTERS = 1_000


class Request(msgspec.Struct, frozen=True):
    """What a caller asks for. `wish`: the document, but for what this service fills in. `secrets`: their names."""

    wish: JobDocument
    priority: Priority
    secrets: tuple[str, ...]


class JobService:
    """Jobs as desired state."""

    def __init__(
        self,
        *,
        regions: Regions,
        types: AcceleratorTypes,
        owners: Owners,
        standing: Standing,
        clock: Clock,
        new_id: NewId,
    ) -> None:
        self._regions = regions
        self._types = types
        self._owners = owners
        self._standing = standing
        self._clock = clock
        self._new_id = new_id

    async def create(self, session: AsyncSession, caller: Caller, project_id: str, request: Request) -> Job:
        """A new job. Raises `NotFound`, `PermissionDenied`, `InvalidInput` with the field's path, `LimitExceeded`."""
        organization_id = await self.require(session, caller, "jobs:write", project_id)
        wish = request.wish
        if stopped := await self._standing.stopped(session, (project_id,)):
            raise PermissionDenied(f"no jobs run here now: {stopped[project_id]}")
        await self._require_region(session, wish.region)
        await self._types.require_known(session, wish.types, param="body.accelerators.types")
        policy = await repository.policy(session, organization_id)
        if request.priority == "high" and not (policy.may_run_high or caller.is_operator):
            raise PermissionDenied(
                "this organization's jobs may not have high priority", hint="ask the operator of this cloud for it"
            )
        await repository.lock_project(session, project_id)
        if await repository.count_unfinished(session, project_id) >= MAX_UNFINISHED:
            raise LimitExceeded(
                f"this project has {MAX_UNFINISHED} jobs that have not ended, its limit",
                code="jobs_limit",
                hint="cancel some, or wait for their end",
            )
        sealed = await repository.sealed_secrets(session, project_id, request.secrets)
        missing = [name for name in request.secrets if name not in sealed]
        if missing:
            raise InvalidInput(
                f"this project has no secret '{missing[0]}'",
                param="body.secrets",
                hint=f"set it with `cloudcrest secrets set {missing[0]}`",
            )
        now = self._clock.now()
        document = msgspec.structs.replace(
            wish,
            id=self._new_id("job"),
            organization_id=organization_id,
            project_id=project_id,
            created_at_unix_seconds=now.timestamp(),
            sealed_secrets=dict(sealed),
            priority=PRIORITIES[request.priority],
            is_trusted=policy.is_trusted,
        )
        job = Job(
            id=document.id,
            organization_id=organization_id,
            project_id=project_id,
            region=document.region,
            name=document.name,
            state="queued",
            reason="its region has not heard of it yet",
            secrets=request.secrets,
            document=document,
            report=None,
            created_by=caller.id,
            created_at=now,
        )
        await repository.add(session, job)
        await publish(session, JOB_KIND, job.id, document, region=job.region)
        return job

    async def get(self, session: AsyncSession, caller: Caller, job_id: str) -> Job:
        """One job. Raises `NotFound` where there is none that this caller may see."""
        return await self._own(session, caller, job_id, writes=False)

    async def page(
        self,
        session: AsyncSession,
        caller: Caller,
        request: PageRequest,
        *,
        organization_id: str | None,
        project_id: str | None,
        states: Collection[JobState],
    ) -> list[Job]:
        """The jobs of a page that this caller may see, newest first, with one more where there are more."""
        if organization_id is not None and not caller.belongs_to(organization_id):
            caller.require("jobs:read", organization_id)
        return await repository.page(
            session,
            request,
            reach=caller.reach("jobs:read"),
            organization_id=organization_id,
            project_id=project_id,
            states=states,
        )

    async def cancel(self, session: AsyncSession, caller: Caller, job_id: str) -> Job:
        """Asks its region to end it; one that has ended stays as it is. Raises `NotFound`, `PermissionDenied`."""
        job = await self._own(session, caller, job_id, writes=True)
        if job.ended_at is not None or job.document.is_cancelled:
            return job
        return await _cancelled(session, job, "it is being cancelled")

    async def cancel_stopped(self, session: AsyncSession) -> int:
        """Ends what runs for projects that are archived or whose organization is suspended; how many."""
        stopped = await self._standing.stopped(session, await repository.projects_with_unfinished(session))
        going_on = await repository.to_cancel(session, stopped.keys(), _AT_ONCE) if stopped else []
        for job in going_on:
            await _cancelled(session, job, f"it is being cancelled: {stopped[job.project_id]}")
        return len(going_on)

    async def delete(self, session: AsyncSession, caller: Caller, job_id: str) -> None:
        """Forgets a job that has ended. Raises `NotFound`, `PermissionDenied`, `Conflict` while it has not."""
        job = await self._own(session, caller, job_id, writes=True)
        if job.ended_at is None:
            raise Conflict(f"job '{job_id}' has not ended", hint="cancel it first")
        await repository.remove(session, job_id)

    async def record(self, session: AsyncSession, region: str, reports: JobReports) -> None:
        """Keeps what a region says of its jobs; what it says of others' is passed over. Raises `InvalidInput`."""
        if reports.region != region:
            raise InvalidInput(f"this is the link of region '{region}'", param="region")
        if len(reports.jobs) > MAX_REPORTED:
            raise InvalidInput(f"a report has at most {MAX_REPORTED} jobs", param="jobs")
        said = {report.id: report for report in reports.jobs}
        for job in (await repository.of_region(session, region, said.keys())).values():
            await self._record_one(session, job, _trimmed(said[job.id]))

    async def forget_old(self, session: AsyncSession) -> int:
        """Forgets jobs that ended long ago; how many."""
        before = self._clock.now() - timedelta(days=KEPT_DAYS)
        return await repository.forget(session, before, _AT_ONCE)

    async def require(
        self, session: AsyncSession, caller: Caller, permission: Literal["jobs:read", "jobs:write"], project_id: str
    ) -> str:
        """The organization of a project in which the caller may do this. Raises `NotFound`, `PermissionDenied`."""
        missing = f"there is no project '{project_id}'"
        organization_id = await self._owners.of_project(session, project_id)
        caller.require(permission, organization_id or "", project_id, missing=missing)
        if organization_id is None:  # an operator may do everything, but not in what is not there
            raise NotFound(missing)
        return organization_id

    async def _own(self, session: AsyncSession, caller: Caller, job_id: str, *, writes: bool) -> Job:
        job = await repository.find(session, job_id, for_update=writes)
        missing = f"there is no job '{job_id}'"
        if job is None:
            raise NotFound(missing)
        permission: Literal["jobs:read", "jobs:write"] = "jobs:write" if writes else "jobs:read"
        caller.require(permission, job.organization_id, job.project_id, missing=missing)
        return job

    async def _record_one(self, session: AsyncSession, job: Job, report: JobReport) -> None:
        if report == job.report:
            return
        is_final = report.state in FINAL_STATES
        now = self._clock.now()
        changed = msgspec.structs.replace(
            job,
            state=report.state,
            reason=report.reason,
            report=report,
            reported_at=now,
            ended_at=_moment(report.ended_at) or now if is_final else None,
        )
        await repository.save(session, changed)
        if is_final:
            await publish(session, JOB_KIND, job.id, None, region=job.region)

    async def _require_region(self, session: AsyncSession, region: str) -> None:
        if await self._regions.exists(session, region):
            return
        known = await self._regions.list_ids(session)
        matches = close_matches(region, known) or known[:5]
        raise InvalidInput(f"there is no region '{region}'", param="body.region", hint=f"there is {', '.join(matches)}")


async def _cancelled(session: AsyncSession, job: Job, reason: str) -> Job:
    document = msgspec.structs.replace(job.document, is_cancelled=True)
    changed = msgspec.structs.replace(job, document=document, reason=reason)
    await repository.save(session, changed)
    await publish(session, JOB_KIND, job.id, document, region=job.region)
    return changed


def _trimmed(report: JobReport) -> JobReport:
    return msgspec.structs.replace(report, reason=report.reason[:_MAX_REASON_CHARACTERS])


def _moment(unix_seconds: float | None) -> datetime | None:
    if unix_seconds is None or not 0 <= unix_seconds < 2**33:
        return None
    return datetime.fromtimestamp(unix_seconds, UTC)
