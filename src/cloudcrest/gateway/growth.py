"""How fast load may grow: a rate that is allowed follows the rate that is used, upwards only so fast. Pure.

From a floor, the allowed rate grows by so many percent a minute while it is used, and is never above the load of about
the last minute by more than that; with less load it falls, down to the floor. Requests are admitted evenly at the
allowed rate, with bursts of ten seconds' worth.
"""

from math import exp

BURST_SECONDS = 10.0
_REMEMBERED_SECONDS = 60.0
FORGOTTEN_AFTER_SECONDS = 10 * _REMEMBERED_SECONDS
"""After so long without a request nothing is left of the load before: the floor is allowed again."""
_SLACK = 1e-9

State = tuple[float, float, float, float]
"""Allowed and used requests per minute, those that may come at once, and when that was, in monotonic seconds."""


class Ramp:
    """The growth of one scope. `percent`: a minute's growth; `floor`: requests per minute that are always allowed."""

    __slots__ = ("_factor", "_floor", "_level", "_updated_at_seconds", "_used", "allowed_per_minute", "percent")

    def __init__(self, percent: int, floor: int, now: float) -> None:
        self.allowed_per_minute = 0.0
        self.set_limits(percent, floor)
        self.resume(None, now)

    def set_limits(self, percent: int, floor: int) -> None:
        """Follows a change; the load so far stays known."""
        self.percent = percent
        self._factor = 1 + percent / 100
        self._floor = float(floor)
        self.allowed_per_minute = max(self.allowed_per_minute, self._floor)

    @property
    def state(self) -> State:
        """All that changes, for a table that workers share."""
        return self.allowed_per_minute, self._used, self._level, self._updated_at_seconds

    def resume(self, state: State | None, now: float) -> None:
        """Goes on from a state; None: begins now."""
        allowed, self._used, self._level, self._updated_at_seconds = state or (0.0, 0.0, 0.0, now)
        self.allowed_per_minute = max(allowed, self._floor)
        if state is None:
            self._level = self._burst()

    def wait_seconds(self, now: float) -> float:
        """How long until one more request may come (0: now)."""
        self._advance(now)
        missing = 1 - self._level
        return 0.0 if missing <= _SLACK else missing * 60 / self.allowed_per_minute

    def take(self) -> None:
        """Counts a request that is admitted."""
        self._level -= 1
        self._used += 60 / _REMEMBERED_SECONDS

    def _advance(self, now: float) -> None:
        passed_seconds = now - self._updated_at_seconds
        if passed_seconds <= 0:
            return
        self._updated_at_seconds = now
        level = self._level + passed_seconds * self.allowed_per_minute / 60
        grown = self.allowed_per_minute * self._factor ** (min(passed_seconds, FORGOTTEN_AFTER_SECONDS) / 60)
        self._used *= exp(-passed_seconds / _REMEMBERED_SECONDS)
        self.allowed_per_minute = max(self._floor, min(grown, self._factor * self._used))
        self._level = min(level, self._burst())

    def _burst(self) -> float:
        return max(1.0, self.allowed_per_minute * BURST_SECONDS / 60)
