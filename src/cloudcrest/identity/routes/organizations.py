"""Organizations and projects."""

from typing import Any

from fastapi import APIRouter, status
from pydantic import BaseModel

from cloudcrest.identity.guardrail_schemas import Guardrails
from cloudcrest.identity.http import CallerDep
from cloudcrest.identity.schemas import (
    Limits,
    OrganizationChange,
    OrganizationFilter,
    OrganizationIn,
    OrganizationOut,
    OrganizationPath,
    ProjectChange,
    ProjectIn,
    ProjectOut,
    ProjectPath,
    SuspensionIn,
)
from cloudcrest.identity.service.organizations import OrganizationService
from cloudcrest.infra.http.paging import Page, PageDep
from cloudcrest.infra.http.problems import responses
from cloudcrest.infra.http.session import SessionDep


def router(service: OrganizationService) -> APIRouter:
    """/organizations and /projects."""
    routes = APIRouter()
    _add_organizations(routes, service)
    _add_suspension(routes, service)
    _add_projects(routes, service)
    return routes


def sent_fields(body: BaseModel) -> dict[str, Any]:
    """What a PATCH body has, with limits and guardrails as the services know them; what was left out stays out."""
    sent = {name: getattr(body, name) for name in body.model_fields_set}
    return {name: value.to_api() if isinstance(value, Limits | Guardrails) else value for name, value in sent.items()}


def _add_organizations(routes: APIRouter, service: OrganizationService) -> None:
    @routes.get(
        "/organizations",
        operation_id="listOrganizations",
        tags=["organizations"],
        summary="The organizations you belong to (operators: all)",
        responses=responses(401, 403, 422),
    )
    async def list_organizations(caller: CallerDep, session: SessionDep, page: PageDep) -> Page[OrganizationOut]:
        found = await service.list_organizations(session, caller, page)
        return page.page([OrganizationOut.model_validate(item) for item in found], [item.id for item in found])

    @routes.post(
        "/organizations",
        operation_id="createOrganization",
        tags=["organizations"],
        summary="Found an organization; you own it",
        status_code=status.HTTP_201_CREATED,
        responses=responses(401, 403, 409, 422),
    )
    async def create_organization(body: OrganizationIn, caller: CallerDep, session: SessionDep) -> OrganizationOut:
        return OrganizationOut.model_validate(await service.create(session, caller, body.name))

    @routes.get(
        "/organizations/{organization_id}",
        operation_id="getOrganization",
        tags=["organizations"],
        summary="One organization",
        responses=responses(401, 403, 404, 422),
    )
    async def get_organization(
        organization_id: OrganizationPath, caller: CallerDep, session: SessionDep
    ) -> OrganizationOut:
        return OrganizationOut.model_validate(await service.get(session, caller, organization_id))

    @routes.patch(
        "/organizations/{organization_id}",
        operation_id="updateOrganization",
        tags=["organizations"],
        summary="Change its name, limits or least guardrails (operators: its ceiling)",
        responses=responses(401, 403, 404, 422),
    )
    async def update_organization(
        organization_id: OrganizationPath, body: OrganizationChange, caller: CallerDep, session: SessionDep
    ) -> OrganizationOut:
        changed = await service.update(session, caller, organization_id, sent_fields(body))
        return OrganizationOut.model_validate(changed)


def _add_suspension(routes: APIRouter, service: OrganizationService) -> None:
    @routes.post(
        "/organizations/{organization_id}/suspend",
        operation_id="suspendOrganization",
        tags=["operators"],
        summary="Stop serving an organization",
        responses=responses(401, 403, 404, 422),
    )
    async def suspend_organization(
        organization_id: OrganizationPath, body: SuspensionIn, caller: CallerDep, session: SessionDep
    ) -> OrganizationOut:
        return OrganizationOut.model_validate(
            await service.set_suspended(session, caller, organization_id, body.reason)
        )

    @routes.post(
        "/organizations/{organization_id}/unsuspend",
        operation_id="unsuspendOrganization",
        tags=["operators"],
        summary="Lift a suspension",
        responses=responses(401, 403, 404, 422),
    )
    async def unsuspend_organization(
        organization_id: OrganizationPath, caller: CallerDep, session: SessionDep
    ) -> OrganizationOut:
        return OrganizationOut.model_validate(await service.set_suspended(session, caller, organization_id, None))


def _add_projects(routes: APIRouter, service: OrganizationService) -> None:
    @routes.get(
        "/projects",
        operation_id="listProjects",
        tags=["projects"],
        summary="The projects you can see",
        responses=responses(401, 403, 404, 422),
    )
    async def list_projects(
        caller: CallerDep, session: SessionDep, page: PageDep, organization_id: OrganizationFilter = None
    ) -> Page[ProjectOut]:
        found = await service.list_projects(session, caller, page, organization_id)
        return page.page([ProjectOut.model_validate(item) for item in found], [item.id for item in found])

    @routes.post(
        "/projects",
        operation_id="createProject",
        tags=["projects"],
        summary="Make a project",
        status_code=status.HTTP_201_CREATED,
        responses=responses(401, 403, 404, 409, 422),
    )
    async def create_project(body: ProjectIn, caller: CallerDep, session: SessionDep) -> ProjectOut:
        project = await service.create_project(
            session,
            caller,
            body.organization_id,
            body.name,
            body.limits.to_api(),
            fallbacks=body.fallbacks,
            strict=body.strict,
            guardrails=body.guardrails.to_api(),
        )
        return ProjectOut.model_validate(project)

    @routes.get(
        "/projects/{project_id}",
        operation_id="getProject",
        tags=["projects"],
        summary="One project",
        responses=responses(401, 403, 404, 422),
    )
    async def get_project(project_id: ProjectPath, caller: CallerDep, session: SessionDep) -> ProjectOut:
        return ProjectOut.model_validate(await service.get_project(session, caller, project_id))

    @routes.patch(
        "/projects/{project_id}",
        operation_id="updateProject",
        tags=["projects"],
        summary="Change its name, limits, fallbacks, strictness or guardrails",
        responses=responses(401, 403, 404, 409, 422),
    )
    async def update_project(
        project_id: ProjectPath, body: ProjectChange, caller: CallerDep, session: SessionDep
    ) -> ProjectOut:
        return ProjectOut.model_validate(await service.update_project(session, caller, project_id, sent_fields(body)))

    @routes.delete(
        "/projects/{project_id}",
        operation_id="archiveProject",
        tags=["projects"],
        summary="Archive a project; its keys are revoked",
        status_code=status.HTTP_204_NO_CONTENT,
        responses=responses(401, 403, 404, 409, 422),
    )
    async def archive_project(project_id: ProjectPath, caller: CallerDep, session: SessionDep) -> None:
        await service.archive_project(session, caller, project_id)
