"""The rules of quotas: operators divide a region among organizations, these divide their part among projects."""

from collections import Counter
from collections.abc import Iterable

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.compute.accelerator_types.service import AcceleratorTypes
from cloudcrest.compute.jobs import repository as jobs
from cloudcrest.compute.jobs.records import Job
from cloudcrest.compute.quotas import repository
from cloudcrest.compute.quotas.api import QUOTA_KIND
from cloudcrest.compute.quotas.records import StoredQuota
from cloudcrest.compute.scheduler.quotas import CPU, amount
from cloudcrest.identity.api import Caller, Owners
from cloudcrest.infra.http.paging import PageRequest
from cloudcrest.infra.publication import publish
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import Conflict, InvalidInput, NotFound
from cloudcrest.kernel.ids import NewId
from cloudcrest.regions.api import Regions


class UsedQuota(msgspec.Struct, frozen=True):
    """A quota, and what is used of its resource by who it is of: `borrowed_milli` beyond what is guaranteed."""

    quota: StoredQuota
    used_milli: int

    @property
    def borrowed_milli(self) -> int:
        return max(0, self.used_milli - self.quota.guaranteed_milli)


class QuotaService:
    """Quotas as desired state."""

    def __init__(
        self, *, regions: Regions, types: AcceleratorTypes, owners: Owners, clock: Clock, new_id: NewId
    ) -> None:
        self._regions = regions
        self._types = types
        self._owners = owners
        self._clock = clock
        self._new_id = new_id

    async def create(
        self,
        session: AsyncSession,
        caller: Caller,
        *,
        region: str,
        organization_id: str | None,
        project_id: str | None,
        resource: str,
        guaranteed_milli: int,
        ceiling_milli: int | None,
    ) -> UsedQuota:
        """A new quota. Raises `NotFound`, `PermissionDenied`, `InvalidInput`, `Conflict`."""
        owner = await self._owner(session, caller, organization_id, project_id)
        if not await self._regions.exists(session, region):
            raise InvalidInput(f"there is no region '{region}'", param="body.region")
        if resource != CPU:
            await self._types.require_known(session, (resource,), param="body.resource")
        now = self._clock.now()
        quota = StoredQuota(
            id=self._new_id("quota"),
            region=region,
            organization_id=owner,
            project_id=project_id or "",
            resource=resource,
            guaranteed_milli=guaranteed_milli,
            ceiling_milli=ceiling_milli,
            created_by=caller.id,
            created_at=now,
            updated_at=now,
        )
        await repository.lock(session, region, owner)
        await self._check(session, quota)
        if not await repository.add(session, quota):
            raise Conflict("there is a quota of this owner and resource", hint="change it instead")
        await self._publish(session, quota)
        return await self._used(session, quota)

    async def change(
        self, session: AsyncSession, caller: Caller, quota_id: str, guaranteed_milli: int, ceiling_milli: int | None
    ) -> UsedQuota:
        """Another amount. Raises `NotFound`, `PermissionDenied`, `InvalidInput`."""
        quota = await self._held(session, caller, quota_id)
        changed = msgspec.structs.replace(
            quota, guaranteed_milli=guaranteed_milli, ceiling_milli=ceiling_milli, updated_at=self._clock.now()
        )
        await self._check(session, changed)
        await repository.save(session, changed)
        await self._publish(session, changed)
        return await self._used(session, changed)

    async def delete(self, session: AsyncSession, caller: Caller, quota_id: str) -> None:
        """Who had it borrows from now on. Raises `NotFound`, `PermissionDenied`, `Conflict` where it is divided."""
        quota = await self._held(session, caller, quota_id)
        siblings = await repository.of_organization(session, quota.region, quota.organization_id, quota.resource)
        if not quota.project_id and len(siblings) > 1:
            raise Conflict("projects have parts of this quota", hint="delete theirs first")
        await repository.remove(session, quota.id)
        await publish(session, QUOTA_KIND, quota.id, None, region=quota.region)

    async def get(self, session: AsyncSession, caller: Caller, quota_id: str) -> UsedQuota:
        """One quota. Raises `NotFound`."""
        return await self._used(session, await self._own(session, caller, quota_id, writes=False))

    async def page(
        self,
        session: AsyncSession,
        caller: Caller,
        request: PageRequest,
        *,
        organization_id: str | None,
        region: str | None,
    ) -> list[UsedQuota]:
        """The quotas of a page that this caller may see, with one more where there are more."""
        if organization_id is not None and not caller.belongs_to(organization_id):
            caller.require("jobs:read", organization_id)
        found = await repository.page(
            session, request, reach=caller.reach("jobs:read"), organization_id=organization_id, region=region
        )
        owners = sorted({(quota.region, quota.organization_id) for quota in found})
        held = {(where, owner): await jobs.placed(session, where, owner) for where, owner in owners}
        return [_used(quota, held[quota.region, quota.organization_id]) for quota in found]

    async def _owner(
        self, session: AsyncSession, caller: Caller, organization_id: str | None, project_id: str | None
    ) -> str:
        """Whose quota it is to be, where the caller may give him one."""
        if project_id is None:
            if organization_id is None:
                raise InvalidInput("say whose: an organization's or a project's", param="body.organization_id")
            if not caller.belongs_to(organization_id):
                caller.require("projects:write", organization_id)
            caller.require_operator()
            return organization_id
        missing = f"there is no project '{project_id}'"
        owner = await self._owners.of_project(session, project_id)
        caller.require("jobs:read", owner or "", project_id, missing=missing)
        if owner is None:
            raise NotFound(missing)
        caller.require("projects:write", owner)  # not a project's own admin: it is taken from the other projects
        if organization_id not in (None, owner):
            raise InvalidInput("this project is not of this organization", param="body.organization_id")
        return owner

    async def _own(self, session: AsyncSession, caller: Caller, quota_id: str, *, writes: bool) -> StoredQuota:
        quota = await repository.find(session, quota_id)
        missing = f"there is no quota '{quota_id}'"
        if quota is None:
            raise NotFound(missing)
        project_id = quota.project_id or None
        caller.require("jobs:read", quota.organization_id, project_id, missing=missing)
        if writes and project_id is None:
            caller.require_operator()
        elif writes:
            caller.require("projects:write", quota.organization_id)
        return quota

    async def _held(self, session: AsyncSession, caller: Caller, quota_id: str) -> StoredQuota:
        """A quota that the caller may change, as it is once all others who change its organization's are done."""
        quota = await self._own(session, caller, quota_id, writes=True)
        await repository.lock(session, quota.region, quota.organization_id)
        return await self._own(session, caller, quota_id, writes=True)

    async def _check(self, session: AsyncSession, quota: StoredQuota) -> None:
        """Raises `InvalidInput` where the parts of an organization's projects are more than it is guaranteed."""
        if quota.ceiling_milli is not None and quota.ceiling_milli < quota.guaranteed_milli:
            raise InvalidInput("the ceiling is below what is guaranteed", param="body.ceiling_milli")
        there = await repository.of_organization(session, quota.region, quota.organization_id, quota.resource)
        quotas = [quota, *(each for each in there if each.id != quota.id and each.project_id != quota.project_id)]
        whole = next((each.guaranteed_milli for each in quotas if not each.project_id), 0)
        parts = sum(each.guaranteed_milli for each in quotas if each.project_id)
        if parts > whole:
            raise InvalidInput(
                f"the projects of this organization would be guaranteed {amount(parts, quota.resource)} together, "
                f"the organization is guaranteed {amount(whole, quota.resource)}",
                param="body.guaranteed_milli",
            )

    async def _used(self, session: AsyncSession, quota: StoredQuota) -> UsedQuota:
        return _used(quota, await jobs.placed(session, quota.region, quota.organization_id))

    async def _publish(self, session: AsyncSession, quota: StoredQuota) -> None:
        await publish(session, QUOTA_KIND, quota.id, quota.document(), region=quota.region)


def _used(quota: StoredQuota, placed: Iterable[Job]) -> UsedQuota:
    """`placed`: its organization's jobs that have their places in its region."""
    used: Counter[str] = Counter()
    for job in placed:
        if quota.project_id in ("", job.project_id):
            used += _held(job)
    return UsedQuota(quota, used[quota.resource])


def _held(job: Job) -> Counter[str]:
    """What a job that has its places holds, by resource, in thousandths."""
    document = job.document
    if not document.accelerators:
        return Counter({CPU: document.cpu_milli * document.members})
    kind = job.report.attempts[-1].accelerator_type if job.report is not None and job.report.attempts else ""
    return Counter({kind: document.accelerators * document.milli * document.members})
