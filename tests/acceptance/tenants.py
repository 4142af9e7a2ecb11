"""Tenants made as people make them: an account through the management API, then keys."""

import itertools
from dataclasses import dataclass, field
from typing import Any

import httpx2

from tests.support.waiting import until

_numbers = itertools.count(1)
PASSWORD = "three unrelated words"
CHAT_MODEL = "smollm2-135m-instruct"
EMBEDDING_MODEL = "all-minilm-l6-v2"
QUESTION = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}


@dataclass
class Tenant:
    """An organization with its owner's session, a project and a key for inference."""

    base_url: str
    http: httpx2.Client
    email: str
    user_id: str
    organization_id: str
    project_id: str
    key: dict[str, Any] = field(default_factory=dict)

    def make_key(self, **body: Any) -> dict[str, Any]:
        """One more key; `key` in it is the secret."""
        fields = {"project_id": self.project_id, "name": "test", **body}
        return answered(self.http.post("/api/v1/keys", json=fields), 201)

    def management_key(self) -> str:
        """A key that may do what the owner may, as a command line would have it."""
        return str(self.make_key(scopes=["inference", "management"], organization_wide=True)["key"])

    def usage(self) -> list[dict[str, Any]]:
        """What was served to this tenant, newest first."""
        return list(answered(self.http.get("/api/v1/usage", params={"limit": 200}))["data"])


def sign_up(base_url: str) -> Tenant:
    """A new person with an organization of their own."""
    email = f"person-{next(_numbers)}-{id(object())}@example.com"
    http = httpx2.Client(base_url=base_url, timeout=60, trust_env=False)
    body = {"email": email, "password": PASSWORD, "name": "Ada", "organization_name": f"Organization of {email}"}
    account = answered(http.post("/api/v1/auth/register", json=body), 201)
    http.headers["x-csrf-token"] = account["csrf_token"]
    organization = account["organization_id"]
    projects = answered(http.get("/api/v1/projects", params={"organization_id": organization}))["data"]
    tenant = Tenant(base_url, http, email, account["user"]["id"], organization, projects[0]["id"])
    tenant.key = tenant.make_key()
    known(base_url, tenant.key["key"])
    return tenant


def known(base_url: str, key: str) -> None:
    """Waits until the gateway knows a key."""
    until(lambda: infer(base_url, key, "GET", "/v1/models").status_code == 200, "the gateway learns of a new key")


def infer(base_url: str, key: str, method: str, path: str, **body: Any) -> httpx2.Response:
    """One call of the inference API."""
    with httpx2.Client(base_url=base_url, timeout=120, trust_env=False) as client:
        return client.request(method, path, headers={"authorization": f"Bearer {key}"}, **body)


def answered(response: httpx2.Response, status: int = 200) -> dict[str, Any]:
    """The JSON of an answer that must have this status."""
    assert response.status_code == status, (
        f"{response.request.method} {response.url}: {response.status_code} {response.text}"
    )
    body: dict[str, Any] = response.json() if response.content else {}
    return body
