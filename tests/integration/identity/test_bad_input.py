"""What nobody should send, and what they get for it: never a 5xx."""

import json
from typing import Any

import pytest

from tests.integration.identity.cloud import Cloud, Tenant

pytestmark = pytest.mark.anyio

NUL = "\x00"
BAD_KEYS: list[dict[str, Any]] = [
    {"name": NUL},
    {"name": "\ud800"},
    {"name": None},
    {"name": "x" * 101},
    {"project_id": f"proj_{NUL}"},
    {"project_id": "proj_" + "0" * 41},
    {"scopes": []},
    {"scopes": ["everything"]},
    {"scopes": ["inference"], "organization_wide": True},
    {"models": ["m"] * 201},
    {"models": [NUL]},
    {"labels": {NUL: "x"}},
    {"labels": {"x": NUL}},
    {"labels": {f"l{number}": "x" for number in range(33)}},
    {"limits": {"requests_per_minute": -1}},
    {"limits": {"requests_per_minute": 10**30}},
    {"limits": {"requests_per_minuet": 1}},
    {"expires_at": "0001-01-01T00:00:00+23:59"},
    {"expires_at": "9999-12-31T23:59:59-23:59"},
    {"expires_at": "2026-01-02T00:00:00"},
    {"expires_at": 1e300},
    {"unknown": 1},
]

BAD_PATHS: list[str] = [
    "/keys/key_%00",
    "/keys/" + "k" * 300,
    "/keys?project_id=%00",
    "/keys?limit=0",
    "/keys?limit=201",
    "/organizations/%00/members",
    "/projects?organization_id=%ff",
    "/projects?cursor=%00",
]


async def test_bad_keys_are_refused(ada: Tenant) -> None:
    headers = {"content-type": "application/json"}
    for change in BAD_KEYS:
        body = {"project_id": ada.project_id, "name": "k"} | change
        # Escaped as ASCII, which lets a lone surrogate through to the server.
        answer = await ada.client.post("/keys", content=json.dumps(body), headers=headers)
        assert answer.status_code in (400, 422), (change, answer.text)


async def test_bad_paths_and_queries_are_refused(ada: Tenant) -> None:
    for path in BAD_PATHS:
        assert (await ada.client.get(path)).status_code in (404, 422), path


async def test_bad_credentials_are_refused(cloud: Cloud) -> None:
    for credential in ["Bearer ", "Bearer \x7f", "Bearer " + "x" * 10_000, "Basic abc", "sk-cc-x", ""]:
        answer = await cloud.client().get("/me", headers={"authorization": credential})
        assert answer.status_code == 401, credential


async def test_a_form_of_another_site_signs_nobody_in(cloud: Cloud, ada: Tenant) -> None:
    content = b'{"email": "ada@example.com", "password": "three unrelated words"}'
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = await cloud.client().post("/auth/login", content=content, headers={"content-type": content_type})
        assert answer.status_code == 422
        assert "set-cookie" not in answer.headers


async def test_answers_do_not_repeat_secrets(cloud: Cloud) -> None:
    body = {"email": "nobody", "password": "a-secret-of-mine"}
    answer = await cloud.client().post("/auth/login", json=body)
    assert answer.status_code == 422
    assert "a-secret-of-mine" not in answer.text


async def test_secrets_that_are_no_text_are_refused(cloud: Cloud) -> None:
    client = cloud.client()
    headers = {"content-type": "application/json"}
    password = "long enough \ud800"
    account = {"email": "eve@example.com", "name": "Eve", "password": password}
    for path, body in (
        ("/auth/login", {"email": "eve@example.com", "password": password}),
        ("/auth/register", account),
        ("/auth/password-reset/confirm", {"token": password, "new_password": "three unrelated words"}),
        ("/invitations/accept", {"token": "x", "account": account}),
    ):
        answer = await client.post(path, content=json.dumps(body), headers=headers)
        assert answer.status_code == 422, (path, answer.text)
        assert "long enough" not in answer.text
