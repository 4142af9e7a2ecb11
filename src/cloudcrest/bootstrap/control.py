"""The control plane: the management API, the feed to regions and the background jobs, over one database."""

import asyncio
import gc
from collections.abc import Coroutine
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from cloudcrest.bootstrap.patience import once_database_answers
from cloudcrest.bootstrap.settings import ControlSettings
from cloudcrest.bootstrap.settings_file import read_settings
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
from cloudcrest.kernel.ids import new_id

_DESCRIPTION = (
    "Accounts, models, deployments, usage and money of this cloud. "
    "Inference is at /v1, as OpenAI has it, and as other clients have it where the front page says."
)


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
    await once_database_answers(partial(_prepare, database, slices))
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
    """Migrates and seeds."""
    await migrate(database)
    await slices.seed()
