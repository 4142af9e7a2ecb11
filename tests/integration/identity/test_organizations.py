"""Organizations: limits under the operator's ceiling, suspension, bounds; and the wall between tenants."""

import re
from collections.abc import Mapping
from typing import Any

import httpx2
import pytest

from cloudcrest.identity.service.owners import OwnerLookup
from tests.integration.identity.cloud import OPERATOR_KEY, Cloud, Tenant, join, make_key, member_id_of

pytestmark = pytest.mark.anyio

OPEN_PATHS = {
    "/api/v1/auth/register",
    "/api/v1/auth/login",
    "/api/v1/auth/oidc",
    "/api/v1/auth/oidc/login",
    "/api/v1/auth/oidc/callback",
    "/api/v1/auth/password-reset",
    "/api/v1/auth/password-reset/confirm",
    "/api/v1/invitations/accept",
}


async def test_ceiling_is_the_operators(cloud: Cloud, ada: Tenant) -> None:
    await cloud.seed()
    path = f"/organizations/{ada.organization_id}"
    assert (await ada.client.patch(path, json={"limits": {"requests_per_minute": 100}})).status_code == 200
    assert (await ada.client.patch(path, json={"ceiling": {}})).status_code == 403
    ceiling = {"ceiling": {"requests_per_minute": 10, "concurrent_requests": 2}}
    assert (await cloud.client(OPERATOR_KEY).patch(path, json=ceiling)).status_code == 200
    document = (await cloud.documents("organization"))[ada.organization_id]
    assert document["limits"] == {"requests_per_minute": 10, "concurrent_requests": 2}


async def test_who_is_suspended_or_archived_is_to_run_nothing(cloud: Cloud, ada: Tenant) -> None:
    await cloud.seed()
    body = {"name": "second", "organization_id": ada.organization_id}
    first, second = ada.project_id, (await ada.client.post("/projects", json=body)).json()["id"]

    async def stopped() -> Mapping[str, str]:
        async with cloud.database.transaction() as session:
            return await OwnerLookup().stopped(session, [first, second, "proj_unknown"])

    assert await stopped() == {}
    assert (await ada.client.delete(f"/projects/{second}")).status_code == 204
    assert await stopped() == {second: "this project is archived"}
    path = f"/organizations/{ada.organization_id}/suspend"
    assert (await cloud.client(OPERATOR_KEY).post(path, json={"reason": "unpaid"})).status_code == 200
    assert await stopped() == dict.fromkeys((first, second), "this organization is suspended: unpaid")


async def test_suspension_is_the_operators_and_reaches_gateways(cloud: Cloud, ada: Tenant) -> None:
    await cloud.seed()
    operator = cloud.client(OPERATOR_KEY)
    path = f"/organizations/{ada.organization_id}"
    assert (await ada.client.post(f"{path}/suspend", json={"reason": "x"})).status_code == 403
    answer = await operator.post(f"{path}/suspend", json={"reason": "unpaid"})
    assert answer.json()["suspended_reason"] == "unpaid"
    assert (await cloud.documents("organization"))[ada.organization_id]["suspended_reason"] == "unpaid"
    assert (await ada.client.post(f"{path}/unsuspend")).status_code == 403
    assert (await operator.post(f"{path}/unsuspend")).status_code == 200
    assert (await cloud.documents("organization"))[ada.organization_id].get("suspended_reason") is None


async def test_operators_make_operators_and_the_last_one_stays(cloud: Cloud, ada: Tenant) -> None:
    await cloud.seed()
    operator = cloud.client(OPERATOR_KEY)
    assert (await ada.client.get("/users")).status_code == 403
    found = (await operator.get("/users", params={"email": "operator@example.com"})).json()["data"]
    assert [item["is_operator"] for item in found] == [True]
    path = f"/users/{found[0]['id']}"
    last = await operator.patch(path, json={"is_operator": False})
    assert last.status_code == 409
    assert last.json()["code"] == "last_operator"
    made = await operator.patch(f"/users/{ada.user_id}", json={"is_operator": True})
    assert made.json()["is_operator"] is True
    assert len((await ada.client.get("/organizations")).json()["data"]) == 3
    assert (await ada.client.patch(path, json={"is_operator": False})).status_code == 200
    assert (await operator.get("/users")).status_code == 403


