"""The following side of the feed: a copy of the documents that stays current, survives restarts and outages."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import structlog

from cloudcrest.infra.feed import FeedPage, FeedState, shared, the_one
from cloudcrest.infra.files import write_atomic
from cloudcrest.kernel.errors import Unavailable

_WAIT_SECONDS = 20
ANSWER_SECONDS = 15
"""How long a page may take, beyond the wait for anything new."""
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
_BODY = msgspec.json.Decoder(dict[str, Any])
_log = structlog.get_logger(__name__)

FetchPage = Callable[[str, int], Awaitable[bytes]]
"""Gets the JSON of the page after a cursor, waiting for so many seconds. Raises `Unavailable` where none comes."""
OnChange = Callable[[set[str]], Awaitable[None]]
"""Told the kinds that changed, after the state holds them. The place to save the state and act on it."""


async def follow(
    fetch: FetchPage,
    state: FeedState,
    on_change: OnChange,
    *,
    rng: random.Random | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> NoReturn:
    """Keeps `state` equal to a feed until cancelled. A failing source is asked again with growing pauses.

    `state` changes only as a whole: during a reset of several pages it stays as it was until the last one is here.
    """
    source = rng or random.Random()  # noqa: S311 - jitter
    pause_seconds = _FIRST_PAUSE_SECONDS
    while True:
        try:
            changed = await _advance(fetch, state)
        except (Unavailable, ValueError) as error:
            _log.warning("feed_unreachable", error=repr(error), retry_within_seconds=pause_seconds)
            await sleep(source.uniform(pause_seconds / 2, pause_seconds))
            pause_seconds = min(pause_seconds * 2, _LONGEST_PAUSE_SECONDS)
            continue
        pause_seconds = _FIRST_PAUSE_SECONDS
        if changed:
            await on_change(changed)


async def _advance(fetch: FetchPage, state: FeedState) -> set[str]:
    """One long poll, with all the pages it brings, merged into `state`; the kinds that changed."""
    page = _decoded(await fetch(state.cursor, _WAIT_SECONDS))
    if not page.has_more:
        return state.apply(page)
    staged = FeedState(state.cursor, {kind: dict(bodies) for kind, bodies in state.documents.items()})
    changed = staged.apply(page)
    has_more = True
    while has_more:
        page = _decoded(await fetch(staged.cursor, 0))
        changed |= staged.apply(page)
        has_more = page.has_more
    state.documents = staged.documents
    state.cursor = staged.cursor
    return changed


class _SavedState(msgspec.Struct):
    """A `FeedState` whose bodies are yet to be decoded."""

    cursor: str = ""
    documents: dict[str, dict[str, msgspec.Raw]] = {}


def _decoded(page: bytes) -> FeedPage:
    return msgspec.json.decode(page, type=FeedPage)


def load_state(path: Path) -> FeedState:
    """The state saved at `path`; an empty one when there is none or it cannot be read."""
    try:
        saved = msgspec.json.decode(path.read_bytes(), type=_SavedState)
        # One by one: what a document has in common with those before is let go of at once, and its place used again.
        documents = {
            kind: {the_one(document_id): shared(_BODY.decode(raw)) for document_id, raw in bodies.items()}
            for kind, bodies in saved.documents.items()
        }
        return FeedState(saved.cursor, documents)
    except FileNotFoundError:
        return FeedState()
    except ValueError as error:
        _log.warning("feed_state_unreadable", path=str(path), error=str(error))
        return FeedState()


def save_state(path: Path, state: FeedState) -> None:
    """Saves the state for `load_state`, atomically."""
    write_atomic(path, msgspec.json.encode(state))
