"""A real PostgreSQL for tests: one server per session, one database per test, copied from a migrated template."""

import asyncio
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from cloudcrest.infra.database import Database
from cloudcrest.infra.migrate import migrate
from cloudcrest.infra.postgres import EmbeddedPostgres

TEMPLATE = "template_migrated"


@contextmanager
def running_postgres() -> Iterator[EmbeddedPostgres]:
    """An embedded server in a fresh folder of a short path (sockets have short names), stopped and removed after."""
    folder = Path(tempfile.mkdtemp(prefix="ccpg"))
    postgres = EmbeddedPostgres(folder / "data", folder / "s")
    log = (folder / "log").open("wb")
    try:
        postgres.prepare()
        # fsync off: what a power cut would lose matters to no test, and tests write all the time.
        process = subprocess.Popen(postgres.command(fsync=False), stdout=log, stderr=log)
        try:
            asyncio.run(postgres.wait_ready(60))
            yield postgres
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)
    finally:
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def make_template(postgres: EmbeddedPostgres) -> None:
    """Creates the migrated database that `create_database` copies."""

    async def make() -> None:
        await postgres.ensure_database(TEMPLATE)
        database = Database(postgres.url(TEMPLATE))
        await migrate(database)
        await database.close()

    asyncio.run(make())


def create_database(postgres: EmbeddedPostgres, name: str, *, template: str = TEMPLATE) -> None:
    """A database copied from the template."""
    # Without fsync a copy of files takes a third of the time that the default, a copy through the log, takes.
    statement = sql.SQL("create database {} template {} strategy file_copy")
    _execute(postgres, statement.format(sql.Identifier(name), sql.Identifier(template)))


def drop_database(postgres: EmbeddedPostgres, name: str) -> None:
    """Drops it, whoever is still connected."""
    _execute(postgres, sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


def _execute(postgres: EmbeddedPostgres, statement: sql.Composed) -> None:
    with psycopg.connect(postgres.conninfo("postgres"), autocommit=True) as link:
        link.execute(statement)
