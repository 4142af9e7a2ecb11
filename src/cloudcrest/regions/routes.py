"""The routes of regions: `/api/v1/regions` for people and tools, `/internal/v1/feed` for region services."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response

from cloudcrest.identity.http import CallerDep
from cloudcrest.infra.database import Database
from cloudcrest.infra.feed import FeedPage
from cloudcrest.infra.feed_notifier import FeedNotifier
from cloudcrest.infra.feed_server import MAX_WAIT_SECONDS
from cloudcrest.infra.http.paging import Page, PageDep
from cloudcrest.infra.http.problems import responses
from cloudcrest.infra.http.session import SessionDep
from cloudcrest.infra.publication import read_page
from cloudcrest.kernel.clock import Clock
from cloudcrest.regions.api import Zones
from cloudcrest.regions.http import RegionDep
from cloudcrest.regions.schemas import CreatedRegion, CreateRegion, RegionToken, RegionView, view
from cloudcrest.regions.service import RegionService

RegionPath = Annotated[str, Path(max_length=64, examples=["local"])]


def router(service: RegionService, zones: Zones, clock: Clock) -> APIRouter:
    """The management routes."""
    routes = APIRouter(prefix="/api/v1/regions", tags=["regions"], responses=responses(401))

    @routes.get("", operation_id="list_regions", summary="List regions")
    async def list_regions(session: SessionDep, caller: CallerDep, request: PageDep) -> Page[RegionView]:
        """The regions of this cloud. Operators also see the state of their links."""
        regions = await service.page(session, request)
        now = clock.now()
        found = await zones.zones_by_region(session)
        views = [view(region, found.get(region.id, []), now=now, for_operator=caller.is_operator) for region in regions]
        return request.page(views, [region.id for region in regions])

    @routes.get("/{region_id}", operation_id="get_region", summary="Show a region", responses=responses(404))
    async def get_region(session: SessionDep, caller: CallerDep, region_id: RegionPath) -> RegionView:
        """One region."""
        region = await service.get(session, region_id)
        found = await zones.zones_by_region(session)
        return view(region, found.get(region.id, []), now=clock.now(), for_operator=caller.is_operator)

    @routes.post(
        "", operation_id="create_region", summary="Add a region", status_code=201, responses=responses(403, 409)
    )
    async def create_region(session: SessionDep, caller: CallerDep, body: CreateRegion) -> CreatedRegion:
        """Adds a region, for operators. The link token in the answer is shown this once."""
        caller.require_operator()
        endpoint = None if body.endpoint_url is None else str(body.endpoint_url)
        region, token = await service.create(
            session, region_id=body.id, name=body.name, jurisdiction=body.jurisdiction, endpoint_url=endpoint
        )
        created = view(region, [], now=clock.now(), for_operator=True)
        return CreatedRegion(region=region.id, token=token, created=created)

    @routes.post(
        "/{region_id}/token",
        operation_id="replace_region_token",
        summary="Replace a region's link token",
        responses=responses(403, 404),
    )
    async def replace_region_token(session: SessionDep, caller: CallerDep, region_id: RegionPath) -> RegionToken:
        """A new link token, for operators; the old one stops working at once."""
        caller.require_operator()
        return RegionToken(region=region_id, token=await service.replace_token(session, region_id))

    return routes


def internal_router(notifier: FeedNotifier) -> APIRouter:
    """The link's route: the feed that a region service follows (infra/feed.py has the protocol)."""
    routes = APIRouter(prefix="/internal/v1", include_in_schema=False)

    @routes.get("/feed")
    async def follow_feed(
        request: Request,
        region: RegionDep,
        cursor: Annotated[str, Query(max_length=100)] = "",
        wait_seconds: Annotated[float, Query(ge=0, le=MAX_WAIT_SECONDS)] = 20,
    ) -> Response:
        database: Database = request.app.state.database

        async def read(since: str) -> FeedPage:
            async with database.transaction() as session:
                return await read_page(session, since, region=region)

        page = await notifier.wait_for_page(read, cursor, wait_seconds)
        return Response(msgspec.json.encode(page), media_type="application/json")

    return routes
