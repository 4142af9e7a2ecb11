"""The serving side of the feed: long polls that wake when something is published, and documents held in memory.

Documents of the database are served by infra/feed_notifier.py: who serves from memory loads no database.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from cloudcrest.infra.feed import MAX_PAGE_DOCUMENTS, Document, FeedPage
from cloudcrest.kernel.errors import Unavailable

MAX_WAIT_SECONDS = 30.0
_MAX_WAITERS = 2_000
_MAX_TOMBSTONES = 20_000

ReadPage = Callable[[str], Awaitable[FeedPage]]
"""Reads the page after a cursor, in a transaction of its own: none stays open while a follower waits."""


class Bell:
    """Wakes everyone who waits. Take `ring` before looking, wait on it after: nothing between is missed."""

    def __init__(self) -> None:
        self.ring = asyncio.Event()
        self.waiting = 0

    def strike(self) -> None:
        self.ring.set()
        self.ring = asyncio.Event()

    async def wait_for_page(
        self, read: ReadPage, cursor: str, wait_seconds: float, look_again_seconds: Callable[[], float]
    ) -> FeedPage:
        """The page after `cursor`, read again after each ring and every `look_again_seconds`, for up to `wait_seconds`.

        Raises `Unavailable` when too many wait already.
        """
        if self.waiting >= _MAX_WAITERS:
            raise Unavailable("too many followers wait on this feed", retry_after_seconds=1)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(max(wait_seconds, 0), MAX_WAIT_SECONDS)
        self.waiting += 1
        try:
            while True:
                ring = self.ring
                page = await read(cursor)
                rest_seconds = deadline - loop.time()
                if page.documents or page.reset or rest_seconds <= 0:
                    return page
                try:
                    await asyncio.wait_for(ring.wait(), min(rest_seconds, look_again_seconds()))
                except TimeoutError:
                    continue
        finally:
            self.waiting -= 1


class LocalFeed:
    """A feed over documents in memory. `epoch` differs between any two of its lives, so old cursors start over."""

    def __init__(self, epoch: str) -> None:
        self._epoch = epoch
        self._bell = Bell()
        self._revision = 0
        self._entries: dict[tuple[str, str], tuple[int, dict[str, Any] | None]] = {}  # in order of revision
        self._tombstones = 0
        self._forgotten_revision = 0

    def set(self, kind: str, document_id: str, body: msgspec.Struct | dict[str, Any] | None) -> bool:
        """Sets a document, or removes it (None). False when that changes nothing."""
        if (plain := _plain(body)) == self._entries.get((kind, document_id), (0, None))[1]:
            return False
        key = (kind, document_id)
        was_known = key in self._entries
        _, present = self._entries.pop(key, (0, None))
        self._tombstones -= was_known and present is None
        self._revision += 1
        self._entries[key] = (self._revision, plain)
        self._tombstones += plain is None
        self._forget_old_tombstones()
        self._bell.strike()
        return True

    def replace(self, kind: str, bodies: Mapping[str, msgspec.Struct | dict[str, Any]]) -> bool:
        """Makes `bodies` (by id) all there is of a kind. False when that changes nothing."""
        gone = [known for (of_kind, known), (_, body) in self._entries.items() if of_kind == kind and body is not None]
        changed = [self.set(kind, document_id, None) for document_id in gone if document_id not in bodies]
        changed += [self.set(kind, document_id, body) for document_id, body in bodies.items()]
        return any(changed)

    def page(self, cursor: str) -> FeedPage:
        """What changed after `cursor`."""
        position = self._position(cursor)
        since, complete_since = position or (0, self._revision)
        newer: list[tuple[int, Document]] = []
        for (kind, document_id), (revision, body) in reversed(self._entries.items()):
            if revision <= since:
                break
            newer.append((revision, Document(kind=kind, id=document_id, body=body)))
        newer.reverse()
        page = newer[:MAX_PAGE_DOCUMENTS]
        has_more = len(newer) > len(page)
        return FeedPage(
            cursor=f"{self._epoch}.{page[-1][0]}-{complete_since}" if has_more else f"{self._epoch}.{self._revision}",
            documents=[document for _, document in page],
            reset=position is None,
            has_more=has_more,
        )

    def _position(self, cursor: str) -> tuple[int, int] | None:
        """(revision read up to, revision since which every deletion is needed) of a cursor, None: start over.

        They differ in the middle of a reset: it brings what exists, so only deletions since it began matter.
        """
        epoch, _, position = cursor.rpartition(".")
        revision, _, complete_since = position.partition("-")
        complete_since = complete_since or revision
        if epoch != self._epoch or not revision.isdecimal() or not complete_since.isdecimal():
            return None
        if not self._forgotten_revision <= int(complete_since) <= self._revision:
            return None
        return int(revision), int(complete_since)

    async def wait_for_page(self, cursor: str, wait_seconds: float) -> FeedPage:
        """The page after `cursor`; waits up to `wait_seconds` (at most 30) while there is nothing."""

        async def read(since: str) -> FeedPage:
            return self.page(since)

        return await self._bell.wait_for_page(read, cursor, wait_seconds, lambda: MAX_WAIT_SECONDS)

    def _forget_old_tombstones(self) -> None:
        """Deletions are kept for followers that are behind; one further behind than all kept starts over."""
        while self._tombstones > _MAX_TOMBSTONES:
            key, revision = next((key, revision) for key, (revision, body) in self._entries.items() if body is None)
            del self._entries[key]
            self._tombstones -= 1
            self._forgotten_revision = revision


def _plain(body: msgspec.Struct | dict[str, Any] | None) -> dict[str, Any] | None:
    if isinstance(body, msgspec.Struct):
        plain: dict[str, Any] = msgspec.to_builtins(body, str_keys=True)
        return plain
    return body
