"""The routes of regions over a real database."""

from collections.abc import AsyncIterator

import anyio
import httpx2
import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.identity.api import Caller
from cloudcrest.infra.database import Database
from cloudcrest.infra.feed import FeedPage
from cloudcrest.infra.feed_notifier import FeedNotifier
from cloudcrest.infra.publication import publish
from cloudcrest.kernel.clock import ManualClock
from cloudcrest.regions import routes
from tests.support.management import REGION_TOKEN, linked_region, management_client

pytestmark = pytest.mark.anyio

CALLERS = {
    "": Caller(kind="user", id="user_1", is_operator=True),
    "tenant": Caller(kind="user", id="user_2"),
}


class Thing(msgspec.Struct):
    name: str


class OneZone:
    """Implements `Zones`."""

    async def zones_by_region(self, session: AsyncSession) -> dict[str, list[str]]:  # noqa: ARG002
        return {"local": ["a"]}


@pytest.fixture
async def client(database: Database, clock: ManualClock) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of an app with the routes of regions; the header `x-caller: tenant` makes it a tenant's."""
    notifier = FeedNotifier(database.url.replace("postgresql+psycopg", "postgresql"))
    service = await linked_region(database, clock)
    routers = (routes.router(service, OneZone(), clock), routes.internal_router(notifier))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(notifier.run)
        async with management_client(database, *routers, callers=CALLERS, regions=service) as client:
            yield client
        tasks.cancel_scope.cancel()


def link(token: str = REGION_TOKEN) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def feed(client: httpx2.AsyncClient, cursor: str = "", wait_seconds: float = 0) -> FeedPage:
    answer = await client.get(
        "/internal/v1/feed", params={"cursor": cursor, "wait_seconds": wait_seconds}, headers=link()
    )
    assert answer.status_code == 200, answer.text
    return msgspec.json.decode(answer.content, type=FeedPage)


async def test_the_local_region_is_listed_and_its_link_shown_to_operators(
    client: httpx2.AsyncClient, clock: ManualClock
) -> None:
    (region,) = (await client.get("/api/v1/regions")).json()["data"]
    assert (region["id"], region["link"], region["zones"]) == ("local", "never_seen", ["a"])
    await feed(client)
    assert (await client.get("/api/v1/regions/local")).json()["link"] == "connected"
    clock.advance(60)
    assert (await client.get("/api/v1/regions/local")).json()["link"] == "cut_off"
    seen_by_a_tenant = (await client.get("/api/v1/regions/local", headers={"x-caller": "tenant"})).json()
    assert (seen_by_a_tenant["link"], seen_by_a_tenant["last_seen_at"]) == (None, None)


async def test_an_operator_adds_a_region_and_replaces_its_token(client: httpx2.AsyncClient) -> None:
    body = {"id": "eu-west", "name": "Europe", "jurisdiction": "NL", "endpoint_url": "https://eu.example.com"}
    created = await client.post("/api/v1/regions", json=body)
    assert created.status_code == 201
    first = created.json()["token"]
    assert (await client.get("/internal/v1/feed?wait_seconds=0", headers=link(first))).status_code == 200
    second = (await client.post("/api/v1/regions/eu-west/token")).json()["token"]
    assert (await client.get("/internal/v1/feed?wait_seconds=0", headers=link(first))).status_code == 401
    assert (await client.get("/internal/v1/feed?wait_seconds=0", headers=link(second))).status_code == 200
    assert (await client.post("/api/v1/regions", json=body)).status_code == 409


async def test_tenants_change_no_regions(client: httpx2.AsyncClient) -> None:
    body = {"id": "eu-west", "name": "Europe", "jurisdiction": "NL"}
    tenant = {"x-caller": "tenant"}
    assert (await client.post("/api/v1/regions", json=body, headers=tenant)).status_code == 403
    assert (await client.post("/api/v1/regions/local/token", headers=tenant)).status_code == 403


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer "}, {"authorization": "Basic x"}, link("wrong")])
async def test_the_feed_needs_a_link_token(client: httpx2.AsyncClient, headers: dict[str, str]) -> None:
    assert (await client.get("/internal/v1/feed?wait_seconds=0", headers=headers)).status_code == 401


async def test_an_unknown_region_is_not_found(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/api/v1/regions/nowhere")).status_code == 404
    assert (await client.post("/api/v1/regions/nowhere/token")).status_code == 404


async def test_the_feed_gives_a_region_its_own_documents(client: httpx2.AsyncClient, database: Database) -> None:
    async with database.transaction() as session:
        await publish(session, "thing", "for_all", Thing("a"))
        await publish(session, "thing", "for_local", Thing("b"), region="local")
        await publish(session, "thing", "for_others", Thing("c"), region="eu-west")
    page = await feed(client)
    assert [document.id for document in page.documents] == ["for_all", "for_local"]


async def test_a_waiting_region_hears_at_once(client: httpx2.AsyncClient, database: Database) -> None:
    cursor = (await feed(client)).cursor
    pages = []

    async def wait() -> None:
        pages.append(await feed(client, cursor, 20))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            async with database.transaction() as session:
                await publish(session, "thing", "new", Thing("n"))
    assert [document.id for document in pages[0].documents] == ["new"]


async def test_seeding_again_replaces_the_token_alone(
    client: httpx2.AsyncClient, database: Database, clock: ManualClock
) -> None:
    await linked_region(database, clock, "another")
    assert (await client.get("/internal/v1/feed?wait_seconds=0", headers=link())).status_code == 401
    assert (await client.get("/internal/v1/feed?wait_seconds=0", headers=link("another"))).status_code == 200
    assert len((await client.get("/api/v1/regions")).json()["data"]) == 1
