"""A lock for each name, for as long as somebody holds it or waits for it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class KeyedLocks:
    """One at a time for each name, in the order in which they came."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: Counter[str] = Counter()

    def names(self) -> tuple[str, ...]:
        """Those that somebody holds or waits for."""
        return tuple(self._locks)

    @asynccontextmanager
    async def held(self, name: str) -> AsyncIterator[None]:
        """Waits for its turn."""
        self._users[name] += 1
        try:
            async with self._locks.setdefault(name, asyncio.Lock()):
                yield
        finally:
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name], self._locks[name]
