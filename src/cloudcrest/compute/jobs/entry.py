"""A job as its region knows it, kept on disk: what a new region service must know to go on, and no secret."""

import copy
from pathlib import Path

import msgspec
import structlog

from cloudcrest.compute.api import AcceleratorFacts
from cloudcrest.compute.jobs.api import (
    AttemptReport,
    JobDocument,
    JobReport,
    JobState,
    MemberReport,
    MeteredMember,
)
from cloudcrest.compute.jobs.reconcile import EndAttempt, JobPhase, Known, KnownMember, MemberPhase
from cloudcrest.compute.jobs.running import MemberNetwork, RunRecord, StopWhy
from cloudcrest.compute.placement.labels import place_labels
from cloudcrest.compute.scheduler.model import Demand, Running, Spot, Workload
from cloudcrest.infra.files import write_atomic

_log = structlog.get_logger(__name__)


class MemberEntry(msgspec.Struct):
    """One member of the present attempt. `record`: what its runner last said. `starts`: of runners, in this attempt.

    `accelerators`: places among those that its node gives out; `chips`: what is there.
    """

    process_id: str
    node_id: str
    accelerators: tuple[int, ...]
    address: str = "127.0.0.1"
    port: int = 0
    phase: MemberPhase = "starting"
    stop_why: StopWhy | None = None
    stop_message: str = ""
    record: RunRecord | None = None
    isolation: str = ""
    starts: int = 0
    chips: tuple[AcceleratorFacts, ...] = ()
    outputs_problem: str = ""
    network: MemberNetwork = MemberNetwork()

    @property
    def message(self) -> str:
        return self.record.end.message if self.record is not None and self.record.end is not None else ""

    def known(self) -> KnownMember:
        """What reconcile sees of it."""
        end = None if self.record is None else self.record.end
        return KnownMember(
            self.phase,
            self.stop_why is not None,
            None if end is None else end.kind,
            None if end is None else end.exit_code,
            self.message,
        )

    def report(self, number: int) -> MemberReport:
        """What is told of it."""
        record = self.record or RunRecord("", number)
        return MemberReport(
            member=number,
            node_id=self.node_id,
            accelerators=self.accelerators,
            isolation=self.isolation,
            started_at=record.started_at,
            ended_at=record.ended_at,
            cpu_seconds=round(record.cpu_seconds, 3),
            memory_peak_bytes=record.memory_peak_bytes,
            sent_bytes=record.sent_bytes,
            received_bytes=record.received_bytes,
            exit_code=None if record.end is None else record.end.exit_code,
            signal=None if record.end is None else record.end.signal,
            reason=self.message,
        )


