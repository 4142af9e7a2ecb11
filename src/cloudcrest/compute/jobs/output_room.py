"""How much a project's jobs may still leave in a region's object store."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable


class OutputRoom:
    """`most_bytes`: of a project. `measure`: what its outputs take in the store; asked once, then counted on."""

    def __init__(self, most_bytes: int, measure: Callable[[str], Awaitable[int]]) -> None:
        self.most_bytes = most_bytes
        self._measure = measure
        self._kept: dict[str, int] = {}
        self._taken: Counter[str] = Counter()
        self._measuring = asyncio.Lock()

    async def take(self, project_id: str, size_bytes: int) -> bool:
        """Before a file of this size is kept: whether there is room. If so, `settle` follows."""
        async with self._measuring:
            if project_id not in self._kept:
                self._kept[project_id] = await self._measure(project_id)
        if self._kept[project_id] + self._taken[project_id] + size_bytes > self.most_bytes:
            return False
        self._taken[project_id] += size_bytes
        return True

    async def settle(self, project_id: str, taken_bytes: int, added_bytes: int) -> None:
        """What was taken is over: so much more is in the store now, or less, where it took another's place."""
        self._taken[project_id] -= taken_bytes
        if not self._taken[project_id]:
            del self._taken[project_id]
        async with self._measuring:
            if project_id in self._kept:
                self._kept[project_id] += added_bytes

    def measure_again(self) -> None:
        """Something was removed from the store."""
        self._kept.clear()
