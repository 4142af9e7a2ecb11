"""A revoked key is refused within a second."""

import time

from tests.acceptance.tenants import QUESTION, Tenant, answered, infer, known
from tests.support.cloud import Cloud
from tests.support.waiting import until


def test_a_revoked_key_is_refused_within_a_second(cloud: Cloud, anyone: Tenant) -> None:
    key = anyone.make_key()
    known(cloud.base_url, key["key"])
    answered(anyone.http.delete(f"/api/v1/keys/{key['id']}"), 204)
    revoked_at = time.monotonic()
    until(
        lambda: infer(cloud.base_url, key["key"], "GET", "/v1/models").status_code == 401,
        "the gateway refuses the key",
        seconds=1.0,
        pause_seconds=0.02,
    )
    assert time.monotonic() - revoked_at < 1.0
    response = infer(cloud.base_url, key["key"], "POST", "/v1/chat/completions", json=QUESTION)
    assert response.json()["error"]["code"] == "invalid_api_key"


def test_an_archived_projects_keys_are_refused(cloud: Cloud, anyone: Tenant) -> None:
    body = {"organization_id": anyone.organization_id, "name": "short-lived"}
    project = answered(anyone.http.post("/api/v1/projects", json=body), 201)
    key = anyone.make_key(project_id=project["id"])["key"]
    known(cloud.base_url, key)
    answered(anyone.http.delete(f"/api/v1/projects/{project['id']}"), 204)
    until(lambda: infer(cloud.base_url, key, "GET", "/v1/models").status_code == 401, "its keys stop working")
