"""Stored responses over a real database: what is kept of a project, and for how long."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from alembic import command
from sqlalchemy import Connection, text

from cloudcrest.content.api import MIGRATIONS, StoredResponse
from cloudcrest.content.repository import responses as repository
from cloudcrest.infra.database import Database, ensure_database
from cloudcrest.infra.migrate import alembic_config, migrate
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


def upgrade(connection: Connection, revision: str) -> None:
    config = alembic_config(MIGRATIONS)
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


async def test_an_item_is_found_in_the_newest_response_of_its_own_project(region: Database) -> None:
    def with_items(number: int, project: str, *item_ids: str, **changes: Any) -> StoredResponse:
        return msgspec.structs.replace(stored(number, project, 10), item_ids=[*item_ids], **changes)

    kept = [with_items(1, "a", "msg_1", "msg_2"), with_items(2, "a", "msg_2"), with_items(3, "b", "msg_3")]
    kept += [with_items(4, "a", "msg_2", is_running=True), with_items(5, "a", "msg_2", expires_at=NOW)]
    async with region.transaction() as session:
        for response in kept:
            await repository.put(session, response)
    for project, item_id, found in (
        ("a", "msg_1", "resp_a_1"),
        ("a", "msg_2", "resp_a_2"),
        ("a", "msg_3", None),
        ("b", "msg_2", None),
    ):
        async with region.transaction() as session:
            response_with_it = await repository.with_item(session, project, item_id, NOW)
        assert (response_with_it.id if response_with_it is not None else None) == found
    ended = msgspec.structs.replace(kept[3], is_running=False, item_ids=["msg_2", "msg_4"])
    async with region.transaction() as session:
        await repository.put(session, ended)
        assert await repository.with_item(session, "a", "msg_4", NOW) == ended


async def test_items_of_before_are_found_after_the_migration(postgres: EmbeddedPostgres) -> None:
    name = "test_region_items"
    database = Database(postgres.url(name), pool_size=1)
    try:
        await ensure_database(database.url)
        async with database.engine.begin() as connection:
            await connection.run_sync(upgrade, "0005")
        items, document = b'[{"id": "msg_1", "text": "\\u0000"}]', b'{"output": [{"id": "fc_1"}]}'
        values: dict[str, Any] = dict.fromkeys(("id", "organization_id", "project_id", "key_id"), "x")
        values |= {"created_at": NOW, "expires_at": NOW, "items": items, "document": document}
        names = ", ".join(values)
        async with database.transaction() as session:
            places = ", ".join(f":{name}" for name in values)
            await session.execute(text(f"insert into responses ({names}) values ({places})"), values)  # noqa: S608
        await migrate(database, MIGRATIONS, has_job_queue=False)
        async with database.transaction() as session:
            assert await session.scalar(text("select item_ids from responses")) == ["msg_1", "fc_1"]
    finally:
        await database.close()
        databases.drop_database(postgres, name)


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
