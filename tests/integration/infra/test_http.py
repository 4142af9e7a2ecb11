"""What every management route shares: problems, idempotency keys, limits, ids, health, the API document."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, Response
from pydantic import BaseModel, Field
from sqlalchemy import func, select, text
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from cloudcrest.infra.database import Database
from cloudcrest.infra.http import idempotency, problems
from cloudcrest.infra.http.app import create_app
from cloudcrest.infra.http.idempotency import IdempotentRequest
from cloudcrest.infra.http.session import SessionDep
from cloudcrest.infra.publication import PublishedDocument, publish
from cloudcrest.infra.sealing import Sealer
from cloudcrest.kernel.clock import ManualClock
from cloudcrest.kernel.errors import LimitExceeded, NotFound, Unauthenticated, Unavailable

pytestmark = pytest.mark.anyio

THINGS = "/api/v1/things"


class Authentication:
    """Takes the caller's word for who it is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope)
            if caller := request.headers.get("x-caller"):
                if caller == "revoked":
                    raise Unauthenticated("the key is revoked")
                request.state.caller = SimpleNamespace(kind="key", id=caller)
        await self._app(scope, receive, send)


class Thing(BaseModel):
    name: Annotated[str, Field(max_length=100)]


class Made(BaseModel):
    id: str
    secret: str


class Maker:
    """Routes that make things, count it, and can be told to wait or fail."""

    def __init__(self) -> None:
        self.made = 0
        self.failures: list[Exception] = []
        self.entered = asyncio.Event()
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    def router(self) -> APIRouter:
        routes = APIRouter(prefix=THINGS, tags=["things"])

        @routes.post("", status_code=201, operation_id="make_thing", responses=problems.responses(404))
        async def make(thing: Thing, session: SessionDep, response: Response) -> Made:
            self.entered.set()
            await self.may_go_on.wait()
            self.made += 1
            await publish(session, "thing", f"{thing.name}-{self.made}", None)
            if self.failures:
                raise self.failures.pop(0)
            response.headers["location"] = f"{THINGS}/{self.made}"
            return Made(id=str(self.made), secret=f"sk-secret-{self.made}")

        @routes.get("/{name}", operation_id="get_thing", openapi_extra={"security": []})
        async def get(name: str, session: SessionDep) -> Thing:
            await session.execute(text("select :name"), {"name": name})
            raise NotFound(f"there is no thing '{name}'", hint="make one")

        return routes


@pytest.fixture
def maker(anyio_backend: str) -> Maker:
    return Maker()


@pytest.fixture
async def client(database: Database, clock: ManualClock, maker: Maker) -> AsyncIterator[httpx2.AsyncClient]:
    app = create_app(
        "Test",
        database,
        sealer=Sealer(Sealer.new_master_key()),
        version="1",
        routers=[maker.router()],
        authentication=[Middleware(Authentication)],
        cors_origins=["https://console.example"],
        clock=clock,
    )
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def make(
    client: httpx2.AsyncClient, key: str | None = "k1", *, name: str = "a", caller: str | None = "key_1"
) -> httpx2.Response:
    headers = {"idempotency-key": key, "x-caller": caller}
    return await client.post(
        THINGS, json={"name": name}, headers={header: value for header, value in headers.items() if value is not None}
    )


async def published(database: Database) -> int:
    async with database.transaction() as session:
        return (await session.execute(select(func.count()).select_from(PublishedDocument))).scalar_one()


async def test_a_repetition_is_done_once_and_answered_twice(
    client: httpx2.AsyncClient, maker: Maker, database: Database
) -> None:
    first, second = await make(client), await make(client)
    assert first.status_code == second.status_code == 201
    assert first.content == second.content
    assert first.headers["location"] == second.headers["location"]
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert maker.made == 1
    assert await published(database) == 1


async def test_kept_answers_are_sealed(client: httpx2.AsyncClient, database: Database) -> None:
    await make(client)
    async with database.transaction() as session:
        row = (await session.execute(select(IdempotentRequest))).scalar_one()
    assert row.sealed_response is not None
    assert "sk-secret" not in row.sealed_response
    assert "key_1" not in row.caller_sha256


async def test_another_body_under_the_same_key_is_refused(client: httpx2.AsyncClient, maker: Maker) -> None:
    await make(client)
    reused = await make(client, name="b")
    assert reused.status_code == 422
    assert reused.json()["code"] == "idempotency_key_reused"
    assert maker.made == 1


