"""Secrets of projects, which jobs are given by name, and what operators grant organizations."""

from datetime import datetime

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.compute.jobs import repository
from cloudcrest.compute.jobs.api import secret_words
from cloudcrest.compute.jobs.records import ComputePolicy, ProjectSecret
from cloudcrest.infra.sealing import Sealer
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import LimitExceeded, NotFound, SetupError

MAX_SECRETS = 100
"""Of a project."""
_log = structlog.get_logger(__name__)


class ProjectSecrets:
    """Kept sealed; a job's region opens what the job names."""

    def __init__(self, sealer: Sealer, clock: Clock) -> None:
        self._sealer = sealer
        self._clock = clock

    async def set(
        self, session: AsyncSession, project_id: str, name: str, value: str, created_by: str
    ) -> ProjectSecret:
        """A secret with this value from now on; jobs that were made before have the one they were made with.

        Raises `LimitExceeded`.
        """
        await repository.lock_project(session, project_id)
        there = await repository.secrets(session, project_id)
        if len(there) >= MAX_SECRETS and all(each.name != name for each in there):
            raise LimitExceeded(f"this project has {MAX_SECRETS} secrets, its limit", hint="delete some")
        now: datetime = self._clock.now()
        secret = ProjectSecret(project_id, name, created_by, now, now)
        return await repository.set_secret(session, secret, self._sealer.seal(value, secret_words(project_id, name)))

    async def bind_old(self, session: AsyncSession) -> int:
        """Seals anew what was sealed before secrets were bound to their project and name; how many those were."""
        bound = 0
        for project_id, name, sealed in await repository.all_sealed(session):
            if Sealer.is_bound(sealed):
                continue
            try:
                value = self._sealer.open(sealed)
            except SetupError as error:
                _log.warning("secret_not_bound", project=project_id, name=name, error=error.message)
                continue
            await repository.reseal(session, project_id, name, self._sealer.seal(value, secret_words(project_id, name)))
            bound += 1
        return bound

    async def list(self, session: AsyncSession, project_id: str) -> list[ProjectSecret]:
        """A project's, by name, without their values."""
        return await repository.secrets(session, project_id)

    async def delete(self, session: AsyncSession, project_id: str, name: str) -> None:
        """Raises `NotFound`."""
        if not await repository.delete_secret(session, project_id, name):
            raise NotFound(f"this project has no secret '{name}'")


class ComputePolicies:
    """What organizations may run beyond what everyone may."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def get(self, session: AsyncSession, organization_id: str) -> ComputePolicy:
        """An organization's."""
        return await repository.policy(session, organization_id)

    async def set(self, session: AsyncSession, granted: ComputePolicy) -> ComputePolicy:
        """For jobs that are made from now on."""
        await repository.set_policy(session, granted, self._clock.now())
        return granted
