"""A worker that stays awake for a while after each round, for the next request to find it so.

A core that sleeps takes long to wake, and has lost its caches by then: at a hundred requests a second that is most of
what a request waits for. Staying awake costs the core, so it is for operators who ask for it.
"""

import asyncio
from collections.abc import Callable
from time import monotonic


class Vigil:
    """Keeps the running loop from sleeping until no round has begun for `seconds`; `is_awake` until then."""

    def __init__(self, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._ends_at = 0.0
        self.is_awake = False

    def soon(self, call: Callable[[], None]) -> None:
        """Has the loop call it when the present round is over, and looks for the next one."""
        self._loop.call_soon(call)
        self._ends_at = self._clock() + self._seconds
        if not self.is_awake:
            self.is_awake = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        """A loop in which something is still to be called looks at its sockets without waiting for them."""
        if self._clock() < self._ends_at:
            self._loop.call_soon(self._look)
        else:
            self.is_awake = False
