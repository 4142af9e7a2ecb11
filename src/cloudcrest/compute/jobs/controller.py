"""The controller: runs a region's jobs to their end, and tells the control plane how they are.

One step looks at the fabric and at the placer's news, decides (reconcile.py) and acts. Whatever takes time runs beside
it, at most one thing for each job and each member. What it knows is on disk before anything follows from it (entry.py),
and what runs does so without it: a new region service goes on where the last one was killed, and with the control plane
away jobs run on and their ends are reported later.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import structlog

from cloudcrest.compute.accelerators.given_out import chips_at, given_out
from cloudcrest.compute.api import Fabric, Placer, ProcessStatus
from cloudcrest.compute.jobs.api import JobDocument, JobMeter, JobReport
from cloudcrest.compute.jobs.collect import Collector
from cloudcrest.compute.jobs.entry import Entries, Entry, MemberEntry, workload_of
from cloudcrest.compute.jobs.launch import CHECKPOINTS_FOLDER, Launcher
from cloudcrest.compute.jobs.link import RunnerLink
from cloudcrest.compute.jobs.members import Members
from cloudcrest.compute.jobs.reconcile import (
    Action,
    Begin,
    EndAttempt,
    Finish,
    Forget,
    GoAll,
    StopAll,
    Submit,
    Wanted,
    reconcile,
)
from cloudcrest.compute.jobs.store import JobStore
from cloudcrest.compute.jobs.sweep import Sweeper
from cloudcrest.compute.scheduler.model import Placed
from cloudcrest.infra.stepping import run_steps
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import CloudcrestError, LimitExceeded, Unavailable
from cloudcrest.kernel.pauses import PAUSE_SECONDS, Pauses

SOURCE = "jobs"
_SWEEP_SECONDS = 6 * 3600.0
_DAY_SECONDS = 86_400.0
_log = structlog.get_logger(__name__)


class JobController:
    """Runs the jobs of one region. `update` may be called at any time from the event loop; `run` does the rest.

    `on_reports` is called when what it is given has changed. Nothing is touched before the first `update`: a region
    that does not know what it should run leaves what runs alone.
    """

    def __init__(
        self,
        *,
        region: str,
        fabric: Fabric,
        placer: Placer,
        meter: JobMeter,
        store: JobStore,
        entries: Entries,
        launcher: Launcher,
        link: RunnerLink,
        clock: Clock,
        on_reports: Callable[[tuple[JobReport, ...]], None],
    ) -> None:
        self._region = region
        self._fabric = fabric
        self._placer = placer
        self._meter = meter
        self._store = store
        self._entries = entries
        self._link = link
        self._settings = launcher.settings
        self._clock = clock
        self._on_reports = on_reports
        self._wake = asyncio.Event()
        self._documents: dict[str, JobDocument] | None = None
        self._jobs: dict[str, Entry] = {}
        self._offered: set[str] = set()
        self._placed: dict[str, Placed] = {}
        self._work: dict[str, asyncio.Task[None]] = {}
        self._pauses = Pauses(clock, PAUSE_SECONDS)
        self._polled: dict[str, float] = {}
        self._collected: dict[str, float] = {}
        self._charged: dict[str, float] = {}
        self._swept_at = float("-inf")
        self._is_loaded = False
        self._listing = 0
        self._visible_from: dict[str, float] = {}
        self._reports: tuple[JobReport, ...] | None = None
        self._collector = Collector(link, store, self._settings)
        self._sweeper = Sweeper(store, launcher.shared_folder / CHECKPOINTS_FOLDER, self._collector.measure_again)
        self._members = Members(
            fabric=fabric,
            link=link,
            launcher=launcher,
            meter=meter,
            store=store,
            entries=entries,
            clock=clock,
            wake=self._wake.set,
        )
        placer.watch(SOURCE, self._wake.set)

    def update(self, documents: Iterable[JobDocument]) -> None:
        """Sets what is wanted; what is for other regions is left out."""
        self._documents = {document.id: document for document in documents if document.region == self._region}
        self._wake.set()

    def find(self, project_id: str, job_id: str) -> Entry | None:
        """A project's job, as far as the region still knows it. Raises `Unavailable` until it knows any."""
        if not self._is_loaded:
            raise Unavailable("this region does not know its jobs yet", retry_after_seconds=1)
        entry = self._jobs.get(job_id)
        return entry if entry is not None and entry.document.project_id == project_id else None

    def keeping(self) -> list[JobDocument]:
        """The jobs that have places, and checkpoints to go on from."""
        entries = [entry for entry in self._jobs.values() if entry.phase == "attempt"]
        return [entry.document for entry in entries if entry.document.has_checkpoints]

    async def run(self) -> None:
        """Steps until cancelled. What runs is left running, for the next controller."""
        try:
            await run_steps(self.step, self._wake, self._settings.poll_seconds)
        finally:
            for work in self._work.values():
                work.cancel()
            await asyncio.gather(*self._work.values(), return_exceptions=True)

    async def step(self) -> float:
        """One look and what follows from it. Returns in how many seconds something is due at the latest."""
        if self._documents is None:
            return self._settings.poll_seconds
        if not self._is_loaded:
            self._adopt(await asyncio.to_thread(self._entries.load))
        try:
            await self._observe()
        except CloudcrestError as error:
            _log.warning("fabric_unavailable", error=error.message)
        self._hear()
        now = self._clock.unix_seconds()
        wanted = [
            Wanted(document.id, document.retries, document.time_limit_seconds, document.is_cancelled)
            for document in self._documents.values()
        ]
        known = [
            entry.known(is_offered=entry.id in self._offered, is_placed=entry.id in self._placed)
            for entry in self._jobs.values()
        ]
        plan = reconcile(wanted, known, now, self._settings)
        for action in plan.actions:
            self._act(action, now)
        self._poll_due()
        self._publish()
        due = self._settings.poll_seconds if plan.look_again_at is None else plan.look_again_at - now
        return due if self._jobs else self._settings.poll_seconds

    async def settle(self) -> None:
        """Waits for all that runs beside the steps; for tests, which step by hand."""
        while running := [*self._work.values()]:
            await asyncio.gather(*running, return_exceptions=True)
            await asyncio.sleep(0)

    def _adopt(self, found: dict[str, Entry]) -> None:
        """Takes over what the controller before has left."""
        self._jobs = found
        for entry in self._jobs.values():
            if entry.phase == "attempt":
                self._placer.adopt(SOURCE, entry.running())
                self._offered.add(entry.id)
        self._is_loaded = True
        _log.info("jobs_adopted", count=len(self._jobs))

    async def _observe(self) -> None:
        """Learns which runners are there; starts those that are not, and stops strays."""
        self._listing += 1
        listing = self._listing
        processes = {each.id: each for each in await self._fabric.list() if each.labels.get("kind") == "job"}
        ours: set[str] = set()
        for entry in self._jobs.values():
            for number, member in enumerate(entry.members):
                ours.add(member.process_id)
                if member.phase != "ended" and listing >= self._visible_from.get(member.process_id, 0):
                    self._look_at(entry, number, processes.get(member.process_id))
        for process_id in processes.keys() - ours:
            self._beside(process_id, partial(self._fabric.stop, process_id))

    def _look_at(self, entry: Entry, number: int, process: ProcessStatus | None) -> None:
        member = entry.members[number]
        is_running = process is not None and process.state == "running"
        is_lost = self._placer.is_lost(member.node_id)
        patience = self._settings.lost_seconds if is_lost else self._settings.unanswered_seconds
        if self._members.is_silent(member, patience):
            self._members.lose(entry, member)
        elif not is_running and member.process_id not in self._work:
            self._beside(member.process_id, partial(self._start, entry, number))
        elif process is not None:
            member.address = process.address

    async def _start(self, entry: Entry, number: int) -> None:
        member = entry.members[number]
        await self._members.start(entry, number)
        self._visible_from[member.process_id] = self._listing + 1
        self._polled.pop(member.process_id, None)

    def _hear(self) -> None:
        """Takes the placer's news."""
        news = self._placer.news(SOURCE)
        self._placed = {placed.workload_id: placed for placed in news.placed}
        for refused in news.refused:
            entry = self._jobs.get(refused.workload_id)
            if entry is not None and entry.phase == "queued":
                entry.reason = refused.reason
        for preempted in news.preempted:
            entry = self._jobs.get(preempted.workload_id)
            if entry is not None and entry.phase == "attempt" and not entry.preempted:
                entry.preempted = preempted.reason
                self._entries.save(entry)

    def _act(self, action: Action, now: float) -> None:
        if isinstance(action, Submit):
            self._submit(action.job_id, now)
        elif isinstance(action, Begin):
            self._begin(self._jobs[action.job_id], now)
        elif isinstance(action, GoAll):
            entry = self._jobs[action.job_id]
            self._beside(entry.id, partial(self._go, entry))
        elif isinstance(action, StopAll):
            self._stop(self._jobs[action.job_id], action)
        elif isinstance(action, EndAttempt):
            entry = self._jobs[action.job_id]
            self._beside(entry.id, partial(self._end, entry, action))
        elif isinstance(action, Finish):
            self._finish(action, now)
        else:
            self._forget(action)

    def _submit(self, job_id: str, now: float) -> None:
        assert self._documents is not None  # noqa: S101 - step() has seen it
        entry = self._jobs.get(job_id)
        if entry is None:
            entry = self._jobs[job_id] = Entry(self._documents[job_id], now)
        entry.enter("queued", now, reason=entry.reason)
        self._entries.save(entry)
        self._offered.add(job_id)
        self._placer.offer(SOURCE, workload_of(entry.document))
        self._wake.set()

    def _begin(self, entry: Entry, now: float) -> None:
        spots = self._placed[entry.id].spots
        facts = [self._placer.node(spot.node_id) for spot in spots]
        entry.attempt += 1
        entry.members = [
            MemberEntry(
                f"{entry.id}-{entry.attempt}-{number}",
                spot.node_id,
                spot.accelerators,
                address="127.0.0.1" if node is None else node.address,
                chips=() if node is None else chips_at(node.accelerators, spot.accelerators),
            )
            for number, (spot, node) in enumerate(zip(spots, facts, strict=True))
        ]
        offered = () if facts[0] is None else given_out(facts[0].accelerators)
        entry.accelerator_type = offered[0].type if offered and spots[0].accelerators else ""
        entry.has_gone, entry.preempted, entry.broke = False, "", ""
        entry.enter("attempt", now, "placing")
        self._entries.save(entry)
        for number, member in enumerate(entry.members):
            self._beside(member.process_id, partial(self._start, entry, number))

    async def _go(self, entry: Entry) -> None:
        """Opens what is charged, then lets every member go."""
        for number in range(len(entry.members)):
            try:
                await self._meter.open(entry.metered(number))
            except LimitExceeded as error:
                entry.broke = error.message
                return
        entry.has_gone = True
        self._entries.save(entry)
        self._polled.clear()

    def _stop(self, entry: Entry, action: StopAll) -> None:
        for member in entry.members:
            if member.phase != "ended" and member.stop_why is None:
                member.stop_why, member.stop_message = action.why, action.message
                self._polled.pop(member.process_id, None)
        self._entries.save(entry)

    async def _end(self, entry: Entry, action: EndAttempt) -> None:
        """All that must be done before its places are free: its output is kept, its seconds are charged."""
        for number, member in enumerate(entry.members):
            for what in ("collect", "charge"):
                if (beside := self._work.get(f"{what} {member.process_id}")) is not None:
                    beside.cancel()
                    await asyncio.wait([beside])
            await self._collector.try_collect(entry, number, is_last=True)
            record = member.record
            started_at = None if record is None else record.started_at
            await self._meter.close(entry.metered(number), started_at, None if record is None else record.ended_at)
        for member in entry.members:
            with contextlib.suppress(CloudcrestError):
                await self._link.forget(member)
            with contextlib.suppress(CloudcrestError):
                await self._fabric.stop(member.process_id)
            self._members.forget(member)
            for due in (self._polled, self._collected, self._charged, self._visible_from):
                due.pop(member.process_id, None)
        await self._after(entry, action)

    async def _after(self, before: Entry, action: EndAttempt) -> None:
        """What it is from now on: on disk first, then to be seen."""
        now = self._clock.unix_seconds()
        entry = before.after(action, now, keep=self._settings.attempts_kept)
        if entry.phase == "finished":
            await self._store.save_report(entry.document.project_id, entry.report(), now)
        self._entries.save(entry)
        self._jobs[entry.id] = entry
        self._release(entry.id)

    def _finish(self, action: Finish, now: float) -> None:
        assert self._documents is not None  # noqa: S101 - step() has seen it
        entry = self._jobs.get(action.job_id)
        if entry is None:
            entry = self._jobs[action.job_id] = Entry(self._documents[action.job_id], now)
        entry.ended_at = now
        entry.enter("finished", now, action.state, action.message)
        self._entries.save(entry)
        self._release(entry.id)
        save = partial(self._store.save_report, entry.document.project_id, entry.report(), now)
        self._beside(entry.id, save)

    def _forget(self, action: Forget) -> None:
        if action.job_id in self._work:
            return
        self._release(action.job_id)
        self._entries.remove(action.job_id)
        del self._jobs[action.job_id]

    def _release(self, job_id: str) -> None:
        self._offered.discard(job_id)
        self._placed.pop(job_id, None)
        self._placer.release(SOURCE, job_id)

    def _poll_due(self) -> None:
        """Asks the members whose turn it is, and collects what is due. One that is being asked is not asked again."""
        now = self._clock.monotonic()
        for entry in self._jobs.values():
            for number, member in enumerate(entry.members):
                name = member.process_id
                if not member.starts or member.phase == "ended" or name in self._work:
                    continue
                if now - self._polled.get(name, float("-inf")) >= self._settings.poll_seconds:
                    self._polled[name] = now
                    self._beside(name, partial(self._members.poll, entry, number))
                if member.phase == "running" and now - self._charged.get(name, float("-inf")) >= (
                    self._settings.charge_seconds
                ):
                    self._charged[name] = now
                    self._beside(f"charge {name}", partial(self._members.charge, entry, number))
                is_due = now - self._collected.setdefault(name, now) >= self._settings.collect_seconds
                if member.phase == "running" and is_due:
                    self._collected[name] = now
                    collect = partial(self._collector.try_collect, entry, number, is_last=False)
                    self._beside(f"collect {name}", collect)
        if now - self._swept_at >= _SWEEP_SECONDS:
            self._swept_at = now
            before = self._clock.unix_seconds() - self._settings.keep_days * _DAY_SECONDS
            self._beside("sweep", partial(self._sweeper.sweep, {*self._jobs}, before))

    def _beside(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        """Runs `work` beside the steps, unless something runs under this name already: then its time comes again."""
        if name in self._work or name in self._pauses:
            return

        async def guarded() -> None:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - one job's fault must not stop the others' controller
                self._pauses.begin(name)
                _log.warning("job_work_failed", name=name, exc_info=error)
            finally:
                del self._work[name]
                self._wake.set()

        self._work[name] = asyncio.create_task(guarded())

    def _publish(self) -> None:
        """Tells what has changed."""
        reports = tuple(entry.report() for _, entry in sorted(self._jobs.items()))
        if reports != self._reports:
            self._reports = reports
            self._on_reports(reports)
