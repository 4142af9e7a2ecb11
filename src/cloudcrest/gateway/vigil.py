"""A worker that stays awake between rounds that come seldom, for the next request to find it so.

A core that sleeps takes long to wake, and most likely has lost its caches by then: at a hundred requests a second that
is most of what the gateway adds to one. Staying awake costs the core, so it is for operators who ask for it. Where
rounds come often nobody sleeps for long, and staying awake would bring nothing.
"""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

OFTEN_SECONDS: Final = 0.003
"""Rounds that begin at this distance or closer, on average, come often: a core that sleeps for no longer wakes fast."""
_LONGEST_SECONDS: Final = 0.1
"""What a distance counts for at most: a pause says little of what comes after it."""
_SHARE: Final = 0.02
"""Of the newest distance in the average."""


class Vigil:
    """Keeps the running loop from sleeping until no round has begun for `seconds`; `is_awake` until then."""

    def __init__(self, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._began_at = clock()
        self._mean_gap_seconds = _LONGEST_SECONDS
        self.is_awake = False

    def round_began(self) -> None:
        """Looks for the next one."""
        now = self._clock()
        gap = min(now - self._began_at, _LONGEST_SECONDS)
        self._began_at = now
        self._mean_gap_seconds += (gap - self._mean_gap_seconds) * _SHARE
        if not self.is_awake and self._mean_gap_seconds > OFTEN_SECONDS:
            self.is_awake = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        """A loop in which something is still to be called looks at its sockets without waiting for them."""
        is_over = self._clock() - self._began_at >= self._seconds
        if is_over or self._mean_gap_seconds <= OFTEN_SECONDS:
            self.is_awake = False
        else:
            self._loop.call_soon(self._look)
