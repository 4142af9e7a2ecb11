"""Waits for a database that is just starting."""

import asyncio
from collections.abc import Awaitable, Callable

import psycopg
import structlog
from sqlalchemy.exc import InterfaceError, OperationalError

from cloudcrest.kernel.errors import SetupError

_PATIENCE_SECONDS = 45.0
_RETRY_SECONDS = 0.1
_log = structlog.get_logger(__name__)


async def once_database_answers(work: Callable[[], Awaitable[None]]) -> None:
    """Does `work`, again and again while the database does not answer. Raises `SetupError` after 45 seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PATIENCE_SECONDS
    while True:
        try:
            await work()
            return
        except (OperationalError, InterfaceError, psycopg.OperationalError) as error:
            said = str(error).partition("\n")[0]
            if loop.time() > deadline:
                raise SetupError(
                    f"the database does not answer: {said}",
                    hint="check --database-url, or see logs/postgres.log in the data folder",
                ) from error
            _log.info("database_not_ready", error=said)
        await asyncio.sleep(_RETRY_SECONDS)
