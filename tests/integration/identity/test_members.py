"""Roles over HTTP, invitations, and what only owners may do."""

from typing import Any

import anyio
import httpx2
import pytest
from sqlalchemy import text

from cloudcrest.infra.database import Database
from cloudcrest.kernel.clock import ManualClock
from tests.integration.identity.cloud import PASSWORD, Cloud, Tenant, build, join, member_id_of, register

pytestmark = pytest.mark.anyio


async def invite(host: Tenant, **fields: Any) -> tuple[httpx2.Response, str]:
    answer = await host.client.post(
        f"/organizations/{host.organization_id}/invitations", json={"role": "developer"} | fields
    )
    token = answer.json()["link"].partition("#token=")[2] if answer.status_code == 201 else ""
    return answer, token


async def test_invitation_makes_an_account_once(cloud: Cloud, ada: Tenant) -> None:
    answer, token = await invite(ada, email="New@example.com")
    assert answer.status_code == 201
    account = {"email": "new@example.com", "name": "New", "password": PASSWORD}
    other = account | {"email": "other@example.com"}
    assert (await cloud.client().post("/invitations/accept", json={"token": token})).status_code == 401
    refused = await cloud.client().post("/invitations/accept", json={"token": token, "account": other})
    assert refused.status_code == 403
    accepted = await cloud.client().post("/invitations/accept", json={"token": token, "account": account})
    assert accepted.status_code == 201, accepted.text
    assert accepted.json()["role"] == "developer"
    again = await cloud.client().post("/invitations/accept", json={"token": token, "account": other})
    assert again.status_code == 404
    client = cloud.client()
    login = await client.post("/auth/login", json={"email": "new@example.com", "password": PASSWORD})
    assert login.status_code == 200
    found = (await client.get("/organizations")).json()["data"]
    assert [item["id"] for item in found] == [ada.organization_id]


async def test_one_invitation_taken_by_two_at_once_lets_one_in(cloud: Cloud, ada: Tenant, bob: Tenant) -> None:
    _, token = await invite(ada)
    carol = await register(cloud, "carol")
    answers: list[int] = []

    async def accept(guest: Tenant) -> None:
        answers.append((await guest.client.post("/invitations/accept", json={"token": token})).status_code)

    async with anyio.create_task_group() as group:
        group.start_soon(accept, bob)
        group.start_soon(accept, carol)
    assert sorted(answers) == [201, 404]


async def test_invitation_is_mailed_and_its_token_is_nowhere_in_the_database(cloud: Cloud, ada: Tenant) -> None:
    _, token = await invite(ada, email="new@example.com")
    async with cloud.database.transaction() as session:
        jobs = (
            (
                await session.execute(
                    text("select args::text from procrastinate_jobs where task_name = 'identity:send_mail'")
                )
            )
            .scalars()
            .all()
        )
        rows = (await session.execute(text("select i::text from invitations i"))).scalars().all()
    assert len(jobs) == 1
    assert token not in "".join([*jobs, *rows])
    await cloud.jobs.run_waiting()
    assert cloud.mailer.sent[-1].to == "new@example.com"
    assert token in cloud.mailer.sent[-1].body


async def test_mailed_invitations_are_limited(database: Database, clock: ManualClock) -> None:
    cloud = build(database, clock, mailed_invitations_per_organization=2)
    ada, bob = await register(cloud, "ada"), await register(cloud, "bob")
    statuses = [(await invite(ada, email=f"new{number}@example.com"))[0].status_code for number in range(3)]
    assert statuses == [201, 201, 429]
    assert (await invite(ada))[0].status_code == 201
    assert (await invite(bob, email="new@example.com"))[0].status_code == 201
    await cloud.close()


async def test_existing_account_joins_and_cannot_join_twice(cloud: Cloud, ada: Tenant, bob: Tenant) -> None:
    _, token = await invite(ada, role="viewer")
    assert (await bob.client.post("/invitations/accept", json={"token": token})).status_code == 201
    _, second = await invite(ada, role="admin")
    assert (await bob.client.post("/invitations/accept", json={"token": second})).status_code == 409
    members = (await ada.client.get(f"/organizations/{ada.organization_id}/members")).json()["data"]
    assert sorted((item["email"], item["role"]) for item in members) == [
        ("ada@example.com", "owner"),
        ("bob@example.com", "viewer"),
    ]


