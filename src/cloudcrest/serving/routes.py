"""The routes of serving: `/api/v1/deployments` for people and tools, `/internal/v1/status` for region services."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response

from cloudcrest.identity.http import CallerDep
from cloudcrest.infra.http.paging import Page, PageDep
from cloudcrest.infra.http.problems import responses
from cloudcrest.infra.http.session import SessionDep
from cloudcrest.kernel.errors import InvalidInput
from cloudcrest.regions.http import RegionDep
from cloudcrest.serving.api import RegionStatus
from cloudcrest.serving.schemas import ChangeDeployment, CreateDeployment, DeploymentView, view
from cloudcrest.serving.service import DeploymentService

DeploymentPath = Annotated[str, Path(max_length=64, examples=["dep_01k9zq3v5e8m2n4p6r8t0w2y4z"])]
RegionQuery = Annotated[str | None, Query(max_length=64, description="Only this region's", examples=["local"])]


def router(service: DeploymentService) -> APIRouter:
    """The management routes."""
    routes = APIRouter(prefix="/api/v1/deployments", tags=["deployments"], responses=responses(401))

    @routes.get("", operation_id="list_deployments", summary="List deployments")
    async def list_deployments(
        session: SessionDep, caller: CallerDep, request: PageDep, region: RegionQuery = None
    ) -> Page[DeploymentView]:
        """The deployments that serve the caller: the public ones and those of its organizations."""
        found = await service.page(session, caller, request, region=region)
        views = [view(status, for_operator=caller.is_operator) for status in found]
        return request.page(views, [status.deployment.id for status in found])

    @routes.get(
        "/{deployment_id}", operation_id="get_deployment", summary="Show a deployment", responses=responses(404)
    )
    async def get_deployment(session: SessionDep, caller: CallerDep, deployment_id: DeploymentPath) -> DeploymentView:
        """One deployment, with the state of its replicas and how far fetches are."""
        return view(await service.get(session, caller, deployment_id), for_operator=caller.is_operator)

    @routes.post(
        "",
        operation_id="create_deployment",
        summary="Deploy a model",
        status_code=201,
        responses=responses(400, 403, 404, 409),
    )
    async def create_deployment(session: SessionDep, caller: CallerDep, body: CreateDeployment) -> DeploymentView:
        """Deploys a model, for operators. Its region fetches the weights and starts replicas; `state` says how far."""
        caller.require_operator()
        deployment = await service.create(
            session,
            model_id=body.model,
            name=body.name,
            engine=body.engine,
            region=body.region,
            organization_id=body.organization_id,
            wish=body.wish(),
        )
        return view(await service.get(session, caller, deployment.id), for_operator=True)

    @routes.patch(
        "/{deployment_id}",
        operation_id="change_deployment",
        summary="Change or scale a deployment",
        responses=responses(400, 403, 404),
    )
    async def change_deployment(
        session: SessionDep, caller: CallerDep, deployment_id: DeploymentPath, body: ChangeDeployment
    ) -> DeploymentView:
        """Changes a deployment, for operators. New replicas are ready before old ones leave."""
        caller.require_operator()
        await service.change(session, deployment_id, body.wish())
        return view(await service.get(session, caller, deployment_id), for_operator=True)

    @routes.delete(
        "/{deployment_id}",
        operation_id="delete_deployment",
        summary="Delete a deployment",
        status_code=204,
        responses=responses(403, 404),
    )
    async def delete_deployment(session: SessionDep, caller: CallerDep, deployment_id: DeploymentPath) -> None:
        """Deletes a deployment, for operators. Its replicas finish their requests and stop."""
        caller.require_operator()
        await service.delete(session, deployment_id)

    return routes


def internal_router(service: DeploymentService) -> APIRouter:
    """The link's route: a region's report of its replicas and pulls."""
    routes = APIRouter(prefix="/internal/v1", include_in_schema=False)

    @routes.put("/status", status_code=204)
    async def put_status(request: Request, session: SessionDep, region: RegionDep) -> Response:
        try:
            status = msgspec.json.decode(await request.body(), type=RegionStatus)
        except ValueError as error:
            raise InvalidInput(f"the report could not be read: {error}") from error
        await service.record_status(session, region, status)
        return Response(status_code=204)

    return routes
