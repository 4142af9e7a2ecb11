"""Jobs at the control plane, over a real database: taken in, published, reported, kept from others."""

from collections.abc import AsyncIterator, Collection, Mapping
from datetime import timedelta
from typing import Any

import httpx2
import msgspec
import pytest

from cloudcrest.compute.accelerator_types.service import AcceleratorTypes
from cloudcrest.compute.jobs import repository, routes
from cloudcrest.compute.jobs.api import AttemptReport, JobReport, JobReports, MemberReport, secret_words
from cloudcrest.compute.jobs.records import ProjectSecret
from cloudcrest.compute.jobs.secrets import ComputePolicies, ProjectSecrets
from cloudcrest.compute.jobs.service import KEPT_DAYS, JobService
from cloudcrest.identity.api import Caller, Membership
from cloudcrest.infra.database import Database
from cloudcrest.infra.sealing import Sealer
from cloudcrest.kernel.clock import ManualClock
from cloudcrest.kernel.errors import SetupError
from cloudcrest.kernel.ids import id_maker
from cloudcrest.regions.service import RegionService
from tests.support.management import REGION_TOKEN, linked_region, management_client
from tests.support.published import published

pytestmark = pytest.mark.anyio

CALLERS = {
    "operator": Caller(kind="user", id="user_0", is_operator=True),
    "dev": Caller(kind="user", id="user_1", memberships=(Membership("org_1", "developer"),)),
    "viewer": Caller(kind="user", id="user_2", memberships=(Membership("org_1", "viewer", "proj_1"),)),
    "other": Caller(kind="user", id="user_3", memberships=(Membership("org_2", "owner"),)),
    "sibling": Caller(kind="user", id="user_4", memberships=(Membership("org_1", "developer", "proj_2"),)),
}


class Projects:
    """Whose projects are."""

    async def of_project(self, session: object, project_id: str) -> str | None:  # noqa: ARG002
        return {"proj_1": "org_1", "proj_2": "org_1", "proj_3": "org_2"}.get(project_id)

    def __init__(self) -> None:
        self.refused: dict[str, str] = {}

    async def stopped(self, session: object, project_ids: Collection[str]) -> Mapping[str, str]:  # noqa: ARG002
        return {key: why for key, why in self.refused.items() if key in project_ids}

    async def of_key(self, session: object, key_id: str) -> tuple[str, str] | None:
        raise NotImplementedError


class Cloud:
    """The routes in memory over a database."""

    def __init__(self, database: Database, clock: ManualClock, regions: RegionService) -> None:
        self.database = database
        self.sealer = Sealer(Sealer.new_master_key())
        self.projects, self.types = Projects(), AcceleratorTypes(clock)
        self.service = JobService(
            regions=regions,
            types=self.types,
            owners=self.projects,
            standing=self.projects,
            clock=clock,
            new_id=id_maker(clock),
        )
        secrets, policies = ProjectSecrets(self.sealer, clock), ComputePolicies(clock)
        routers = (routes.router(self.service, secrets, policies), routes.internal_router(self.service))
        self.client = management_client(database, *routers, callers=CALLERS, regions=regions)

    async def call(self, method: str, path: str, caller: str = "dev", body: Any = None) -> httpx2.Response:
        arguments: dict[str, Any] = {} if body is None else {"json": body}
        return await self.client.request(method, f"/api/v1{path}", headers={"x-caller": caller}, **arguments)

    async def create(self, caller: str = "dev", **body: Any) -> dict[str, Any]:
        wanted = {"project_id": "proj_1", "command": ["python", "train.py"]} | body
        answer = await self.call("POST", "/jobs", caller, wanted)
        assert answer.status_code == 201, answer.text
        created: dict[str, Any] = answer.json()
        return created

    async def report(self, *reports: JobReport, region: str = "local", token: str = REGION_TOKEN) -> int:
        answer = await self.client.put(
            "/internal/v1/jobs",
            content=msgspec.json.encode(JobReports(region, reports)),
            headers={"authorization": f"Bearer {token}"},
        )
        return answer.status_code

    async def documents(self) -> dict[str, dict[str, Any] | None]:
        page = await published(self.database)
        return {item.id: item.body for item in page.documents if item.kind == "job"}


