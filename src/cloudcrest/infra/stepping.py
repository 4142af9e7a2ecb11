"""The loop of a controller: look, act, wait until something happens or is due."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable


async def run_steps(step: Callable[[], Awaitable[float]], wake: asyncio.Event, most_seconds: float) -> None:
    """Calls `step` until this task is cancelled: again when `wake` is set, when as many seconds have passed as it
    returned, and after `most_seconds` at the latest.
    """
    task = asyncio.current_task()
    # Asked each time: before Python 3.12, `asyncio.wait_for` in a step can swallow a cancellation.
    while task is None or not task.cancelling():
        wake.clear()
        due_in_seconds = await step()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(most_seconds, due_in_seconds))):
                await wake.wait()
