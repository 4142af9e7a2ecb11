"""Background jobs on a real PostgreSQL."""

import asyncio
from functools import partial

import pytest
from procrastinate.exceptions import TaskNotFound
from sqlalchemy import text

from cloudcrest.infra.database import Database
from cloudcrest.infra.jobs import Blueprint, Jobs
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio


class Rollback(Exception):
    """Undoes the transaction it is raised in."""


def make_jobs(database: Database, ran: list[str]) -> Jobs:
    tasks = Blueprint()

    @tasks.task(name="note")
    async def note(text: str) -> None:
        ran.append(text)

    jobs = Jobs(database)
    jobs.register("notes", tasks)
    return jobs


async def defer_and_roll_back(database: Database, jobs: Jobs) -> None:
    async with database.transaction() as session:
        await jobs.defer(session, "notes:note", text="undone")
        raise Rollback


async def test_a_job_runs_when_its_transaction_committed(database: Database) -> None:
    ran: list[str] = []
    jobs = make_jobs(database, ran)
    async with database.transaction() as session:
        assert await jobs.defer(session, "notes:note", text="kept")
    with pytest.raises(Rollback):
        await defer_and_roll_back(database, jobs)
    await jobs.run_waiting()
    assert ran == ["kept"]


async def test_a_queueing_lock_keeps_one_job_waiting_and_the_transaction_whole(database: Database) -> None:
    ran: list[str] = []
    jobs = make_jobs(database, ran)
    async with database.transaction() as session:
        assert await jobs.defer(session, "notes:note", queueing_lock="one", text="first")
        assert not await jobs.defer(session, "notes:note", queueing_lock="one", text="second")
        assert await jobs.defer(session, "notes:note", text="third")
    await jobs.run_waiting()
    assert sorted(ran) == ["first", "third"]


async def test_an_unknown_task_is_refused(database: Database) -> None:
    async with database.transaction() as session:
        with pytest.raises(TaskNotFound):
            await make_jobs(database, []).defer(session, "notes:missing")


async def test_a_worker_picks_up_what_comes_and_stops_when_cancelled(database: Database) -> None:
    tasks = Blueprint()
    done = asyncio.Event()

    @tasks.task(name="finish")
    async def finish() -> None:
        done.set()

    jobs = Jobs(database)
    jobs.register("notes", tasks)
    worker = asyncio.create_task(jobs.run_worker())
    async with database.transaction() as session:
        await jobs.defer(session, "notes:finish")
    await asyncio.wait_for(done.wait(), 15)
    worker.cancel()
    with pytest.raises(asyncio.CancelledError):
        await worker


async def is_idle(database: Database) -> bool:
    """Whether every job is done: those that succeed are deleted."""
    async with database.transaction() as session:
        waiting: int = (await session.execute(text("select count(*) from procrastinate_jobs"))).scalar_one()
    return waiting == 0


async def end_other_connections(database: Database) -> None:
    async with database.transaction() as session:
        await session.execute(
            text(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where pid <> pg_backend_pid() and datname = current_database()"
            )
        )


async def test_a_worker_survives_losing_its_connections(database: Database) -> None:
    tasks = Blueprint()
    ran: set[int] = set()

    @tasks.task(name="note")
    async def note(number: int) -> None:
        ran.add(number)

    jobs = Jobs(database)
    jobs.register("notes", tasks)
    worker = asyncio.create_task(jobs.run_worker())
    for number in range(3):
        async with database.transaction() as session:
            await jobs.defer(session, "notes:note", number=number)
        await until_async(partial(is_idle, database), f"job {number}")
        assert number in ran
        await end_other_connections(database)
    worker.cancel()
    assert await asyncio.wait_for(asyncio.gather(worker, return_exceptions=True), 20)
