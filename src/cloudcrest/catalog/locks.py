"""One at a time, across processes: a lock on a file, which the system releases when its holder dies."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

_POLL_SECONDS = 0.1


@asynccontextmanager
async def file_lock(
    path: Path, on_wait: Callable[[], None], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> AsyncIterator[None]:
    """Holds the lock at `path`; `on_wait` is called once if somebody else has it. Works within a process as well."""
    descriptor = await asyncio.to_thread(_open, path)
    try:
        waited = False
        while not _try_lock(descriptor):
            if not waited:
                on_wait()
                waited = True
            await sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
