"""API keys: made, shown once, published, changed, revoked; what a management key may do."""

import hashlib
import time
from datetime import timedelta

import anyio
import pytest
from sqlalchemy import text

from cloudcrest.identity.repository.keys import key_by_id
from cloudcrest.infra.feed import FeedPage
from cloudcrest.infra.feed_notifier import FeedNotifier
from cloudcrest.infra.publication import read_page
from cloudcrest.kernel.clock import ManualClock
from tests.integration.identity.cloud import (
    FIRST_KEY,
    OPERATOR_KEY,
    PROBE_KEY,
    Cloud,
    Tenant,
    join,
    make_key,
    member_id_of,
)

pytestmark = pytest.mark.anyio


async def test_secret_is_shown_once_and_kept_as_a_hash(cloud: Cloud, ada: Tenant) -> None:
    made = await make_key(ada, labels={"team": "search"}, models=["smollm2-135m-instruct"])
    secret = made["key"]
    assert secret.startswith("sk-cc-")
    assert len(secret) == 49
    assert secret.startswith(made["prefix"])
    again = (await ada.client.get(f"/keys/{made['id']}")).json()
    assert "key" not in again
    assert again["labels"] == {"team": "search"}
    document = (await cloud.documents("key"))[made["id"]]
    assert document["key_sha256"] == hashlib.sha256(secret.encode()).hexdigest()
    assert document["models"] == ["smollm2-135m-instruct"]
    assert document["scopes"] == ["inference"]
    assert document["project_id"] == ada.project_id
    async with cloud.database.transaction() as session:
        row = (await session.execute(text("select api_keys::text from api_keys"))).scalar_one()
    assert secret not in row


async def test_change_is_published(cloud: Cloud, ada: Tenant, clock: ManualClock) -> None:
    made = await make_key(ada)
    expires_at = clock.now() + timedelta(days=1)
    change = {
        "name": "renamed",
        "limits": {"requests_per_minute": 5},
        "models": ["a"],
        "expires_at": expires_at.isoformat(),
    }
    answer = await ada.client.patch(f"/keys/{made['id']}", json=change)
    assert answer.status_code == 200, answer.text
    document = (await cloud.documents("key"))[made["id"]]
    assert document["limits"] == {"requests_per_minute": 5}
    assert document["models"] == ["a"]
    assert document["expires_at_unix_seconds"] == int(expires_at.timestamp())
    unlimited = await ada.client.patch(f"/keys/{made['id']}", json={"models": None, "expires_at": None})
    assert unlimited.json()["models"] is None
    assert unlimited.json()["expires_at"] is None
    assert unlimited.json()["name"] == "renamed"


async def test_scopes_never_change(ada: Tenant) -> None:
    made = await make_key(ada)
    answer = await ada.client.patch(f"/keys/{made['id']}", json={"scopes": ["management"]})
    assert answer.status_code == 422


async def test_revocation_withdraws_the_document_and_shuts_the_door(cloud: Cloud, ada: Tenant) -> None:
    made = await make_key(ada, scopes=["management"])
    client = cloud.client(made["key"])
    assert (await client.get("/me")).status_code == 200
    for _ in range(2):
        assert (await ada.client.delete(f"/keys/{made['id']}")).status_code == 204
    assert made["id"] not in await cloud.documents("key")
    answer = await client.get("/me")
    assert answer.status_code == 401
    assert (await ada.client.patch(f"/keys/{made['id']}", json={"name": "x"})).status_code == 409
    assert (await ada.client.get(f"/keys/{made['id']}")).json()["revoked_at"] is not None


