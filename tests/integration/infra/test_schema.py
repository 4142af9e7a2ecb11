"""The migrations build exactly the tables that the models describe."""

import importlib
import pkgutil

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

import cloudcrest
from cloudcrest.infra.database import Base, Database

pytestmark = pytest.mark.anyio

_QUEUE_TABLES = "procrastinate_"
_WITHOUT_MODELS = {"alembic_version", "job_queue_migrations"}


def import_every_table() -> None:
    for module in pkgutil.walk_packages(cloudcrest.__path__, "cloudcrest."):
        if module.name.endswith(".tables") or ".tables." in module.name:
            importlib.import_module(module.name)
    importlib.import_module("cloudcrest.infra.publication")
    importlib.import_module("cloudcrest.infra.http.idempotency")


def include(name: str | None, kind: str, _: object) -> bool:
    return kind != "table" or (name is not None and not name.startswith(_QUEUE_TABLES) and name not in _WITHOUT_MODELS)


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(
        connection, opts={"compare_type": True, "compare_server_default": True, "include_name": include}
    )
    return list(compare_metadata(context, Base.metadata))


async def test_models_and_migrations_agree(database: Database) -> None:
    import_every_table()
    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []
