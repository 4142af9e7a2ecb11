"""A region's jobs over a fabric of this process: real runners and commands, a placer and a meter that are fakes."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from cloudcrest.compute.api import Fabric, Placer, ProcessStatus
from cloudcrest.compute.fabric.process_host import ProcessHost
from cloudcrest.compute.fakes import FakeMeter, FakePlacer
from cloudcrest.compute.jobs.api import JobDocument, JobReport
from cloudcrest.compute.jobs.controller import JobController
from cloudcrest.compute.jobs.entry import Entries
from cloudcrest.compute.jobs.launch import Launcher
from cloudcrest.compute.jobs.link import RunnerLink
from cloudcrest.compute.jobs.run_settings import RunSettings
from cloudcrest.compute.jobs.store import JobStore, log_prefix
from cloudcrest.infra.lifeline import Lifeline
from cloudcrest.infra.objects import ObjectStore
from cloudcrest.kernel.clock import SystemClock
from tests.support.runners import python
from tests.support.waiting import until_async

SECRET = "secret-of-the-region"
FOREVER = python("import os, time; print(os.getpid(), flush=True); time.sleep(600)")


def job(command: tuple[str, ...], job_id: str = "job_1", **changes: Any) -> JobDocument:
    made = JobDocument(job_id, "org_1", "proj_1", "local", "test", command, 0.0, 100, 1000, grace_seconds=5.0)
    return msgspec.structs.replace(made, **changes)


class Region:
    """A region's jobs, over a fabric of this process. `controller` may be killed and made again."""

    def __init__(
        self, folder: Path, fabric: Fabric, placer: Placer, meter: FakeMeter, isolation: str = "plain"
    ) -> None:
        self.folder = folder
        self.fabric = fabric
        self.placer: Any = placer  # a fake one is told what to do by its tests
        self.meter = meter
        self.objects = ObjectStore(str(folder / "objects"))
        self.store = JobStore(self.objects)
        self.documents: dict[str, JobDocument] = {}
        self.reports: dict[str, JobReport] = {}
        self.client = httpx2.AsyncClient(trust_env=False)
        self.link = RunnerLink(self.client, SECRET)
        self.settings = RunSettings(
            isolation=isolation,
            poll_seconds=0.05,
            collect_seconds=0.2,
            charge_seconds=0.1,
            lost_seconds=0.3,
            backoff_first_seconds=0.1,
            unanswered_seconds=20,
        )
        self.start()

    def start(self) -> None:
        """A new controller, which knows what is on disk."""
        launcher = Launcher(
            self.folder / "work", self.folder / "shared", self.settings, SECRET, lambda sealed, _: f"opened {sealed}"
        )
        self.controller = JobController(
            region="local",
            fabric=self.fabric,
            placer=self.placer,
            meter=self.meter,
            store=self.store,
            entries=Entries(self.folder / "jobs"),
            launcher=launcher,
            link=self.link,
            clock=SystemClock(),
            on_reports=self._take,
        )
        self.want()
        self.running = asyncio.create_task(self.controller.run())

    async def stop(self) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)

    def want(self, *documents: JobDocument) -> None:
        self.documents.update({document.id: document for document in documents})
        self.controller.update(self.documents.values())

    def _take(self, reports: tuple[JobReport, ...]) -> None:
        self.reports = {report.id: report for report in reports}

    async def state(self, *states: str, job_id: str = "job_1") -> JobReport:
        def look() -> JobReport | None:
            report = self.reports.get(job_id)
            return report if report is not None and report.state in states else None

        report = await until_async(look, f"{job_id} is {states}")
        assert report is not None
        return report

    async def log(self, attempt: int = 1, member: int = 0, job_id: str = "job_1") -> str:
        _, data = await self.store.read_log(log_prefix("proj_1", job_id, attempt, member), 0, 100_000)
        return data.decode()

    async def runner(self, job_id: str = "job_1") -> ProcessStatus:
        async def look() -> ProcessStatus | None:
            found = [each for each in await self.fabric.list() if each.labels["job"] == job_id]
            return found[0] if found and found[0].pid else None

        found = await until_async(look, "there is a runner")
        assert found is not None
        return found


@asynccontextmanager
async def running_region(
    folder: Path,
    placer: FakePlacer | None = None,
    meter: FakeMeter | None = None,
    fabric: Fabric | None = None,
    isolation: str = "plain",
) -> AsyncIterator[Region]:
    """A region over a fabric of this process, or over another."""
    lifeline = Lifeline()
    for inner in ("logs", "shared"):
        (folder / inner).mkdir()
    host = ProcessHost(
        log_folder=folder / "logs", working_folder=folder, lifeline=lifeline, environment=dict(os.environ)
    )
    region = Region(folder, fabric or host, placer or FakePlacer(), meter or FakeMeter(), isolation)
    try:
        yield region
    finally:
        await region.stop()
        await host.close()
        await region.client.aclose()
        lifeline.close()
