"""The catalog's routes over a real database."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.catalog import routes, seed
from cloudcrest.catalog.api import PullProgress
from cloudcrest.catalog.service import CatalogService
from cloudcrest.identity.api import Caller
from cloudcrest.infra.database import Database
from cloudcrest.kernel.clock import ManualClock
from cloudcrest.kernel.ids import id_maker
from tests.support.management import management_client
from tests.support.published import published

pytestmark = pytest.mark.anyio

CALLERS = {
    "": Caller(kind="user", id="user_1", is_operator=True),
    "tenant": Caller(kind="user", id="user_2"),
}
GGUF = {
    "format": "gguf",
    "entry": "own.gguf",
    "sources": ["file:/srv/models/own.gguf"],
    "files": [{"path": "own.gguf", "sha256": "ab" * 32}],
}
OWN = {"id": "own-model", "name": "Own", "family": "Own", "task": "chat", "context_tokens": 4096, "artifacts": [GGUF]}


class OneRegion:
    """Implements `regions.api.Regions` with the region `local` alone."""

    async def exists(self, session: AsyncSession, region_id: str) -> bool:  # noqa: ARG002 - the protocol's
        return region_id == "local"

    async def connected_ids(self, session: AsyncSession) -> frozenset[str]:  # noqa: ARG002 - the protocol's
        return frozenset({"local"})

    async def list_ids(self, session: AsyncSession) -> list[str]:  # noqa: ARG002 - the protocol's
        return ["local"]


@pytest.fixture
def service(clock: ManualClock) -> CatalogService:
    return CatalogService(clock=clock, new_id=id_maker(clock), regions=OneRegion())


@pytest.fixture
async def client(database: Database, service: CatalogService, clock: ManualClock) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of an app with the catalog's routes; the header `x-caller: tenant` makes it a tenant's."""
    async with database.transaction() as session:
        await seed.seed(session, clock=clock)
    async with management_client(database, routes.router(service), callers=CALLERS) as client:
        yield client


