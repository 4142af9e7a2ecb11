"""The page that describes the API, and the words for wrong fields."""

import re
from datetime import datetime
from typing import Annotated

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import BaseModel, Field

from cloudcrest.identity.schemas import Email, NewPassword
from cloudcrest.infra.http import docs, problems

pytestmark = pytest.mark.anyio


class Account(BaseModel):
    """Who <somebody> is."""

    email: Email
    password: NewPassword
    tags: list[Annotated[str, Field(max_length=3)]] = []
    until: datetime | None = None


def _app() -> FastAPI:
    app = FastAPI(title="Test & Co", docs_url=None)
    problems.install(app)

    @app.post("/api/accounts", operation_id="makeAccount", tags=["accounts"], summary="Make one")
    async def make(account: Account) -> Account:
        return account

    docs.install(app, "/api/docs")
    return app


def _client() -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=_app()), base_url="http://test")


async def test_the_page_shows_operations_with_examples_and_loads_nothing_from_elsewhere() -> None:
    async with _client() as client:
        answer = await client.get("/api/docs")
    assert answer.status_code == 200
    page = answer.text
    assert all(part in page for part in ("POST", "/api/accounts", "Make one", "ada@example.com", "Test &amp; Co"))
    assert "Who &lt;somebody&gt; is." in page
    assert not re.search(r"<script|<link|<img|https?://", page)
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_an_example_follows_references_and_ends_where_they_go_round() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/components/schemas/Node"}, "at": {"type": "integer"}}}
    document = {"components": {"schemas": {"Node": node}}}
    assert docs.example(document, {"$ref": "#/components/schemas/Node"})["next"]["at"] == 1
    assert docs.example(document, {"anyOf": [{"type": "string"}, {"type": "null"}]}) == "…"
    assert docs.example(document, {"type": "array", "items": {"enum": ["a", "b"]}}) == ["a"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"email": "adaexample.com"}, "body.email: is no e-mail address, as in ada@example.com"),
        ({"password": "short"}, "body.password: has to have 10 characters or more"),
        ({"password": "x" * 257}, "body.password: has to have 256 characters or fewer"),
        ({"tags": ["toolong"]}, "body.tags.0: String should have at most 3 characters"),
    ],
)
async def test_wrong_fields_are_told_in_words(change: dict[str, object], said: str) -> None:
    async with _client() as client:
        body = {"email": "ada@example.com", "password": "three unrelated words", **change}
        answer = await client.post("/api/accounts", json=body)
    assert (answer.status_code, answer.json()["detail"]) == (422, said)