class Entry(msgspec.Struct):
    """One job. `since`: when it came into its phase. `attempts`: those that have ended, the latest last."""

    document: JobDocument
    since: float
    phase: JobPhase = "queued"
    state: JobState = "queued"
    reason: str = ""
    attempt: int = 0
    accelerator_type: str = ""
    members: list[MemberEntry] = []
    has_gone: bool = False
    preempted: str = ""
    broke: str = ""
    failures: int = 0
    losses: int = 0
    preemptions: int = 0
    ran_seconds: float = 0.0
    retry_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    attempts: list[AttemptReport] = []
    has_outputs: bool = False
    outputs_problem: str = ""

    @property
    def id(self) -> str:
        return self.document.id

    def enter(self, phase: JobPhase, now: float, state: JobState | None = None, reason: str = "") -> None:
        """Comes into a phase."""
        self.phase = phase
        self.since = now
        self.state = state or self.state
        self.reason = reason

    def known(self, *, is_offered: bool, is_placed: bool) -> Known:
        """What reconcile sees of it."""
        return Known(
            self.id,
            self.phase,
            self.since,
            is_offered=is_offered,
            is_placed=is_placed,
            has_gone=self.has_gone,
            members=tuple(member.known() for member in self.members),
            ran_seconds=self.ran_seconds,
            failures=self.failures,
            losses=self.losses,
            retry_at=self.retry_at,
            preempted=self.preempted,
            broke=self.broke,
        )

    def report(self) -> JobReport:
        """What the control plane and the job's owner are told of it."""
        attempts = [*self.attempts]
        if self.members:
            attempts.append(self.attempt_report())
        return JobReport(
            self.id,
            self.state,
            self.reason,
            attempt=self.attempt,
            failures=self.failures,
            losses=self.losses,
            preemptions=self.preemptions,
            started_at=self.started_at,
            ended_at=self.ended_at,
            attempts=tuple(attempts),
            has_outputs=self.has_outputs,
            outputs_problem=self._outputs_problem(),
        )

    def attempt_report(self, outcome: str | None = None, reason: str = "") -> AttemptReport:
        """What is told of the present attempt."""
        members = tuple(member.report(number) for number, member in enumerate(self.members))
        return AttemptReport(self.attempt, self.accelerator_type, outcome, reason, members)

    def after(self, action: EndAttempt, now: float, *, keep: int) -> "Entry":
        """What it is when its attempt has ended; of those, `keep` are shown."""
        entry = copy.copy(self)
        records = [member.record for member in self.members if member.record is not None]
        ran = [each.ended_at - each.started_at for each in records if each.started_at and each.ended_at]
        entry.ran_seconds += max(ran, default=0.0)
        entry.attempts = [*self.attempts, self.attempt_report(action.cause, action.message)][-keep:]
        entry.outputs_problem = self._outputs_problem()
        entry.members, entry.has_gone, entry.preempted, entry.broke = [], False, "", ""
        entry.failures, entry.losses = action.failures, action.losses
        entry.preemptions += action.cause == "preempted"
        if action.retry_at is None:
            entry.ended_at = max((each.ended_at for each in records if each.ended_at), default=now)
            entry.enter("finished", now, action.state, action.message)
        else:
            entry.retry_at = action.retry_at
            entry.enter("backoff", now, action.state, action.message)
        return entry

    def _outputs_problem(self) -> str:
        """Why files of the present attempt were not kept, or of the last one where there is none."""
        if not self.members:
            return self.outputs_problem
        return next((member.outputs_problem for member in self.members if member.outputs_problem), "")

    def workload(self) -> Workload:
        """What the placer is offered."""
        return workload_of(self.document)

    def running(self) -> Running:
        """What the placer is told of it where it has its places."""
        spots = tuple(Spot(member.node_id, member.accelerators) for member in self.members)
        return Running(self.workload(), spots, self.since)

    def metered(self, number: int) -> MeteredMember:
        """What is charged of a member."""
        document = self.document
        return MeteredMember(
            id=self.members[number].process_id,
            job_id=document.id,
            organization_id=document.organization_id,
            project_id=document.project_id,
            accelerator_type=self.accelerator_type if document.accelerators else "",
            accelerators=document.accelerators,
            milli=document.milli,
            cpu_milli=document.cpu_milli,
            is_spot=document.is_spot,
            grace_seconds=document.grace_seconds,
        )

    def labels(self, number: int) -> dict[str, str]:
        """Of a member's process, for whoever looks at the fabric."""
        own = {"kind": "job", "job": self.id, "attempt": str(self.attempt), "member": str(number)}
        return {**place_labels(self.running(), number), **own, "port": str(self.members[number].port)}


def workload_of(document: JobDocument) -> Workload:
    """What a job asks of the placer. One that lost its place waits since it was made, so it does not start over."""
    return Workload(
        id=document.id,
        demand=Demand(
            cpu_milli=document.cpu_milli,
            memory_bytes=document.memory_bytes,
            accelerators=document.accelerators,
            milli=document.milli,
            types=frozenset(document.types),
            accelerator_memory_bytes=document.accelerator_memory_bytes,
        ),
        members=document.members,
        disk_bytes=document.disk_bytes,
        owner=(document.organization_id, document.project_id),
        priority=document.priority,
        is_spot=document.is_spot,
        together=document.together,
        spread=document.spread,
        group=document.id,
        labels=document.labels,
        tolerations=frozenset(document.tolerations),
        zones=frozenset(document.zones),
        prefers=document.prefers,
        type_order=document.types,
        since=document.created_at_unix_seconds,
    )


class Entries:
    """The entries on disk, a file each in `folder`. Saved before anything follows from a change."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def load(self) -> dict[str, Entry]:
        """What a region service before has left. One that cannot be read is left alone, and said so."""
        found: dict[str, Entry] = {}
        for path in sorted(self._folder.glob("*.json")):
            try:
                entry = msgspec.json.decode(path.read_bytes(), type=Entry)
            except (OSError, ValueError) as error:
                _log.error("job_not_understood", file=path.name, error=str(error))
                continue
            found[entry.id] = entry
        return found

    def save(self, entry: Entry) -> None:
        """Keeps it as it is now. Raises `OSError`, `SetupError`."""
        write_atomic(self._path(entry.id), msgspec.json.encode(entry))

    def remove(self, job_id: str) -> None:
        """Forgets it."""
        self._path(job_id).unlink(missing_ok=True)

    def _path(self, job_id: str) -> Path:
        return self._folder / f"{job_id}.json"
