"""The durable record of a member's run: on disk before anything follows from it.

What is charged follows from it, so it is replaced whole and synced each time. A runner that finds the record of one
before it, begun and not ended, closes it at its last mark: that much is known to have run.
"""

from pathlib import Path

import msgspec

from cloudcrest.compute.jobs.running import End, RunRecord
from cloudcrest.compute.sandbox.api import SandboxUsage
from cloudcrest.infra.files import write_atomic
from cloudcrest.kernel.clock import Clock

_FILE = "record.json"


class Recorder:
    """Keeps the record in `folder`. Wall time is read once, at the start; from there the monotonic clock counts, so
    that a clock that is set does not change what is charged.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._path = folder / _FILE
        self._clock = clock
        self._started_monotonic: float | None = None
        self.record = RunRecord(attempt_id="", member=0)

    def recover(self) -> bool:
        """Takes over what a runner before this one has left; whether there was anything. Its run is over."""
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=RunRecord)
        except FileNotFoundError:
            return False
        self.record = found
        if found.end is None:
            ended_at = found.marked_at or found.started_at
            message = "its runner was killed, or its node went away"
            self._save(msgspec.structs.replace(found, ended_at=ended_at, end=End("lost", message)))
        return True

    def prepared_for(self, attempt_id: str, member: int) -> None:
        """Begins a record."""
        self._save(RunRecord(attempt_id, member))

    def started(self) -> None:
        """The command runs from now on."""
        now = self._clock.unix_seconds()
        self._started_monotonic = self._clock.monotonic()
        self._save(msgspec.structs.replace(self.record, started_at=now, marked_at=now))

    def mark(self, used: SandboxUsage) -> None:
        """It still runs, and has used this much."""
        self._save(self._used(used, marked_at=self._now()))

    def ended(self, end: End, used: SandboxUsage) -> None:
        """It has ended. Where it never began there is no time to charge."""
        ended_at = None if self.record.started_at is None else self._now()
        self._save(msgspec.structs.replace(self._used(used, marked_at=ended_at), ended_at=ended_at, end=end))

    def _used(self, used: SandboxUsage, *, marked_at: float | None) -> RunRecord:
        # Processes that have gone take their counters along: what was seen once is not unseen.
        before = self.record
        return msgspec.structs.replace(
            before,
            marked_at=marked_at,
            cpu_seconds=max(before.cpu_seconds, used.cpu_seconds),
            memory_peak_bytes=max(before.memory_peak_bytes, used.memory_peak_bytes),
            sent_bytes=max(before.sent_bytes, used.sent_bytes),
            received_bytes=max(before.received_bytes, used.received_bytes),
        )

    def _now(self) -> float:
        assert self.record.started_at is not None  # noqa: S101 - only a started run is marked
        assert self._started_monotonic is not None  # noqa: S101 - set with it
        return self.record.started_at + self._clock.monotonic() - self._started_monotonic

    def _save(self, record: RunRecord) -> None:
        """Raises `OSError` and `SetupError` where the disk takes nothing; this process knows it nevertheless."""
        self.record = record
        write_atomic(self._path, msgspec.json.encode(record))
