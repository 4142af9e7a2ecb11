"""The feed: what a follower holds equals what its source holds, whatever happens in between."""

import asyncio
import random
import sys
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudcrest.infra import feed_server
from cloudcrest.infra.feed import Document, FeedPage, FeedState, shared, the_one
from cloudcrest.infra.feed_client import follow, load_state, save_state
from cloudcrest.infra.feed_http import feed_pages
from cloudcrest.infra.feed_server import LocalFeed
from cloudcrest.kernel.errors import Unavailable

changes = st.lists(
    st.tuples(
        st.sampled_from(["key", "route"]),
        st.sampled_from("abcdef"),
        st.one_of(st.none(), st.integers(min_value=0, max_value=3).map(lambda n: {"n": n})),
        st.booleans(),  # whether the follower reads after this change
    ),
    max_size=60,
)


def present(state: FeedState) -> dict[str, dict[str, Any]]:
    return {kind: bodies for kind, bodies in state.documents.items() if bodies}


def catch_up(feed: LocalFeed, state: FeedState) -> None:
    for _ in range(1_000):
        page = feed.page(state.cursor)
        state.apply(page)
        if not page.has_more:
            return
    raise AssertionError("the pages do not end")


@given(changes, st.integers(min_value=1, max_value=3), st.integers(min_value=0, max_value=3))
def test_a_follower_equals_its_source(
    steps: list[tuple[str, str, dict[str, Any] | None, bool]], page_documents: int, tombstones: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed_server, "MAX_PAGE_DOCUMENTS", page_documents)
        patch.setattr(feed_server, "_MAX_TOMBSTONES", tombstones)
        feed, state = LocalFeed("e1"), FeedState()
        source: dict[str, dict[str, Any]] = {}
        for kind, document_id, body, reads in steps:
            feed.set(kind, document_id, body)
            source.setdefault(kind, {}).pop(document_id, None)
            if body is not None:
                source[kind][document_id] = body
            if reads:
                catch_up(feed, state)
        catch_up(feed, state)
        assert present(state) == {kind: bodies for kind, bodies in source.items() if bodies}


def test_nothing_new_is_an_empty_page_and_the_same_cursor() -> None:
    feed = LocalFeed("e1")
    feed.set("key", "a", {"n": 1})
    first = feed.page("")
    assert first.reset
    assert feed.page(first.cursor) == FeedPage(cursor=first.cursor, documents=[])
    assert not feed.set("key", "a", {"n": 1})
    assert feed.page(first.cursor).cursor == first.cursor


@pytest.mark.parametrize("cursor", ["", "e0.1", "e1.", "e1.x", "e1.99", "nonsense"])
def test_a_cursor_of_another_life_starts_over(cursor: str) -> None:
    feed = LocalFeed("e1")
    feed.set("key", "a", {"n": 1})
    page = feed.page(cursor)
    assert page.reset
    assert page.documents == [Document("key", "a", {"n": 1})]


def test_replace_removes_what_is_gone() -> None:
    feed = LocalFeed("e1")
    feed.replace("route", {"a": {"n": 1}, "b": {"n": 2}})
    cursor = feed.page("").cursor
    assert feed.replace("route", {"b": {"n": 2}, "c": {"n": 3}})
    assert feed.page(cursor).documents == [Document("route", "a", None), Document("route", "c", {"n": 3})]
    assert not feed.replace("route", {"b": {"n": 2}, "c": {"n": 3}})


@pytest.mark.anyio
async def test_a_waiting_follower_is_woken() -> None:
    feed = LocalFeed("e1")
    cursor = feed.page("").cursor
    waiting = asyncio.create_task(feed.wait_for_page(cursor, 20))
    await asyncio.sleep(0)
    feed.set("key", "a", {"n": 1})
    page = await asyncio.wait_for(waiting, 5)
    assert page.documents == [Document("key", "a", {"n": 1})]


@pytest.mark.anyio
async def test_waiting_ends_with_an_empty_page() -> None:
    feed = LocalFeed("e1")
    page = await feed.wait_for_page(feed.page("").cursor, 0.01)
    assert page.documents == []


