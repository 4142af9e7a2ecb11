"""What to do next, so that the jobs that are wanted run to their end: a pure function.

    wanted (documents) ┐
    known  (attempts)  ├─► reconcile ─► submit, begin, go, stop, end, finish, forget … and when to look again
    now                ┘

    queued ─ placed ─► attempt ─ all members ended ─┬─► finished
       ▲                                            │
       └─────────────────── backoff ◄───────────────┘   (preempted, failed and tried again, node lost)

Rules: an attempt has all its members or none, and no command starts before every member is ready. The death of one ends
the attempt. Only failures use up retries; lost nodes are counted apart, preemptions not at all. Nothing here takes time
or fails; the controller does that.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from cloudcrest.compute.jobs.api import JobState
from cloudcrest.compute.jobs.run_settings import RunSettings
from cloudcrest.compute.jobs.running import EndKind, StopWhy

JobPhase = Literal["queued", "attempt", "backoff", "finished"]
MemberPhase = Literal["starting", "waiting", "preparing", "ready", "running", "ended"]

_CAUSES: tuple[EndKind, ...] = (
    "cancelled", "time_limit", "budget", "preempted",
    "disk", "out_of_memory", "exit", "signal", "prepare", "lost", "gang",
)  # fmt: skip
"""Where members ended in several ways, the first of these is why the attempt did."""


class Wanted(msgspec.Struct, frozen=True):
    """What reconcile needs to know of a job's document."""

    job_id: str
    retries: int = 0
    time_limit_seconds: float | None = None
    is_cancelled: bool = False


class KnownMember(msgspec.Struct, frozen=True):
    """A member of the present attempt. `end` and `exit_code`: how it ended; `is_stopping`: it was told to end."""

    phase: MemberPhase
    is_stopping: bool = False
    end: EndKind | None = None
    exit_code: int | None = None
    message: str = ""

    @property
    def has_succeeded(self) -> bool:
        return self.end == "exit" and self.exit_code == 0


class Known(msgspec.Struct, frozen=True):
    """What reconcile needs to know of a job in the region. Times are Unix seconds.

    `since`: when it came into its phase. `is_offered`, `is_placed`: what the placer knows of a queued one. `has_gone`:
    its members were told to start. `ran_seconds`: what its attempts before this one have run. `preempted`, `broke`:
    why it is to leave its place, or cannot be paid any longer.
    """

    job_id: str
    phase: JobPhase
    since: float
    is_offered: bool = False
    is_placed: bool = False
    has_gone: bool = False
    members: tuple[KnownMember, ...] = ()
    ran_seconds: float = 0.0
    failures: int = 0
    losses: int = 0
    retry_at: float = 0.0
    preempted: str = ""
    broke: str = ""


class Submit(msgspec.Struct, frozen=True):
    """Offer it to the placer."""

    job_id: str


class Begin(msgspec.Struct, frozen=True):
    """It has its places: start a runner for each member."""

    job_id: str


class GoAll(msgspec.Struct, frozen=True):
    """Every member is ready: start the commands."""

    job_id: str


class StopAll(msgspec.Struct, frozen=True):
    """End every member that still runs, and why."""

    job_id: str
    why: StopWhy
    message: str


class EndAttempt(msgspec.Struct, frozen=True):
    """Every member has ended. Collect what they left, give the places back, then: `state` is final, or it is tried
    again at `retry_at`. `failures` and `losses` are the counts from then on.
    """

    job_id: str
    cause: EndKind
    message: str
    state: JobState
    retry_at: float | None
    failures: int
    losses: int


class Finish(msgspec.Struct, frozen=True):
    """It ends without an attempt."""

    job_id: str
    state: JobState
    message: str


class Forget(msgspec.Struct, frozen=True):
    """The control plane has its end: the region needs it no longer."""

    job_id: str


Action = Submit | Begin | GoAll | StopAll | EndAttempt | Finish | Forget


class Plan(msgspec.Struct, frozen=True):
    """What to do now, and the time by which something may be due although nothing happens (None: nothing is)."""

    actions: tuple[Action, ...]
    look_again_at: float | None


def reconcile(wanted: Sequence[Wanted], known: Sequence[Known], now: float, settings: RunSettings) -> Plan:
    """The next steps towards what is wanted. Doing them and asking again converges."""
    actions: list[Action] = []
    waits: list[float] = []
    by_id = {job.job_id: job for job in known}
    for job in wanted:
        present = by_id.pop(job.job_id, None)
        actions += _next(job, present, now, settings)
        if present is not None and present.phase == "backoff" and present.retry_at > now:
            waits.append(present.retry_at)
        if present is not None and present.phase == "attempt" and not present.has_gone:
            waits.append(present.since + settings.prepare_most_seconds)
    for leftover in by_id.values():
        actions += _unwanted(leftover, now, settings)
    return Plan(tuple(actions), min((due for due in waits if due > now), default=None))


