"""The region's migrations build exactly the tables that the models describe."""

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from cloudcrest.content.api import MIGRATIONS
from cloudcrest.content.tables import ContentBase
from cloudcrest.infra.database import Database, ensure_database
from cloudcrest.infra.migrate import migrate
from cloudcrest.infra.postgres import EmbeddedPostgres
from tests.support import databases

pytestmark = pytest.mark.anyio


def differences(connection: Connection) -> list[object]:
    options = {"compare_type": True, "compare_server_default": True}
    context = MigrationContext.configure(connection, opts=options)
    return [found for found in compare_metadata(context, ContentBase.metadata) if "alembic_version" not in str(found)]


async def test_models_and_migrations_agree(postgres: EmbeddedPostgres) -> None:
    name = "test_region_schema"
    database = Database(postgres.url(name), pool_size=1)
    try:
        await ensure_database(database.url)
        await ensure_database(database.url)
        await migrate(database, MIGRATIONS, has_job_queue=False)
        await migrate(database, MIGRATIONS, has_job_queue=False)
        async with database.engine.connect() as connection:
            assert await connection.run_sync(differences) == []
    finally:
        await database.close()
        databases.drop_database(postgres, name)
