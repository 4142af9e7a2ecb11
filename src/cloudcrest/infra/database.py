"""PostgreSQL through SQLAlchemy: the declarative base, the engine, and short explicit transactions."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import ClassVar

from sqlalchemy import DateTime, MetaData, Text, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

_NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Every table's base. Rows are mapped flat: no relationships, so nothing is ever loaded behind one's back."""

    metadata = MetaData(naming_convention=_NAMING)
    type_annotation_map: ClassVar = {str: Text, datetime: DateTime(timezone=True)}


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