def backoff_seconds(times: int, settings: RunSettings) -> float:
    """How long to wait after the `times`-th failure or loss (from 1): 1, 2, 4 … up to the most."""
    doublings = min(max(times, 1) - 1, 30)
    return min(settings.backoff_first_seconds * 2.0**doublings, settings.backoff_most_seconds)


def _next(job: Wanted, known: Known | None, now: float, settings: RunSettings) -> list[Action]:
    if known is None:
        return (
            [Finish(job.job_id, "cancelled", "it was cancelled before it began")]
            if job.is_cancelled
            else [Submit(job.job_id)]
        )
    if known.phase in ("queued", "backoff"):
        return _waiting(job, known, now)
    if known.phase == "attempt":
        return _attempt(job, known, now, settings)
    return []


def _waiting(job: Wanted, known: Known, now: float) -> list[Action]:
    if job.is_cancelled:
        return [Finish(job.job_id, "cancelled", "it was cancelled while it waited")]
    if job.time_limit_seconds is not None and known.ran_seconds >= job.time_limit_seconds:
        return [Finish(job.job_id, "timed_out", f"it ran for its time limit of {job.time_limit_seconds:g} s")]
    if known.phase == "backoff":
        return [Submit(job.job_id)] if known.retry_at <= now else []
    if known.is_placed:
        return [Begin(job.job_id)]
    return [] if known.is_offered else [Submit(job.job_id)]


def _attempt(job: Wanted, known: Known, now: float, settings: RunSettings) -> list[Action]:
    if all(member.phase == "ended" for member in known.members):
        return [_end(job, known, now, settings)]
    stop = _reason_to_stop(job, known, now, settings)
    if stop is not None:
        is_due = any(member.phase != "ended" and not member.is_stopping for member in known.members)
        return [stop] if is_due else []
    is_ready = all(member.phase == "ready" for member in known.members)
    return [GoAll(job.job_id)] if is_ready and not known.has_gone else []


def _reason_to_stop(job: Wanted, known: Known, now: float, settings: RunSettings) -> StopAll | None:
    if job.is_cancelled:
        return StopAll(job.job_id, "cancelled", "it was cancelled")
    if known.broke:
        return StopAll(job.job_id, "budget", known.broke)
    if known.preempted:
        return StopAll(job.job_id, "preempted", known.preempted)
    for number, member in enumerate(known.members):
        if member.phase == "ended" and not member.has_succeeded:
            return StopAll(job.job_id, "gang", f"its member {number} has ended: {member.message}")
    if not known.has_gone and now >= known.since + settings.prepare_most_seconds:
        return StopAll(job.job_id, "prepare", f"it was not ready to start after {settings.prepare_most_seconds:g} s")
    return None


def _end(job: Wanted, known: Known, now: float, settings: RunSettings) -> EndAttempt:
    cause, message = _cause(known.members)
    failures, losses = known.failures, known.losses

    def ended(state: JobState, retry_at: float | None = None, why: str = message) -> EndAttempt:
        return EndAttempt(job.job_id, cause, why, state, retry_at, failures, losses)

    if all(member.has_succeeded for member in known.members):
        return ended("succeeded")
    if cause == "cancelled":
        return ended("cancelled")
    if cause == "time_limit":
        return ended("timed_out")
    if cause == "budget":
        return ended("failed")
    if cause == "preempted":
        return ended("preempted", now)
    if cause in ("lost", "gang"):
        losses += 1
        if losses > settings.losses_most:
            return ended("failed", why=f"{message}; it was lost {losses} times")
        return ended("queued", now + backoff_seconds(losses, settings))
    failures += 1
    if failures > job.retries:
        return ended("failed")
    return ended("queued", now + backoff_seconds(failures, settings))


def _cause(members: Sequence[KnownMember]) -> tuple[EndKind, str]:
    """Why the attempt has ended: of the members that have not succeeded, the first of `_CAUSES`."""
    failed = [member for member in members if not member.has_succeeded] or list(members)
    first = min(failed, key=lambda member: _CAUSES.index(member.end or "lost"))
    return first.end or "lost", first.message


def _unwanted(known: Known, now: float, settings: RunSettings) -> list[Action]:
    """A job whose document was withdrawn: it is ended, and forgotten."""
    if known.phase in ("queued", "backoff", "finished"):
        return [Forget(known.job_id)]
    return _attempt(Wanted(known.job_id, is_cancelled=True), known, now, settings) if known.phase == "attempt" else []
