"""How far a fetch is, said often enough to be watched and seldom enough to cost nothing."""

from collections.abc import Callable
from typing import Literal

import msgspec

from cloudcrest.catalog.api import PullProgress
from cloudcrest.kernel.clock import Clock

OnProgress = Callable[[PullProgress], None]
Phase = Literal["waiting", "downloading", "verifying", "converting", "ready", "failed"]
REPORT_EVERY_SECONDS = 0.5


class Meter:
    """Counts bytes and reports at most twice a second, and at every change of phase or source."""

    def __init__(self, on_progress: OnProgress, clock: Clock) -> None:
        self._on_progress = on_progress
        self._clock = clock
        self._now = PullProgress(phase="waiting")
        self._reported: PullProgress | None = None
        self._reported_at = clock.monotonic() - REPORT_EVERY_SECONDS

    def phase(self, phase: Phase, *, reason: str | None = None) -> None:
        """A new phase; the counts stay."""
        now = msgspec.structs.replace(self._now, phase=phase, reason=reason)
        if now != self._reported:
            self._report(now)

    def begin(self, source: str, total_bytes: int | None) -> None:
        """Downloading from `source` begins, with nothing done of `total_bytes`."""
        self._report(PullProgress(phase="downloading", total_bytes=total_bytes, source=source))

    def expect(self, total_bytes: int) -> None:
        """What there is to download is known only now, or is other than the files' sizes (wheels are compressed)."""
        self._now = msgspec.structs.replace(self._now, total_bytes=total_bytes)

    def add(self, count_bytes: int) -> None:
        """So many bytes more have come; negative when a download starts over."""
        self._now = msgspec.structs.replace(self._now, done_bytes=max(0, self._now.done_bytes + count_bytes))
        if self._clock.monotonic() - self._reported_at >= REPORT_EVERY_SECONDS:
            self._report(self._now)

    def _report(self, progress: PullProgress) -> None:
        self._now = self._reported = progress
        self._reported_at = self._clock.monotonic()
        self._on_progress(progress)
