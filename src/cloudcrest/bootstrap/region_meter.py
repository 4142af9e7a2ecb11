"""The meter of jobs in the region service: its own spool beside the gateways', its own grants of budgets."""

import asyncio
from typing import NoReturn

import structlog

from cloudcrest.billing.relay import GrantRelay
from cloudcrest.bootstrap.settings import RegionSettings
from cloudcrest.compute.jobs.api import MeteredMember
from cloudcrest.gateway.job_meter import NAME, JobMeter
from cloudcrest.infra.feed import FeedState
from cloudcrest.kernel.clock import SystemClock
from cloudcrest.kernel.errors import Unavailable
from cloudcrest.metering.spool import SpoolUnavailable, SpoolWriter

_RETRY_SECONDS = 5.0
_log = structlog.get_logger(__name__)


class RegionMeter:
    """Implements `compute.jobs.api.JobMeter`, from when the disk has room for a spool: before, no job starts."""

    def __init__(self, settings: RegionSettings, state: FeedState) -> None:
        self._settings = settings
        self._state = state
        self._meter: JobMeter | None = None

    def update(self, kinds: set[str]) -> None:
        """Follows budgets and rate cards."""
        if self._meter is not None:
            self._meter.update(self._state, kinds)

    async def run(self, relay: GrantRelay) -> NoReturn:
        """Meters until cancelled."""

        async def exchange(body: bytes) -> bytes:
            status, answer = await relay.exchange(body)
            if status != 200:
                raise Unavailable(f"the control plane answered {status}")
            return answer

        while True:
            try:
                spool = SpoolWriter(self._settings.spool_folder, NAME)
            except (SpoolUnavailable, OSError) as error:
                _log.error("no_spool_for_jobs", error=str(error))
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            self._meter = JobMeter(
                region=self._settings.region,
                spool=spool,
                holder=spool.folder.name,
                journal=self._settings.jobs_folder / "meter.json",
                clock=SystemClock(),
            )
            self._meter.update(self._state, {*self._state.documents})
            await self._meter.run(exchange)

    async def open(self, member: MeteredMember) -> None:
        await self._ready().open(member)

    async def mark(self, member: MeteredMember, started_at: float, until: float) -> None:
        await self._ready().mark(member, started_at, until)

    async def close(self, member: MeteredMember, started_at: float | None, ended_at: float | None) -> None:
        await self._ready().close(member, started_at, ended_at)

    def _ready(self) -> JobMeter:
        if self._meter is None:
            raise Unavailable("what jobs use cannot be written down now", hint="is the disk full?")
        return self._meter