async def ok(answer: httpx2.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json() if answer.content else None


async def test_models_are_listed_in_pages_and_filtered(client: httpx2.AsyncClient) -> None:
    found, cursor = [], None
    while True:
        params = {"limit": 20, **({"cursor": cursor} if cursor else {})}
        page = await ok(await client.get("/api/v1/models", params=params))
        found += [model["id"] for model in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == sorted(set(found))
    assert {model.id for model in seed.read_seeds()} == set(found)

    async def ids(**params: str) -> list[str]:
        return [m["id"] for m in (await ok(await client.get("/api/v1/models", params=params)))["data"]]

    assert "smollm2-135m-instruct" in await ids(family="smollm2")
    assert set(await ids(task="embedding")) >= {"all-minilm-l6-v2", "qwen3-embedding-8b"}
    assert await ids(q="MINILM-L6") == ["all-minilm-l6-v2"]
    assert await ids(q="%") == []
    assert (await client.get("/api/v1/models", params={"task": "juggling"})).status_code == 422


async def test_a_model_is_shown_with_its_artifacts_and_unknown_ones_name_close_matches(
    client: httpx2.AsyncClient,
) -> None:
    model = await ok(await client.get("/api/v1/models/smollm2-135m-instruct", headers={"x-caller": "tenant"}))
    assert model["artifacts"][0]["files"][0]["sha256"].startswith("b179c952")
    assert model["base_model"] == "smollm2-135m"
    problem = await ok(await client.get("/api/v1/models/smolm2-135m-instruct"), 404)
    assert problem["code"] == "model_not_found"
    assert "smollm2-135m-instruct" in problem["hint"]


async def test_an_operators_own_model_lives_and_dies(client: httpx2.AsyncClient) -> None:
    created = await ok(await client.post("/api/v1/models", json=OWN), 201)
    assert (created["origin"], created["revision"]) == ("operator", 1)
    await ok(await client.post("/api/v1/models", json=OWN), 409)
    changed = await ok(await client.patch("/api/v1/models/own-model", json={"licence": "MIT", "name": None}))
    assert (changed["licence"], changed["name"], changed["revision"]) == ("MIT", "Own", 2)
    assert changed["artifacts"] == created["artifacts"]
    assert (await ok(await client.patch("/api/v1/models/own-model", json={"licence": None})))["licence"] is None
    child = {**OWN, "id": "own-child", "base_model": "own-model"}
    await ok(await client.post("/api/v1/models", json=child), 201)
    assert "own-child" in (await ok(await client.delete("/api/v1/models/own-model"), 409))["detail"]
    await ok(await client.delete("/api/v1/models/own-child"), 204)
    await ok(await client.delete("/api/v1/models/own-model"), 204)
    await ok(await client.get("/api/v1/models/own-model"), 404)
    await ok(await client.post("/api/v1/models", json=OWN), 201)


WRONG_MODELS: list[tuple[dict[str, Any], str]] = [
    ({"artifacts": [{**GGUF, "entry": "other.gguf"}]}, "artifacts.0.entry"),
    (
        {"artifacts": [{**GGUF, "entry": "m.bin", "files": [{"path": "m.bin", "sha256": "ab" * 32}]}]},
        "artifacts.0.files",
    ),
    ({"artifacts": [{**GGUF, "files": [{"path": "../own.gguf", "sha256": "ab" * 32}]}]}, "artifacts.0.files"),
    ({"artifacts": [{**GGUF, "sources": ["ftp://somewhere"]}]}, "artifacts.0.sources.0"),
    ({"artifacts": [{**GGUF, "convert": "magic"}]}, "artifacts.0.convert"),
    ({"base_model": "no-such-model"}, "base_model"),
    ({"adapter_of": "own-model"}, "adapter_of"),
]


async def test_a_wrong_model_is_refused_with_the_path(client: httpx2.AsyncClient) -> None:
    for wrong, where in WRONG_MODELS:
        problem = await ok(await client.post("/api/v1/models", json={**OWN, **wrong}), 400)
        assert problem["errors"][0]["field"] == where


async def test_bounds_are_kept(client: httpx2.AsyncClient) -> None:
    for wrong in ({"id": "Has Capitals"}, {"name": ""}, {"parameters": 2**63}, {"surprise": 1}, {"name": "x" * 101}):
        await ok(await client.post("/api/v1/models", json={**OWN, **wrong}), 422)
    for path in (
        "/api/v1/models/a%00b",
        "/api/v1/models?q=%00",
        "/api/v1/models?cursor=%00",
        "/api/v1/model-pulls/%00",
    ):
        assert 400 <= (await client.get(path)).status_code < 500
    for text in ("\0", "a\0b"):
        answer = await client.post("/api/v1/models", json={**OWN, "name": text, "artifacts": [{**GGUF, "entry": text}]})
        assert 400 <= answer.status_code < 500


async def test_tenants_may_look_but_not_touch(client: httpx2.AsyncClient) -> None:
    pull = await ok(await client.post("/api/v1/model-pulls", json={"model": "all-minilm-l6-v2"}), 201)
    tenant = {"x-caller": "tenant"}
    for method, path, body in (
        ("POST", "/api/v1/models", OWN),
        ("PATCH", "/api/v1/models/all-minilm-l6-v2", {"name": "mine"}),
        ("DELETE", "/api/v1/models/all-minilm-l6-v2", None),
        ("POST", "/api/v1/model-pulls", {"model": "all-minilm-l6-v2"}),
        ("GET", "/api/v1/model-pulls", None),
        ("GET", f"/api/v1/model-pulls/{pull['id']}", None),
        ("DELETE", f"/api/v1/model-pulls/{pull['id']}", None),
    ):
        await ok(await client.request(method, path, json=body, headers=tenant), 403)


async def test_a_pull_is_published_reported_and_withdrawn(
    client: httpx2.AsyncClient, database: Database, service: CatalogService
) -> None:
    body = {"model": "smollm2-135m-instruct", "region": "local"}
    pull = await ok(await client.post("/api/v1/model-pulls", json=body), 201)
    assert pull["progress"]["phase"] == "waiting"
    [document] = (await published(database)).documents
    assert (document.kind, document.id) == ("model_pull", pull["id"])
    assert document.body is not None
    assert document.body["model"]["artifacts"][0]["entry"] == "SmolLM2-135M-Instruct.Q4_1.gguf"

    again = await ok(await client.post("/api/v1/model-pulls", json=body), 200)
    assert again["id"] == pull["id"]
    progress = PullProgress(phase="downloading", done_bytes=5, total_bytes=9, source="hf:x", reason=None)
    async with database.transaction() as session:
        await service.record_pull_progress(session, pull["id"], progress, region="elsewhere")
        await service.record_pull_progress(session, "pull_gone", progress, region="local")
    assert (await ok(await client.get(f"/api/v1/model-pulls/{pull['id']}")))["progress"]["phase"] == "waiting"
    async with database.transaction() as session:
        await service.record_pull_progress(session, pull["id"], progress, region="local")
    shown = (await ok(await client.get(f"/api/v1/model-pulls/{pull['id']}")))["progress"]
    assert (shown["phase"], shown["done_bytes"], shown["total_bytes"]) == ("downloading", 5, 9)

    failed = PullProgress(phase="failed", reason="x" * 5000)
    async with database.transaction() as session:
        await service.record_pull_progress(session, pull["id"], failed, region="local")
    retried = await ok(await client.post("/api/v1/model-pulls", json=body), 201)
    assert retried["id"] != pull["id"]
    await ok(await client.get(f"/api/v1/model-pulls/{pull['id']}"), 404)
    listed = await ok(await client.get("/api/v1/model-pulls", params={"model": "smollm2-135m-instruct"}))
    assert [entry["id"] for entry in listed["data"]] == [retried["id"]]
    await ok(await client.delete(f"/api/v1/model-pulls/{retried['id']}"), 204)
    assert [entry.body for entry in (await published(database)).documents] == [None, None]


async def test_a_pull_of_nothing_or_to_nowhere_is_refused(client: httpx2.AsyncClient) -> None:
    await ok(await client.post("/api/v1/model-pulls", json={"model": "no-such"}), 404)
    problem = await ok(await client.post("/api/v1/model-pulls", json={"model": "kimi-k2-base", "region": "moon"}), 400)
    assert problem["errors"][0]["field"] == "region"
    await ok(await client.post("/api/v1/models", json=OWN | {"artifacts": []}), 201)
    await ok(await client.post("/api/v1/model-pulls", json={"model": "own-model"}), 409)


async def test_pulls_follow_a_changed_model_and_go_with_a_deleted_one(
    client: httpx2.AsyncClient, database: Database
) -> None:
    await ok(await client.post("/api/v1/models", json=OWN), 201)
    await ok(await client.post("/api/v1/model-pulls", json={"model": "own-model"}), 201)
    await ok(await client.patch("/api/v1/models/own-model", json={"context_tokens": 99}))
    [document] = (await published(database)).documents
    assert document.body is not None
    assert document.body["model"]["context_tokens"] == 99
    await ok(await client.delete("/api/v1/models/own-model"), 204)
    assert [entry.body for entry in (await published(database)).documents] == [None]


async def test_seeding_again_changes_nothing_and_keeps_what_operators_did(
    client: httpx2.AsyncClient, database: Database, clock: ManualClock
) -> None:
    before = await ok(await client.get("/api/v1/models/all-minilm-l6-v2"))
    await ok(await client.patch("/api/v1/models/kimi-k2-thinking", json={"description": "ours"}))
    await ok(await client.delete("/api/v1/models/glm-4.6"), 204)
    clock.advance(60)
    async with database.transaction() as session:
        await seed.seed(session, clock=clock)
    assert await ok(await client.get("/api/v1/models/all-minilm-l6-v2")) == before
    assert (await ok(await client.get("/api/v1/models/kimi-k2-thinking")))["description"] == "ours"
    await ok(await client.get("/api/v1/models/glm-4.6"), 404)


async def test_a_changed_seed_is_followed(
    client: httpx2.AsyncClient, database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    [model] = [each for each in seed.read_seeds() if each.id == "glm-4.5"]
    monkeypatch.setattr(seed, "read_seeds", lambda: [msgspec.structs.replace(model, description="newer", artifacts=())])
    async with database.transaction() as session:
        await seed.seed(session, clock=clock)
    shown = await ok(await client.get("/api/v1/models/glm-4.5"))
    assert (shown["description"], shown["artifacts"], shown["origin"]) == ("newer", [], "seed")