@pytest.fixture
async def cloud(database: Database, clock: ManualClock) -> AsyncIterator[Cloud]:
    cloud = Cloud(database, clock, await linked_region(database, clock))
    async with database.transaction() as session:
        await cloud.types.seed(session)
    async with cloud.client:
        yield cloud


async def test_a_job_is_taken_in_and_its_region_is_told(cloud: Cloud) -> None:
    made = await cloud.create(
        accelerators={"count": 2, "types": ["nvidia-h100-80gb", "amd-mi300x-192gb"], "prefers": "cheapest"},
        volumes=[{"name": "data", "target": "/data", "is_writable": False}],
        environment={"EPOCHS": "3"}, time_limit_seconds=3600, is_spot=True, labels={"disk": "fast"}, tolerations=["x"],
    )  # fmt: skip
    assert (made["state"], made["organization_id"], made["accelerators"]) == ("queued", "org_1", 2)
    document = (await cloud.documents())[made["id"]]
    assert document is not None
    assert document["types"] == ["nvidia-h100-80gb", "amd-mi300x-192gb"]
    assert document["volumes"] == [{"name": "data", "target": "/data", "is_writable": False}]
    assert (document["priority"], document["is_spot"], document["is_trusted"]) == (0, True, False)
    shown = (await cloud.call("GET", f"/jobs/{made['id']}", "viewer")).json()
    assert (shown["environment"], shown["volumes"]) == ({"EPOCHS": "3"}, document["volumes"])
    assert (shown["labels"], shown["tolerations"], shown["outputs"]) == ({"disk": "fast"}, ["x"], ["outputs"])
    assert [job["id"] for job in (await cloud.call("GET", "/jobs?state=queued", "viewer")).json()["data"]] == [
        made["id"]
    ]
    assert (await cloud.call("GET", "/jobs?state=running", "viewer")).json()["data"] == []


async def test_nobody_else_sees_it_or_ends_it(cloud: Cloud) -> None:
    made = await cloud.create()
    for who in ("other", "sibling"):
        assert (await cloud.call("GET", "/jobs", who)).json()["data"] == []
        for method, path in (("GET", ""), ("POST", "/cancel"), ("DELETE", "")):
            assert (await cloud.call(method, f"/jobs/{made['id']}{path}", who)).status_code == 404
        assert (await cloud.call("POST", "/jobs", who, {"project_id": "proj_1", "command": ["x"]})).status_code == 404
        assert (await cloud.call("GET", "/projects/proj_1/secrets", who)).status_code == 404
    assert (await cloud.call("POST", f"/jobs/{made['id']}/cancel", "viewer")).status_code == 403
    assert (await cloud.call("POST", "/jobs", "viewer", {"project_id": "proj_1", "command": ["x"]})).status_code == 403
    assert (
        await cloud.call("POST", "/jobs", "operator", {"project_id": "proj_9", "command": ["x"]})
    ).status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"command": []}, 422, "body.command"),
        ({"command": ["a\0b"]}, 422, "NUL"),
        ({"region": "lokal"}, 400, "there is local"),
        ({"outputs": ["../up"]}, 422, "inside the work folder"),
        ({"outputs": ["/etc"]}, 422, "inside the work folder"),
        ({"volumes": [{"name": "d", "target": "/etc/x"}]}, 422, "is the system's"),
        ({"volumes": [{"name": "d", "target": "data"}]}, 422, "absolute path"),
        ({"volumes": [{"name": "a", "target": "/x"}, {"name": "b", "target": "/x"}]}, 422, "one target"),
        ({"inputs": [{"path": "a"}]}, 422, "url or file_id"),
        ({"inputs": [{"path": "a", "url": "file:///etc/passwd"}]}, 422, "body.inputs"),
        ({"environment": {"CLOUDCREST_JOB": "x"}}, 422, "body.environment"),
        ({"environment": {"A": "x"}, "secrets": ["A"]}, 422, "is in environment too"),
        ({"secrets": ["NONE"]}, 400, "secrets set NONE"),
        ({"accelerators": {"count": 2, "milli": 500}}, 422, "a single accelerator"),
        ({"accelerators": {"count": 1, "types": ["nvidia-h100"]}}, 400, "did you mean nvidia-h100-"),
        ({"priority": "high"}, 403, "high priority"),
        ({"allowed_hosts": ["http://x"]}, 422, "body.allowed_hosts"),
        ({"surprise": 1}, 422, "body.surprise"),
    ],
)
async def test_what_cannot_run_is_refused(cloud: Cloud, body: dict[str, Any], status: int, says: str) -> None:
    answer = await cloud.call("POST", "/jobs", "dev", {"project_id": "proj_1", "command": ["x"]} | body)
    assert answer.status_code == status, answer.text
    assert says in answer.text
    assert await cloud.documents() == {}


