"""Stored responses over a real database: what is kept of a project, and for how long."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from alembic import command
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.content.api import MIGRATIONS, Caller, StoredFile, StoredResponse
from cloudcrest.content.repository import files as file_repository
from cloudcrest.content.repository import responses as repository
from cloudcrest.content.responses.fields import InputFile, Item, MessageItem
from cloudcrest.content.service.conversations import Conversations
from cloudcrest.content.service.files import Files
from cloudcrest.content.service.referred import Referred
from cloudcrest.content.service.responses import Responses
from cloudcrest.content.settings import ContentSettings
from cloudcrest.infra.database import Database, ensure_database
from cloudcrest.infra.migrate import alembic_config, migrate
from cloudcrest.infra.objects import ObjectStore
from cloudcrest.infra.postgres import EmbeddedPostgres
from cloudcrest.kernel.clock import ManualClock
from cloudcrest.kernel.errors import InvalidInput, NotFound
from cloudcrest.kernel.units import MIB
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
        assert response_with_it == found
    ended = msgspec.structs.replace(kept[3], is_running=False, item_ids=["msg_2", "msg_4"])
    async with region.transaction() as session:
        await repository.put(session, ended)
        assert await repository.with_item(session, "a", "msg_4", NOW) == ended.id


async def test_an_item_is_found_by_its_index_in_a_project_of_many_responses(region: Database) -> None:
    many = (
        "insert into responses (id, organization_id, project_id, key_id, created_at, expires_at, items, document,"
        " item_ids) select 'resp_' || n, 'org', 'a', 'key', now(), now() + interval '1 day', '[]', '{}',"
        " array['msg_' || n] from generate_series(1, 30000) n"
    )
    asked: list[Any] = []

    class Asked(AsyncSession):
        async def scalar(self, statement: Any, *_: Any, **__: Any) -> Any:
            asked.append(statement)

    await repository.with_item(Asked(), "a", "msg_77", NOW)
    [statement] = asked
    told = str(statement.compile(dialect=region.engine.dialect, compile_kwargs={"literal_binds": True}))
    async with region.engine.begin() as connection:
        await connection.execute(text(many))
        await connection.execute(text("analyze responses"))
        plan = "\n".join((await connection.exec_driver_sql(f"explain {told}")).scalars())
    assert "ix_responses_item_ids" in plan
    assert "ix_responses_project_id_id" not in plan


@pytest.fixture
async def referred(region: Database, tmp_path: Path) -> Referred:
    """Over a project that has kept a response of a large item and of two small ones."""
    clock = ManualClock()
    items = [{"type": "message", "role": "user", "content": "x" * (5 * MIB), "id": "msg_large"}]
    items += [{**items[0], "content": "x", "id": item_id} for item_id in ("msg_1", "msg_2")]
    response = msgspec.structs.replace(
        stored(1, "a", 10),
        items=msgspec.json.encode(items),
        document=b'{"output": []}',
        item_ids=[str(item["id"]) for item in items],
    )
    async with region.transaction() as session:
        await repository.put(session, response)
    files = Files(region, ObjectStore(str(tmp_path)), ContentSettings(), clock, lambda kind: kind)
    return Referred(region, files, clock)


async def test_an_item_that_is_referred_to_often_counts_each_time(referred: Referred) -> None:
    assert list(await referred.items("a", [("msg_large", "input[0].id")] * 3)) == ["msg_large"]
    with pytest.raises(InvalidInput, match=r"at most 16\.8 MB together") as refused:
        await referred.items("a", [("msg_large", f"input[{index}].id") for index in range(4)])
    assert (refused.value.param, refused.value.code) == ("input[3].id", "items_too_large")
    with pytest.raises(InvalidInput, match="up to 100 items"):
        await referred.items("a", [("msg_1", "input[0].id")] * 101)


async def test_of_a_response_several_items_are_read_at_once(
    referred: Referred, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    find = repository.find

    async def counted(session: AsyncSession, project_id: str, response_id: str, now: datetime) -> StoredResponse | None:
        read.append(response_id)
        return await find(session, project_id, response_id, now)

    monkeypatch.setattr(repository, "find", counted)
    assert [*await referred.items("a", [("msg_1", "p"), ("msg_2", "p"), ("msg_1", "p")])] == ["msg_1", "msg_2"]
    assert read == ["resp_a_1"]


async def test_ids_that_the_database_cannot_hold_lose_no_answer(region: Database, referred: Referred) -> None:
    clock, settings = ManualClock(), ContentSettings()
    talks = Conversations(region, settings, clock, lambda kind: kind)
    responses = Responses(region, None, talks, referred, settings, clock=clock, new_id=lambda kind: kind)  # type: ignore[arg-type]
    items: list[Item] = [MessageItem("user", "Hi", id=item_id) for item_id in ("a\0b", "x" * 200, "msg_9")]
    document = {"id": "resp_9", "previous_response_id": None, "conversation": None, "output": [{"id": "msg_10"}]}
    await responses.keep(Caller("org", "a", "key"), items, document)
    kept = await responses.find("a", "resp_9")
    assert kept.item_ids == ["msg_9", "msg_10"]
    assert b"\\u0000" in kept.items
    with pytest.raises(NotFound, match="there is no response"):
        await responses.find("a", "a\0b")


async def test_a_file_that_is_not_there_is_named_by_its_id_alone(
    region: Database, referred: Referred, tmp_path: Path
) -> None:
    [gone] = [StoredFile("file_1", "org", "a", "key", "user_data", "a.txt", 3, NOW, None)]
    async with region.transaction() as session:
        await file_repository.add(session, gone, file_repository.READY)  # and its bytes are deleted just now
    for file_id in ("file_1", "file_2", "a\0b"):
        item = MessageItem("user", [InputFile(file_id=file_id)], id="msg_1")
        with pytest.raises(NotFound) as missing:
            await referred.put_in_files("a", [item])
        assert missing.value.message == f"there is no file '{file_id}'"
        assert (missing.value.param, missing.value.code) == ("input[0].content[0].file_id", "file_not_found")


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
