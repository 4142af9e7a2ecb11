"""Serves the feed of the database's documents (infra/publication.py): PostgreSQL's NOTIFY wakes the long polls."""

import asyncio

import psycopg
import structlog

from cloudcrest.infra.feed import FeedPage
from cloudcrest.infra.feed_server import MAX_WAIT_SECONDS, Bell, ReadPage
from cloudcrest.infra.publication import CHANNEL

_POLL_WITHOUT_LISTENER_SECONDS = 0.5
_LISTENER_CHECK_SECONDS = 15.0
_RECONNECT_SECONDS = 0.5
_log = structlog.get_logger(__name__)


class FeedNotifier:
    """Wakes long polls when PostgreSQL notifies a publication; polls the database while it cannot listen."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._bell = Bell()
        self._listening = False

    async def run(self) -> None:
        """Listens until cancelled, through lost connections."""
        while True:
            try:
                await self._listen()
            except (psycopg.Error, OSError) as error:
                _log.warning("feed_listener_lost", error=str(error).strip().splitlines()[0] if str(error) else "")
            finally:
                self._listening = False
                self._bell.strike()
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def wait_for_page(self, read: ReadPage, cursor: str, wait_seconds: float) -> FeedPage:
        """The page after `cursor`; waits up to `wait_seconds` (at most 30) while there is nothing.

        Raises `Unavailable` when too many wait already.
        """
        return await self._bell.wait_for_page(read, cursor, wait_seconds, self._look_again_seconds)

    def _look_again_seconds(self) -> float:
        return MAX_WAIT_SECONDS if self._listening else _POLL_WITHOUT_LISTENER_SECONDS

    async def _listen(self) -> None:
        link = await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True, connect_timeout=5)
        async with link:
            await link.execute(f"listen {CHANNEL}")
            self._listening = True
            while True:
                # What was published while nobody listened is found by everybody looking once more.
                self._bell.strike()
                async for _ in link.notifies(timeout=_LISTENER_CHECK_SECONDS):
                    self._bell.strike()
                await link.execute("select 1")  # a silent connection may be a dead one
