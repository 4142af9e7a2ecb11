"""Bad input, and what it gets: a status, a code, a path, in OpenAI's error shape; problem documents from management."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from tests.acceptance.tenants import CHAT_MODEL, EMBEDDING_MODEL, QUESTION, Tenant, answered, infer, known
from tests.support.cloud import Cloud
from tests.support.waiting import until

CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "Hi"}


def refused(response: httpx2.Response, status: int, code: str, param: str | None = None) -> dict[str, Any]:
    """The error of an answer that must be one, in OpenAI's shape."""
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code, error
    if param is not None:
        assert error["param"] == param, error
    return error


def test_unknown_missing_and_odd_keys(cloud: Cloud) -> None:
    refused(infer(cloud.base_url, "sk-cc-unknown", "POST", CHAT, json=QUESTION), 401, "invalid_api_key")
    response = httpx2.post(f"{cloud.base_url}{CHAT}", json=QUESTION, trust_env=False)
    assert response.status_code == 401
    basic = httpx2.post(f"{cloud.base_url}{CHAT}", json=QUESTION, auth=("a", "b"), trust_env=False)
    assert basic.status_code == 401


def test_an_expired_key(cloud: Cloud, anyone: Tenant) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=1.5)
    key = anyone.make_key(expires_at=soon.isoformat())["key"]

    def is_refused() -> bool:
        response = infer(cloud.base_url, key, "GET", "/v1/models")
        return response.status_code == 401 and datetime.now(UTC) > soon

    until(is_refused, "the key expires")


def test_a_key_for_other_models(cloud: Cloud, anyone: Tenant) -> None:
    key = anyone.make_key(models=[EMBEDDING_MODEL])["key"]
    known(cloud.base_url, key)
    error = refused(infer(cloud.base_url, key, "POST", CHAT, json=QUESTION), 403, "model_not_allowed")
    assert CHAT_MODEL in error["message"]


