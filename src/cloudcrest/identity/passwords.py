"""Passwords: argon2id, in a thread, a few at a time (each takes tens of MiB and of milliseconds)."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from pwdlib import PasswordHash

Result = TypeVar("Result")


class Passwords:
    """Hashes and verifies. `parallel` bounds how many run at once, and so their memory."""

    def __init__(self, hasher: PasswordHash | None = None, *, parallel: int = 2) -> None:
        self._hasher = hasher or PasswordHash.recommended()
        self._parallel = parallel
        self._limiter: CapacityLimiter | None = None
        self._nobody_lock = asyncio.Lock()
        self._nobody_hash: str | None = None

    async def hash(self, password: str) -> str:
        """The password's hash, salted, with its parameters inside."""
        return await self._in_thread(lambda: self._hasher.hash(password))

    async def verify(self, password: str, password_hash: str | None) -> bool:
        """Whether it is the password. An unknown account (None) takes as long as a wrong password."""
        # Made on the first call, whoever it is for, so that the first unknown account takes no longer than a known one.
        nobody = await self._nobody()
        is_right = await self._in_thread(lambda: self._hasher.verify(password, password_hash or nobody))
        return is_right and password_hash is not None

    async def _nobody(self) -> str:
        async with self._nobody_lock:
            if self._nobody_hash is None:
                self._nobody_hash = await self.hash("nobody has this password")
            return self._nobody_hash

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        if self._limiter is None:
            self._limiter = CapacityLimiter(self._parallel)
        return await to_thread.run_sync(work, limiter=self._limiter)