async def test_invitation_expires_and_can_be_withdrawn(cloud: Cloud, ada: Tenant, bob: Tenant) -> None:
    answer, token = await invite(ada)
    path = f"/organizations/{ada.organization_id}/invitations/{answer.json()['id']}"
    assert (await ada.client.delete(path)).status_code == 204
    assert (await bob.client.post("/invitations/accept", json={"token": token})).status_code == 404
    _, late = await invite(ada)
    cloud.clock.advance(7 * 24 * 3600)
    ada_again = cloud.client()
    login = await ada_again.post("/auth/login", json={"email": bob.email, "password": PASSWORD})
    headers = {"x-csrf-token": login.json()["csrf_token"]}
    assert (await ada_again.post("/invitations/accept", json={"token": late}, headers=headers)).status_code == 404


@pytest.mark.parametrize(("mode", "status"), [("invitation", 201), ("closed", 403)])
async def test_new_accounts_by_invitation(database: Database, clock: ManualClock, mode: str, status: int) -> None:
    opened = build(database, clock)
    ada = await register(opened, "ada")
    shut = build(database, clock, registration=mode)
    _, token = await invite(ada)
    account = {"email": "new@example.com", "name": "New", "password": PASSWORD}
    answer = await shut.client().post("/invitations/accept", json={"token": token, "account": account})
    assert answer.status_code == status
    await opened.close()
    await shut.close()


async def test_operator_invites_into_a_closed_cloud(database: Database, clock: ManualClock) -> None:
    cloud = build(database, clock, registration="closed")
    await cloud.seed()
    client = cloud.client()
    login = await client.post("/auth/login", json={"email": "operator@example.com", "password": PASSWORD})
    client.headers["x-csrf-token"] = login.json()["csrf_token"]
    organization_id = (await client.get("/organizations")).json()["data"][0]["id"]
    invited = await client.post(f"/organizations/{organization_id}/invitations", json={"role": "developer"})
    token = invited.json()["link"].partition("#token=")[2]
    account = {"email": "new@example.com", "name": "New", "password": PASSWORD}
    answer = await cloud.client().post("/invitations/accept", json={"token": token, "account": account})
    assert answer.status_code == 201
    await cloud.close()


async def test_last_owner_stays(cloud: Cloud, ada: Tenant) -> None:
    path = f"/organizations/{ada.organization_id}/members/{await member_id_of(ada, ada)}"
    for answer in (await ada.client.delete(path), await ada.client.patch(path, json={"role": "admin"})):
        assert answer.status_code == 409
        assert answer.json()["code"] == "last_owner"
    await join(cloud, ada, "carol", "owner")
    assert (await ada.client.delete(path)).status_code == 204
    assert (await ada.client.get(f"/organizations/{ada.organization_id}")).status_code == 404


async def test_two_owners_demoting_each_other_leave_one(cloud: Cloud, ada: Tenant) -> None:
    carol = await join(cloud, ada, "carol", "owner")
    paths = [
        f"/organizations/{ada.organization_id}/members/{await member_id_of(ada, tenant)}" for tenant in (ada, carol)
    ]
    answers: list[int] = []

    async def demote(tenant: Tenant, path: str) -> None:
        answers.append((await tenant.client.patch(path, json={"role": "viewer"})).status_code)

    async with anyio.create_task_group() as group:
        group.start_soon(demote, ada, paths[1])
        group.start_soon(demote, carol, paths[0])
    async with cloud.database.transaction() as session:
        query = text("select count(*) from memberships where organization_id = :id and role = 'owner'")
        owners = (await session.execute(query, {"id": ada.organization_id})).scalar_one()
    assert owners == 1
    assert 200 in answers


async def test_admin_makes_and_touches_no_owner(cloud: Cloud, ada: Tenant) -> None:
    admin = await join(cloud, ada, "carol", "admin")
    host = Tenant(admin.client, admin.email, admin.user_id, ada.organization_id, ada.project_id)
    assert (await invite(host, role="owner"))[0].status_code == 403
    assert (await invite(host, role="admin"))[0].status_code == 201
    own = f"/organizations/{ada.organization_id}/members/{await member_id_of(ada, admin)}"
    assert (await admin.client.patch(own, json={"role": "owner"})).status_code == 403
    owners = f"/organizations/{ada.organization_id}/members/{await member_id_of(ada, ada)}"
    assert (await admin.client.patch(owners, json={"role": "viewer"})).status_code == 403
    assert (await admin.client.delete(owners)).status_code == 403
    assert (await admin.client.patch(f"/organizations/{ada.organization_id}", json={"name": "x"})).status_code == 403