async def test_secrets_that_were_sealed_before_are_bound_at_the_start(cloud: Cloud, clock: ManualClock) -> None:
    other = Sealer(Sealer.new_master_key())
    async with cloud.database.transaction() as session:
        for name, sealer in (("OLD", cloud.sealer), ("LOST", other)):
            secret = ProjectSecret("proj_1", name, "user_1", clock.now(), clock.now())
            await repository.set_secret(session, secret, sealer.seal("sesame"))
    secrets = ProjectSecrets(cloud.sealer, clock)
    for bound in (1, 0):
        async with cloud.database.transaction() as session:
            assert await secrets.bind_old(session) == bound
    made = await cloud.create(secrets=["OLD"])
    document = (await cloud.documents())[made["id"]]
    assert document is not None
    sealed = document["sealed_secrets"]["OLD"]
    assert Sealer.is_bound(sealed)
    assert cloud.sealer.open(sealed, secret_words("proj_1", "OLD")) == "sesame"


async def test_a_secret_is_sealed_given_by_name_and_never_shown(cloud: Cloud) -> None:
    path = "/projects/proj_1/secrets/HF_TOKEN"
    assert (await cloud.call("PUT", path, "viewer", {"value": "x"})).status_code == 403
    answer = await cloud.call("PUT", path, "dev", {"value": "open sesame"})
    assert answer.status_code == 200
    assert "sesame" not in answer.text
    listed = (await cloud.call("GET", "/projects/proj_1/secrets", "viewer")).json()["data"]
    assert [each["name"] for each in listed] == ["HF_TOKEN"]
    made = await cloud.create(secrets=["HF_TOKEN"])
    assert made["secrets"] == ["HF_TOKEN"]
    document = (await cloud.documents())[made["id"]]
    assert document is not None
    assert "sesame" not in str(document)
    sealed = document["sealed_secrets"]["HF_TOKEN"]
    assert cloud.sealer.open(sealed, secret_words("proj_1", "HF_TOKEN")) == "open sesame"
    with pytest.raises(SetupError, match="another place"):
        cloud.sealer.open(sealed, secret_words("proj_2", "HF_TOKEN"))
    answer = await cloud.call(
        "POST", "/jobs", "dev", {"project_id": "proj_2", "command": ["x"], "secrets": ["HF_TOKEN"]}
    )
    assert answer.status_code == 400  # another project's
    assert (await cloud.call("DELETE", path)).status_code == 204
    assert (await cloud.call("DELETE", path)).status_code == 404


