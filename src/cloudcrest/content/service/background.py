"""Responses in the background: they go on without their client, are polled, followed as a stream again, or cancelled.

They live in this process. Where it dies, its successor says of them that they failed: what was made until then is
charged, as it is when a client leaves.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import structlog
from sqlalchemy.exc import SQLAlchemyError

from cloudcrest.content.api import Caller
from cloudcrest.content.responses.answer import Event
from cloudcrest.content.service.responses import Responses, RunningResponse
from cloudcrest.content.tasks import first_line
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import InvalidInput, LimitExceeded

FOLLOWED_SECONDS = 600.0
"""How long after its end a response's events can be followed."""
_MAX_RUNS, _MAX_PROJECT_RUNS = 256, 64
_MAX_FOLLOWED = 512
"""Those that run, and those that ended and can still be followed."""
_log = structlog.get_logger(__name__)


class Background:
    """Those of every project of a region."""

    def __init__(self, responses: Responses, clock: Clock) -> None:
        self._responses = responses
        self._clock = clock
        self._runs: dict[str, _Run] = {}

    async def start(self, caller: Caller, running: RunningResponse) -> "_Run":
        """Lets a response go on by itself. Raises `LimitExceeded` where too many do."""
        now = self._clock.monotonic()
        followed = {name: run for name, run in self._runs.items() if now < run.followed_until}
        at_work = [run.project_id for run in followed.values() if not run.is_over]
        if len(at_work) >= _MAX_RUNS or at_work.count(caller.project_id) >= _MAX_PROJECT_RUNS:
            await running.close()
            raise LimitExceeded("too many responses run in the background", retry_after_seconds=5)
        over = [name for name, run in followed.items() if run.is_over]
        for name in over[: max(0, len(followed) - _MAX_FOLLOWED + 1)]:
            del followed[name]
        self._runs = followed
        run = _Run(caller.project_id, running)
        try:
            await running.keep(is_running=True)
        except BaseException:
            await running.close()
            raise
        self._runs[running.document["id"]] = run
        run.task = asyncio.create_task(self._drive(run))
        return run

    def find(self, project_id: str, response_id: str) -> "_Run | None":
        """One that runs here, or did until lately."""
        run = self._runs.get(response_id)
        return run if run is not None and run.project_id == project_id else None

    def under_way(self, project_id: str, response_id: str) -> dict[str, Any] | None:
        """One as it is while it goes on. None: it is as it is stored, for its end is told when that is stored, and with
        it its turn of a conversation.
        """
        run = self.find(project_id, response_id)
        document = None if run is None else run.running.document
        return document if document is not None and document["status"] == "in_progress" else None

    async def cancel(self, project_id: str, response_id: str) -> dict[str, Any]:
        """Ends one; the response. Raises `NotFound`, and `InvalidInput` where it is not in the background."""
        run = self.find(project_id, response_id)
        if run is None:
            stored = await self._responses.find(project_id, response_id)
            document: dict[str, Any] = msgspec.json.decode(stored.document)
            if not document["background"]:
                raise InvalidInput("only responses in the background are cancelled", code="not_cancellable")
            return document
        if run.task is not None and not run.task.done():
            run.is_cancelled = True
            run.task.cancel()
            await asyncio.wait([run.task])
        return run.running.document

    async def close(self) -> None:
        """Ends all of them, as the process does."""
        tasks = [run.task for run in self._runs.values() if run.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _drive(self, run: "_Run") -> None:
        try:
            async for event in run.running.events():
                run.add(event)
        except asyncio.CancelledError:
            if not run.is_cancelled:
                raise
            run.running.document["status"] = "cancelled"
            await run.running.keep()
        except SQLAlchemyError as error:
            # Its last event did not go out; who polls is told by the row, which the next start mends.
            _log.error("response_not_kept", id=run.running.document["id"], error=first_line(error))
        finally:
            run.followed_until = self._clock.monotonic() + FOLLOWED_SECONDS
            await run.running.close()
            run.end()


class _Run:
    """One response and its events so far."""

    def __init__(self, project_id: str, running: RunningResponse) -> None:
        self.project_id = project_id
        self.running = running
        self.task: asyncio.Task[None] | None = None
        self.is_cancelled = False
        self.followed_until = float("inf")
        self._events: list[Event] = []
        self.is_over = False
        self._changed = asyncio.Event()

    def add(self, event: Event) -> None:
        self._events.append(event)
        self._wake()

    def end(self) -> None:
        self.is_over = True
        self._wake()

    async def events(self, after: int = -1) -> AsyncIterator[Event]:
        """The events behind this sequence number, as they come."""
        at = after + 1
        while True:
            while at < len(self._events):
                yield self._events[at]
                at += 1
            if self.is_over:
                return
            await self._changed.wait()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
