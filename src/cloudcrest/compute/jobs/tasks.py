"""Jobs' background jobs: forgetting."""

from cloudcrest.compute.jobs.service import JobService
from cloudcrest.infra.database import Database
from cloudcrest.infra.jobs import Blueprint

NAMESPACE = "compute"


def blueprint(service: JobService, database: Database) -> Blueprint:
    """The job `forget_old_jobs`, each night, in the namespace `compute`."""
    tasks = Blueprint()

    @tasks.periodic(cron="17 4 * * *")
    @tasks.task(name="forget_old_jobs", queueing_lock="compute:forget_old_jobs")
    async def forget_old_jobs(timestamp: int = 0) -> None:  # noqa: ARG001 - periodic tasks are given their time
        forgotten = 1
        while forgotten:
            async with database.transaction() as session:
                forgotten = await service.forget_old(session)

    return tasks
