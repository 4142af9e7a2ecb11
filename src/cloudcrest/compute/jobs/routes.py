"""`/api/v1/jobs` and a project's secrets for people and tools; `/internal/v1/jobs` for regions' reports."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response

from cloudcrest.compute.jobs.api import JOB_REPORTS_PATH, JobReports, JobState
from cloudcrest.compute.jobs.records import ComputePolicy
from cloudcrest.compute.jobs.schemas import CreateJob, Identifier, PolicyBody, SecretBody, VariableName
from cloudcrest.compute.jobs.secrets import ComputePolicies, ProjectSecrets
from cloudcrest.compute.jobs.service import JobService
from cloudcrest.compute.jobs.views import (
    JobView,
    PolicyView,
    SecretList,
    SecretView,
    view,
    view_policy,
    view_secret,
)
from cloudcrest.identity.http import CallerDep
from cloudcrest.infra.http.paging import Page, PageDep
from cloudcrest.infra.http.problems import responses
from cloudcrest.infra.http.session import SessionDep
from cloudcrest.kernel.errors import InvalidInput
from cloudcrest.regions.http import RegionDep

JobPath = Annotated[str, Path(max_length=64, examples=["job_01k9zq3v5e8m2n4p6r8t0w2y4z"])]
ProjectPath = Annotated[str, Path(max_length=64, examples=["proj_01k9zq3v5e8m2n4p6r8t0w2y4z"])]
OrganizationPath = Annotated[str, Path(max_length=64, examples=["org_01k9zq3v5e8m2n4p6r8t0w2y4z"])]


def router(service: JobService, secrets: ProjectSecrets, policies: ComputePolicies) -> APIRouter:
    """The management routes."""
    routes = APIRouter(prefix="/api/v1", tags=["jobs"], responses=responses(401))
    _add_jobs(routes, service)
    _add_secrets(routes, service, secrets)
    _add_policies(routes, policies)
    return routes


def _add_jobs(routes: APIRouter, service: JobService) -> None:
    @routes.get("/jobs", operation_id="list_jobs", summary="List jobs", responses=responses(404))
    async def list_jobs(
        *,
        session: SessionDep,
        caller: CallerDep,
        page: PageDep,
        organization_id: Annotated[Identifier | None, Query(description="Only of this organization")] = None,
        project_id: Annotated[Identifier | None, Query(description="Only of this project")] = None,
        state: Annotated[list[JobState] | None, Query(description="Only in one of these states")] = None,
    ) -> Page[JobView]:
        """Jobs and how they are, newest first. Needs `jobs:read`."""
        found = await service.page(
            session, caller, page, organization_id=organization_id, project_id=project_id, states=state or ()
        )
        return page.page([view(job) for job in found], [job.id for job in found])

    @routes.get("/jobs/{job_id}", operation_id="get_job", summary="Show a job", responses=responses(404))
    async def get_job(session: SessionDep, caller: CallerDep, job_id: JobPath) -> JobView:
        """One job, with its attempts. Needs `jobs:read`. What it writes is at `/v1/jobs/{job_id}/logs`, with a key."""
        return view(await service.get(session, caller, job_id))

    @routes.post(
        "/jobs",
        operation_id="create_job",
        summary="Run a job",
        status_code=201,
        responses=responses(400, 403, 404, 429),
    )
    async def create_job(session: SessionDep, caller: CallerDep, body: CreateJob) -> JobView:
        """Runs a command where it finds room; `state` and `reason` say how far it is. Needs `jobs:write`."""
        return view(await service.create(session, caller, body.project_id, body.request()))

    @routes.post(
        "/jobs/{job_id}/cancel", operation_id="cancel_job", summary="Cancel a job", responses=responses(403, 404)
    )
    async def cancel_job(session: SessionDep, caller: CallerDep, job_id: JobPath) -> JobView:
        """Has it end: SIGTERM, and SIGKILL after its grace. One that has ended stays as it is. Needs `jobs:write`."""
        return view(await service.cancel(session, caller, job_id))

    @routes.delete(
        "/jobs/{job_id}",
        operation_id="delete_job",
        summary="Forget a job",
        status_code=204,
        responses=responses(403, 404, 409),
    )
    async def delete_job(session: SessionDep, caller: CallerDep, job_id: JobPath) -> None:
        """Forgets a job that has ended. Needs `jobs:write`."""
        await service.delete(session, caller, job_id)


def _add_secrets(routes: APIRouter, service: JobService, secrets: ProjectSecrets) -> None:
    at = "/projects/{project_id}/secrets"

    @routes.get(at, operation_id="list_secrets", summary="List secrets", responses=responses(404))
    async def list_secrets(session: SessionDep, caller: CallerDep, project_id: ProjectPath) -> SecretList:
        """The names of a project's secrets. Needs `jobs:read`."""
        await service.require(session, caller, "jobs:read", project_id)
        return SecretList(data=[view_secret(each) for each in await secrets.list(session, project_id)])

    @routes.put(
        at + "/{secret_name}", operation_id="set_secret", summary="Set a secret", responses=responses(403, 404, 429)
    )
    async def set_secret(
        session: SessionDep,
        caller: CallerDep,
        project_id: ProjectPath,
        secret_name: Annotated[VariableName, Path()],
        body: SecretBody,
    ) -> SecretView:
        """Sets a secret that jobs may name. It is stored sealed and never shown again. Needs `jobs:write`."""
        await service.require(session, caller, "jobs:write", project_id)
        return view_secret(await secrets.set(session, project_id, secret_name, body.value, caller.id))

    @routes.delete(
        at + "/{secret_name}",
        operation_id="delete_secret",
        summary="Delete a secret",
        status_code=204,
        responses=responses(403, 404),
    )
    async def delete_secret(
        session: SessionDep, caller: CallerDep, project_id: ProjectPath, secret_name: Annotated[VariableName, Path()]
    ) -> None:
        """Deletes a secret. Jobs that were made with it keep it. Needs `jobs:write`."""
        await service.require(session, caller, "jobs:write", project_id)
        await secrets.delete(session, project_id, secret_name)


def _add_policies(routes: APIRouter, policies: ComputePolicies) -> None:
    at = "/compute-policies/{organization_id}"

    @routes.get(at, operation_id="get_compute_policy", summary="Show what jobs may", responses=responses(403))
    async def get_policy(session: SessionDep, caller: CallerDep, organization_id: OrganizationPath) -> PolicyView:
        """What an organization's jobs may, for operators."""
        caller.require_operator()
        return view_policy(await policies.get(session, organization_id))

    @routes.put(at, operation_id="set_compute_policy", summary="Set what jobs may", responses=responses(403))
    async def set_policy(
        session: SessionDep, caller: CallerDep, organization_id: OrganizationPath, body: PolicyBody
    ) -> PolicyView:
        """Grants it to jobs that are made from now on, for operators."""
        caller.require_operator()
        granted = ComputePolicy(organization_id, body.is_trusted, body.may_run_high)
        return view_policy(await policies.set(session, granted))


def internal_router(service: JobService) -> APIRouter:
    """The link's route: a region's report of its jobs."""
    routes = APIRouter(include_in_schema=False)

    @routes.put(JOB_REPORTS_PATH, status_code=204)
    async def put_reports(request: Request, session: SessionDep, region: RegionDep) -> Response:
        try:
            reports = msgspec.json.decode(await request.body(), type=JobReports)
        except ValueError as error:
            raise InvalidInput(f"the report could not be read: {error}") from error
        await service.record(session, region, reports)
        return Response(status_code=204)

    return routes
