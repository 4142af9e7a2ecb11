"""Work that takes time, beside a controller's steps: at most one thing at a time for each of what it works on."""

import asyncio
from collections.abc import Awaitable, Callable


class Beside:
    """`on_end` is called when something has ended, however it did."""

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._tasks

    def start(self, key: str, work: Callable[[], Awaitable[None]], on_error: Callable[[Exception], None]) -> None:
        """Works for `key`, instead of what it did until now. `on_error` gets whatever went wrong."""
        previous = self._tasks.pop(key, None)
        if previous is not None and previous is not asyncio.current_task():
            previous.cancel()

        async def guarded() -> None:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - one's fault must not stop the others' controller
                on_error(error)
            finally:
                if self._tasks.get(key) is asyncio.current_task():
                    del self._tasks[key]
                self._on_end()

        self._tasks[key] = asyncio.create_task(guarded())

    async def settle(self) -> bool:
        """Waits for what is being done now. False: nothing is."""
        tasks = [*self._tasks.values()]
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
        return bool(tasks)

    async def close(self) -> None:
        """Gives all of it up."""
        tasks = [*self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
