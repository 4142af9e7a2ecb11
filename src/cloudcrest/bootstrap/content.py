"""The content service of a region: files, batches, responses, conversations, volumes, over its database and objects.

A process of its own, so that uploads and batches never disturb what runs replicas and ships usage.
"""

import asyncio
import gc
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from cloudcrest.bootstrap.patience import once_database_answers
from cloudcrest.bootstrap.settings import ContentProcessSettings
from cloudcrest.bootstrap.settings_file import read_settings
from cloudcrest.bootstrap.web import serve_on
from cloudcrest.compute.volumes.folders import VolumeFolders
from cloudcrest.content.api import MIGRATIONS
from cloudcrest.content.http import make_app
from cloudcrest.content.inference import Inference
from cloudcrest.content.routes import batches as batch_routes
from cloudcrest.content.routes import conversations as conversation_routes
from cloudcrest.content.routes import files as file_routes
from cloudcrest.content.routes import responses as response_routes
from cloudcrest.content.routes import volumes as volume_routes
from cloudcrest.content.service.background import Background
from cloudcrest.content.service.batch_runner import BatchRunner
from cloudcrest.content.service.batches import Batches
from cloudcrest.content.service.conversations import Conversations
from cloudcrest.content.service.files import Files
from cloudcrest.content.service.referred import Referred
from cloudcrest.content.service.responses import Responses
from cloudcrest.content.tasks import keep_sweeping
from cloudcrest.infra.database import Database, ensure_database
from cloudcrest.infra.logs import configure_logs
from cloudcrest.infra.migrate import migrate
from cloudcrest.infra.objects import ObjectStore
from cloudcrest.kernel.clock import SystemClock
from cloudcrest.kernel.ids import new_id

_POOL_SIZE = 8
_RESPONSES_SWEPT_SECONDS = _VOLUMES_SWEPT_SECONDS = 3600.0


def process(settings_path: Path) -> Coroutine[Any, Any, None]:
    """The content service of these settings, to be run on an event loop."""
    settings = read_settings(settings_path, ContentProcessSettings)
    configure_logs("content", json=settings.log.json, level=settings.log.level)
    return run(settings)


async def run(settings: ContentProcessSettings) -> None:
    """Runs until SIGTERM. Migrations, and what the process before left half-way, come before the first request."""
    database = Database(settings.database_url, pool_size=_POOL_SIZE)
    objects = ObjectStore(settings.objects_url)
    clock = SystemClock()
    limits = settings.content
    files = Files(database, objects, limits, clock, new_id)
    inference = Inference(settings.gateway_url, settings.token, settings.gateway_certificate_path)
    conversations = Conversations(database, limits, clock, new_id)
    referred = Referred(database, files, clock)
    responses = Responses(database, inference, conversations, referred, limits, clock=clock, new_id=new_id)
    runner = BatchRunner(database, objects, files, inference, responses, settings=limits, clock=clock)
    batches = Batches(database, files, limits, clock, new_id, started=runner.started, cancelled=runner.cancelled)
    background = Background(responses, clock)
    volumes = VolumeFolders(
        settings.shared_folder,
        most=settings.jobs.project_volumes,
        most_bytes=settings.jobs.volume_bytes,
        now=clock.unix_seconds,
    )
    await objects.check()
    await once_database_answers(partial(_prepare, database, files, responses))
    routes = [
        *file_routes.routes(files),
        *batch_routes.routes(batches),
        *response_routes.routes(responses, background),
        *conversation_routes.routes(conversations),
        *volume_routes.routes(volumes),
    ]
    app = make_app(settings.token, routes)
    gc.collect()
    gc.freeze()
    beside = [
        asyncio.create_task(keep_sweeping([files.sweep], limits.sweep_seconds)),
        asyncio.create_task(keep_sweeping([responses.sweep, conversations.sweep], _RESPONSES_SWEPT_SECONDS)),
        asyncio.create_task(keep_sweeping([partial(asyncio.to_thread, volumes.sweep)], _VOLUMES_SWEPT_SECONDS)),
        asyncio.create_task(runner.run()),
    ]
    serving = asyncio.create_task(serve_on(app, settings.listen_fd))
    try:
        await asyncio.wait([serving, *beside], return_when=asyncio.FIRST_COMPLETED)
        for task in beside:  # neither ends by itself; where one broke, a new process begins anew
            if task.done():
                task.result()
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await background.close()
        await inference.client.aclose()
        await database.close()
    await serving


async def _prepare(database: Database, files: Files, responses: Responses) -> None:
    await ensure_database(database.url)
    await migrate(database, MIGRATIONS, has_job_queue=False)
    await files.recover()
    await responses.recover()
