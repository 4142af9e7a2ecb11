"""What the service does by itself, beside its requests."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

_log = structlog.get_logger(__name__)

Sweep = Callable[[], Awaitable[int]]
"""Removes some of what is due and returns how much it was; 0: nothing is left."""


async def keep_sweeping(sweeps: list[Sweep], every_seconds: float) -> None:
    """Sweeps until cancelled; patient with a database or an object store that is away."""
    while True:
        for sweep in sweeps:
            try:
                while await sweep():
                    pass
            except (SQLAlchemyError, OSError) as error:
                _log.warning("sweep_failed", error=first_line(error))
        await asyncio.sleep(every_seconds)


def first_line(error: Exception) -> str:
    """What an error says, without the statement that it came of."""
    text = str(error.orig if isinstance(error, DBAPIError) else error)
    return text.splitlines()[0] if text else repr(error)
