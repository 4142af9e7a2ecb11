"""The spool's writing side, used by gateway workers: a record is in the kernel's hands when the call returns.

    writer = SpoolWriter(folder, "gateway-0")
    shared = Shared(shared_of(event))     once for many requests
    writer.open(row_of(event), shared)    may raise SpoolUnavailable: the request is not admitted
    writer.mark(record)                   at least each second of a stream
    writer.end(row_of(event), shared)     before the last bytes go out

Records are copied into a mapped file, which costs no system call and survives kill -9 of this process. A background
thread, the keeper, syncs every 20 ms, so that a power cut costs at most that. Whoever is able to take `<worker>/lock`
knows that the worker is dead.

A full disk: segments are allocated whole and one ahead, the spare, so that the disk says no when a segment is made and
never when a record is written. `open` takes a request only where its end, and those of all the others that are open,
fit into what is allocated; marks give way to them. Below `floor_bytes` of free disk nothing new is admitted either.
"""

import contextlib
import errno
import mmap
import os
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Final
from zlib import crc32

import msgspec
import structlog
from msgspec.structs import astuple

from cloudcrest.kernel.errors import Unavailable
from cloudcrest.kernel.ids import NewId, new_id
from cloudcrest.kernel.units import MIB
from cloudcrest.metering.api import MarkRecord
from cloudcrest.metering.disk import Segment, allocate, claim_folder, free_bytes, sync_folder
from cloudcrest.metering.rows import SHARED, Row, SharedRow, encode, encode_into
from cloudcrest.metering.segments import (
    END,
    HEADER_BYTES,
    MARK,
    MARKER,
    MAX_BACK_BYTES,
    MAX_FRAME_BYTES,
    OPEN,
    SPARE_NAME,
    segment_name,
)

END_GROWTH_BYTES: Final = 256
"""How much longer than a request's open record its end may be: counts that come in with their names, another replica's
name.
"""

_RECHECK_SECONDS = 0.25
_RETRY_SECONDS = 1.0
_QUIET_ROUNDS = 50
_sync = getattr(os, "fdatasync", os.fsync)  # macOS has fsync alone
# Compiled, a name that is not Final is looked up each time.
_put_header: Final = struct.Struct("<II").pack_into  # as `HEADER` has it, with fewer numbers to make objects of
_encode_into: Final = encode_into
_crc32: Final = crc32
_log = structlog.get_logger(__name__)


class SpoolUnavailable(Unavailable):
    """Usage cannot be recorded now, so nothing new may be served."""

    default_code: ClassVar[str] = "spool_unavailable"


class Shared:
    """What records of many requests have in common, and where the one spool it is used with has written it."""

    __slots__ = ("at", "json", "sequence")

    def __init__(self, row: SharedRow) -> None:
        self.json = msgspec.Raw(encode(row))
        self.sequence = 0
        self.at = 0