async def test_project_limits_are_published(cloud: Cloud, ada: Tenant) -> None:
    body = {"name": "renamed", "limits": {"tokens_per_minute": 7}}
    assert (await ada.client.patch(f"/projects/{ada.project_id}", json=body)).status_code == 200
    assert (await cloud.documents("project"))[ada.project_id]["limits"] == {"tokens_per_minute": 7}
    wrong = {"limits": {"tokens_per_minute": 0}}
    assert (await ada.client.patch(f"/projects/{ada.project_id}", json=wrong)).status_code == 422


async def test_a_projects_fallbacks_are_kept_and_published_and_make_sense(cloud: Cloud, ada: Tenant) -> None:
    path = f"/projects/{ada.project_id}"
    assert (await ada.client.get(path)).json()["fallbacks"] == {}
    body = {"fallbacks": {"large": ["medium", "small"], "medium": ["small"]}}
    assert (await ada.client.patch(path, json=body)).json()["fallbacks"] == body["fallbacks"]
    assert (await ada.client.get(path)).json()["fallbacks"] == body["fallbacks"]
    assert (await cloud.documents("project"))[ada.project_id]["fallbacks"] == body["fallbacks"]
    await ada.client.patch(path, json={"name": "renamed"})
    assert (await cloud.documents("project"))[ada.project_id]["fallbacks"] == body["fallbacks"]
    same: list[dict[str, list[str]]] = [{"a": ["a"]}, {"a": ["b", "b"]}]
    for wrong in [*same, {"a": []}, {"a": list("bcdefg")}, {"": ["b"]}, {"a": ["\x00"]}]:
        answer = await ada.client.patch(path, json={"fallbacks": wrong})
        assert answer.status_code == 422, wrong
    made = {"name": "other", "organization_id": ada.organization_id, "fallbacks": {"a": ["b"]}}
    assert (await ada.client.post("/projects", json=made)).json()["fallbacks"] == {"a": ["b"]}


async def test_a_person_founds_only_so_many(cloud: Cloud, ada: Tenant) -> None:
    statuses = [(await ada.client.post("/organizations", json={"name": "o"})).status_code for _ in range(5)]
    assert statuses == [201, 201, 201, 201, 409]
    assert len(cloud.created.calls) == 5


async def test_every_route_needs_credentials(cloud: Cloud, ada: Tenant) -> None:
    client = cloud.client()
    for method, path in operations(cloud):
        if path not in OPEN_PATHS:
            answer = await client.request(method, f"http://cloud.test{fill(path, {})}", json={})
            assert answer.status_code == 401, (method, path)


async def test_other_tenants_things_are_not_there(cloud: Cloud, ada: Tenant, bob: Tenant) -> None:
    """Walks every route with an id in its path: another tenant's things answer as if they did not exist."""
    await join(cloud, ada, "carol", "developer")
    theirs, missing = (
        await ids_of(ada),
        {
            "organization_id": "org_missing",
            "project_id": "proj_missing",
            "key_id": "key_missing",
            "member_id": "mem_missing",
            "invitation_id": "inv_missing",
            "user_id": "user_missing",
        },
    )
    before = await snapshot(cloud, ada)
    bobs_key = cloud.client((await make_key(bob, scopes=["management"], organization_wide=True))["key"])
    walked = 0
    for method, path in operations(cloud):
        if "{" not in path:
            continue
        for client in (bob.client, bobs_key):
            answers = [
                await client.request(method, f"http://cloud.test{fill(path, ids)}", json=body_for(cloud, method, path))
                for ids in (theirs, missing)
            ]
            expected = 403 if "suspend" in path or "/users/" in path else 404
            assert [answer.status_code for answer in answers] == [expected, expected], (method, path)
            assert told(answers[0], theirs) == told(answers[1], missing), (method, path)
            walked += 1
    assert walked >= 30
    assert await snapshot(cloud, ada) == before


