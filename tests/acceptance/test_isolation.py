"""Tenants neither see nor change each other's anything, over every management route of the OpenAPI document.

The walk is generic: a route that is added later is walked too, and one whose path has an id of a new kind fails here
until this file says whose it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from tests.acceptance.openapi import Call, Document, calls, operations
from tests.acceptance.tenants import CHAT_MODEL, QUESTION, Tenant, answered, infer, sign_up
from tests.support.cloud import Cloud
from tests.support.waiting import until

SHARED = {
    "region_id": "local",
    "model_id": "glm-4.6",
    "pull_id": "pull_00000000000000000000000000",
    "accelerator_id": "nvidia-h100-80gb",
    "rack_id": "rack_00000000000000000000000000",
}
"""What belongs to the whole cloud: everyone may read it, only operators may change it."""
OPERATORS_ALONE = ("/api/v1/nodes", "/api/v1/racks", "/api/v1/compute-policies")
"""What tenants may not even read."""
CHANGES_WHO_CALLS = ("/api/v1/auth/", "/api/v1/invitations/accept")
"""These carry no ids, and walking them would swap the walker's session."""
OPERATORS_ALONE_WRITE = tuple(
    f"/api/v1/{kind}"
    for kind in ("regions", "models", "model-pulls", "deployments", "rate-cards", "users", "accelerators")
)
MIN_REFUSALS = 55


@dataclass
class Victim:
    """A tenant with one of everything, and the ids of it all by the names that routes give them."""

    tenant: Tenant
    ids: dict[str, str]
    words: set[str]

    def everything(self) -> list[Any]:
        """All that the victim sees of its own, to compare before and after."""
        organization = f"/api/v1/organizations/{self.ids['organization_id']}"
        paths = [organization, f"{organization}/members", f"{organization}/invitations", "/api/v1/projects"]
        paths += ["/api/v1/keys", "/api/v1/usage", "/api/v1/ledger/entries", "/api/v1/ledger/balance"]
        paths += ["/api/v1/budgets", "/api/v1/quotas", f"/api/v1/projects/{self.ids['project_id']}/secrets"]
        paths += [f"/api/v1/deployments/{self.ids['deployment_id']}"]
        seen = [answered(self.tenant.http.get(path)) for path in paths]
        for report in seen[-1]["replica_states"]:
            report.pop("reported_at")
        return seen


@pytest.fixture(scope="module")
def victim(cloud: Cloud) -> Iterator[Victim]:
    tenant = sign_up(cloud.base_url)
    answered(infer(cloud.base_url, tenant.key["key"], "POST", "/v1/chat/completions", json=QUESTION))
    served = until(tenant.usage, "the request is in the usage")[0]
    organization = f"/api/v1/organizations/{tenant.organization_id}"
    invitation = answered(tenant.http.post(f"{organization}/invitations", json={"role": "viewer"}), 201)
    member = answered(tenant.http.get(f"{organization}/members"))["data"][0]
    entry = answered(tenant.http.get("/api/v1/ledger/entries"))["data"][0]
    budget = answered(tenant.http.post("/api/v1/budgets", json={"period": "month", "amount": "1000"}), 201)
    secrets = f"/api/v1/projects/{tenant.project_id}/secrets"
    answered(tenant.http.put(f"{secrets}/THEIR_TOKEN", json={"value": "their value"}))
    with cloud.client(cloud.operator_key) as operator:
        body = {"organization_id": tenant.organization_id, "resource": "cpu", "guaranteed_milli": 1000}
        quota = answered(operator.post("/api/v1/quotas", json=body), 201)
    nowhere = {"project_id": tenant.project_id, "command": ["true"], "labels": {"no": "node"}}
    job = answered(tenant.http.post("/api/v1/jobs", json=nowhere), 201)
    private = {"model": CHAT_MODEL, "name": "private-model", "engine": "simulated", "replicas": {"min": 0}}
    with cloud.client(cloud.operator_key) as operator:
        body = {**private, "organization_id": tenant.organization_id}
        deployment = answered(operator.post("/api/v1/deployments", json=body), 201)
        card = answered(operator.get("/api/v1/rate-cards"))["data"][0]
        (node,) = until(lambda: answered(operator.get("/api/v1/nodes"))["data"], "the region has told of its node")
        until(lambda: _state(operator, deployment["id"]) == "stopped", "the private deployment has settled")
        ids = {
            "organization_id": tenant.organization_id,
            "project_id": tenant.project_id,
            "key_id": tenant.key["id"],
            "user_id": tenant.user_id,
            "member_id": member["id"],
            "invitation_id": invitation["id"],
            "entry_id": entry["id"],
            "deployment_id": deployment["id"],
            "budget_id": budget["id"],
            "job_id": job["id"],
            "quota_id": quota["id"],
            "node_id": node["id"],
        }
        words = {*ids.values(), tenant.email, "private-model", served["id"], tenant.key["prefix"]}
        # A secret's name means something in its project alone: others may have one of that name.
        yield Victim(tenant, {**ids, **SHARED, "rate_card_id": card["id"], "secret_name": "THEIR_TOKEN"}, words)
        operator.delete(f"/api/v1/deployments/{deployment['id']}")
    tenant.http.close()


