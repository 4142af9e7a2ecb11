"""Quotas at the control plane, over a real database: given, divided, published, and what is used of them."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import msgspec
import pytest

from cloudcrest.bootstrap.region_placement import Published, rules
from cloudcrest.compute.accelerator_types.service import AcceleratorTypes
from cloudcrest.compute.jobs.api import AttemptReport, JobReport, JobReports
from cloudcrest.compute.jobs.service import JobService
from cloudcrest.compute.quotas import routes
from cloudcrest.compute.quotas.api import QuotaDocument
from cloudcrest.compute.quotas.service import QuotaService
from cloudcrest.compute.scheduler.quotas import Quota
from cloudcrest.identity.api import Caller, Membership
from cloudcrest.infra.database import Database
from cloudcrest.kernel.clock import ManualClock
from cloudcrest.kernel.ids import id_maker
from tests.integration.compute.test_job_routes import Projects
from tests.support.management import linked_region, management_client
from tests.support.published import published

pytestmark = pytest.mark.anyio

CALLERS = {
    "operator": Caller(kind="user", id="user_0", is_operator=True),
    "admin": Caller(kind="user", id="user_1", memberships=(Membership("org_1", "admin"),)),
    "dev": Caller(kind="user", id="user_2", memberships=(Membership("org_1", "developer"),)),
    "lead": Caller(kind="user", id="user_4", memberships=(Membership("org_1", "admin", "proj_1"),)),
    "other": Caller(kind="user", id="user_3", memberships=(Membership("org_2", "owner"),)),
}


class Cloud:
    """The routes in memory over a database."""

    def __init__(self, database: Database, clock: ManualClock, client: httpx2.AsyncClient, jobs: JobService) -> None:
        self.database = database
        self.clock = clock
        self.client = client
        self.jobs = jobs

    async def call(self, method: str, path: str, caller: str = "operator", **body: Any) -> httpx2.Response:
        arguments: dict[str, Any] = {"json": body} if body else {}
        return await self.client.request(method, f"/api/v1/quotas{path}", headers={"x-caller": caller}, **arguments)

    async def give(self, caller: str = "operator", **body: Any) -> dict[str, Any]:
        answer = await self.call(
            "POST", "", caller, **({"resource": "nvidia-h100-80gb", "guaranteed_milli": 8_000} | body)
        )
        assert answer.status_code == 201, answer.text
        given: dict[str, Any] = answer.json()
        return given

    async def documents(self) -> dict[str, dict[str, Any] | None]:
        page = await published(self.database)
        return {item.id: item.body for item in page.documents if item.kind == "quota"}


@pytest.fixture
async def cloud(database: Database, clock: ManualClock) -> AsyncIterator[Cloud]:
    regions = await linked_region(database, clock)
    owners, new_id = Projects(), id_maker(clock)
    types = AcceleratorTypes(clock)
    async with database.transaction() as session:
        await types.seed(session)
    quotas = QuotaService(regions=regions, types=types, owners=owners, clock=clock, new_id=new_id)
    jobs = JobService(regions=regions, types=types, owners=owners, standing=owners, clock=clock, new_id=new_id)
    client = management_client(database, routes.router(quotas), callers=CALLERS, regions=regions)
    async with client:
        yield Cloud(database, clock, client, jobs)


async def test_operators_give_and_admins_divide(cloud: Cloud) -> None:
    whole = await cloud.give(organization_id="org_1", ceiling_milli=12_000)
    part = await cloud.give("admin", project_id="proj_1", guaranteed_milli=5_000)
    assert (part["organization_id"], part["project_id"], part["used_milli"]) == ("org_1", "proj_1", 0)
    answer = await cloud.call(
        "POST", "", "admin", project_id="proj_2", resource="nvidia-h100-80gb", guaranteed_milli=4_000
    )
    assert answer.status_code == 400
    assert (
        "guaranteed 9 × nvidia-h100-80gb together, the organization is guaranteed 8 × nvidia-h100-80gb" in answer.text
    )
    lowered = await cloud.call("PUT", f"/{whole['id']}", guaranteed_milli=4_000)
    assert lowered.status_code == 400
    assert (await cloud.call("DELETE", f"/{whole['id']}")).status_code == 409
    documents = {
        key: msgspec.convert(body, QuotaDocument) for key, body in (await cloud.documents()).items() if body is not None
    }
    quotas = rules(Published(quotas=list(documents.values())), cloud.clock.now()).quotas
    assert set(quotas) == {
        Quota(("org_1",), "nvidia-h100-80gb", 8_000, 12_000),
        Quota(("org_1", "proj_1"), "nvidia-h100-80gb", 5_000),
    }
    assert (await cloud.call("DELETE", f"/{part['id']}", "admin")).status_code == 204
    assert (await cloud.documents())[part["id"]] is None


async def test_nobody_gives_himself_what_is_not_his(cloud: Cloud) -> None:
    whole = await cloud.give(organization_id="org_1")
    body: dict[str, Any] = {"resource": "nvidia-h100-80gb", "guaranteed_milli": 1_000}
    assert (await cloud.call("POST", "", "admin", organization_id="org_1", **body)).status_code == 403
    assert (await cloud.call("PUT", f"/{whole['id']}", "admin", guaranteed_milli=99_000)).status_code == 403
    assert (await cloud.call("POST", "", "dev", project_id="proj_1", **body)).status_code == 403
    assert (await cloud.call("POST", "", "lead", project_id="proj_1", **body)).status_code == 403
    for caller in ("other",):
        assert (await cloud.call("GET", f"/{whole['id']}", caller)).status_code == 404
        assert (await cloud.call("PUT", f"/{whole['id']}", caller, guaranteed_milli=1)).status_code == 404
        assert (await cloud.call("DELETE", f"/{whole['id']}", caller)).status_code == 404
        assert (await cloud.call("POST", "", caller, project_id="proj_1", **body)).status_code == 404
        assert (await cloud.call("GET", "", caller)).json()["data"] == []
    assert [each["id"] for each in (await cloud.call("GET", "", "dev")).json()["data"]] == [whole["id"]]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({}, 400, "say whose"),
        ({"organization_id": "org_1", "region": "lokal"}, 400, "there is no region"),
        ({"organization_id": "org_1", "ceiling_milli": 1}, 400, "below what is guaranteed"),
        ({"organization_id": "org_2", "project_id": "proj_1"}, 400, "not of this organization"),
        ({"organization_id": "org_1", "resource": "nvidia-h100"}, 400, "did you mean nvidia-h100-"),
        ({"project_id": "proj_9"}, 404, "no project"),
        ({"organization_id": "org_1", "guaranteed_milli": -1}, 422, "body.guaranteed_milli"),
        ({"organization_id": "org_1", "resource": "H 100"}, 422, "body.resource"),
    ],
)
async def test_what_makes_no_sense_is_refused(cloud: Cloud, body: dict[str, Any], status: int, says: str) -> None:
    given: dict[str, Any] = {"resource": "nvidia-h100-80gb", "guaranteed_milli": 8_000}
    answer = await cloud.call("POST", "", **(given | body))
    assert answer.status_code == status, answer.text
    assert says in answer.text


async def test_a_second_quota_of_one_owner_is_refused(cloud: Cloud) -> None:
    await cloud.give(organization_id="org_1")
    answer = await cloud.call("POST", "", organization_id="org_1", resource="nvidia-h100-80gb", guaranteed_milli=1_000)
    assert answer.status_code == 409


async def test_what_runs_is_counted_and_what_is_borrowed_said(cloud: Cloud) -> None:
    from cloudcrest.compute.jobs.schemas import AcceleratorsBody, CreateJob

    whole = await cloud.give(organization_id="org_1", guaranteed_milli=3_000)
    body = CreateJob(project_id="proj_1", command=["x"], members=2, accelerators=AcceleratorsBody(count=2))
    async with cloud.database.transaction() as session:
        job = await cloud.jobs.create(session, CALLERS["dev"], "proj_1", body.request())
        report = JobReport(job.id, "running", attempt=1, attempts=(AttemptReport(1, "nvidia-h100-80gb"),))
        await cloud.jobs.record(session, "local", JobReports("local", (report,)))
    parts = [await cloud.give("admin", project_id=each, guaranteed_milli=1_500) for each in ("proj_1", "proj_2")]
    shown = {
        each["id"]: (each["used_milli"], each["borrowed_milli"])
        for each in (await cloud.call("GET", "")).json()["data"]
    }
    assert shown == {whole["id"]: (4_000, 1_000), parts[0]["id"]: (4_000, 2_500), parts[1]["id"]: (0, 0)}
    shown = (await cloud.call("GET", f"/{whole['id']}")).json()
    assert (shown["used_milli"], shown["borrowed_milli"]) == (4_000, 1_000)