@pytest.mark.anyio
async def test_waiters_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_server, "_MAX_WAITERS", 1)
    feed = LocalFeed("e1")
    cursor = feed.page("").cursor
    waiting = asyncio.create_task(feed.wait_for_page(cursor, 20))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await feed.wait_for_page(cursor, 20)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (await feed.wait_for_page("", 0)).reset


class Served:
    """A feed behind an HTTP client, which fails when told to."""

    def __init__(self, feed: LocalFeed) -> None:
        self.feed = feed
        self.answers: list[int | bytes] = []
        self.tokens: set[str] = set()

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.tokens.add(request.headers["authorization"])
        if self.answers:
            answer = self.answers.pop(0)
            return httpx2.Response(answer) if isinstance(answer, int) else httpx2.Response(200, content=answer)
        page = await self.feed.wait_for_page(request.url.params["cursor"], float(request.url.params["wait_seconds"]))
        return httpx2.Response(200, content=msgspec.json.encode(page))


@pytest.mark.anyio
async def test_following_survives_failures_and_shows_only_whole_resets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_server, "MAX_PAGE_DOCUMENTS", 2)
    feed = LocalFeed("e2")
    for name in "abcde":
        feed.set("key", name, {"n": 1})
    served = Served(feed)
    served.answers = [503, b"not json", 401]
    state = FeedState(cursor="e1.7", documents={"key": {"old": {"n": 0}}})
    seen: asyncio.Queue[tuple[set[str], list[str]]] = asyncio.Queue()
    pauses: list[float] = []

    async def note(kinds: set[str]) -> None:
        seen.put_nowait((kinds, sorted(state.documents["key"])))

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        assert sorted(state.documents["key"]) == ["old"]

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(served)) as client:
        url = "http://source/internal/v1/feed"
        fetch = feed_pages(client, url, "secret")
        following = asyncio.create_task(follow(fetch, state, note, rng=random.Random(1), sleep=pause))
        assert await asyncio.wait_for(seen.get(), 5) == ({"key"}, ["a", "b", "c", "d", "e"])
        feed.set("key", "a", None)
        assert await asyncio.wait_for(seen.get(), 5) == ({"key"}, ["b", "c", "d", "e"])
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following
    assert len(pauses) == 3
    assert served.tokens == {"Bearer secret"}


def test_a_saved_state_loads_again(tmp_path: Path) -> None:
    path = tmp_path / "feed.json"
    assert load_state(path) == FeedState()
    state = FeedState("e1.4", {"key": {"a": {"n": 1}}})
    save_state(path, state)
    assert load_state(path) == state
    path.write_text("{torn")
    assert load_state(path) == FeedState()


def test_what_a_feed_held_goes_with_it() -> None:
    # A string that is interned for ever has a count that nobody's references add up to: Python 3.12.1 made such.
    for known in (the_one(f"key_{random.random()}"), shared([f"proj_{random.random()}"])[0]):
        assert sys.getrefcount(known) < 100


@pytest.mark.skipif(the_one is not sys.intern, reason="this Python keeps interned strings for ever")
def test_an_id_is_one_string_wherever_it_stands(tmp_path: Path) -> None:
    project_id, digest = f"proj_{1:026d}", "0" * 64
    key = {"id": "key_1", "key_sha256": digest, "project_id": project_id, "models": ["a", "b"], "limits": {"n": 1}}
    followed = FeedState()
    for kind, document_id, body in (("project", project_id, {"id": project_id}), ("key", "key_1", key)):
        page = FeedPage("e1.4", [Document(kind, document_id, body)])
        followed.apply(msgspec.json.decode(msgspec.json.encode(page), type=FeedPage))
    save_state(tmp_path / "feed.json", followed)
    for state in (followed, load_state(tmp_path / "feed.json")):
        [known_id] = state.documents["project"]
        assert state.documents["key"] == {"key_1": key}
        assert state.documents["key"]["key_1"]["project_id"] is known_id
        assert state.documents["project"][known_id]["id"] is known_id
