"""What a region does with one member of an attempt: starts its runner, asks how it is, tells it what is next.

Each question is followed by what the answer calls for, so a new region service goes on from wherever the last one was
killed: a runner that waits is told what to prepare, one that waits for files is handed them, one that is ready goes
when its job has gone, one that is to end is told so.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import msgspec
import structlog

from cloudcrest.compute.api import Fabric
from cloudcrest.compute.jobs.api import JobMeter
from cloudcrest.compute.jobs.entry import Entries, Entry, MemberEntry
from cloudcrest.compute.jobs.launch import Launcher
from cloudcrest.compute.jobs.link import RunnerLink
from cloudcrest.compute.jobs.running import End, RunnerState, RunRecord, Stop
from cloudcrest.compute.jobs.store import JobStore
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import CloudcrestError, InvalidInput, LimitExceeded, NotFound, SetupError, Unavailable

MOST_STARTS = 5
_SAVE_SECONDS = 10.0
_PORTS = (10_000, 20_000)
_LOST = "its node was lost, or its runner could not be started there"
_log = structlog.get_logger(__name__)


class Members:
    """Acts on members, for the controller. `wake` is called when something has changed that calls for a decision."""

    def __init__(
        self,
        *,
        fabric: Fabric,
        link: RunnerLink,
        launcher: Launcher,
        meter: JobMeter,
        store: JobStore,
        entries: Entries,
        clock: Clock,
        wake: Callable[[], None],
    ) -> None:
        self._fabric = fabric
        self._link = link
        self._launcher = launcher
        self._meter = meter
        self._store = store
        self._entries = entries
        self._clock = clock
        self._wake = wake
        self._seen: dict[str, float] = {}
        self._saved: dict[str, float] = {}

    async def start(self, entry: Entry, number: int) -> None:
        """Starts its runner, on a port by chance. One that finds the port taken ends, and is started again.

        A runner that ended is started again too: it finds the record of the one before, and tells how that ended.
        """
        member = entry.members[number]
        self._seen.setdefault(member.process_id, self._clock.monotonic())
        if member.starts >= MOST_STARTS:
            self.lose(entry, member)
            return
        member.starts += 1
        member.port = random.randrange(*_PORTS)  # noqa: S311 - any will do
        self._entries.save(entry)
        try:
            await self._fabric.stop(member.process_id)
            await self._fabric.start(self._launcher.process(entry, number))
        except InvalidInput as error:
            self._ended(entry, member, End("prepare", f"its runner cannot be started: {error}"))
        except CloudcrestError as error:
            member.starts -= 1  # the node did not answer: it is given up by time
            _log.warning("runner_not_started", member=member.process_id, error=error.message)

    async def poll(self, entry: Entry, number: int) -> None:
        """Asks how it is, and tells it what is next."""
        member = entry.members[number]
        try:
            state = await self._link.state(member)
            self._seen[member.process_id] = self._clock.monotonic()
            if state.phase == "waiting" and member.record is not None and member.record.started_at is not None:
                # Its node has lost what it wrote down; it must not run twice.
                self.lose(entry, member)
                return
            state = await self._tell(entry, number, state)
        except Unavailable:
            return
        except (CloudcrestError, SetupError) as error:
            _log.warning("member_refused", member=member.process_id, error=error.message)
            if member.stop_why is None and member.phase in ("starting", "waiting", "preparing"):
                member.stop_why, member.stop_message = "prepare", str(error)
            return
        if member in entry.members and member.phase != "ended":
            self._take(entry, member, state)

    async def charge(self, entry: Entry, number: int) -> None:
        """Tells the meter how far it has run. Where that is not paid for any longer the job is to end."""
        record = entry.members[number].record
        if record is None or record.started_at is None or record.marked_at is None or record.end is not None:
            return
        try:
            await self._meter.mark(entry.metered(number), record.started_at, record.marked_at)
        except LimitExceeded as error:
            entry.broke = entry.broke or error.message
            self._wake()
        except CloudcrestError as error:
            _log.warning("job_not_marked", job=entry.id, error=error.message)

    def is_silent(self, member: MemberEntry, most_seconds: float) -> bool:
        """Whether it has not answered for so long."""
        now = self._clock.monotonic()
        return now - self._seen.setdefault(member.process_id, now) > most_seconds

    def lose(self, entry: Entry, member: MemberEntry) -> None:
        """Gives it up. It is charged up to the last mark that was seen."""
        _log.warning("member_lost", member=member.process_id, node=member.node_id)
        self._ended(entry, member, End("lost", _LOST))

    def forget(self, member: MemberEntry) -> None:
        """It is over."""
        self._seen.pop(member.process_id, None)
        self._saved.pop(member.process_id, None)

    async def _tell(self, entry: Entry, number: int, state: RunnerState) -> RunnerState:
        member = entry.members[number]
        if member.stop_why is not None and state.phase != "ended":
            return await self._link.stop(member, Stop(member.stop_why, member.stop_message))
        if state.phase == "waiting":
            spec = await asyncio.to_thread(self._launcher.runner, entry, number)  # it reads files
            return await self._link.prepare(member, spec)
        if state.needs:
            for path in state.needs:
                await self._hand_in(entry, member, path)
            return await self._link.state(member)
        if state.phase == "ready" and entry.has_gone:
            return await self._link.go(member, self._launcher.go(entry, number))
        return state

    async def _hand_in(self, entry: Entry, member: MemberEntry, path: str) -> None:
        document = entry.document
        wanted = next((each for each in document.inputs if each.path == path), None)
        if wanted is None:
            raise NotFound(f"the job has no input '{path}'")
        pieces = self._store.file(document.project_id, wanted.file_id)
        try:
            first = await anext(pieces, b"")  # before anything is sent
        except (NotFound, InvalidInput):
            raise NotFound(f"its input file '{wanted.file_id}' is not in this region's files of the project") from None

        async def whole() -> AsyncIterator[bytes]:
            yield first
            async for piece in pieces:
                yield piece

        await self._link.hand_in(member, path, whole())

    def _take(self, entry: Entry, member: MemberEntry, state: RunnerState) -> None:
        has_changed = member.phase != state.phase
        member.phase, member.record, member.isolation = state.phase, state.record, state.isolation
        member.network = state.network
        now, started_at = self._clock.monotonic(), state.record.started_at
        if started_at is not None and entry.started_at is None:
            entry.started_at = started_at
        if has_changed and state.phase in ("preparing", "ready", "running") and member.stop_why is None:
            entry.state = "running" if entry.has_gone else "preparing"
        if not entry.has_gone or has_changed:
            entry.reason = state.detail
        if has_changed or now - self._saved.get(member.process_id, 0.0) >= _SAVE_SECONDS:
            self._saved[member.process_id] = now
            self._entries.save(entry)
        if has_changed:
            self._wake()

    def _ended(self, entry: Entry, member: MemberEntry, end: End) -> None:
        record = member.record or RunRecord(f"{entry.id}-{entry.attempt}", entry.members.index(member))
        if record.end is None:
            ended_at = record.marked_at if record.started_at is not None else None
            member.record = msgspec.structs.replace(record, ended_at=ended_at, end=end)
        member.phase = "ended"
        self._entries.save(entry)
        self._wake()
