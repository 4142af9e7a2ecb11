"""Jobs in the region service: their controller, its reports to the control plane, what tenants ask of their jobs."""

import asyncio
from collections.abc import Iterable

import httpx2
import msgspec
import structlog
from starlette.applications import Starlette
from starlette.routing import Mount

from cloudcrest.bootstrap.settings import RegionSettings, derived_secret
from cloudcrest.compute.api import Fabric, Placer
from cloudcrest.compute.jobs.access import JobAccess
from cloudcrest.compute.jobs.api import JOB_REPORTS_PATH, JobDocument, JobMeter, JobReport, JobReports
from cloudcrest.compute.jobs.checkpoints import CheckpointWatch
from cloudcrest.compute.jobs.controller import SOURCE, JobController
from cloudcrest.compute.jobs.entry import Entries
from cloudcrest.compute.jobs.launch import CHECKPOINTS_FOLDER, Launcher, members_folder
from cloudcrest.compute.jobs.link import RunnerLink
from cloudcrest.compute.jobs.store import JobStore
from cloudcrest.content.passed_on import door, error_handlers
from cloudcrest.gateway.behalf import PROJECT_HEADER
from cloudcrest.infra.objects import ObjectStore
from cloudcrest.infra.sealing import Sealer
from cloudcrest.kernel.clock import SystemClock

_REPORT_EVERY_SECONDS = 5.0
_REPORT_AT_MOST_EVERY_SECONDS = 0.1
_REPORT_TIMEOUT_SECONDS = 10.0
_log = structlog.get_logger(__name__)


class RegionJobs:
    """The jobs of one region, from its settings. `run` and `push_reports` go on until they are cancelled."""

    def __init__(self, settings: RegionSettings, fabric: Fabric, placer: Placer, meter: JobMeter) -> None:
        self._settings = settings
        self._reports: tuple[JobReport, ...] | None = None
        self._changed = asyncio.Event()
        self._client = httpx2.AsyncClient(
            trust_env=False, limits=httpx2.Limits(max_connections=1000, max_keepalive_connections=64)
        )
        secret = derived_secret("runners", settings.gateway_token)
        store, link = JobStore(ObjectStore(settings.objects_url)), RunnerLink(self._client, secret)
        settings.shared_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        launcher = Launcher(
            members_folder(settings.jobs_folder),
            settings.shared_folder,
            settings.jobs,
            secret,
            self._open_secret,
            settings.allowed_upstreams,
        )
        self._controller = JobController(
            region=settings.region,
            fabric=fabric,
            placer=placer,
            meter=meter,
            store=store,
            entries=Entries(settings.jobs_folder / "known"),
            launcher=launcher,
            link=link,
            clock=SystemClock(),
            on_reports=self._take,
        )
        self._checkpoints = CheckpointWatch(
            placer, SOURCE, settings.shared_folder / CHECKPOINTS_FOLDER, self._controller.keeping, clock=SystemClock()
        )
        self._access = JobAccess(
            self._controller, link, store, project_of=lambda request: request.headers[PROJECT_HEADER]
        )

    def update(self, documents: Iterable[JobDocument]) -> None:
        """What is wanted."""
        self._controller.update(documents)

    async def run(self) -> None:
        """Runs them, and watches their checkpoints."""
        try:
            await asyncio.gather(self._controller.run(), self._checkpoints.run())
        finally:
            await self._client.aclose()

    async def push_reports(self, client: httpx2.AsyncClient) -> None:
        """Reports on change and at least every five seconds; a report that is lost is followed by a newer one."""
        url = f"{self._settings.control_url}{JOB_REPORTS_PATH}"
        headers = {"authorization": f"Bearer {self._settings.region_token}", "content-type": "application/json"}
        while True:
            self._changed.clear()
            if self._reports is not None:
                body = msgspec.json.encode(JobReports(self._settings.region, self._reports))
                try:
                    answer = await client.put(url, content=body, headers=headers, timeout=_REPORT_TIMEOUT_SECONDS)
                    answer.raise_for_status()
                except httpx2.HTTPError as error:
                    _log.warning("jobs_not_reported", error=repr(error))
            await asyncio.sleep(_REPORT_AT_MOST_EVERY_SECONDS)
            try:
                await asyncio.wait_for(self._changed.wait(), _REPORT_EVERY_SECONDS)
            except TimeoutError:
                continue

    def mount(self) -> Mount:
        """What tenants ask of their jobs, for gateways with their token alone."""
        token = derived_secret("jobs", self._settings.gateway_token)
        app = Starlette(
            routes=self._access.routes(),
            middleware=[door(token)],
            exception_handlers=error_handlers(see="docs/how/jobs.md"),
        )
        # At the root, behind all other routes: paths stay whole.
        return Mount("/", app=app)

    def _take(self, reports: tuple[JobReport, ...]) -> None:
        self._reports = reports
        self._changed.set()

    def _open_secret(self, sealed: str, words: tuple[str, ...]) -> str:
        """Reads the master key each time: it is needed as seldom as a job starts."""
        kept = msgspec.json.decode(self._settings.secrets_path.read_bytes(), type=dict[str, object])
        return Sealer(str(kept["master_key"])).open(sealed, words)