async def test_keys_belong_to_their_caller(client: httpx2.AsyncClient, maker: Maker) -> None:
    mine, theirs = await make(client, caller="key_1"), await make(client, caller="key_2")
    assert mine.json() != theirs.json()
    assert maker.made == 2
    assert (await make(client, caller="revoked")).status_code == 401
    assert (await make(client, caller=None)).json()["id"] == "3"
    assert (await make(client, caller=None)).json()["id"] == "4"


async def test_a_concurrent_repetition_waits_its_turn(client: httpx2.AsyncClient, maker: Maker) -> None:
    maker.may_go_on.clear()
    first = asyncio.create_task(make(client))
    await asyncio.wait_for(maker.entered.wait(), 10)
    second = await make(client)
    assert second.status_code == 409
    assert second.json()["code"] == "idempotent_request_in_progress"
    assert second.headers["retry-after"] == "1"
    maker.may_go_on.set()
    assert (await first).status_code == 201
    assert (await make(client)).headers["idempotent-replayed"] == "true"
    assert maker.made == 1


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (Unavailable("not now"), 503),
        (LimitExceeded("slow down", retry_after_seconds=2), 429),
        (NotFound("gone"), 404),
        (RuntimeError("a bug"), 500),
    ],
)
async def test_what_failed_may_be_tried_again(
    client: httpx2.AsyncClient, maker: Maker, database: Database, failure: Exception, status: int
) -> None:
    maker.failures = [failure]
    failed = await make(client)
    assert failed.status_code == status
    assert failed.headers["content-type"] == problems.MEDIA_TYPE
    assert await published(database) == 0
    again = await make(client)
    assert again.status_code == 201
    assert "idempotent-replayed" not in again.headers


async def test_a_cancelled_request_frees_its_key(client: httpx2.AsyncClient, maker: Maker) -> None:
    maker.may_go_on.clear()
    first = asyncio.create_task(make(client))
    await asyncio.wait_for(maker.entered.wait(), 10)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    maker.may_go_on.set()
    assert (await make(client)).status_code == 201


async def test_after_a_day_a_key_is_free(client: httpx2.AsyncClient, maker: Maker, clock: ManualClock) -> None:
    await make(client)
    clock.advance(23 * 3600)
    assert (await make(client)).headers["idempotent-replayed"] == "true"
    clock.advance(2 * 3600)
    assert "idempotent-replayed" not in (await make(client)).headers
    assert maker.made == 2


async def lose_answer(database: Database, *, took_effect: bool) -> None:
    """What a process leaves that dies between its transaction and keeping the answer, or before."""
    async with database.transaction() as session:
        row = (await session.execute(select(IdempotentRequest))).scalar_one()
        row.sealed_response = None
        row.took_effect = took_effect


async def test_a_lost_answer_is_never_done_again(
    client: httpx2.AsyncClient, maker: Maker, database: Database, clock: ManualClock
) -> None:
    await make(client)
    await lose_answer(database, took_effect=True)
    assert (await make(client)).json()["code"] == "idempotent_request_in_progress"
    clock.advance(61)
    assert (await make(client)).json()["code"] == "idempotent_answer_lost"
    assert maker.made == 1


async def test_an_abandoned_claim_without_effect_is_taken_over(
    client: httpx2.AsyncClient, maker: Maker, database: Database, clock: ManualClock
) -> None:
    await make(client)
    await lose_answer(database, took_effect=False)
    clock.advance(61)
    assert (await make(client)).status_code == 201
    assert maker.made == 2


async def test_of_two_attempts_with_one_key_one_takes_effect(
    client: httpx2.AsyncClient, maker: Maker, database: Database, clock: ManualClock
) -> None:
    maker.may_go_on.clear()
    slow = asyncio.create_task(make(client))
    await maker.entered.wait()
    maker.entered.clear()
    clock.advance(61)
    repeated = asyncio.create_task(make(client))
    await maker.entered.wait()
    maker.may_go_on.set()
    answers = [await slow, await repeated]
    assert [answer.status_code for answer in answers] == [409, 201]
    assert await published(database) == 1


async def test_the_effect_is_noted_in_the_requests_own_transaction(
    client: httpx2.AsyncClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*_: Any) -> None:
        raise RuntimeError("the process dies here")

    monkeypatch.setattr(idempotency.IdempotencyMiddleware, "_keep", lost)
    await make(client)
    async with database.transaction() as session:
        row = (await session.execute(select(IdempotentRequest))).scalar_one()
    assert row.took_effect
    assert await published(database) == 1


async def test_old_claims_are_purged(client: httpx2.AsyncClient, database: Database, clock: ManualClock) -> None:
    for number in range(5):
        await make(client, f"old{number}")
    clock.advance(25 * 3600)
    await make(client, "new")
    async with database.transaction() as session:
        assert list((await session.execute(select(IdempotentRequest.key))).scalars()) == ["new"]


