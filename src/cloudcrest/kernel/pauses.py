"""What has just failed is not tried again at once."""

from cloudcrest.kernel.clock import Clock

PAUSE_SECONDS = 1.0
"""Of work beside a controller's steps."""


class Pauses:
    """Each is `seconds` long, by name. Those that are over are forgotten."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._until: dict[str, float] = {}

    def begin(self, name: str) -> None:
        """It has failed just now."""
        self._until[name] = self._clock.monotonic() + self._seconds

    def __contains__(self, name: str) -> bool:
        now = self._clock.monotonic()
        self._until = {each: until for each, until in self._until.items() if until > now}
        return name in self._until
