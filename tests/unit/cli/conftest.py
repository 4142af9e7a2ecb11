"""A cloud made of answers: what a command sends is kept, what it gets is set beforehand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cloudcrest.cli.main import run


class FakeCloud:
    """Answers by method and path; unknown ones are 404 problems. `requests` holds what came."""

    def __init__(self) -> None:
        self.requests: list[httpx2.Request] = []
        self._answers: dict[tuple[str, str], list[httpx2.Response]] = {}

    def answer(
        self, method: str, path: str, body: Any, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        """One more answer there; the last one is given again and again."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = httpx2.Response(
            status, content=content, headers={"content-type": "application/json", **(headers or {})}
        )
        self._answers.setdefault((method, path), []).append(response)

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        if request.url.host == "down.test":
            raise httpx2.ConnectError("refused")
        self.requests.append(request)
        answers = self._answers.get((request.method, request.url.path))
        if not answers:
            return httpx2.Response(404, json={"detail": f"there is no {request.url.path}", "code": "not_found"})
        chosen = answers.pop(0) if len(answers) > 1 else answers[0]
        return httpx2.Response(chosen.status_code, content=chosen.content, headers=chosen.headers)

    def sent(self, method: str, path: str) -> Any:
        """The JSON body of the last such request."""
        found = [item for item in self.requests if (item.method, item.url.path) == (method, path)]
        return json.loads(found[-1].content)


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> FakeCloud:
    """Every command of this test talks to this cloud."""
    fake = FakeCloud()
    original = httpx2.Client

    def make(**settings: Any) -> httpx2.Client:
        return original(**{**settings, "transport": httpx2.MockTransport(fake.handle)})

    monkeypatch.setattr(httpx2, "Client", make)
    return fake


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with nothing: no settings, no data folder, no environment of Cloudcrest's."""
    for name in ("CLOUDCREST_URL", "CLOUDCREST_API_KEY", "CLOUDCREST_DATA", "CLOUDCREST_PROFILE", "CLOUDCREST_FORMAT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    return tmp_path


Cli = Callable[..., int]


@pytest.fixture
def cli() -> Cli:
    """Runs one command line against the fake cloud and gives its exit code."""

    def call(*tokens: str, url: str | None = "http://cloud.test") -> int:
        return run([*tokens, *(["--url", url] if url else [])])

    return call
