"""The control plane: the management API, the feed to regions and the background jobs, over one database."""

import asyncio
import gc
from collections.abc import Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog
from fastapi import FastAPI
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from cloudcrest.bootstrap.settings import ControlSettings, read_settings
from cloudcrest.bootstrap.slices import Base, Slices
from cloudcrest.bootstrap.web import serve_on
from cloudcrest.identity.authentication import SESSION_COOKIE, authentication
from cloudcrest.infra.database import Database
from cloudcrest.infra.feed_notifier import FeedNotifier
from cloudcrest.infra.http.app import create_app
from cloudcrest.infra.jobs import Jobs
from cloudcrest.infra.logs import configure_logs
from cloudcrest.infra.migrate import migrate
from cloudcrest.infra.sealing import Sealer
from cloudcrest.kernel.clock import SystemClock
from cloudcrest.kernel.errors import SetupError
from cloudcrest.kernel.ids import new_id

_DATABASE_PATIENCE_SECONDS = 45.0
_DATABASE_RETRY_SECONDS = 0.1
_DESCRIPTION = "Accounts, models, deployments, usage and money of this cloud. Inference is at /v1, as OpenAI has it."
_log = structlog.get_logger(__name__)


def process(settings_path: Path) -> Coroutine[Any, Any, None]:
    """The control plane of these settings, to be run on an event loop."""
    settings = read_settings(settings_path, ControlSettings)
    configure_logs("control", json=settings.log.json, level=settings.log.level)
    return run(settings)


async def run(settings: ControlSettings) -> None:
    """Runs until SIGTERM. Migrations and start data come before the first request."""
    database = Database(settings.database_url)
    jobs = Jobs(database)
    base = Base(settings, database, jobs, Sealer(settings.master_key), SystemClock(), new_id)
    notifier = FeedNotifier(database.conninfo)
    slices = Slices(base, notifier)
    app = make_app(base, slices)
    await _prepare(database, slices)
    # What start-up made stays: leaving it out of collections saves time and shared memory.
    gc.collect()
    gc.freeze()
    beside = [asyncio.create_task(notifier.run()), asyncio.create_task(jobs.run_worker())]
    try:
        await serve_on(app, settings.listen_fd)
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await database.close()


def make_app(base: Base, slices: Slices) -> FastAPI:
    """The application with every slice's routes."""
    app = create_app(
        "Cloudcrest",
        base.database,
        sealer=base.sealer,
        version=version("cloudcrest"),
        description=_DESCRIPTION,
        routers=slices.routers(),
        authentication=[authentication(database=base.database, clock=base.clock)],
        session_cookie=SESSION_COOKIE,
        cors_origins=base.settings.cors_origins,
        clock=base.clock,
        make_id=base.new_id,
    )
    app.state.regions = slices.regions
    return app


async def _prepare(database: Database, slices: Slices) -> None:
    """Migrates and seeds, patient with a database that is just starting."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _DATABASE_PATIENCE_SECONDS
    while True:
        try:
            await migrate(database)
            await slices.seed()
            return
        except (OperationalError, InterfaceError) as error:
            if loop.time() > deadline:
                raise SetupError(
                    f"the database does not answer: {_first_line(error)}",
                    hint="check --database-url, or see logs/postgres.log in the data folder",
                ) from error
            _log.info("database_not_ready", error=_first_line(error))
        await asyncio.sleep(_DATABASE_RETRY_SECONDS)


def _first_line(error: DBAPIError) -> str:
    return str(error).splitlines()[0]