class SpoolWriter:
    """One worker's spool. Its folder is `<folder>/<worker>-<ulid>`: fresh for each start, never used again.

    Calls come from one thread. `segment_bytes` bounds how many requests can be open: the ends of all of them fit into
    one segment. `floor_bytes`: below this much free disk, nothing new is admitted.
    """

    def __init__(
        self,
        folder: Path,
        worker: str,
        *,
        segment_bytes: int = 8 * MIB,
        sync_interval_seconds: float = 0.02,
        floor_bytes: int = 64 * MIB,
        free: Callable[[Path], int] = free_bytes,
        allocate_file: Callable[[int, int], None] = allocate,
        monotonic: Callable[[], float] = time.monotonic,
        make_id: NewId = new_id,
    ) -> None:
        self._segment_bytes = segment_bytes
        self._sync_interval_seconds = sync_interval_seconds
        self._floor_bytes = floor_bytes
        self._free = free
        self._allocate_file = allocate_file
        self._monotonic = monotonic
        self.marks_dropped = 0
        self._owed: dict[str, int] = {}
        self._owed_bytes = 0
        self._allocating = threading.Lock()
        self._retired: deque[Segment] = deque()
        self._spare: Segment | None = None
        self._segment: Segment
        self._bytes: mmap.mmap
        self._sequence = 0
        self._at = 0
        self._body = bytearray()
        self._is_closed = False
        self._refused_because: str | None = None
        self._sync_failed = False
        self._next_check_seconds = -1.0
        try:
            self.folder, self._lock_fd = claim_folder(folder, make_id(worker).replace("_", "-"))
            self._start_segment(self._make_spare())
            sync_folder(self.folder)
            self._make_spare()
        except OSError as error:
            raise SpoolUnavailable(
                f"the usage spool in {folder} cannot be written: {error.strerror}",
                hint="free some disk space, or check the folder's owner",
            ) from error
        self._is_idle = False
        self._woken = threading.Event()
        self._until_closed = threading.Lock()
        self._until_closed.acquire()
        self._keeper = threading.Thread(target=self._keep, name="spool-keeper", daemon=True)
        self._keeper.start()

    def open(self, row: Row, shared: Shared) -> None:
        """Records an admitted request, over what is open under its id. Raises `SpoolUnavailable`: do not serve it."""
        if self._refused_because is not None or self._monotonic() >= self._next_check_seconds:
            self._check_room()
        request_id: str = row[0]
        self._encode(row, shared)
        owed = HEADER_BYTES + len(self._body) + END_GROWTH_BYTES
        if shared.sequence:  # its end may come in another segment, where nothing stands yet that it shares
            owed += len(shared.json)
        owed_more = owed - self._owed.get(request_id, 0)
        try:
            if owed > MAX_FRAME_BYTES:
                raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
            self._put(OPEN, row, shared, owed_more)
        except OSError as error:
            raise self._refused(error) from error
        self._owed[request_id] = owed
        self._owed_bytes += owed_more

    def mark(self, record: MarkRecord) -> None:
        """Records a stream's progress. On a full disk marks give way to ends: they are dropped and counted."""
        _encode_into(astuple(record), self._body)
        try:
            self._make_room(HEADER_BYTES + len(self._body), 0)
        except OSError:
            self.marks_dropped += 1
        else:
            self._copy(MARK)

    def end(self, row: Row, shared: Shared) -> None:
        """Records how a request ended. There is room for one that was opened here. Raises `SpoolUnavailable` where the
        spool is closed, or the end is more than `END_GROWTH_BYTES` longer than the opening was.
        """
        request_id: str = row[0]
        self._encode(row, shared)
        owed = self._owed.pop(request_id, 0)
        self._owed_bytes -= owed
        try:
            self._put(END, row, shared, 0)
        except OSError as error:
            if owed:
                self._owed[request_id] = owed
                self._owed_bytes += owed
            raise self._refused(error) from error

    def close(self) -> None:
        """Syncs everything and lets go of the folder. What is still open is settled at its last mark."""
        if self._is_closed:
            return
        self._is_closed = True
        self._segment.used_bytes = self._at
        self._until_closed.release()
        self._woken.set()
        self._keeper.join()
        self._segment.close()
        with self._allocating:
            if self._spare is not None:
                self._spare.close()
                self._spare = None
        with contextlib.suppress(OSError):
            (self.folder / SPARE_NAME).unlink(missing_ok=True)
        os.close(self._lock_fd)

    def _encode(self, row: Row, shared: Shared) -> None:
        """A record's JSON, with what it shares where nothing near in this segment has that."""
        if shared.sequence == self._sequence and self._at - shared.at <= MAX_BACK_BYTES:
            row[SHARED] = shared.at
        else:
            shared.sequence = 0
            row[SHARED] = shared.json
        _encode_into(row, self._body)

    def _put(self, kind: int, row: Row, shared: Shared, owed: int) -> None:
        """Writes a record that is encoded. Raises `OSError` where there is no room for it."""
        self._make_room(HEADER_BYTES + len(self._body), owed)
        if shared.sequence == self._sequence:
            self._copy(kind)
            return
        if shared.sequence:  # it is encoded for the segment before
            self._encode(row, shared)
            self._make_room(HEADER_BYTES + len(self._body), owed)
        at = self._at
        self._copy(kind)
        # Not before it stands there: where the copy fails, others' may come to this place, and would be charged for it.
        shared.sequence, shared.at = self._sequence, at

    def _copy(self, kind: int) -> None:
        """Writes the encoded record where there is room for it. Its header is last: one that is cut off has none."""
        at, body, segment = self._at, self._body, self._bytes
        first, length = at + HEADER_BYTES, len(body)
        segment[first : first + length] = body
        _put_header(segment, at, MARKER | kind << 8 | length << 16, _crc32(body, kind))
        self._at = first + length
        if self._is_idle:
            self._woken.set()

    def _make_room(self, size: int, owed: int) -> None:
        """Sees to it that a record of `size` bytes fits where the next one goes, and behind it what is owed by then.

        `owed`: how much more than now. It fits into the spare, or where there is none, into the rest of the present
        segment: so ends always find room. Raises `OSError`; then what was owed is still covered.
        """
        whole = self._segment_bytes
        owed += self._owed_bytes
        after = self._at + size
        if after <= whole and owed <= whole and size <= MAX_FRAME_BYTES and self._spare is not None:
            return
        if self._is_closed:
            raise OSError(errno.EBADF, "the spool is closed")
        if size > min(MAX_FRAME_BYTES, whole):
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        if owed > whole:
            raise OSError(errno.ENOSPC, "too many requests are open")
        if after > whole:
            self._start_segment(self._make_spare())
            after = size
        if owed > whole - after:
            self._make_spare()

    def _make_spare(self) -> Segment:
        """Allocates the next segment, where that is not done yet. Raises `OSError`: the disk is full."""
        with self._allocating:
            if self._spare is None:
                self._spare = Segment(self.folder / SPARE_NAME, self._segment_bytes, self._allocate_file)
            return self._spare

    def _start_segment(self, spare: Segment) -> None:
        """Goes on in the spare; the keeper looks after the present segment from now on."""
        (self.folder / SPARE_NAME).rename(self.folder / segment_name(self._sequence + 1))
        self._sequence += 1
        if self._sequence > 1:
            self._segment.used_bytes = self._at
            self._retired.append(self._segment)
        self._at = 0
        self._segment, self._bytes = spare, spare.bytes
        self._spare = None

    def _check_room(self) -> None:
        """Raises `SpoolUnavailable` where nothing new is to be admitted."""
        if self._is_closed:
            raise SpoolUnavailable("this gateway worker is stopping", retry_after_seconds=1)
        now = self._monotonic()
        if now >= self._next_check_seconds:
            self._refused_because = self._why_refused()
            self._next_check_seconds = now + (_RECHECK_SECONDS if self._refused_because is None else _RETRY_SECONDS)
        if self._refused_because is not None:
            raise self._unavailable()

    def _why_refused(self) -> str | None:
        try:
            if self._sync_failed:
                return "the disk failed to sync"
            if self._free(self.folder) < self._floor_bytes + (0 if self._spare is not None else self._segment_bytes):
                return "the disk is almost full"
            self._make_spare()
        except OSError as error:
            return error.strerror or str(error)
        return None

    def _refused(self, error: OSError) -> SpoolUnavailable:
        self._refused_because = error.strerror or str(error)
        self._next_check_seconds = self._monotonic() + _RETRY_SECONDS
        return self._unavailable()

    def _unavailable(self) -> SpoolUnavailable:
        return SpoolUnavailable(
            f"usage cannot be recorded: {self._refused_because}",
            hint=f"free some disk space at {self.folder.parent}",
            retry_after_seconds=_RETRY_SECONDS,
        )

    def _keep(self) -> None:
        """The keeper's thread: syncs what was written, in groups, and makes the next spare ahead of its use."""
        synced: tuple[Segment, int] | None = None
        quiet_rounds = 0
        while True:
            is_last = self._is_closed
            quiet_rounds += 1
            try:
                self._sync_retired()
                segment = self._segment
                position = segment, self._at  # in this order: never more than is in this segment
                if position != synced:
                    _sync(segment.fd)
                    segment.let_go(position[1])
                    synced, quiet_rounds = position, 0
                self._sync_failed = False
            except OSError as error:
                _log.error("spool_sync_failed", folder=str(self.folder), error=str(error))
                self._sync_failed, synced = True, None
                self._next_check_seconds = -1.0
            if is_last:
                return
            if self._spare is None and self._refused_because is None:
                self._spare_or_refuse()
            if quiet_rounds >= _QUIET_ROUNDS and not self._sync_failed:
                self._is_idle = True
                if (self._segment, self._at) == synced:  # else it was written before the writer could see that we rest
                    self._woken.wait()
                self._woken.clear()
                self._is_idle = False
            # An event would do, but takes several times as long, and this goes on fifty times a second.
            self._until_closed.acquire(timeout=_RETRY_SECONDS if self._sync_failed else self._sync_interval_seconds)

    def _sync_retired(self) -> None:
        while self._retired:
            _sync(self._retired[0].fd)
            sync_folder(self.folder)
            self._retired.popleft().close()

    def _spare_or_refuse(self) -> None:
        try:
            self._make_spare()
        except OSError as error:
            _log.error("spool_not_allocated", folder=str(self.folder), error=str(error))
            self._refused(error)