async def test_demotion_withdraws_open_invitations(cloud: Cloud, ada: Tenant, bob: Tenant) -> None:
    admin = await join(cloud, ada, "carol", "admin")
    host = Tenant(admin.client, admin.email, admin.user_id, ada.organization_id, ada.project_id)
    _, token = await invite(host, role="admin")
    path = f"/organizations/{ada.organization_id}/members/{await member_id_of(ada, admin)}"
    assert (await ada.client.patch(path, json={"role": "viewer"})).status_code == 200
    assert (await bob.client.post("/invitations/accept", json={"token": token})).status_code == 404


async def test_project_member_sees_that_project_alone(cloud: Cloud, ada: Tenant) -> None:
    body = {"organization_id": ada.organization_id, "name": "other"}
    other = (await ada.client.post("/projects", json=body)).json()
    guest = await join(cloud, ada, "carol", "developer", other["id"])
    projects = await guest.client.get("/projects", params={"organization_id": ada.organization_id})
    assert [item["id"] for item in projects.json()["data"]] == [other["id"]]
    assert (await guest.client.get(f"/projects/{ada.project_id}")).status_code == 404
    assert (await guest.client.post("/keys", json={"project_id": other["id"], "name": "k"})).status_code == 201
    assert (await guest.client.post("/keys", json={"project_id": ada.project_id, "name": "k"})).status_code == 404
    assert (await guest.client.get(f"/organizations/{ada.organization_id}")).status_code == 200
    assert (await guest.client.get(f"/organizations/{ada.organization_id}/members")).status_code == 403
    query = {"organization_id": ada.organization_id}
    keys = (await guest.client.get("/keys", params=query)).json()["data"]
    assert [item["project_id"] for item in keys] == [other["id"]]


async def test_member_gets_a_role_in_one_more_project(cloud: Cloud, ada: Tenant, bob: Tenant) -> None:
    guest = await join(cloud, ada, "carol", "viewer")
    path = f"/organizations/{ada.organization_id}/members"
    body = {"user_id": guest.user_id, "role": "developer", "project_id": ada.project_id}
    assert (await ada.client.post(path, json=body)).status_code == 201
    assert (await ada.client.post(path, json=body)).status_code == 409
    assert (await ada.client.post(path, json=body | {"role": "owner"})).status_code == 400
    assert (await ada.client.post(path, json=body | {"user_id": bob.user_id})).status_code == 404
    assert (await ada.client.post(path, json=body | {"project_id": bob.project_id})).status_code == 404
    assert (await guest.client.post("/keys", json={"project_id": ada.project_id, "name": "k"})).status_code == 201


@pytest.mark.parametrize("role", ["viewer", "billing"])
async def test_lesser_roles_make_no_keys(cloud: Cloud, ada: Tenant, role: str) -> None:
    guest = await join(cloud, ada, "carol", role)
    assert (await guest.client.post("/keys", json={"project_id": ada.project_id, "name": "k"})).status_code == 403
    body = {"organization_id": ada.organization_id, "name": "p"}
    assert (await guest.client.post("/projects", json=body)).status_code == 403
    assert (await invite(Tenant(guest.client, "", "", ada.organization_id, "")))[0].status_code == 403
    keys = await guest.client.get("/keys", params={"organization_id": ada.organization_id})
    assert keys.json()["data"] == []


async def test_project_admin_rules_that_project_alone(cloud: Cloud, ada: Tenant) -> None:
    admin = await join(cloud, ada, "carol", "admin", ada.project_id)
    host = Tenant(admin.client, admin.email, admin.user_id, ada.organization_id, ada.project_id)
    assert (await invite(host))[0].status_code == 403
    assert (await invite(host, role="admin", project_id=ada.project_id))[0].status_code == 201
    assert (await invite(host, role="owner", project_id=ada.project_id))[0].status_code == 400
    assert (await admin.client.patch(f"/projects/{ada.project_id}", json={"name": "x"})).status_code == 200
    body = {"organization_id": ada.organization_id, "name": "p"}
    assert (await admin.client.post("/projects", json=body)).status_code == 403
    owner = f"/organizations/{ada.organization_id}/members/{await member_id_of(ada, ada)}"
    assert (await admin.client.patch(owner, json={"role": "viewer"})).status_code == 403
    wide = {"project_id": ada.project_id, "name": "k", "scopes": ["management"], "organization_wide": True}
    assert (await admin.client.post("/keys", json=wide)).status_code == 403


async def test_member_may_leave(cloud: Cloud, ada: Tenant) -> None:
    guest = await join(cloud, ada, "carol", "viewer")
    path = f"/organizations/{ada.organization_id}/members/{await member_id_of(ada, guest)}"
    assert (await guest.client.delete(path)).status_code == 204
    assert (await guest.client.get(f"/organizations/{ada.organization_id}")).status_code == 404
