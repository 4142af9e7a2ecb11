"""PostgreSQL through SQLAlchemy: the declarative base, the engine, and short explicit transactions."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, ClassVar

import psycopg
from psycopg import sql
from sqlalchemy import DateTime, MetaData, Text, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from cloudcrest.kernel.errors import SetupError

NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
COLUMN_TYPES: dict[Any, Any] = {str: Text, datetime: DateTime(timezone=True)}
_MAINTENANCE_DATABASE = "postgres"


class Base(DeclarativeBase):
    """The base of the control plane's tables. Rows are mapped flat: no relationships, so nothing is ever loaded behind
    one's back. A region's own database has a base of its own (content/tables.py).
    """

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map: ClassVar = COLUMN_TYPES


class Database:
    """One PostgreSQL database. `url` is `postgresql+psycopg://…`; sockets go in its `host` query parameter."""

    def __init__(self, url: str, *, pool_size: int = 10, pool_timeout_seconds: float = 10) -> None:
        self.url = url
        self.engine: AsyncEngine = create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=pool_timeout_seconds,
            pool_pre_ping=True,
            pool_use_lifo=True,
            hide_parameters=True,  # errors are logged, and parameters hold what must not be
        )
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False, autoflush=False)

    @property
    def conninfo(self) -> str:
        """The same database for libpq, for connections outside the pool. It may hold a password: never log it."""
        return make_url(self.url).set(drivername="postgresql").render_as_string(hide_password=False)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """A unit of work: commits when the block ends well, rolls back when it raises."""
        async with self._sessions() as session, session.begin():
            yield session

    async def close(self) -> None:
        """Closes every pooled connection."""
        await self.engine.dispose()


async def ensure_database(url: str) -> None:
    """Creates the database of a SQLAlchemy URL where its server has none of that name.

    Raises `SetupError` where this user may not, `psycopg.OperationalError` while the server does not answer.
    """
    parsed = make_url(url).set(drivername="postgresql")
    name = parsed.database or ""
    conninfo = parsed.set(database=_MAINTENANCE_DATABASE).render_as_string(hide_password=False)
    try:
        async with await psycopg.AsyncConnection.connect(
            parsed.render_as_string(hide_password=False), connect_timeout=5
        ):
            return  # it is there; a server of others may let us see no other database
    except psycopg.OperationalError:
        pass
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True, connect_timeout=5) as link:
        found = await link.execute("select 1 from pg_database where datname = %s", (name,))
        if await found.fetchone() is not None:
            return
        try:
            await link.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        except psycopg.errors.DuplicateDatabase:
            return
        except psycopg.errors.InsufficientPrivilege as error:
            raise SetupError(
                f"there is no database '{name}' and this user may not create it",
                hint=f"have it created, owned by '{parsed.username}', or name another one",
            ) from error
