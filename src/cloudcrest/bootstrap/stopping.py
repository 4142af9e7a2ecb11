"""How a process in the foreground ends: asked once it stops in order, asked twice everything ends at once."""

import asyncio
import os
import signal
from collections.abc import Coroutine
from typing import Any

from cloudcrest.bootstrap.supervise import Supervisor

_EXIT_CODE = 130


class Stopping:
    """Listens to the signals that ask for a stop, from when it is made on the running event loop."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                loop.add_signal_handler(number, self._on_signal)

    async def wait(self) -> None:
        """Returns when a stop is asked for."""
        await self._asked.wait()

    async def unless(self, work: Coroutine[Any, Any, None], supervisor: Supervisor) -> None:
        """Does `work` until it ends or a stop is asked for. Raises what a service says that cannot run here."""
        working = asyncio.create_task(work)
        stopping = asyncio.create_task(self._asked.wait())
        breaking = asyncio.create_task(supervisor.broken())
        tasks = {working, stopping, breaking}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
            elif not stopping.done():
                raise breaking.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _on_signal(self) -> None:
        if self._asked.is_set():
            # Everything ends by its lifeline, and recovers at the next start.
            os._exit(_EXIT_CODE)
        self._asked.set()
