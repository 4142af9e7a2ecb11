"""Stored responses over a real database: what is kept of a project, and for how long."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from cloudcrest.content.api import MIGRATIONS, StoredResponse
from cloudcrest.content.repository import responses as repository
from cloudcrest.infra.database import Database, ensure_database
from cloudcrest.infra.migrate import migrate
from cloudcrest.infra.postgres import EmbeddedPostgres
from cloudcrest.kernel.clock import ManualClock
from tests.support import databases

pytestmark = pytest.mark.anyio
NOW = ManualClock().now()


@pytest.fixture
async def region(postgres: EmbeddedPostgres, anyio_backend: str) -> AsyncIterator[Database]:
    """A region's database."""
    name = "test_region_responses"
    database = Database(postgres.url(name), pool_size=1)
    await ensure_database(database.url)
    await migrate(database, MIGRATIONS, has_job_queue=False)
    yield database
    await database.close()
    databases.drop_database(postgres, name)


def stored(number: int, project: str, size_bytes: int, *, days: int = 1) -> StoredResponse:
    expires_at = NOW + timedelta(days=days)
    document = b"x" * (size_bytes - 2)
    return StoredResponse(f"resp_{project}_{number}", "org", project, "key", None, NOW, expires_at, b"[]", document)


async def test_what_is_old_too_many_or_too_large_is_forgotten_the_oldest_first(region: Database) -> None:
    kept = [stored(number, "large", 100) for number in range(5)] + [stored(number, "many", 10) for number in range(5)]
    kept += [stored(0, "old", 10, days=-1), stored(1, "old", 10)]
    async with region.transaction() as session:
        for response in kept:
            await repository.put(session, response)
    async with region.transaction() as session:
        assert await repository.trim(session, NOW, 3, 250, 100) == 3 + 2 + 1
        assert await repository.trim(session, NOW, 3, 250, 100) == 0
    async with region.transaction() as session:
        left = [each.id for each in kept if await repository.find(session, each.project_id, each.id, NOW) is not None]
    assert left == ["resp_large_3", "resp_large_4", "resp_many_2", "resp_many_3", "resp_many_4", "resp_old_1"]
