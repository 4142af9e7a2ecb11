"""Background jobs over the same PostgreSQL: deferred inside the transaction that wants them, run at least once.

A slice's tasks.py makes a blueprint over its service, so that tasks need no globals:

    def blueprint(service: Invoices) -> Blueprint:
        tasks = Blueprint()

        @tasks.task(name="issue", queueing_lock="issue")
        async def issue(period: str) -> None: ...

        return tasks

and bootstrap registers it: `jobs.register("billing", blueprint(service))`; the task is then `billing:issue`. A worker
that dies leaves its job to the next one, so a task is written to be run twice.
"""

import asyncio
from datetime import timedelta
from typing import Any

import psycopg
import structlog
from procrastinate import App, PsycopgConnector
from procrastinate.blueprints import Blueprint
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.infra.database import Database
from cloudcrest.infra.publication import forget_deletions

__all__ = ["Blueprint", "Jobs"]

_CONCURRENCY = 4
_CONNECTIONS = 4
_STALLED_AFTER_SECONDS = 30.0
_GRACE_SECONDS = 10.0
_RESTART_SECONDS = 1.0
_FAILED_KEPT_HOURS = 24 * 14
_log = structlog.get_logger(__name__)


class Jobs:
    """The job queue of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._conninfo = database.conninfo
        connector = PsycopgConnector(conninfo=self._conninfo, min_size=1, max_size=_CONNECTIONS)
        self._app = App(connector=connector)
        self.register("infra", self._housekeeping())

    def register(self, namespace: str, blueprint: Blueprint) -> None:
        """Adds a slice's tasks; their names begin with `<namespace>:`. A blueprint can be registered once."""
        self._app.add_tasks_from(blueprint, namespace=namespace)

    async def defer(
        self,
        session: AsyncSession,
        task_name: str,
        *,
        delay: timedelta = timedelta(0),
        queueing_lock: str | None = None,
        **arguments: Any,
    ) -> bool:
        """Adds a job when the session's transaction commits. `arguments` are plain JSON data.

        False: a job with the same `queueing_lock` waits already. Raises `TaskNotFound` for an unregistered name.
        """
        connection = await session.connection()
        raw = await connection.get_raw_connection()
        deferrer = self._app.configure_task(
            task_name,
            allow_unknown=False,
            queueing_lock=queueing_lock,
            schedule_in={"seconds": int(delay.total_seconds())} if delay else None,
            connection=raw.driver_connection,
        )
        try:
            async with connection.begin_nested():  # a refused lock must not break the caller's transaction
                await deferrer.defer_async(**arguments)
        except AlreadyEnqueued:
            return False
        return True

    async def run_worker(self) -> None:
        """Runs jobs until cancelled, then gives running ones 10 seconds. Survives the database going away."""
        while True:
            try:
                async with self._app.open_async():
                    await self._app.run_worker_async(
                        concurrency=_CONCURRENCY,
                        install_signal_handlers=False,
                        delete_jobs="successful",
                        shutdown_graceful_timeout=_GRACE_SECONDS,
                        stalled_worker_timeout=_STALLED_AFTER_SECONDS,
                    )
            except (ConnectorException, psycopg.Error, OSError) as error:
                _log.warning("job_worker_lost_database", error=str(error.__cause__ or error).strip().partition("\n")[0])
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    # A worker that loses its database while it is cancelled raises that instead of the cancellation.
                    raise asyncio.CancelledError from error
            await asyncio.sleep(_RESTART_SECONDS)

    async def run_waiting(self) -> None:
        """Runs what waits now and returns; for tests and one-off commands."""
        async with self._app.open_async():
            await self._app.run_worker_async(wait=False, install_signal_handlers=False, delete_jobs="successful")

    def _housekeeping(self) -> Blueprint:
        tasks = Blueprint()

        @tasks.periodic(cron="* * * * *")
        @tasks.task(name="retry_stalled", queueing_lock="infra:retry_stalled")
        async def retry_stalled(timestamp: int) -> None:  # noqa: ARG001 - periodic tasks are given their time
            manager = self._app.job_manager
            for job in await manager.get_stalled_jobs(seconds_since_heartbeat=_STALLED_AFTER_SECONDS):
                _log.warning("job_retried_after_lost_worker", task=job.task_name, job=job.id)
                await manager.retry_job(job)

        @tasks.periodic(cron="17 3 * * *")
        @tasks.task(name="forget_old", queueing_lock="infra:forget_old")
        async def forget_old(timestamp: int) -> None:  # noqa: ARG001 - periodic tasks are given their time
            await self._app.job_manager.delete_old_jobs(nb_hours=_FAILED_KEPT_HOURS, include_failed=True)
            async with self._database.transaction() as session:
                await forget_deletions(session)

        return tasks
