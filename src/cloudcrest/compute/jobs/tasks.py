"""Jobs' background jobs: forgetting, and ending those of who is no longer served."""

from cloudcrest.compute.jobs.service import JobService
from cloudcrest.infra.database import Database
from cloudcrest.infra.jobs import Blueprint

NAMESPACE = "compute"


def blueprint(service: JobService, database: Database) -> Blueprint:
    """In the namespace `compute`: `forget_old_jobs` each night, `cancel_stopped_jobs` each minute."""
    tasks = Blueprint()

    @tasks.periodic(cron="17 4 * * *")
    @tasks.task(name="forget_old_jobs", queueing_lock="compute:forget_old_jobs")
    async def forget_old_jobs(timestamp: int = 0) -> None:  # noqa: ARG001 - periodic tasks are given their time
        forgotten = 1
        while forgotten:
            async with database.transaction() as session:
                forgotten = await service.forget_old(session)

    @tasks.periodic(cron="* * * * *")
    @tasks.task(name="cancel_stopped_jobs", queueing_lock="compute:cancel_stopped_jobs")
    async def cancel_stopped_jobs(timestamp: int = 0) -> None:  # noqa: ARG001 - periodic tasks are given their time
        cancelled = 1
        while cancelled:
            async with database.transaction() as session:
                cancelled = await service.cancel_stopped(session)

    return tasks