async def test_other_tenants_ids_in_bodies_and_filters_are_not_there(cloud: Cloud, ada: Tenant, bob: Tenant) -> None:
    await make_key(ada)
    own = f"/organizations/{bob.organization_id}"
    for method, path, body in (
        ("POST", "/keys", {"project_id": ada.project_id, "name": "k"}),
        ("POST", "/projects", {"organization_id": ada.organization_id, "name": "p"}),
        ("POST", f"{own}/invitations", {"role": "developer", "project_id": ada.project_id}),
        ("POST", f"{own}/members", {"user_id": ada.user_id, "role": "developer"}),
        ("PATCH", f"{own}/members/{await member_id_of(ada, ada)}", {"role": "viewer"}),
        ("GET", f"/keys?project_id={ada.project_id}", None),
        ("GET", f"/keys?organization_id={ada.organization_id}", None),
        ("GET", f"/projects?organization_id={ada.organization_id}", None),
        ("GET", f"{own}/members?project_id={ada.project_id}", None),
    ):
        answer = await bob.client.request(method, path, json=body)
        assert answer.status_code == 404, (method, path, answer.text)
    for path in ("/organizations", "/projects", "/keys", f"{own}/members", f"{own}/invitations"):
        text = (await bob.client.get(path)).text
        assert ada.organization_id not in text
        assert ada.project_id not in text


def operations(cloud: Cloud) -> list[tuple[str, str]]:
    """Every documented route as (method, path)."""
    paths = cloud.app.openapi()["paths"]
    return [(method.upper(), path) for path, item in paths.items() for method in item if method != "parameters"]


def fill(path: str, ids: dict[str, str]) -> str:
    """The path with ids in it, made-up ones where none is given."""
    return re.sub(r"\{(\w+)\}", lambda match: ids.get(match.group(1), "x_0"), path)


def body_for(cloud: Cloud, method: str, path: str) -> dict[str, Any] | None:
    """A body that a route takes."""
    if method not in ("POST", "PATCH"):
        return None
    if path.endswith("/invitations"):
        return {"role": "developer"}
    if path.endswith("/members"):
        return {"role": "developer", "user_id": "user_0"}
    if "/users/" in path:
        return {"is_operator": True}
    if path.endswith("/suspend"):
        return {"reason": "x"}
    return {"role": "viewer"} if "/members/" in path else {"name": "taken over"}


def told(answer: httpx2.Response, ids: dict[str, str]) -> str:
    """What an answer says, with the ids that were asked for blotted out."""
    text = answer.text
    for value in ids.values():
        text = text.replace(value, "…")
    return text


async def ids_of(tenant: Tenant) -> dict[str, str]:
    """Ids of one of each thing that a tenant has."""
    path = f"/organizations/{tenant.organization_id}"
    invited = await tenant.client.post(f"{path}/invitations", json={"role": "developer"})
    return {
        "organization_id": tenant.organization_id,
        "project_id": tenant.project_id,
        "key_id": (await make_key(tenant))["id"],
        "member_id": await member_id_of(tenant, tenant),
        "invitation_id": invited.json()["id"],
        "user_id": tenant.user_id,
    }


async def snapshot(cloud: Cloud, tenant: Tenant) -> list[str]:
    """All that a tenant can see of their own."""
    path = f"/organizations/{tenant.organization_id}"
    paths = ("/organizations", "/projects", "/keys", f"{path}/members", f"{path}/invitations")
    return [(await tenant.client.get(item)).text for item in paths]


async def test_guardrails_are_kept_and_published_by_project_and_by_organization(cloud: Cloud, ada: Tenant) -> None:
    path = f"/projects/{ada.project_id}"
    assert (await ada.client.get(path)).json()["guardrails"] == {"input": {}, "output": {}}
    rules = {"input": {"pii": "redact", "email": "off"}, "output": {"secrets": "block"}}
    assert (await ada.client.patch(path, json={"guardrails": rules})).json()["guardrails"] == rules
    await ada.client.patch(path, json={"name": "renamed"})
    assert (await ada.client.get(path)).json()["guardrails"] == rules
    assert (await cloud.documents("project"))[ada.project_id]["guardrails"] == rules
    made = {"name": "other", "organization_id": ada.organization_id, "guardrails": {"input": {"card": "flag"}}}
    assert (await ada.client.post("/projects", json=made)).json()["guardrails"]["input"] == {"card": "flag"}
    least = {"input": {"moderation": "block"}}
    of_all = f"/organizations/{ada.organization_id}"
    assert (await ada.client.patch(of_all, json={"guardrails": least})).status_code == 200
    assert (await ada.client.get(of_all)).json()["guardrails"] == {**least, "output": {}}
    assert (await cloud.documents("organization"))[ada.organization_id]["guardrails"] == least
    for wrong in [{"input": {"pii": "hide"}}, {"input": {"everything": "block"}}, {"output": {"hate": "redact"}}]:
        assert (await ada.client.patch(path, json={"guardrails": wrong})).status_code == 422, wrong
