"""Migrations on a real PostgreSQL."""

import pytest
from sqlalchemy import text

from cloudcrest.infra.database import Database
from cloudcrest.infra.migrate import migrate

pytestmark = pytest.mark.anyio


async def test_migrating_again_changes_nothing(database: Database) -> None:
    await migrate(database)
    async with database.transaction() as session:
        tables = set((await session.execute(text("select tablename from pg_tables"))).scalars())
    assert {"published_documents", "idempotent_requests", "procrastinate_jobs", "alembic_version"} <= tables