async def test_a_key_revoked_long_ago_is_forgotten_unless_a_start_would_make_it_again(
    cloud: Cloud, ada: Tenant, clock: ManualClock
) -> None:
    await cloud.seed()
    first = cloud.client(FIRST_KEY)
    [seeded] = (await first.get("/keys")).json()["data"]
    made, kept = await make_key(ada), await make_key(ada)
    assert (await ada.client.delete(f"/keys/{made['id']}")).status_code == 204
    assert (await first.delete(f"/keys/{seeded['id']}")).status_code == 204

    async def forgotten(days: int) -> int:
        clock.advance(days * 86_400)
        async with cloud.database.transaction() as session:
            return await cloud.keys.forget_revoked(session)

    assert [await forgotten(399), await forgotten(2), await forgotten(400)] == [0, 1, 0]
    async with cloud.database.transaction() as session:
        assert await key_by_id(session, made["id"]) is None
        assert await key_by_id(session, kept["id"]) is not None
    await cloud.seed()
    assert (await first.get("/me")).status_code == 401


async def test_a_waiting_follower_hears_of_a_revocation_within_a_second(cloud: Cloud, ada: Tenant) -> None:
    made = await make_key(ada)
    notifier = FeedNotifier(cloud.database.conninfo)

    async def read(cursor: str) -> FeedPage:
        async with cloud.database.transaction() as session:
            return await read_page(session, cursor, region="local")

    heard: list[FeedPage] = []

    async def follow(cursor: str) -> None:
        heard.append(await notifier.wait_for_page(read, cursor, 20))

    async with anyio.create_task_group() as group:
        group.start_soon(notifier.run)
        with anyio.fail_after(10):
            async with anyio.create_task_group() as waiting:
                waiting.start_soon(follow, (await read("")).cursor)
                assert (await ada.client.delete(f"/keys/{made['id']}")).status_code == 204
                began = time.monotonic()
        assert time.monotonic() - began < 1
        group.cancel_scope.cancel()
    assert [(item.id, item.body) for item in heard[0].documents] == [(made["id"], None)]


async def test_expired_key_is_refused(cloud: Cloud, ada: Tenant, clock: ManualClock) -> None:
    expires_at = (clock.now() + timedelta(hours=1)).isoformat()
    made = await make_key(ada, scopes=["management"], expires_at=expires_at)
    client = cloud.client(made["key"])
    assert (await client.get("/me")).status_code == 200
    clock.advance(3600)
    assert (await client.get("/me")).status_code == 401


@pytest.mark.parametrize(("days", "status"), [(-1, 400), (0, 400), (1, 201), (4000, 400)])
async def test_expiry_has_bounds(ada: Tenant, clock: ManualClock, days: int, status: int) -> None:
    expires_at = (clock.now() + timedelta(days=days)).isoformat()
    body = {"project_id": ada.project_id, "name": "k", "expires_at": expires_at}
    assert (await ada.client.post("/keys", json=body)).status_code == status


async def test_inference_key_manages_nothing(cloud: Cloud, ada: Tenant) -> None:
    made = await make_key(ada)
    answer = await cloud.client(made["key"]).get("/keys")
    assert answer.status_code == 403
    assert answer.json()["code"] == "missing_scope"


async def test_management_key_stays_in_its_project(cloud: Cloud, ada: Tenant) -> None:
    body = {"organization_id": ada.organization_id, "name": "other"}
    other = (await ada.client.post("/projects", json=body)).json()
    made = await make_key(ada, scopes=["management"])
    client = cloud.client(made["key"])
    assert [item["id"] for item in (await client.get("/projects")).json()["data"]] == [ada.project_id]
    assert (await client.get(f"/projects/{other['id']}")).status_code == 404
    assert (await client.post("/keys", json={"project_id": other["id"], "name": "k"})).status_code == 404
    wide = {"project_id": ada.project_id, "name": "k", "scopes": ["management"], "organization_wide": True}
    assert (await client.post("/keys", json=wide)).status_code == 403
    change = await client.patch(f"/organizations/{ada.organization_id}", json={"name": "mine"})
    assert change.status_code == 403
    assert (await client.post("/organizations", json={"name": "new"})).status_code == 403
    assert (await client.post("/auth/logout-all")).status_code == 403


