"""The routes of nodes and racks, for operators; and `/internal/v1/nodes` for region services."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response

from cloudcrest.compute.api import NODES_PATH, NodeStatus
from cloudcrest.compute.nodes.schemas import (
    ChangeNode,
    ChangeRack,
    CreateRack,
    NodeView,
    RackView,
    rack_view,
    view,
)
from cloudcrest.compute.nodes.service import NodeService
from cloudcrest.identity.http import CallerDep
from cloudcrest.infra.http.paging import Page, PageDep
from cloudcrest.infra.http.problems import responses
from cloudcrest.infra.http.session import SessionDep
from cloudcrest.kernel.errors import InvalidInput
from cloudcrest.regions.http import RegionDep

NodePath = Annotated[str, Path(max_length=64, examples=["node_01k9zq3v5e8m2n4p6r8t0w2y4z"])]
RackPath = Annotated[str, Path(max_length=64, examples=["rack_01k9zq3v5e8m2n4p6r8t0w2y4z"])]
RegionQuery = Annotated[str | None, Query(max_length=64, description="Only this region's", examples=["local"])]


def router(service: NodeService) -> APIRouter:
    """The management routes; all are the operator's."""
    routes = APIRouter(prefix="/api/v1", tags=["nodes"], responses=responses(401, 403))
    _add_nodes(routes, service)
    _add_racks(routes, service)
    return routes


def _add_nodes(routes: APIRouter, service: NodeService) -> None:
    @routes.get("/nodes", operation_id="list_nodes", summary="List nodes")
    async def list_nodes(
        session: SessionDep, caller: CallerDep, request: PageDep, region: RegionQuery = None
    ) -> Page[NodeView]:
        """The machines that regions report, with what is given out of each; those that are gone, too."""
        caller.require_operator()
        found = await service.page(session, request, region=region)
        return request.page([view(seen) for seen in found], [seen.known.id for seen in found])

    @routes.get("/nodes/{node_id}", operation_id="get_node", summary="Show a node", responses=responses(404))
    async def get_node(session: SessionDep, caller: CallerDep, node_id: NodePath) -> NodeView:
        """One node."""
        caller.require_operator()
        return view(await service.get(session, node_id))

    @routes.patch(
        "/nodes/{node_id}", operation_id="change_node", summary="Change a node", responses=responses(400, 404)
    )
    async def change_node(session: SessionDep, caller: CallerDep, node_id: NodePath, body: ChangeNode) -> NodeView:
        """Labels, taints, zone, rack, what is not given out; cordons and drains. Its region hears of it at once."""
        caller.require_operator()
        return view(await service.change(session, node_id, body.change()))

    @routes.delete(
        "/nodes/{node_id}",
        operation_id="forget_node",
        summary="Forget a node that is gone",
        status_code=204,
        responses=responses(404, 409),
    )
    async def forget_node(session: SessionDep, caller: CallerDep, node_id: NodePath) -> None:
        """Forgets a node that its region no longer reports, and what was set of it."""
        caller.require_operator()
        await service.remove(session, node_id)


def _add_racks(routes: APIRouter, service: NodeService) -> None:
    @routes.get("/racks", operation_id="list_racks", summary="List racks with a limit to their power")
    async def list_racks(
        session: SessionDep, caller: CallerDep, request: PageDep, region: RegionQuery = None
    ) -> Page[RackView]:
        """The racks whose nodes may draw only so much together."""
        caller.require_operator()
        found = await service.page_racks(session, request, region=region)
        return request.page([rack_view(rack) for rack in found], [rack.id for rack in found])

    @routes.get("/racks/{rack_id}", operation_id="get_rack", summary="Show a rack", responses=responses(404))
    async def get_rack(session: SessionDep, caller: CallerDep, rack_id: RackPath) -> RackView:
        """One rack."""
        caller.require_operator()
        return rack_view(await service.get_rack(session, rack_id))

    @routes.post(
        "/racks",
        operation_id="create_rack",
        summary="Limit a rack's power",
        status_code=201,
        responses=responses(400, 409),
    )
    async def create_rack(session: SessionDep, caller: CallerDep, body: CreateRack) -> RackView:
        """What a rack's nodes draw together stays below this: work waits, or goes elsewhere."""
        caller.require_operator()
        rack = await service.create_rack(session, body.region, body.name, body.power_limit_watts, zone=body.zone or "")
        return rack_view(rack)

    @routes.patch(
        "/racks/{rack_id}", operation_id="change_rack", summary="Change a rack's limit", responses=responses(404)
    )
    async def change_rack(session: SessionDep, caller: CallerDep, rack_id: RackPath, body: ChangeRack) -> RackView:
        """Another limit. What runs already stays, even above it."""
        caller.require_operator()
        return rack_view(await service.change_rack(session, rack_id, body.power_limit_watts))

    @routes.delete(
        "/racks/{rack_id}",
        operation_id="delete_rack",
        summary="Take a rack's limit away",
        status_code=204,
        responses=responses(404),
    )
    async def delete_rack(session: SessionDep, caller: CallerDep, rack_id: RackPath) -> None:
        """Its nodes may draw what they do."""
        caller.require_operator()
        await service.remove_rack(session, rack_id)


def internal_router(service: NodeService) -> APIRouter:
    """The link's route: a region's report of all its nodes."""
    routes = APIRouter(include_in_schema=False)

    @routes.put(NODES_PATH, status_code=204)
    async def put_nodes(request: Request, session: SessionDep, region: RegionDep) -> Response:
        try:
            statuses = msgspec.json.decode(await request.body(), type=list[NodeStatus], strict=False)
        except ValueError as error:
            raise InvalidInput(f"the report could not be read: {error}") from error
        await service.record(session, region, statuses)
        return Response(status_code=204)

    return routes
