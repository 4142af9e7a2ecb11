"""Usage records: opened at admission, marked while a stream runs, ended before the last bytes go out.

What the spool cannot take at the end is kept (bounded by what was admitted) and tried again; meanwhile nothing new is
admitted, so nothing is served that could not be charged.
"""

from collections import deque
from typing import Protocol

import structlog

from cloudcrest.kernel.errors import Unavailable
from cloudcrest.metering.api import MarkRecord
from cloudcrest.metering.rows import Row
from cloudcrest.metering.spool import Shared

_log = structlog.get_logger(__name__)


class Spool(Protocol):
    """The writing side of a spool (metering/spool.py). All of them may raise `Unavailable`."""

    def open(self, row: Row, shared: Shared) -> None: ...

    def mark(self, record: MarkRecord) -> None: ...

    def end(self, row: Row, shared: Shared) -> None: ...

    def close(self) -> None: ...


class Recorder:
    """The gateway's use of its spool."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._unwritten: deque[tuple[Row, Shared]] = deque()

    def open(self, row: Row, shared: Shared) -> None:
        """Raises `Unavailable`: then the request is not served."""
        if self._unwritten:
            raise _unavailable()
        try:
            self._spool.open(row, shared)
        except Unavailable as error:
            # Its own words name folders of this machine; they are for the log.
            _log.error("open_not_written", id=row[0], error=str(error))
            raise _unavailable() from error

    def mark(self, record: MarkRecord) -> None:
        """Progress; one that is lost costs only accuracy after a crash."""
        try:
            self._spool.mark(record)
        except Unavailable as error:
            _log.warning("mark_not_written", id=record.id, error=str(error))

    def end(self, row: Row, shared: Shared) -> bool:
        """Never raises. False: it could not be written now, and is kept for `retry`."""
        try:
            self._spool.end(row, shared)
        except Unavailable as error:
            self._unwritten.append((row, shared))
            _log.error("end_not_written", id=row[0], error=str(error))
            return False
        return True

    def retry(self) -> None:
        """Writes what is kept, as far as it goes."""
        while self._unwritten:
            row, shared = self._unwritten[0]
            try:
                self._spool.end(row, shared)
            except Unavailable:
                return
            self._unwritten.popleft()

    def is_writable(self) -> bool:
        return not self._unwritten

    def close(self) -> None:
        self.retry()
        self._spool.close()


def _unavailable() -> Unavailable:
    return Unavailable(
        "usage cannot be recorded now, so nothing new is served",
        code="spool_unavailable",
        hint="try again shortly; the operator finds the cause in the logs",
        retry_after_seconds=2,
    )
