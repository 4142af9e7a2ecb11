"""Fixtures for every test."""

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cloudcrest.infra.database import Database
from cloudcrest.infra.postgres import EmbeddedPostgres
from cloudcrest.kernel.clock import ManualClock
from tests.support import databases, weights

_numbers = itertools.count(1)
_APART = {"vllm": "takes minutes; run with -m vllm", "conformance": "needs npm; run with make conformance"}


@pytest.fixture
def anyio_backend() -> str:
    """Async tests (`pytest.mark.anyio`) run on asyncio alone, as the product does."""
    return "asyncio"


@pytest.fixture
def clock() -> ManualClock:
    """A clock that moves only when told to."""
    return ManualClock()


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A real PostgreSQL server for the session, with a migrated template database."""
    with databases.running_postgres() as server:
        databases.make_template(server)
        yield server


@pytest.fixture
async def database(postgres: EmbeddedPostgres, anyio_backend: str) -> AsyncIterator[Database]:
    """A fresh migrated database."""
    name = f"test_{next(_numbers)}"
    databases.create_database(postgres, name)
    database = Database(postgres.url(name), pool_size=5)
    yield database
    await database.close()
    databases.drop_database(postgres, name)


@pytest.fixture(scope="session")
def chat_weights() -> Path:
    """SmolLM2-135M-Instruct."""
    return weights.fetch(weights.CHAT_MODEL)


@pytest.fixture(scope="session")
def embedding_weights() -> Path:
    """all-MiniLM-L6-v2, converted to GGUF."""
    return weights.fetch(weights.EMBEDDING_MODEL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes minutes or fetches programs runs only when it is asked for (`-m vllm`, `-m conformance`)."""
    for name, why in _APART.items():
        if name in config.getoption("markexpr"):
            continue
        for item in items:
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=why))