async def test_organization_wide_key_acts_in_all_of_it_and_nowhere_else(cloud: Cloud, ada: Tenant, bob: Tenant) -> None:
    guest = await join(cloud, bob, "carol", "developer")
    made = (
        await guest.client.post(
            "/keys",
            json={"project_id": bob.project_id, "name": "k", "scopes": ["management"], "organization_wide": True},
        )
    ).json()
    client = cloud.client(made["key"])
    assert [item["id"] for item in (await client.get("/organizations")).json()["data"]] == [bob.organization_id]
    assert (await client.get(f"/organizations/{guest.organization_id}")).status_code == 404
    assert (await client.get(f"/organizations/{ada.organization_id}")).status_code == 404


async def test_key_loses_power_with_its_maker(cloud: Cloud, ada: Tenant) -> None:
    guest = await join(cloud, ada, "carol", "developer")
    body = {"project_id": ada.project_id, "name": "k", "scopes": ["management"]}
    secret = (await guest.client.post("/keys", json=body)).json()["key"]
    client = cloud.client(secret)
    assert (await client.get(f"/projects/{ada.project_id}")).status_code == 200
    path = f"/organizations/{ada.organization_id}/members/{await member_id_of(ada, guest)}"
    assert (await ada.client.delete(path)).status_code == 204
    assert (await client.get(f"/projects/{ada.project_id}")).status_code == 404


async def test_tenant_makes_no_operator_key(ada: Tenant) -> None:
    body = {"project_id": ada.project_id, "name": "k", "scopes": ["management"], "is_operator": True}
    assert (await ada.client.post("/keys", json=body)).status_code == 403


async def test_archived_project_takes_its_keys_along(cloud: Cloud, ada: Tenant) -> None:
    made = await make_key(ada)
    other = await make_key(ada)
    assert (await ada.client.delete(f"/projects/{ada.project_id}")).status_code == 204
    assert await cloud.documents("key") == {}
    assert await cloud.documents("project") == {}
    for key in (made, other):
        assert (await ada.client.get(f"/keys/{key['id']}")).json()["revoked_at"] is not None
    body = {"project_id": ada.project_id, "name": "k"}
    assert (await ada.client.post("/keys", json=body)).status_code == 409
    assert (await ada.client.get("/projects")).json()["data"] == []


async def test_keys_come_in_pages(cloud: Cloud, ada: Tenant) -> None:
    made = []
    for number in range(5):
        cloud.clock.advance(1)
        made.append((await make_key(ada, name=f"key {number}"))["id"])
    seen: list[str] = []
    cursor: str | None = None
    while True:
        query: dict[str, str | int] = {"limit": 2, "project_id": ada.project_id}
        if cursor is not None:
            query["cursor"] = cursor
        page = (await ada.client.get("/keys", params=query)).json()
        seen += [item["id"] for item in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == made[::-1]


async def test_seed_is_idempotent_and_gives_each_key_its_powers(cloud: Cloud) -> None:
    for _ in range(2):
        await cloud.seed()
    assert len(await cloud.documents("key")) == 3
    assert len(await cloud.documents("organization")) == 2
    assert len(cloud.created.calls) == 2
    first, operator = cloud.client(FIRST_KEY), cloud.client(OPERATOR_KEY)
    me = (await first.get("/me")).json()
    assert me["is_operator"] is False
    assert [item["role"] for item in me["memberships"]] == ["owner"]
    assert len((await first.get("/organizations")).json()["data"]) == 1
    assert (await operator.get("/me")).json()["is_operator"] is True
    assert len((await operator.get("/organizations")).json()["data"]) == 2
    assert (await cloud.client(PROBE_KEY).get("/me")).status_code == 403


async def test_operator_key_falls_with_its_operator(cloud: Cloud) -> None:
    await cloud.seed()
    async with cloud.database.transaction() as session:
        await session.execute(text("update users set is_operator = false"))
    assert (await cloud.client(OPERATOR_KEY).get("/me")).json()["is_operator"] is False
