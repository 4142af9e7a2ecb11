"""What the management API shows of jobs."""

from datetime import UTC, datetime

import msgspec
from pydantic import BaseModel, Field

from cloudcrest.compute.jobs.api import AttemptReport, JobState, MemberReport
from cloudcrest.compute.jobs.records import ComputePolicy, Job, ProjectSecret
from cloudcrest.compute.jobs.schemas import PolicyBody
from cloudcrest.compute.jobs.service import PRIORITIES, Priority
from cloudcrest.compute.scheduler.model import Domain


class MemberView(BaseModel):
    """One member of an attempt: where it ran, its real times, how it ended."""

    member: int
    node_id: str
    accelerators: list[int]
    isolation: str
    started_at: datetime | None
    ended_at: datetime | None
    cpu_seconds: float
    memory_peak_bytes: int
    sent_bytes: int
    received_bytes: int
    exit_code: int | None
    signal: int | None
    reason: str


class AttemptView(BaseModel):
    """One attempt. `outcome`: how it ended; null: it goes on."""

    number: int
    accelerator_type: str
    outcome: str | None
    reason: str
    members: list[MemberView]


class InputView(BaseModel):
    """A file that is there when the command starts, and where it is from."""

    path: str
    url: str
    file_id: str
    sha256: str


class VolumeView(BaseModel):
    """A volume of the project's, and where the command sees it."""

    name: str
    target: str
    is_writable: bool


class JobView(BaseModel):
    """A job: what was asked for, and how it is. `reason` says why it is so."""

    id: str = Field(examples=["job_01k9zq3v5e8m2n4p6r8t0w2y4z"])
    name: str
    organization_id: str
    project_id: str
    region: str
    state: JobState
    reason: str
    command: list[str]
    image: str
    environment: dict[str, str]
    secrets: list[str] = Field(description="Their names")
    inputs: list[InputView]
    outputs: list[str]
    volumes: list[VolumeView]
    allowed_hosts: list[str]
    has_checkpoints: bool
    cpu_milli: int
    memory_bytes: int
    disk_bytes: int
    accelerators: int
    milli: int
    types: list[str]
    members: int
    together: Domain | None
    spread: Domain | None
    labels: dict[str, str]
    tolerations: list[str]
    zones: list[str]
    priority: Priority
    is_spot: bool
    retries: int
    time_limit_seconds: float | None
    grace_seconds: float
    attempt: int
    failures: int
    losses: int
    preemptions: int
    has_outputs: bool
    outputs_problem: str
    attempts: list[AttemptView] = Field(description="The latest last, as far as they are kept")
    created_by: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class SecretView(BaseModel):
    """A secret, without its value, which is never shown again."""

    name: str = Field(examples=["HF_TOKEN"])
    project_id: str
    created_by: str
    created_at: datetime
    updated_at: datetime


class SecretList(BaseModel):
    """A project's secrets, by name."""

    data: list[SecretView]


class PolicyView(PolicyBody):
    """An organization's."""

    organization_id: str


def view(job: Job) -> JobView:
    """A job as it is shown."""
    document, report = job.document, job.report
    return JobView(
        id=job.id,
        name=job.name,
        organization_id=job.organization_id,
        project_id=job.project_id,
        region=job.region,
        state=job.state,
        reason=job.reason,
        command=list(document.command),
        image=document.image,
        environment=document.environment,
        secrets=list(job.secrets),
        inputs=[InputView(**msgspec.structs.asdict(each)) for each in document.inputs],
        outputs=list(document.outputs),
        volumes=[VolumeView(**msgspec.structs.asdict(each)) for each in document.volumes],
        allowed_hosts=list(document.allowed_hosts),
        has_checkpoints=document.has_checkpoints,
        cpu_milli=document.cpu_milli,
        memory_bytes=document.memory_bytes,
        disk_bytes=document.disk_bytes,
        accelerators=document.accelerators,
        milli=document.milli,
        types=list(document.types),
        members=document.members,
        together=document.together,
        spread=document.spread,
        labels=document.labels,
        tolerations=list(document.tolerations),
        zones=list(document.zones),
        priority=next(name for name, value in PRIORITIES.items() if value == document.priority),
        is_spot=document.is_spot,
        retries=document.retries,
        time_limit_seconds=document.time_limit_seconds,
        grace_seconds=document.grace_seconds,
        attempt=0 if report is None else report.attempt,
        failures=0 if report is None else report.failures,
        losses=0 if report is None else report.losses,
        preemptions=0 if report is None else report.preemptions,
        has_outputs=report is not None and report.has_outputs,
        outputs_problem="" if report is None else report.outputs_problem,
        attempts=[] if report is None else [_attempt(each) for each in report.attempts],
        created_by=job.created_by,
        created_at=job.created_at,
        started_at=None if report is None else _moment(report.started_at),
        ended_at=job.ended_at,
    )


def view_secret(secret: ProjectSecret) -> SecretView:
    """A secret as it is shown."""
    return SecretView(
        name=secret.name,
        project_id=secret.project_id,
        created_by=secret.created_by,
        created_at=secret.created_at,
        updated_at=secret.updated_at,
    )


def view_policy(policy: ComputePolicy) -> PolicyView:
    """What an organization may, as it is shown."""
    return PolicyView(
        organization_id=policy.organization_id, is_trusted=policy.is_trusted, may_run_high=policy.may_run_high
    )


def _attempt(attempt: AttemptReport) -> AttemptView:
    return AttemptView(
        number=attempt.number,
        accelerator_type=attempt.accelerator_type,
        outcome=attempt.outcome,
        reason=attempt.reason,
        members=[_member(each) for each in attempt.members],
    )


def _member(member: MemberReport) -> MemberView:
    times = {"started_at": _moment(member.started_at), "ended_at": _moment(member.ended_at)}
    return MemberView(**{**msgspec.structs.asdict(member), **times})


def _moment(unix_seconds: float | None) -> datetime | None:
    return None if unix_seconds is None else datetime.fromtimestamp(unix_seconds, UTC)