def test_an_unknown_model_names_close_ones(cloud: Cloud, anyone: Tenant) -> None:
    body = {**QUESTION, "model": "smollm2-135m-instrukt"}
    error = refused(infer(cloud.base_url, anyone.key["key"], "POST", CHAT, json=body), 404, "model_not_found")
    assert CHAT_MODEL in error["message"]


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b'{"model": ', "invalid_json", None),
        (b"\xff\xfe", "invalid_json", None),
        ({**QUESTION, "messages": "Hi"}, "invalid_value", "messages"),
        ({**QUESTION, "messages": [{"role": "wizard", "content": "Hi"}]}, "invalid_value", "messages[0].role"),
        ({**QUESTION, "messages": [USER, {"role": "user", "content": 7}]}, "invalid_value", "messages[1].content"),
        ({**QUESTION, "max_tokens": "ten"}, "invalid_value", "max_tokens"),
        ({**QUESTION, "temperature": 9}, "invalid_value", "temperature"),
        ({"messages": [USER]}, "missing_required_parameter", "model"),
        ({**QUESTION, "n_predict": 100_000}, "unknown_parameter", "n_predict"),
    ],
)
def test_malformed_bodies_name_the_field(
    cloud: Cloud, anyone: Tenant, body: bytes | dict[str, Any], code: str, param: str | None
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    refused(infer(cloud.base_url, anyone.key["key"], "POST", CHAT, content=content), 400, code, param)


def test_a_body_over_the_limit(cloud: Cloud, anyone: Tenant) -> None:
    content = b'{"model": "' + b"x" * (33 * 1024 * 1024) + b'"}'
    response = infer(cloud.base_url, anyone.key["key"], "POST", CHAT, content=content)
    refused(response, 413, "request_too_large")


def test_a_context_that_is_too_long(cloud: Cloud, anyone: Tenant) -> None:
    body = {**QUESTION, "messages": [{"role": "user", "content": "one two three four " * 20_000}]}
    refused(infer(cloud.base_url, anyone.key["key"], "POST", CHAT, json=body), 400, "context_length_exceeded")


def test_over_a_limit(cloud: Cloud, anyone: Tenant) -> None:
    key = anyone.make_key(limits={"requests_per_minute": 2})["key"]
    known(cloud.base_url, key)
    answers = [infer(cloud.base_url, key, "POST", CHAT, json={**QUESTION, "max_tokens": 1}) for _ in range(4)]
    assert [answer.status_code for answer in answers[:2]] == [200, 200]
    refused(answers[-1], 429, "rate_limit_exceeded")
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert answers[-1].headers["x-ratelimit-limit-requests"] == "2"
    assert answers[-1].headers["x-ratelimit-remaining-requests"] == "0"
    assert "x-ratelimit-reset-requests" in answers[-1].headers


def test_no_ready_replica_says_why(cloud: Cloud, anyone: Tenant, operator: httpx2.Client) -> None:
    body = {"model": CHAT_MODEL, "name": "stopped-model", "engine": "simulated", "replicas": {"min": 0}}
    deployment = answered(operator.post("/api/v1/deployments", json=body), 201)
    question = {**QUESTION, "model": "stopped-model"}

    def look() -> httpx2.Response | None:
        response = infer(cloud.base_url, anyone.key["key"], "POST", CHAT, json=question)
        return response if response.status_code == 503 else None

    try:
        response = until(look, "the gateway knows the stopped deployment")
        assert response is not None
        error = refused(response, 503, response.json()["error"]["code"])
        assert error["type"] == "server_error"
        assert error["message"]
    finally:
        operator.delete(f"/api/v1/deployments/{deployment['id']}")


def test_an_engine_that_dies_is_a_fault_of_ours(cloud: Cloud, anyone: Tenant, operator: httpx2.Client) -> None:
    options = {"die_after_tokens": 3, "answer_tokens": 50}
    body = {"model": CHAT_MODEL, "name": "dying-model", "engine": "simulated", "engine_options": options}
    deployment = answered(operator.post("/api/v1/deployments", json=body), 201)
    question = {**QUESTION, "model": "dying-model", "max_tokens": 50}

    def look() -> httpx2.Response | None:
        response = infer(cloud.base_url, anyone.key["key"], "POST", CHAT, json=question)
        assert response.status_code in (404, 502, 503), response.text
        return response if response.status_code == 502 else None

    try:
        response = until(look, "the engine dies under a request")
        assert response is not None
        refused(response, 502, "engine_error")
    finally:
        operator.delete(f"/api/v1/deployments/{deployment['id']}")


@pytest.mark.parametrize(
    ("call", "body", "status", "code"),
    [
        ("GET /api/v1/keys/key_0", None, 404, "not_found"),
        ("GET /api/v1/nothing", None, 404, "not_found"),
        ("PUT /api/v1/keys", None, 405, "method_not_allowed"),
        ("POST /api/v1/keys", {"name": "x"}, 422, "invalid_value"),
        ("POST /api/v1/deployments", {"model": CHAT_MODEL}, 403, "permission_denied"),
    ],
)
def test_management_errors_are_problem_documents(
    anyone: Tenant, call: str, body: dict[str, Any] | None, status: int, code: str
) -> None:
    method, path = call.split(" ")
    response = anyone.http.request(method, path, json=body)
    assert response.status_code == status, response.text
    assert response.headers["content-type"].startswith("application/problem+json")
    problem = response.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert {"type", "title", "detail"} <= set(problem)


def test_management_needs_a_caller_and_writes_need_csrf(cloud: Cloud, anyone: Tenant) -> None:
    response = httpx2.get(f"{cloud.base_url}/api/v1/keys", trust_env=False)
    assert (response.status_code, response.json()["code"]) == (401, "not_authenticated")
    inference_key = {"authorization": f"Bearer {anyone.key['key']}"}
    response = httpx2.get(f"{cloud.base_url}/api/v1/keys", headers=inference_key, trust_env=False)
    assert response.status_code == 403
    del anyone.http.headers["x-csrf-token"]
    response = anyone.http.post("/api/v1/organizations", json={"name": "another"})
    assert (response.status_code, response.json()["code"]) == (403, "csrf_token_invalid")
