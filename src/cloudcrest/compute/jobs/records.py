"""Jobs and secrets as the control plane keeps them."""

from datetime import datetime

import msgspec

from cloudcrest.compute.jobs.api import JobDocument, JobReport, JobState


class Job(msgspec.Struct, frozen=True):
    """One job: what was asked for, and what its region last said of it. `secrets`: their names."""

    id: str
    organization_id: str
    project_id: str
    region: str
    name: str
    state: JobState
    reason: str
    secrets: tuple[str, ...]
    document: JobDocument
    report: JobReport | None
    created_by: str
    created_at: datetime
    reported_at: datetime | None = None
    ended_at: datetime | None = None


class ProjectSecret(msgspec.Struct, frozen=True):
    """A secret of a project, without its value."""

    project_id: str
    name: str
    created_by: str
    created_at: datetime
    updated_at: datetime


class ComputePolicy(msgspec.Struct, frozen=True):
    """What an organization may beyond what everyone may. `is_trusted`: its jobs may run where there is no sandbox.

    `may_run_high`: its jobs may have high priority.
    """

    organization_id: str
    is_trusted: bool = False
    may_run_high: bool = False
