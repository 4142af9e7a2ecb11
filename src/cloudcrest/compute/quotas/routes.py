"""`/api/v1/quotas`: how much of a region's accelerators organizations and projects are guaranteed, and may have."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from cloudcrest.compute.quotas.schemas import CreateQuota, Identifier, QuotaAmounts, QuotaView, view
from cloudcrest.compute.quotas.service import QuotaService
from cloudcrest.identity.http import CallerDep
from cloudcrest.infra.http.paging import Page, PageDep
from cloudcrest.infra.http.problems import responses
from cloudcrest.infra.http.session import SessionDep

QuotaPath = Annotated[str, Path(max_length=64, examples=["quota_01k9zq3v5e8m2n4p6r8t0w2y4z"])]


def router(service: QuotaService) -> APIRouter:
    """The routes of quotas."""
    routes = APIRouter(prefix="/api/v1/quotas", tags=["jobs"], responses=responses(401))

    @routes.get("", operation_id="list_quotas", summary="List quotas", responses=responses(404))
    async def list_quotas(
        *,
        session: SessionDep,
        caller: CallerDep,
        page: PageDep,
        organization_id: Annotated[Identifier | None, Query(description="Only of this organization")] = None,
        region: Annotated[Identifier | None, Query(description="Only in this region")] = None,
    ) -> Page[QuotaView]:
        """Quotas with what is used and borrowed now, newest first. Needs `jobs:read`."""
        found = await service.page(session, caller, page, organization_id=organization_id, region=region)
        return page.page([view(each) for each in found], [each.quota.id for each in found])

    @routes.get("/{quota_id}", operation_id="get_quota", summary="Show a quota", responses=responses(404))
    async def get_quota(session: SessionDep, caller: CallerDep, quota_id: QuotaPath) -> QuotaView:
        """One quota as it stands. Needs `jobs:read`."""
        return view(await service.get(session, caller, quota_id))

    @routes.post(
        "",
        operation_id="create_quota",
        summary="Give a quota",
        status_code=201,
        responses=responses(400, 403, 404, 409),
    )
    async def create_quota(session: SessionDep, caller: CallerDep, body: CreateQuota) -> QuotaView:
        """Guarantees so much, and sets the most. Operators give organizations theirs, whose admins (`projects:write`)
        divide it among projects.
        """
        made = await service.create(
            session,
            caller,
            region=body.region,
            organization_id=body.organization_id,
            project_id=body.project_id,
            resource=body.resource,
            guaranteed_milli=body.guaranteed_milli,
            ceiling_milli=body.ceiling_milli,
        )
        return view(made)

    @routes.put(
        "/{quota_id}", operation_id="change_quota", summary="Change a quota", responses=responses(400, 403, 404)
    )
    async def change_quota(
        session: SessionDep, caller: CallerDep, quota_id: QuotaPath, body: QuotaAmounts
    ) -> QuotaView:
        """Another amount. What runs beyond it stays until its place is claimed."""
        changed = await service.change(session, caller, quota_id, body.guaranteed_milli, body.ceiling_milli)
        return view(changed)

    @routes.delete(
        "/{quota_id}",
        operation_id="delete_quota",
        summary="Take a quota away",
        status_code=204,
        responses=responses(403, 404, 409),
    )
    async def delete_quota(session: SessionDep, caller: CallerDep, quota_id: QuotaPath) -> None:
        """Who had it is guaranteed nothing from now on, and borrows."""
        await service.delete(session, caller, quota_id)

    return routes