@pytest.fixture
def document(cloud: Cloud) -> Document:
    return answered(httpx2.get(f"{cloud.base_url}/api/v1/openapi.json", trust_env=False))


def walk(document: Document, victim: Victim, own: dict[str, str]) -> Iterator[Call]:
    for operation in operations(document):
        unknown = set(operation.path_parameters) - set(victim.ids)
        assert not unknown, f"{operation}: whose are {unknown}? Add them to this walk"
        if not operation.path.startswith(CHANGES_WHO_CALLS):
            yield from calls(document, operation, victim.ids, own)


def is_operators(call: Call) -> bool:
    writes = call.operation.method != "GET" and call.operation.path.startswith(OPERATORS_ALONE_WRITE)
    return writes or call.operation.path.startswith(OPERATORS_ALONE)


@pytest.mark.parametrize("by", ["session", "management key"])
def test_another_tenant_sees_and_changes_nothing(
    cloud: Cloud, anyone: Tenant, victim: Victim, document: Document, by: str
) -> None:
    before = victim.everything()
    client = anyone.http if by == "session" else cloud.client(anyone.management_key())
    own = {"organization_id": anyone.organization_id, "project_id": anyone.project_id}
    refusals = 0
    for call in walk(document, victim, own):
        response = call.send(client)
        said = f"{call.operation} as {call.path} {call.query} {call.body}: {response.status_code} {response.text}"
        assert response.status_code < 500, said
        leaked = [word for word in victim.words if word in response.text and not call.holds(word)]
        assert not leaked, f"{leaked} in {said}"
        names_theirs = any(call.holds(word) for word in victim.words)
        is_read = call.operation.method == "GET" and not is_operators(call)
        if names_theirs and is_read and response.status_code == 200:
            assert response.json().get("data") == [], said
        elif names_theirs or is_operators(call):
            assert response.status_code in (403, 404), said
            assert "csrf" not in response.text, said
            refusals += 1
    assert refusals >= MIN_REFUSALS
    assert victim.everything() == before


def test_a_stranger_gets_nowhere(cloud: Cloud, victim: Victim, document: Document) -> None:
    before = victim.everything()
    with httpx2.Client(base_url=cloud.base_url, timeout=60, trust_env=False) as stranger:
        for call in walk(document, victim, {}):
            response = call.send(stranger)
            assert response.status_code == 401, f"{call.operation}: {response.status_code} {response.text}"
    assert victim.everything() == before


def test_another_tenants_model_is_not_served(cloud: Cloud, anyone: Tenant, victim: Victim) -> None:
    question = {**QUESTION, "model": "private-model"}
    theirs = infer(cloud.base_url, victim.tenant.key["key"], "POST", "/v1/chat/completions", json=question)
    assert theirs.status_code == 503
    mine = infer(cloud.base_url, anyone.key["key"], "POST", "/v1/chat/completions", json=question)
    assert (mine.status_code, mine.json()["error"]["code"]) == (404, "model_not_found")
    listed = infer(cloud.base_url, anyone.key["key"], "GET", "/v1/models")
    assert "private-model" not in listed.text


def _state(operator: httpx2.Client, deployment_id: str) -> str:
    return str(answered(operator.get(f"/api/v1/deployments/{deployment_id}"))["state"])
