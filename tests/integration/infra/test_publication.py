"""The database's side of the feed: nothing missed, nothing of another region, woken at once."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from sqlalchemy import text

from cloudcrest.infra import publication
from cloudcrest.infra.database import Database
from cloudcrest.infra.feed import Document, FeedPage, FeedState
from cloudcrest.infra.feed_notifier import FeedNotifier
from cloudcrest.infra.postgres import EmbeddedPostgres
from cloudcrest.infra.publication import forget_deletions, publish, read_page
from tests.support import databases

pytestmark = pytest.mark.anyio


class Thing(msgspec.Struct, frozen=True):
    n: int


async def put(database: Database, name: str, body: Thing | None, *, region: str | None = None) -> None:
    async with database.transaction() as session:
        await publish(session, "thing", name, body, region=region)


async def page_after(database: Database, cursor: str, region: str = "local") -> FeedPage:
    async with database.transaction() as session:
        return await read_page(session, cursor, region=region)


async def catch_up(database: Database, state: FeedState, region: str = "local") -> None:
    while True:
        page = await page_after(database, state.cursor, region)
        state.apply(page)
        if not page.has_more:
            return


@pytest.fixture
async def notifier(database: Database, anyio_backend: str) -> AsyncIterator[FeedNotifier]:
    notifier = FeedNotifier(database.conninfo)
    running = asyncio.create_task(notifier.run())
    yield notifier
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_follower_learns_changes_and_deletions(database: Database) -> None:
    state = FeedState()
    await put(database, "a", Thing(1))
    await put(database, "b", Thing(2))
    await catch_up(database, state)
    assert state.documents == {"thing": {"a": {"n": 1}, "b": {"n": 2}}}
    await put(database, "a", None)
    await put(database, "b", Thing(3))
    page = await page_after(database, state.cursor)
    assert page.documents == [Document("thing", "a", None), Document("thing", "b", {"n": 3})]
    assert not page.reset


async def test_a_region_sees_its_own_and_what_is_for_all(database: Database) -> None:
    await put(database, "all", Thing(1))
    await put(database, "mine", Thing(2), region="local")
    await put(database, "other", Thing(3), region="elsewhere")
    state = FeedState()
    await catch_up(database, state)
    assert set(state.documents["thing"]) == {"all", "mine"}
    await put(database, "other", None)
    await put(database, "mine", None)
    page = await page_after(database, state.cursor)
    assert [document.id for document in page.documents] == ["mine"]


@pytest.mark.parametrize("region", ["elsewhere", None])
async def test_a_document_stays_in_its_region(database: Database, region: str | None) -> None:
    await put(database, "mine", Thing(1), region="local")
    for _ in range(2):
        with pytest.raises(ValueError, match="of another region"):
            await put(database, "mine", Thing(2), region=region)
        await put(database, "mine", None)  # as long as some region may have to hear of its end
    state = FeedState()
    await catch_up(database, state)
    assert state.documents.get("thing", {}) == {}


async def test_an_undone_transaction_publishes_nothing(database: Database) -> None:
    async with database.transaction() as session:
        await publish(session, "thing", "a", Thing(1))
        await session.rollback()
    assert (await page_after(database, "")).documents == []


async def test_concurrent_publishers_never_hide_a_revision(database: Database) -> None:
    """Followers read while many publish: each must end with the last word of every document."""
    state = FeedState()
    publishing = asyncio.Event()

    async def publisher(number: int) -> None:
        for turn in range(10):
            await put(database, f"t{(number + turn) % 5}", Thing(number * 100 + turn))

    async def follower() -> None:
        while not publishing.is_set():
            await catch_up(database, state)

    following = asyncio.create_task(follower())
    await asyncio.gather(*(publisher(number) for number in range(4)))
    publishing.set()
    await following
    await catch_up(database, state)
    fresh = FeedState()
    await catch_up(database, fresh)
    assert state.documents == fresh.documents
    assert set(state.documents["thing"]) == {f"t{number}" for number in range(5)}


async def test_an_early_revision_that_commits_late_cannot_be_overtaken(database: Database) -> None:
    async with database.transaction() as slow:
        await publish(slow, "thing", "early", Thing(1))
        overtaking = asyncio.create_task(put(database, "late", Thing(2)))
        done, _ = await asyncio.wait({overtaking}, timeout=0.3)
        assert not done
    await overtaking
    page = await page_after(database, "")
    assert [document.id for document in page.documents] == ["early", "late"]


async def test_pages_are_bounded_and_only_the_first_resets(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publication, "MAX_PAGE_DOCUMENTS", 2)
    for name in "abcde":
        await put(database, name, Thing(1))
    pages = [await page_after(database, "")]
    while pages[-1].has_more:
        pages.append(await page_after(database, pages[-1].cursor))
    assert [len(page.documents) for page in pages] == [2, 2, 1]
    assert [page.reset for page in pages] == [True, False, False]


async def test_who_starts_over_is_told_of_no_deletion(database: Database) -> None:
    for name in "abc":
        await put(database, name, Thing(1))
    await put(database, "c", None)
    page = await page_after(database, "")
    assert [document.id for document in page.documents] == ["a", "b"]
    assert await page_after(database, page.cursor) == FeedPage(page.cursor, [])


async def test_old_deletions_are_forgotten_and_who_needed_them_starts_over(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind, current, fresh = FeedState(), FeedState(), FeedState()
    for name in "abcdef":
        await put(database, name, Thing(1))
    await catch_up(database, behind)
    for name in "abc":
        await put(database, name, None)
    await catch_up(database, current)
    async with database.transaction() as session:
        assert await forget_deletions(session, kept=1) == 2
        assert await forget_deletions(session, kept=1) == 0
    assert (await page_after(database, behind.cursor)).reset
    assert not (await page_after(database, current.cursor)).reset
    monkeypatch.setattr(publication, "MAX_PAGE_DOCUMENTS", 1)
    await put(database, "d", None)
    for state in (behind, current, fresh):
        await catch_up(database, state)
        assert set(state.documents["thing"]) == {"e", "f"}
    deleted_meanwhile = FeedState()
    deleted_meanwhile.apply(await page_after(database, ""))
    await put(database, "e", None)
    await catch_up(database, deleted_meanwhile)
    assert set(deleted_meanwhile.documents["thing"]) == {"f"}


async def test_a_cursor_ahead_of_a_restored_database_starts_over(database: Database) -> None:
    await put(database, "a", Thing(1))
    await put(database, "b", Thing(1))
    cursor = (await page_after(database, "")).cursor
    async with database.transaction() as session:
        await session.execute(text("delete from published_documents where id = 'b'"))
    page = await page_after(database, cursor)
    assert page.reset
    assert [document.id for document in page.documents] == ["a"]


async def test_a_cursor_of_another_database_starts_over(database: Database, postgres: EmbeddedPostgres) -> None:
    await put(database, "a", Thing(1))
    cursor = (await page_after(database, "")).cursor
    databases.create_database(postgres, "another")
    another = Database(postgres.url("another"), pool_size=1)
    try:
        await put(another, "x", Thing(1))
        assert (await page_after(another, cursor)).reset
    finally:
        await another.close()
        databases.drop_database(postgres, "another")


async def test_a_publication_wakes_who_waits(database: Database, notifier: FeedNotifier) -> None:
    await put(database, "a", Thing(1))
    cursor = (await page_after(database, "")).cursor

    async def read(since: str) -> FeedPage:
        return await page_after(database, since)

    waiting = [asyncio.create_task(notifier.wait_for_page(read, cursor, 20)) for _ in range(20)]
    await asyncio.sleep(0)
    await put(database, "b", Thing(2))
    pages = await asyncio.wait_for(asyncio.gather(*waiting), 10)
    assert {page.documents[0].id for page in pages} == {"b"}


async def test_a_killed_listener_loses_no_wake(database: Database, notifier: FeedNotifier) -> None:
    await put(database, "a", Thing(1))

    async def read(since: str) -> FeedPage:
        return await page_after(database, since)

    for turn in range(3):
        cursor = (await page_after(database, "")).cursor
        waiting = asyncio.create_task(notifier.wait_for_page(read, cursor, 20))
        await asyncio.sleep(0)
        async with database.transaction() as session:
            await session.execute(
                text("select pg_terminate_backend(pid) from pg_stat_activity where query like 'listen %'")
            )
        await put(database, f"b{turn}", Thing(turn))
        page = await asyncio.wait_for(waiting, 10)
        assert page.documents[-1].id == f"b{turn}"