@pytest.mark.parametrize("key", ["", "k" * 256, "tab\there"])
async def test_keys_are_bounded(client: httpx2.AsyncClient, key: str) -> None:
    assert (await make(client, key)).status_code == 400


async def test_problems_are_documents(client: httpx2.AsyncClient) -> None:
    missing = await client.get(f"{THINGS}/x")
    assert missing.status_code == 404
    assert missing.headers["content-type"] == "application/problem+json"
    assert missing.json() == {
        "type": "https://cloudcrest.dev/problems/not_found",
        "title": "Not found",
        "status": 404,
        "detail": "there is no thing 'x'",
        "code": "not_found",
        "hint": "make one",
    }
    invalid = await client.post(THINGS, json={"name": 1})
    assert invalid.status_code == 422
    assert invalid.json()["errors"][0]["field"] == "body.name"
    assert (await client.get("/nowhere")).json()["code"] == "not_found"
    assert (await client.put(THINGS)).json()["code"] == "method_not_allowed"


async def test_text_that_the_database_cannot_hold_is_the_callers_mistake(client: httpx2.AsyncClient) -> None:
    assert (await client.get(f"{THINGS}/a%00b")).status_code == 422


async def test_bodies_are_bounded_announced_or_not(client: httpx2.AsyncClient, maker: Maker) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"a" * 100_000

    announced = await client.post(THINGS, content=b"a" * 2_000_000)
    unannounced = await client.post(THINGS, content=chunks())
    with_key = await client.post(THINGS, content=chunks(), headers={"idempotency-key": "k", "x-caller": "key_1"})
    for answer in (announced, unannounced, with_key):
        assert answer.status_code == 413
        assert answer.json()["code"] == "request_too_large"
    assert maker.made == 0


async def test_requests_have_ids(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/healthz", headers={"x-request-id": "mine-1"})).headers["x-request-id"] == "mine-1"
    assert (await client.get("/healthz")).headers["x-request-id"].startswith("req_")
    odd = await client.get("/healthz", headers={"x-request-id": "a b\tc"})
    assert odd.headers["x-request-id"].startswith("req_")


async def test_only_named_origins_may_call_from_a_browser(client: httpx2.AsyncClient) -> None:
    good = await client.get("/healthz", headers={"origin": "https://console.example"})
    bad = await client.get("/healthz", headers={"origin": "https://evil.example"})
    assert good.headers["access-control-allow-origin"] == "https://console.example"
    assert "access-control-allow-origin" not in bad.headers


async def test_health_and_metrics(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    assert (await client.get("/readyz")).json() == {"status": "ready", "checks": {"database": "ok"}}
    await client.get("/no/such/path")
    metrics = (await client.get("/metrics")).text
    assert 'cloudcrest_management_requests_total{method="GET",route="/healthz",status="200"} 1.0' in metrics
    assert "/no/such/path" not in metrics


async def test_without_its_database_it_lives_but_is_not_ready(anyio_backend: str) -> None:
    database = Database("postgresql+psycopg://nobody@/none?host=/nonexistent", pool_size=1)
    maker = Maker()
    sealer = Sealer(Sealer.new_master_key())
    app = create_app("Test", database, sealer=sealer, version="1", routers=[maker.router()])
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test") as client:
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/readyz")).status_code == 503
        answer = await client.get(f"{THINGS}/x")
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "2"
    await database.close()


async def test_the_api_document_says_what_holds_for_all(client: httpx2.AsyncClient) -> None:
    document = (await client.get("/api/v1/openapi.json")).json()
    assert set(document["paths"]) == {THINGS, f"{THINGS}/{{name}}"}
    post = document["paths"][THINGS]["post"]
    assert [parameter["name"] for parameter in post["parameters"]] == ["Idempotency-Key"]
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for status in ("401", "404", "409", "422", "default"):
        assert post["responses"][status]["content"] == problem
    assert "401" not in document["paths"][f"{THINGS}/{{name}}"]["get"]["responses"]
    assert set(document["components"]["securitySchemes"]) == {"api_key", "session"}
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert document["servers"]


async def test_a_named_origin_may_use_its_session(client: httpx2.AsyncClient) -> None:
    asked = {
        "origin": "https://console.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type, x-csrf-token",
    }
    answer = await client.options(THINGS, headers=asked)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://console.example"
    assert answer.headers["access-control-allow-credentials"] == "true"
    strange = await client.options(THINGS, headers={**asked, "origin": "https://elsewhere.example"})
    assert "access-control-allow-origin" not in strange.headers
