"""Stand-ins for what the gateway writes to."""

from cloudcrest.kernel.errors import Unavailable
from cloudcrest.kernel.usage import UsageEvent
from cloudcrest.metering.api import MarkRecord
from cloudcrest.metering.rows import SHARED, Row, encode, event_of
from cloudcrest.metering.spool import Shared


class MemorySpool:
    """A spool in memory. `fault` set: it cannot be written, as when the disk is full."""

    def __init__(self) -> None:
        self.opened: list[UsageEvent] = []
        self.marks: list[MarkRecord] = []
        self.ended: list[UsageEvent] = []
        self.fault: Unavailable | None = None
        self.is_closed = False

    def open(self, row: Row, shared: Shared) -> None:
        self._check()
        self.opened.append(_event_of(row, shared))

    def mark(self, record: MarkRecord) -> None:
        self._check()
        self.marks.append(record)

    def end(self, row: Row, shared: Shared) -> None:
        self._check()
        self.ended.append(_event_of(row, shared))

    def close(self) -> None:
        self.is_closed = True

    def _check(self) -> None:
        if self.fault is not None:
            raise self.fault


def _event_of(row: Row, shared: Shared) -> UsageEvent:
    event = event_of(encode([*row[:SHARED], shared.json]), lambda _: None)
    assert event is not None  # noqa: S101 - it says itself what it shares
    return event
