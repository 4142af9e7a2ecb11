"""The routes of serving over a real database."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.catalog.api import Artifact, ArtifactFile, ModelDocument, PullProgress
from cloudcrest.identity.api import Caller, Membership
from cloudcrest.infra.database import Database
from cloudcrest.infra.sealing import Sealer
from cloudcrest.kernel.clock import ManualClock
from cloudcrest.kernel.errors import NotFound
from cloudcrest.kernel.ids import id_maker
from cloudcrest.regions.service import RegionService
from cloudcrest.serving import routes, seed
from cloudcrest.serving.api import RegionStatus, ReplicaStatus
from cloudcrest.serving.engines.api import EngineSettings
from cloudcrest.serving.engines.registry import create_engines
from cloudcrest.serving.service import DeploymentService
from tests.support.management import REGION_TOKEN, linked_region, management_client
from tests.support.published import published

pytestmark = pytest.mark.anyio

CALLERS = {
    "operator": Caller(kind="user", id="user_1", is_operator=True),
    "one": Caller(kind="user", id="user_2", memberships=(Membership("org_1", "viewer"),)),
    "other": Caller(kind="user", id="user_3", memberships=(Membership("org_2", "owner"),)),
}
GGUF = Artifact("gguf", (ArtifactFile("m.gguf", "0" * 64),), ("file:/nowhere",), "m.gguf")
MODELS = {
    "chat": ModelDocument("chat", "chat", 8192, (GGUF,)),
    "embed": ModelDocument("embed", "embedding", 512, (GGUF,), dimensions=384),
    "remote": ModelDocument("remote", "chat", 100_000, ()),
}


class FakeModels:
    """A catalog of three models that keeps reports about pulls."""

    def __init__(self) -> None:
        self.progress: list[tuple[str, PullProgress, str]] = []

    async def find_document(self, session: AsyncSession, model_id: str) -> ModelDocument:  # noqa: ARG002
        if model_id not in MODELS:
            raise NotFound(f"there is no model '{model_id}'", hint="did you mean chat?")
        return MODELS[model_id]

    async def record_pull_progress(
        self,
        session: AsyncSession,  # noqa: ARG002
        pull_id: str,
        progress: PullProgress,
        *,
        region: str,
    ) -> None:
        self.progress.append((pull_id, progress, region))


class Cloud:
    """The routes in memory over a database."""

    def __init__(self, database: Database, clock: ManualClock, regions: RegionService, folder: Path) -> None:
        self.database = database
        self.clock = clock
        self.models = FakeModels()
        self.sealer = Sealer(Sealer.new_master_key())
        self.service = DeploymentService(
            models=self.models,
            pulls=self.models,
            regions=regions,
            engines=create_engines(EngineSettings(runtimes_folder=folder)),
            sealer=self.sealer,
            clock=clock,
            new_id=id_maker(clock),
        )
        routers = (routes.router(self.service), routes.internal_router(self.service))
        self.client = management_client(database, *routers, callers=CALLERS, regions=regions)

    async def call(self, method: str, path: str, caller: str = "operator", **body: Any) -> httpx2.Response:
        arguments: dict[str, Any] = {"json": body} if body else {}
        url = f"/api/v1/deployments{path}"
        return await self.client.request(method, url, headers={"x-caller": caller}, **arguments)

    async def create(self, **body: Any) -> dict[str, Any]:
        response = await self.call("POST", "", **({"model": "chat"} | body))
        assert response.status_code == 201, response.text
        created: dict[str, Any] = response.json()
        return created

    async def report(self, status: RegionStatus, token: str = REGION_TOKEN) -> httpx2.Response:
        headers = {"authorization": f"Bearer {token}"}
        return await self.client.put("/internal/v1/status", content=msgspec.json.encode(status), headers=headers)

    async def documents(self) -> dict[str, dict[str, Any] | None]:
        page = await published(self.database)
        return {item.id: item.body for item in page.documents if item.kind == "deployment"}


@pytest.fixture
async def cloud(database: Database, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Cloud]:
    cloud = Cloud(database, clock, await linked_region(database, clock), tmp_path)
    async with cloud.client:
        yield cloud


async def test_creates_with_defaults_and_tells_the_region(cloud: Cloud) -> None:
    created = await cloud.create()
    assert created["name"] == "chat"
    assert created["engine"] == "llamacpp"
    assert created["state"] == "pending"
    assert created["replicas"] == {"min": 1, "max": 1, "ready": 0}
    document = (await cloud.documents())[created["id"]]
    assert document is not None
    assert document["context_tokens"] == 4096
    assert document["model"]["artifacts"][0]["entry"] == "m.gguf"


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"model": "chatt"}, 404, "did you mean chat"),
        ({"context_tokens": 9000}, 400, "context_tokens"),
        ({"region": "lokal"}, 400, "there is local"),
        ({"engine": "vllm"}, 400, "safetensors"),
        ({"model": "remote"}, 400, "has no weights"),
        ({"model": "remote", "engine_options": {"base_url": "ftp://x"}}, 400, "engine_options.base_url"),
        ({"model": "remote", "engine_options": {"base_url": "https://u:p@x"}}, 400, "engine_options.base_url"),
        ({"engine_options": {"nonsense": 1}}, 400, "engine_options.nonsense"),
        ({"engine_options": {"gpu_layers": "many"}}, 400, "engine_options.gpu_layers"),
        ({"replicas": {"min": 3, "max": 2}}, 422, "max must be at least min"),
        ({"slots": 0}, 422, "body.slots"),
        ({"name": "white space"}, 422, "body.name"),
        ({"surprise": 1}, 422, "body.surprise"),
        ({"placement": {"accelerator_milli": 250}}, 400, "placement.accelerators"),
        ({"placement": {"accelerators": 65}}, 422, "body.placement.accelerators"),
        ({"placement": {"spread": "planet"}}, 422, "body.placement.spread"),
        ({"placement": {"node_labels": {"two words": "x"}}}, 422, "body.placement.node_labels"),
    ],
)
async def test_refuses_what_cannot_run(cloud: Cloud, body: dict[str, Any], status: int, says: str) -> None:
    response = await cloud.call("POST", "", **({"model": "chat"} | body))
    assert response.status_code == status, response.text
    assert says in response.text
    assert await cloud.documents() == {}


async def test_a_name_is_one_deployments_in_its_region(cloud: Cloud) -> None:
    await cloud.create()
    response = await cloud.call("POST", "", model="chat")
    assert response.status_code == 409
    await cloud.create(name="chat-2")


async def test_several_deployments_share_a_name_by_weight(cloud: Cloud) -> None:
    first = await cloud.create(limits={"requests_per_minute": 5})
    assert first["weight"] == 100
    options = {"base_url": "https://api.example.com/v1"}
    canary = await cloud.create(model="remote", name="chat", weight=0, engine_options=options)
    assert (canary["name"], canary["model"], canary["weight"], canary["engine"]) == ("chat", "remote", 0, "upstream")
    assert canary["limits"]["requests_per_minute"] == 5
    changed = (await cloud.call("PATCH", f"/{canary['id']}", weight=10)).json()
    assert (changed["weight"], changed["generation"]) == (10, 1)
    documents = await cloud.documents()
    assert {key: (body["model_name"], body["weight"]) for key, body in documents.items() if body} == {
        first["id"]: ("chat", 100),
        canary["id"]: ("chat", 10),
    }
    await cloud.call("PATCH", f"/{canary['id']}", limits={"requests_per_minute": 7})
    shown = (await cloud.call("GET", f"/{first['id']}")).json()
    assert (shown["limits"]["requests_per_minute"], shown["generation"]) == (7, 1)
    assert {body["limits"]["requests_per_minute"] for body in (await cloud.documents()).values() if body} == {7}
    assert (await cloud.call("DELETE", f"/{first['id']}")).status_code == 204
    assert (await cloud.call("GET", f"/{canary['id']}")).json()["weight"] == 10


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({}, 409, "give a weight"),
        ({"weight": -1}, 422, "body.weight"),
        ({"weight": 1.5}, 422, "body.weight"),
        ({"weight": 5, "organization_id": "org_1"}, 409, "serves others"),
        ({"weight": 5, "model": "embed"}, 400, "is a name for chat"),
    ],
)
async def test_what_cannot_serve_a_name_together_is_refused(
    cloud: Cloud, body: dict[str, Any], status: int, says: str
) -> None:
    await cloud.create()
    response = await cloud.call("POST", "", **({"model": "chat", "name": "chat"} | body))
    assert response.status_code == status, response.text
    assert says in response.text
    assert len(await cloud.documents()) == 1


async def test_two_who_take_a_name_at_once_do_not_both_get_it(cloud: Cloud) -> None:
    answers = await asyncio.gather(*[cloud.call("POST", "", model="chat") for _ in range(4)])
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]


async def test_scaling_keeps_replicas_and_other_changes_replace_them(cloud: Cloud) -> None:
    created = await cloud.create()
    path = f"/{created['id']}"
    scaled = (await cloud.call("PATCH", path, replicas={"min": 2})).json()
    assert (scaled["generation"], scaled["replicas"]["max"]) == (1, 2)
    limits = {"requests_per_minute": 5, "growth_percent_per_minute": 50, "growth_floor_requests_per_minute": 30}
    limited = (await cloud.call("PATCH", path, limits=limits)).json()
    assert limited["generation"] == 1
    assert limits.items() <= limited["limits"].items()
    changed = (await cloud.call("PATCH", path, slots=8)).json()
    assert (changed["generation"], changed["slots"], changed["replicas"]["min"]) == (2, 8, 2)
    same = (await cloud.call("PATCH", path, slots=8)).json()
    assert same["generation"] == 2
    document = (await cloud.documents())[created["id"]]
    assert document is not None
    assert (document["generation"], document["replicas_min"], document["slots"]) == (2, 2, 8)
    refused = await cloud.call("PATCH", path, context_tokens=8193)
    assert refused.status_code == 400


async def test_where_replicas_run_is_kept_and_changed_in_parts(cloud: Cloud) -> None:
    created = await cloud.create(
        placement={"accelerators": 1, "accelerator_types": ["h100", "910b"], "tolerations": ["x"]}
    )
    assert created["placement"]["accelerator_types"] == ["h100", "910b"]
    assert (created["placement"]["spread"], created["placement"]["tolerations"]) == ("zone", ["x"])
    path = f"/{created['id']}"
    changed = (await cloud.call("PATCH", path, placement={"spread": "rack", "accelerator_milli": 500})).json()
    assert changed["generation"] == 2
    assert (changed["placement"]["accelerators"], changed["placement"]["accelerator_milli"]) == (1, 500)
    document = (await cloud.documents())[created["id"]]
    assert document is not None
    assert document["placement"] == {
        "tolerations": ["x"],
        "accelerators": 1,
        "accelerator_milli": 500,
        "accelerator_types": ["h100", "910b"],
        "spread": "rack",
    }
    refused = await cloud.call("PATCH", path, placement={"accelerators": 2})
    assert refused.status_code == 400


async def test_a_provider_key_is_sealed_and_never_shown(cloud: Cloud) -> None:
    options = {"base_url": "https://api.example.com/v1", "api_key": "sk-provider-secret"}
    created = await cloud.create(model="remote", engine_options=options)
    assert created["engine"] == "upstream"
    assert created["has_api_key"] is True
    assert created["engine_options"] == {"base_url": "https://api.example.com/v1"}
    document = (await cloud.documents())[created["id"]]
    assert document is not None
    sealed = document["engine_options"]["api_key"]
    assert cloud.sealer.open(sealed) == "sk-provider-secret"
    changed = await cloud.call("PATCH", f"/{created['id']}", engine_options={"base_url": "https://b.example.com/v1"})
    assert changed.json()["has_api_key"] is True
    removed = await cloud.call(
        "PATCH", f"/{created['id']}", engine_options={"base_url": "https://b.example.com/v1", "api_key": ""}
    )
    assert removed.json()["has_api_key"] is False
    listed = await cloud.call("GET", "", "one")
    assert "engine_options" not in listed.text or listed.json()["data"][0]["engine_options"] is None
    for response in (changed, removed, listed):
        assert "secret" not in response.text


async def test_tenants_see_public_deployments_and_their_own_and_change_none(cloud: Cloud) -> None:
    public = await cloud.create()
    private = await cloud.create(name="private", organization_id="org_1")
    for caller, expected in (("operator", 2), ("one", 2), ("other", 1)):
        listed = (await cloud.call("GET", "", caller)).json()["data"]
        assert len(listed) == expected, caller
    assert (await cloud.call("GET", f"/{public['id']}", "other")).status_code == 200
    assert (await cloud.call("GET", f"/{private['id']}", "one")).status_code == 200
    hidden = await cloud.call("GET", f"/{private['id']}", "other")
    assert hidden.status_code == 404
    for caller in ("one", "other"):
        assert (await cloud.call("POST", "", caller, model="chat", name="mine")).status_code == 403
        assert (await cloud.call("PATCH", f"/{private['id']}", caller, slots=1)).status_code == 403
        assert (await cloud.call("DELETE", f"/{private['id']}", caller)).status_code == 403
    assert (await cloud.call("GET", "", "nobody")).status_code == 401


async def test_pages(cloud: Cloud) -> None:
    ids = []
    for number in range(3):
        cloud.clock.advance(1)
        ids.append((await cloud.create(name=f"m{number}"))["id"])
    first = (await cloud.call("GET", "?limit=2")).json()
    rest = (await cloud.call("GET", f"?limit=2&cursor={first['next_cursor']}")).json()
    assert [item["id"] for item in first["data"] + rest["data"]] == ids[::-1]
    assert rest["next_cursor"] is None
    assert (await cloud.call("GET", "?region=elsewhere")).json()["data"] == []


async def test_shows_what_the_region_reports(cloud: Cloud) -> None:
    created = await cloud.create()
    pull = PullProgress(phase="downloading", done_bytes=5, total_bytes=10)
    replica = ReplicaStatus("rep_1", created["id"], 1, "fetching", pull=pull)
    assert (await cloud.report(RegionStatus((replica,), {"pull_1": pull}))).status_code == 204
    shown = (await cloud.call("GET", f"/{created['id']}", "other")).json()
    assert (shown["state"], shown["reason"]) == ("starting", "its weights are being fetched")
    assert shown["replica_states"][0]["pull"]["done_bytes"] == 5
    assert cloud.models.progress == [("pull_1", pull, "local")]
    ready = msgspec.structs.replace(replica, state="ready", pull=None, node_id="node-7")
    await cloud.report(RegionStatus((ready,)))
    assert (await cloud.call("GET", f"/{created['id']}", "other")).json()["replica_states"][0]["node_id"] is None
    shown = (await cloud.call("GET", f"/{created['id']}")).json()
    assert shown["replica_states"][0]["node_id"] == "node-7"
    assert (shown["state"], shown["replicas"]["ready"]) == ("ready", 1)
    cloud.clock.advance(60)
    shown = (await cloud.call("GET", f"/{created['id']}")).json()
    assert shown["state"] == "degraded"
    assert "stopped reporting" in shown["reason"]


async def test_only_a_region_reports_and_only_what_can_be_read(cloud: Cloud) -> None:
    assert (await cloud.report(RegionStatus(), token="wrong")).status_code == 401
    headers = {"authorization": f"Bearer {REGION_TOKEN}"}
    response = await cloud.client.put("/internal/v1/status", content=b'{"replicas": 1}', headers=headers)
    assert response.status_code == 400


async def test_deleting_tells_the_region(cloud: Cloud) -> None:
    created = await cloud.create()
    await cloud.report(RegionStatus((ReplicaStatus("rep_1", created["id"], 1, "ready"),)))
    assert (await cloud.call("DELETE", f"/{created['id']}")).status_code == 204
    assert await cloud.documents() == {created["id"]: None}
    assert (await cloud.call("GET", f"/{created['id']}")).status_code == 404
    assert (await cloud.call("DELETE", f"/{created['id']}")).status_code == 404
    await cloud.create()


async def test_seeds_once_and_leaves_deletions_alone(cloud: Cloud) -> None:
    async def run() -> None:
        async with cloud.database.transaction() as session:
            await seed.seed(session, cloud.service, models=("chat", "embed"))

    await run()
    await run()
    listed = (await cloud.call("GET", "")).json()["data"]
    assert {(item["name"], item["context_tokens"]) for item in listed} == {("chat", 4096), ("embed", 512)}
    for item in listed:
        await cloud.call("DELETE", f"/{item['id']}")
    await run()
    assert (await cloud.call("GET", "")).json()["data"] == []
