"""The public face of jobs: what a region is to run, what it reports, and what it asks of the meter."""

from typing import Literal, Protocol

import msgspec

from cloudcrest.compute.scheduler.model import WHOLE, Domain

JOB_KIND = "job"
JOB_REPORTS_PATH = "/internal/v1/jobs"
"""`PUT`: a region's `JobReports`, on change and at least every few seconds."""

JobState = Literal[
    "queued", "placing", "preparing", "running", "succeeded", "failed", "cancelled", "timed_out", "preempted"
]
FINAL_STATES: frozenset[JobState] = frozenset(("succeeded", "failed", "cancelled", "timed_out"))


def secret_words(project_id: str, name: str) -> tuple[str, ...]:
    """What a sealed secret is bound to: in another project's job, or under another name, it does not open."""
    return ("job secret", project_id, name)


class JobInput(msgspec.Struct, frozen=True):
    """A file that is in the work folder when the command starts. From an address, or a file of the project's."""

    path: str
    url: str = ""
    file_id: str = ""
    sha256: str = ""


class JobVolume(msgspec.Struct, frozen=True):
    """A volume of the project's that the command sees at `target` (an absolute path)."""

    name: str
    target: str
    is_writable: bool = True


class JobDocument(msgspec.Struct, frozen=True):
    """Desired state of one job in one region, published by the control plane until it has the job's end.

    `command`: what each of its `members` runs, in the container image or with the node's programs. `sealed_secrets`:
    environment variables, sealed with the cloud's master key and bound to `secret_words`. `outputs`: folders in the
    work folder whose files are kept. `has_checkpoints`: it has a folder that its next attempt finds again
    ($CLOUDCREST_CHECKPOINTS).
    `accelerators`, `milli`, `types`, `accelerator_memory_bytes`, `together`, `spread`, `labels`, `tolerations`,
    `zones`, `prefers`: as in `scheduler.model`, each of a member. `retries`: after failures; lost nodes and
    preemptions do not count. `time_limit_seconds`: of all its attempts' running time together. `grace_seconds`:
    between SIGTERM and SIGKILL.
    `allowed_hosts`: what it may connect to. `is_trusted`: its organization may run without a sandbox.
    """

    id: str
    organization_id: str
    project_id: str
    region: str
    name: str
    command: tuple[str, ...]
    created_at_unix_seconds: float
    cpu_milli: int
    memory_bytes: int
    image: str = ""
    environment: dict[str, str] = {}
    sealed_secrets: dict[str, str] = {}
    inputs: tuple[JobInput, ...] = ()
    volumes: tuple[JobVolume, ...] = ()
    outputs: tuple[str, ...] = ("outputs",)
    has_checkpoints: bool = False
    disk_bytes: int = 0
    members: int = 1
    accelerators: int = 0
    milli: int = WHOLE
    types: tuple[str, ...] = ()
    accelerator_memory_bytes: int = 0
    together: Domain | None = None
    spread: Domain | None = None
    labels: dict[str, str] = {}
    tolerations: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    prefers: Literal["packing", "cheapest", "order"] = "packing"
    priority: int = 0
    is_spot: bool = False
    retries: int = 0
    time_limit_seconds: float | None = None
    grace_seconds: float = 30.0
    allowed_hosts: tuple[str, ...] = ()
    is_trusted: bool = False
    is_cancelled: bool = False


class MemberReport(msgspec.Struct, frozen=True):
    """One member of an attempt: where it ran, its real times in Unix seconds, and how it ended."""

    member: int
    node_id: str = ""
    accelerators: tuple[int, ...] = ()
    isolation: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    cpu_seconds: float = 0.0
    memory_peak_bytes: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""


class AttemptReport(msgspec.Struct, frozen=True):
    """One attempt. `outcome`: how it ended ("exit", "preempted", "lost" …, of `running.EndKind`); None: it goes on."""

    number: int
    accelerator_type: str = ""
    outcome: str | None = None
    reason: str = ""
    members: tuple[MemberReport, ...] = ()


class JobReport(msgspec.Struct, frozen=True):
    """What a region says of a job: its state, why in a sentence, and its attempts, the latest last, as far as kept.

    `attempt`, `failures`, `losses`, `preemptions`: how many there were. `has_outputs`: files were kept.
    `outputs_problem`: why others were not, in a sentence.
    """

    id: str
    state: JobState
    reason: str = ""
    attempt: int = 0
    failures: int = 0
    losses: int = 0
    preemptions: int = 0
    started_at: float | None = None
    ended_at: float | None = None
    attempts: tuple[AttemptReport, ...] = ()
    has_outputs: bool = False
    outputs_problem: str = ""


class JobReports(msgspec.Struct, frozen=True):
    """All jobs that a region knows."""

    region: str
    jobs: tuple[JobReport, ...] = ()


class MeteredMember(msgspec.Struct, frozen=True):
    """What one member of one attempt is charged for while its command runs. `id` is unique for good, and the same
    after a restart: `<job>-<attempt>-<member>`.

    `accelerators` × `milli` of `accelerator_type` (empty: none), and `cpu_milli` of processors. `grace_seconds`: so
    long it may go on after it was told to stop.
    """

    id: str
    job_id: str
    organization_id: str
    project_id: str
    accelerator_type: str = ""
    accelerators: int = 0
    milli: int = WHOLE
    cpu_milli: int = 0
    is_spot: bool = False
    grace_seconds: float = 30.0


class JobMeter(Protocol):
    """Charges for the seconds of members. Each call may come again with the same numbers, and counts once."""

    async def open(self, member: MeteredMember) -> None:
        """Before its command starts. Raises `LimitExceeded` where a hard budget does not cover its first slice."""
        ...

    async def mark(self, member: MeteredMember, started_at: float, until: float) -> None:
        """It has run from `started_at` to `until`, in Unix seconds, and goes on. Raises `LimitExceeded` where a hard
        budget does not cover the next slice: it is stopped then.
        """
        ...

    async def close(self, member: MeteredMember, started_at: float | None, ended_at: float | None) -> None:
        """It has ended. `started_at` None: it never began, and costs nothing."""
        ...
