"""`/api/v1/usage`: what was served, and what each request cost."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime

from cloudcrest.billing.routes.scope import visible
from cloudcrest.billing.schemas import Identifier, ModelName, UnpricedView, UsageSummary, UsageView
from cloudcrest.billing.service.usage import UsageReport
from cloudcrest.billing.views import view_group, view_unpriced, view_usage
from cloudcrest.identity.http import CallerDep
from cloudcrest.infra.http.paging import Page, PageDep
from cloudcrest.infra.http.problems import responses
from cloudcrest.infra.http.session import SessionDep
from cloudcrest.metering.api import GroupBy, UsageFilter


def _wanted(
    *,
    caller: CallerDep,
    organization_id: Annotated[Identifier | None, Query(description="Only of this organization")] = None,
    project_id: Annotated[Identifier | None, Query(description="Only of this project")] = None,
    key_id: Annotated[Identifier | None, Query(description="Only of this API key")] = None,
    model: Annotated[ModelName | None, Query(description="Only of this model")] = None,
    since: Annotated[AwareDatetime | None, Query(description="Requests that began then or later")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Requests that began before then")] = None,
) -> UsageFilter:
    return visible(
        caller,
        "usage:read",
        organization_id=organization_id,
        project_id=project_id,
        key_id=key_id,
        model=model,
        since=since,
        until=until,
    )


WantedDep = Annotated[UsageFilter, Depends(_wanted)]


def router(report: UsageReport) -> APIRouter:
    """The routes of usage."""
    routes = APIRouter(prefix="/usage", tags=["usage"], responses=responses(400, 401, 403, 404))

    @routes.get("", operation_id="list_usage", summary="List requests with tokens and charges")
    async def list_usage(session: SessionDep, wanted: WantedDep, page: PageDep) -> Page[UsageView]:
        """Each served request, newest first: tokens, unit prices, charge, how it ended. Needs `usage:read`."""
        items = await report.read(session, wanted, before_id=page.cursor, limit=page.limit + 1)
        return page.page([view_usage(item) for item in items], [item.event.id for item in items])

    @routes.get("/summary", operation_id="summarize_usage", summary="Sum usage and charges")
    async def summarize_usage(
        session: SessionDep,
        wanted: WantedDep,
        group_by: Annotated[GroupBy, Query(description="What to sum by; days are in UTC")] = "model",
    ) -> UsageSummary:
        """Requests, tokens and charges by model, day, both, project or key. Needs `usage:read`."""
        groups = await report.summary(session, wanted, group_by=group_by)
        return UsageSummary(group_by=group_by, data=[view_group(group, group_by) for group in groups])

    @routes.get("/unpriced", operation_id="list_unpriced_usage", summary="List usage that waits for a price")
    async def list_unpriced_usage(
        *,
        session: SessionDep,
        caller: CallerDep,
        page: PageDep,
        organization_id: Annotated[Identifier | None, Query(description="Only of this organization")] = None,
        model: Annotated[ModelName | None, Query(description="Only of this model")] = None,
    ) -> Page[UnpricedView]:
        """Requests that no rate card covers yet; they are charged once one does. Needs `usage:read`."""
        wanted = visible(caller, "usage:read", organization_id=organization_id, model=model)
        items = await report.unpriced(session, wanted, before_id=page.cursor, limit=page.limit + 1)
        return page.page([view_unpriced(item) for item in items], [item.event_id for item in items])

    return routes
