"""Brings a database to this version's tables, at every start, under a lock: several processes may start at once."""

from importlib import resources
from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from cloudcrest.infra.database import Database

_LOCK = 0x6D6967726174
_log = structlog.get_logger(__name__)


CONTROL_SCRIPTS = Path(__file__).with_name("migrations")


async def migrate(database: Database, scripts: Path = CONTROL_SCRIPTS, *, has_job_queue: bool = True) -> None:
    """Runs Alembic to its head and the job queue's own migrations, in one transaction: all of it or nothing.

    `scripts`: the folder of this database's revisions; that of the control plane is the default.
    """
    async with database.engine.begin() as connection:
        await connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        await connection.run_sync(_upgrade, scripts)
        if has_job_queue:
            await connection.run_sync(_upgrade_job_queue)


def alembic_config(scripts: Path = CONTROL_SCRIPTS) -> Config:
    """Alembic's configuration, with the scripts found inside the installed package."""
    config = Config()
    config.set_main_option("script_location", str(scripts))
    return config


def _upgrade(connection: Connection, scripts: Path) -> None:
    config = alembic_config(scripts)
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _upgrade_job_queue(connection: Connection) -> None:
    """Procrastinate ships a whole schema for a fresh database and numbered migrations for an older one."""
    scripts = resources.files("procrastinate.sql")
    names = sorted(entry.name for entry in (scripts / "migrations").iterdir() if entry.name.endswith(".sql"))
    applied = set(connection.execute(text("select name from job_queue_migrations")).scalars())
    missing = [name for name in names if name not in applied]
    if not missing:
        return
    if not applied:
        _run_script(connection, (scripts / "schema.sql").read_text("utf-8"))
    else:
        for name in missing:
            _run_script(connection, (scripts / "migrations" / name).read_text("utf-8"))
    connection.execute(text("insert into job_queue_migrations (name) values (:name)"), [{"name": n} for n in missing])
    _log.info("job_queue_migrated", scripts=len(missing))


def _run_script(connection: Connection, script: str) -> None:
    """Runs a script of several statements: only possible without parameters, on the driver's own cursor."""
    cursor = connection.connection.cursor()
    try:
        cursor.execute(script)
    finally:
        cursor.close()
