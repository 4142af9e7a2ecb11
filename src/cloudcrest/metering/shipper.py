"""Ships the spool of a region to the control plane: every event at least once, however often anything is killed.

It follows the folders of all gateway workers, sends what ended in bounded batches, settles what dead workers left open
at its last mark, and deletes what has arrived. There is no state but the files, so kill -9 at any point loses nothing:
what is sent twice, ingest counts once.
"""

import asyncio
import os
import random
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import structlog

from cloudcrest.kernel.errors import CloudcrestError, InvalidInput, PermissionDenied, TooLarge, Unavailable
from cloudcrest.kernel.units import MIB
from cloudcrest.kernel.usage import UsageEvent
from cloudcrest.metering.api import FOREIGN_REGION_CODE, IngestReceipt, UsageBatch
from cloudcrest.metering.disk import NEW_FOLDER_PREFIX
from cloudcrest.metering.drain import WorkerDrain, is_of_older_version

REFUSED_NAME = "refused.jsonl"
MAX_REFUSED_BYTES = 64 * MIB
_BATCHES_PER_VISIT = 20
_STALE_SECONDS = 3600.0
_log = structlog.get_logger(__name__)

Send = Callable[[UsageBatch], Awaitable[IngestReceipt]]
"""Delivers a batch. Raises `InvalidInput`, `TooLarge` or `PermissionDenied` (foreign region) where the batch itself is
at fault, anything else where it may work later."""


class Shipper:
    """Ships `spool_folder` through `send`. `retry_seconds`: the first and the longest wait after a failure."""

    def __init__(
        self,
        spool_folder: Path,
        send: Send,
        *,
        max_batch_events: int = 500,
        poll_seconds: float = 0.25,
        retry_seconds: tuple[float, float] = (0.5, 30.0),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._folder = spool_folder
        self._send = send
        self._max_batch_events = max_batch_events
        self._poll_seconds = poll_seconds
        self._retry_seconds = retry_seconds
        self._sleep = sleep
        self._jitter = jitter
        self._drains: dict[str, WorkerDrain] = {}
        self._left_alone: set[str] = set()
        self._corrupt_pieces_of_removed = 0
        self.shipped_events = 0
        self.settled_events = 0
        self.refused_events = 0

    @property
    def corrupt_pieces(self) -> int:
        """Stretches of segments that could not be read since this shipper started."""
        return self._corrupt_pieces_of_removed + sum(drain.corrupt_pieces for drain in self._drains.values())

    async def run(self) -> None:
        """Ships until cancelled."""
        failures = 0
        while True:
            try:
                has_more = await self.ship_once()
                failures = 0
            except Exception as error:  # noqa: BLE001 - process edge: the events are safe on disk, so any failure of the link or the disk is met by trying again
                failures += 1
                _log.warning("usage_not_shipped", error=str(error) or repr(error), failures=failures)
                first, longest = self._retry_seconds
                await self._sleep(min(longest, first * 2 ** min(failures - 1, 16)) * (0.5 + self._jitter() / 2))
                continue
            await self._sleep(0 if has_more else self._poll_seconds)

    async def ship_once(self) -> bool:
        """One round over all workers; True: there may be more at once. Raises what `send` raises."""
        names = [name for name in await asyncio.to_thread(self._worker_names) if name not in self._left_alone]
        for gone in self._drains.keys() - names:
            self._forget(gone)
        has_more = False
        disk_error: OSError | None = None
        for name in names:
            try:
                drain = self._drains.get(name)
                if drain is None:
                    if self._is_left_alone(name):
                        continue
                    drain = self._drains[name] = await asyncio.to_thread(WorkerDrain, self._folder / name)
                has_more |= await self._visit(name, drain)
            except OSError as error:  # this folder's files: the other workers' events go on
                _log.error("spool_unreadable", worker=name, error=str(error))
                self._forget(name)
                disk_error = error
            finally:
                if name in self._drains:
                    self._drains[name].close()
        if disk_error is not None:
            raise disk_error
        return has_more

    def _is_left_alone(self, name: str) -> bool:
        """Whether a folder's usage can be shipped only by the version that wrote it. It is kept, and said once."""
        folder = self._folder / name
        if not is_of_older_version(folder):
            return False
        self._left_alone.add(name)
        hint = "run the version that wrote it until the folder is gone, or delete the folder to give its usage up"
        _log.error("spool_of_older_version", folder=str(folder), hint=hint)
        return True

    async def _visit(self, name: str, drain: WorkerDrain) -> bool:
        """Ships a share of one worker's events; True: there are more."""
        is_dead = await asyncio.to_thread(drain.worker_is_dead)
        for _ in range(_BATCHES_PER_VISIT):
            batch = await asyncio.to_thread(drain.next_batch, self._max_batch_events)
            if batch.events:
                await self._deliver(batch.events)
                self.shipped_events += len(batch.events)
            await asyncio.to_thread(drain.acknowledge, batch)
            if not batch.events:
                break
        else:
            return True
        if not is_dead:
            return False
        while events := await asyncio.to_thread(drain.settle, self._max_batch_events):
            await self._deliver(events)
            drain.settled(events)
            self.settled_events += len(events)
            _log.warning("usage_settled_for_dead_gateway", worker=name, events=len(events))
        await asyncio.to_thread(drain.remove)
        self._forget(name)
        return False

    async def _deliver(self, events: tuple[UsageEvent, ...]) -> None:
        """Sends events; one that is refused for itself is set aside, so that it never holds up the rest."""
        try:
            await self._send(UsageBatch(events))
        except OSError as error:
            raise Unavailable(f"usage could not be sent: {error!r}") from error
        except (InvalidInput, TooLarge, PermissionDenied) as error:
            if isinstance(error, PermissionDenied) and error.code != FOREIGN_REGION_CODE:
                raise
            if len(events) > 1:
                middle = len(events) // 2
                await self._deliver(events[:middle])
                await self._deliver(events[middle:])
                return
            await asyncio.to_thread(self._set_aside, events[0], error)

    def _set_aside(self, event: UsageEvent, error: CloudcrestError) -> None:
        path = self._folder / REFUSED_NAME
        line = msgspec.json.encode({"reason": error.message, "event": event}) + b"\n"
        with path.open("ab") as file:
            if file.tell() + len(line) > MAX_REFUSED_BYTES:
                raise Unavailable(
                    f"{path} is full of refused usage events", hint="look into them and move the file away"
                )
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self.refused_events += 1
        _log.error("usage_event_refused", event_id=event.id, reason=error.message, kept_in=str(path))

    def _worker_names(self) -> list[str]:
        """The workers' folders, sorted; sweeps up folders that were never finished."""
        names = []
        try:
            entries = [entry for entry in os.scandir(self._folder) if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        for entry in entries:
            if not entry.name.startswith("."):
                names.append(entry.name)
            elif entry.name.startswith(NEW_FOLDER_PREFIX) and entry.stat().st_mtime < time.time() - _STALE_SECONDS:
                shutil.rmtree(entry.path, ignore_errors=True)
        return sorted(names)

    def _forget(self, name: str) -> None:
        drain = self._drains.pop(name, None)
        if drain is not None:
            self._corrupt_pieces_of_removed += drain.corrupt_pieces
            drain.close()
