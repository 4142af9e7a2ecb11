"""`cloudcrest up`: opens the data folder, starts everything in order, keeps it running, stops it in order.

This process is also the node agent: replicas are its children, asked for over `run/node.sock` by the region service,
so they outlive it. It imports neither a web framework nor an ORM, so it stays small.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import structlog

from cloudcrest.bootstrap import ports, ray_services, services
from cloudcrest.bootstrap.agents import log_to, machine_host
from cloudcrest.bootstrap.arguments import up_settings
from cloudcrest.bootstrap.data_folder import DataFolder, UpState
from cloudcrest.bootstrap.ready import become_ready
from cloudcrest.bootstrap.settings import UpSettings
from cloudcrest.bootstrap.stopping import Stopping
from cloudcrest.bootstrap.supervise import Supervisor
from cloudcrest.bootstrap.ui import Ui, make_ui, welcome
from cloudcrest.compute.fabric.agent import NodeAgent
from cloudcrest.compute.fabric.process_host import ProcessHost
from cloudcrest.infra.lifeline import Lifeline
from cloudcrest.infra.postgres import EmbeddedPostgres
from cloudcrest.kernel.clock import SystemClock
from cloudcrest.kernel.errors import SetupError

_DATABASE_PATIENCE_SECONDS = 60.0
_log = structlog.get_logger(__name__)


class Up:
    """One run of the cloud on this machine."""

    def __init__(self, plan: services.Plan, ui: Ui) -> None:
        self._plan = plan
        self._ui = ui
        self._folder = plan.folder
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._is_ready = False
        self._lifeline = Lifeline()
        self._services = ProcessHost(
            log_folder=self._folder.logs,
            working_folder=self._folder.run,
            lifeline=self._lifeline,
            environment=services.service_environment(plan.environment),
        )
        self._replicas = machine_host(
            self._folder.logs, self._folder.run, self._lifeline, plan.environment, self._folder.root
        )
        self._agent = NodeAgent(self._replicas, plan.agent_socket)
        self._ray = ray_services.ray_start(plan) if plan.settings.fabric == "ray" else None
        self._supervisor = Supervisor(self._services, SystemClock(), self._write_state)

    async def run(self) -> None:
        """Runs until it is told to stop. Raises `SetupError` where the cloud cannot run here."""
        stopping = Stopping()
        try:
            await stopping.unless(self._start(), self._supervisor)
            await stopping.wait()
        finally:
            await self._shut_down()

    async def _start(self) -> None:
        self._write_state()
        await self._agent.start()
        embedded = None
        if self._plan.settings.database_url is None:
            embedded = EmbeddedPostgres(self._folder.postgres, self._folder.socket_folder / "postgres")
            self._ui.step("Starting PostgreSQL" if (self._folder.postgres).exists() else "Creating the database")
            self._supervisor.start(services.postgres_service(embedded))
        # These serve from what they last knew, so they need not wait for anybody.
        for worker in services.gateway_services(self._plan):
            self._supervisor.start(worker)
        if self._ray is not None:
            self._supervisor.start(ray_services.ray_service(self._ray))
            self._supervisor.start(ray_services.fabric_service(self._plan, self._ray))
        self._supervisor.start(services.region_service(self._plan))
        # It is patient with its database, and loads its code while that starts.
        if embedded is not None:
            database_url, region_url = embedded.url(services.DATABASE), embedded.url(services.REGION_DATABASE)
        else:
            database_url = self._plan.settings.database_url or ""
            region_url = services.region_database_url(self._plan.settings)
        self._supervisor.start(services.control_service(self._plan, database_url))
        self._supervisor.start(services.content_service(self._plan, region_url))
        if embedded is not None:
            await embedded.wait_ready(_DATABASE_PATIENCE_SECONDS)
            await embedded.ensure_database(services.DATABASE)
        self._ui.step("Starting the control plane")
        chat_model = await become_ready(self._plan, self._ui)
        if self._ray is not None:
            self._ui.step("Starting Ray")
            await self._agent.was_asked.wait()
        self._is_ready = True
        self._folder.write_connection(self._plan.base_url, self._plan.secrets, self._plan.certificate)
        self._write_state()
        root = str(self._folder.root)
        self._ui.done(welcome(self._plan.base_url, self._plan.secrets.first_api_key, chat_model, root))
        if self._ray is not None:
            self._ui.done(ray_services.invitation(self._ray))

    async def _shut_down(self) -> None:
        """Gateways first, so that nothing new comes in; the database last, so that everybody can still write."""
        self._ui.step("Stopping (Ctrl-C again ends everything at once)")
        workers = range(len(self._plan.sockets.public))
        await asyncio.gather(*(self._supervisor.stop(services.gateway_name(worker)) for worker in workers))
        await self._supervisor.stop(services.CONTENT)
        for name in (services.REGION_SERVICE, ray_services.FABRIC, ray_services.RAY):
            await self._supervisor.stop(name)
        await self._agent.close()
        await self._replicas.close()
        for name in (services.CONTROL, services.POSTGRES):
            await self._supervisor.stop(name)
        self._ui.close()
        self._lifeline.close()

    def _write_state(self) -> None:
        try:
            self._folder.write_up_state(
                UpState(
                    pid=os.getpid(),
                    base_url=self._plan.base_url,
                    started_at=self._started_at,
                    is_ready=self._is_ready,
                    socket_folder=str(self._folder.socket_folder),
                    certificate=str(self._plan.certificate or ""),
                    ray_address=self._ray.head if self._ray is not None else "",
                    processes=self._supervisor.pids() if hasattr(self, "_supervisor") else {},
                )
            )
        except (OSError, SetupError) as error:
            # A full disk must not stop what runs; the file is for people who look.
            _log.warning("up_state_not_written", error=str(error))


def main(arguments: Sequence[str]) -> int:
    """Runs the cloud; the exit code."""
    settings = up_settings(arguments, os.environ)
    folder = DataFolder.open(settings.data)
    try:
        ui = make_ui()
        try:
            _run(settings, folder, ui)
        finally:
            ui.close()
    finally:
        folder.close()
    return 0


def _run(settings: UpSettings, folder: DataFolder, ui: Ui) -> None:
    log_to(folder.logs, "up", json=settings.log_json, level=settings.log_level)
    secrets = folder.secrets()
    public = ports.listen_publicly(settings.host, settings.port)
    workers = ports.share(public, settings.gateway_workers)
    sockets = services.Sockets(workers, *(ports.listen_on_loopback() for _ in range(3)))
    base_url = ports.url_of(public, host=settings.host, has_tls=settings.has_tls)
    settings = ray_services.with_port(settings)
    plan = services.Plan(settings, folder, secrets, sockets, base_url, dict(os.environ))

    async def run() -> None:
        await Up(plan, ui).run()

    with contextlib.closing(public):
        asyncio.run(run())
    sys.stdout.flush()