async def test_what_a_region_reports_is_kept_and_the_end_ends_it(cloud: Cloud, clock: ManualClock) -> None:
    made = await cloud.create()
    now = clock.now().timestamp()
    member = MemberReport(0, "node-1", (3,), "bubblewrap", started_at=now)
    running = JobReport(
        made["id"], "running", attempt=1, started_at=now, attempts=(AttemptReport(1, members=(member,)),)
    )
    assert await cloud.report(running) == 204
    shown = (await cloud.call("GET", f"/jobs/{made['id']}")).json()
    assert (shown["state"], shown["attempts"][0]["members"][0]["node_id"]) == ("running", "node-1")
    assert (await cloud.call("DELETE", f"/jobs/{made['id']}")).status_code == 409
    done = msgspec.structs.replace(running, state="succeeded", ended_at=now + 5)
    for _ in range(2):
        assert await cloud.report(done) == 204
    assert await cloud.report(running) == 204  # late: the end stays
    shown = (await cloud.call("GET", f"/jobs/{made['id']}")).json()
    assert shown["state"] == "succeeded"
    assert (await cloud.documents())[made["id"]] is None
    assert (await cloud.call("DELETE", f"/jobs/{made['id']}")).status_code == 204
    assert (await cloud.call("GET", f"/jobs/{made['id']}")).status_code == 404


async def test_a_region_speaks_of_its_own_jobs_alone(cloud: Cloud) -> None:
    made = await cloud.create()
    report = JobReport(made["id"], "failed", "made up")
    assert await cloud.report(report, region="elsewhere") == 400
    assert await cloud.report(report, token="wrong") == 401
    assert await cloud.report(JobReport("job_unknown", "failed")) == 204
    assert (await cloud.call("GET", f"/jobs/{made['id']}")).json()["state"] == "queued"


async def test_a_job_is_cancelled_once_and_its_region_is_told(cloud: Cloud) -> None:
    made = await cloud.create()
    for _ in range(2):
        assert (await cloud.call("POST", f"/jobs/{made['id']}/cancel")).json()["reason"] == "it is being cancelled"
    document = (await cloud.documents())[made["id"]]
    assert document is not None
    assert document["is_cancelled"]


async def test_operators_grant_what_is_not_for_everyone(cloud: Cloud) -> None:
    path = "/compute-policies/org_1"
    assert (await cloud.call("PUT", path, "dev", {"is_trusted": True})).status_code == 403
    assert (await cloud.call("GET", path, "dev")).status_code == 403
    granted = {"is_trusted": True, "may_run_high": True}
    assert (await cloud.call("PUT", path, "operator", granted)).status_code == 200
    made = await cloud.create(priority="high")
    document = (await cloud.documents())[made["id"]]
    assert document is not None
    assert (document["is_trusted"], document["priority"]) == (True, 100)


async def test_jobs_that_ended_long_ago_are_forgotten(cloud: Cloud, clock: ManualClock) -> None:
    made, stays = await cloud.create(), await cloud.create()
    await cloud.report(JobReport(made["id"], "failed", ended_at=clock.now().timestamp()))
    clock.advance(timedelta(days=KEPT_DAYS + 1).total_seconds())
    async with cloud.database.transaction() as session:
        assert await cloud.service.forget_old(session) == 1
    assert [job["id"] for job in (await cloud.call("GET", "/jobs")).json()["data"]] == [stays["id"]]


async def test_who_is_no_longer_served_runs_no_jobs(cloud: Cloud) -> None:
    goes_on, ended, ends = await cloud.create(project_id="proj_2"), await cloud.create(), await cloud.create()
    await cloud.report(JobReport(ended["id"], "failed"))
    cloud.projects.refused["proj_1"] = "this organization is suspended: it mines"
    for expected in (1, 0):
        async with cloud.database.transaction() as session:
            assert await cloud.service.cancel_stopped(session) == expected
    documents = await cloud.documents()
    assert {key: body and body["is_cancelled"] for key, body in documents.items()} == {
        goes_on["id"]: False,
        ended["id"]: None,
        ends["id"]: True,
    }
    shown = (await cloud.call("GET", f"/jobs/{ends['id']}")).json()
    assert shown["reason"] == "it is being cancelled: this organization is suspended: it mines"
    answer = await cloud.call("POST", "/jobs", "dev", {"project_id": "proj_1", "command": ["x"]})
    assert (answer.status_code, "it mines" in answer.text) == (403, True)
