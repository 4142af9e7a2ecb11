"""The spool's writing side, used by gateway workers: a record is in the kernel's hands when the call returns.

    writer = SpoolWriter(folder, "gateway-0")
    writer.open(event)      may raise SpoolUnavailable: the request is not admitted
    writer.mark(record)     at least each second of a stream
    writer.end(event)       before the last bytes go out

One `os.write` a record makes it survive kill -9 of this process; a background thread fsyncs in groups, so that a power
cut costs at most the last 20 ms. Whoever is able to take `<worker>/lock` knows that the worker is dead.

A full disk: `open` refuses early, while there is still `floor_bytes` left. What was admitted before is still recorded:
a preallocated segment (`reserve`) is kept for that, whose blocks no other program can take.
"""

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import structlog

from cloudcrest.kernel.errors import Unavailable
from cloudcrest.kernel.ids import NewId, new_id
from cloudcrest.kernel.units import MIB
from cloudcrest.kernel.usage import UsageEvent
from cloudcrest.metering.api import MarkRecord, OpenRecord, SpoolRecord
from cloudcrest.metering.segments import LOCK_NAME, MAX_RECORD_BYTES, encode_line, segment_name

RESERVE_NAME = "reserve"
NEW_FOLDER_PREFIX = ".new-"
_RECHECK_SECONDS = 0.25
_RETRY_SECONDS = 1.0
_sync = getattr(os, "fdatasync", os.fsync)  # macOS has fsync alone
_log = structlog.get_logger(__name__)


class SpoolUnavailable(Unavailable):
    """Usage cannot be recorded now, so nothing new may be served."""

    default_code: ClassVar[str] = "spool_unavailable"


def free_bytes(folder: Path) -> int:
    """What an ordinary process may still write on the file system of `folder`."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


class SpoolWriter:
    """One worker's spool. Its folder is `<folder>/<worker>-<ulid>`: fresh for each start, never used again.

    Calls come from one thread or several. `floor_bytes`: below this much free disk, nothing new is admitted.
    `reserve_bytes`: kept for the ends of what was admitted, about 1 KiB each; marks may use half of it.
    """

    def __init__(
        self,
        folder: Path,
        worker: str,
        *,
        segment_bytes: int = 8 * MIB,
        sync_interval_seconds: float = 0.02,
        floor_bytes: int = 64 * MIB,
        reserve_bytes: int = 4 * MIB,
        free: Callable[[Path], int] = free_bytes,
        monotonic: Callable[[], float] = time.monotonic,
        make_id: NewId = new_id,
    ) -> None:
        self._segment_bytes = segment_bytes
        self._sync_interval_seconds = sync_interval_seconds
        self._floor_bytes = floor_bytes
        self._reserve_bytes = reserve_bytes
        self._free = free
        self._monotonic = monotonic
        self.marks_dropped = 0
        self._lock = threading.Lock()
        self._retired: list[int] = []
        self._sequence = 0
        self._fd = -1
        self._written_bytes = 0
        self._in_reserve = False
        self._has_reserve = False
        self._needs_newline = False
        self._is_closed = False
        self._refused_because: str | None = None
        self._sync_failed = False
        self._next_check = -1.0
        try:
            self.folder, self._lock_fd = _claim(folder, make_id(worker).replace("_", "-"))
            self._start_segment()
            self._make_reserve()
        except OSError as error:
            raise SpoolUnavailable(
                f"the usage spool in {folder} cannot be written: {error.strerror}",
                hint="free some disk space, or check the folder's owner",
            ) from error
        self._dirty = threading.Event()
        self._stop = threading.Event()
        self._syncer = threading.Thread(target=self._sync_in_groups, name="spool-sync", daemon=True)
        self._syncer.start()

    def open(self, event: UsageEvent) -> None:
        """Records an admitted request. Raises `SpoolUnavailable`: do not serve it."""
        with self._lock:
            self._check_room()
            line = encode_line(SpoolRecord(open=OpenRecord(event)))
            try:
                self._append(line)
            except OSError as error:
                self._refused_because = error.strerror or str(error)
                self._next_check = self._monotonic() + _RETRY_SECONDS
                raise self._unavailable() from error
        self._note_written()

    def mark(self, record: MarkRecord) -> None:
        """Records a stream's progress. On a full disk marks give way to ends: they are dropped and counted."""
        with self._lock:
            try:
                self._append_admitted(encode_line(SpoolRecord(mark=record)), share_of_reserve=0.5)
            except OSError:
                self.marks_dropped += 1
        self._note_written()

    def end(self, event: UsageEvent) -> None:
        """Records how a request ended. Raises `SpoolUnavailable` only when the reserve is spent too; then the request
        is settled at its last mark when this worker ends.
        """
        with self._lock:
            try:
                self._append_admitted(encode_line(SpoolRecord(end=event)), share_of_reserve=1.0)
            except OSError as error:
                self._refused_because = error.strerror or str(error)
                raise self._unavailable() from error
        self._note_written()

    def close(self) -> None:
        """Syncs everything and lets go of the folder. What is still open is settled at its last mark."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._retire()
        self._stop.set()
        self._dirty.set()
        self._syncer.join()
        with contextlib.suppress(OSError):
            (self.folder / RESERVE_NAME).unlink(missing_ok=True)
        os.close(self._lock_fd)

    def _note_written(self) -> None:
        """Wakes the syncing thread. It clears the flag before it syncs, so a flag that is set covers this record."""
        if not self._dirty.is_set():
            self._dirty.set()

    def _check_room(self) -> None:
        """Raises `SpoolUnavailable` where new work could not be recorded to its end."""
        if self._is_closed:
            raise SpoolUnavailable("this gateway worker is stopping", retry_after_seconds=1)
        now = self._monotonic()
        if now >= self._next_check:
            self._refused_because = self._why_refused()
            self._next_check = now + (_RECHECK_SECONDS if self._refused_because is None else _RETRY_SECONDS)
        if self._sync_failed:
            self._refused_because = "the disk failed to sync"
            self._next_check = now
        if self._refused_because is not None:
            raise self._unavailable()

    def _why_refused(self) -> str | None:
        try:
            if self._free(self.folder) < self._floor_bytes + (0 if self._has_reserve else self._reserve_bytes):
                return "the disk is almost full"
            if not self._has_reserve:
                self._make_reserve()
            if self._in_reserve:
                self._start_segment()
        except OSError as error:
            return error.strerror or str(error)
        return None

    def _unavailable(self) -> SpoolUnavailable:
        return SpoolUnavailable(
            f"usage cannot be recorded: {self._refused_because}",
            hint=f"free some disk space at {self.folder.parent}",
            retry_after_seconds=_RETRY_SECONDS,
        )

    def _append_admitted(self, line: bytes, *, share_of_reserve: float) -> None:
        """Writes a line of admitted work, out of the reserve if it must be."""
        if not self._in_reserve:
            try:
                self._append(line)
            except OSError as error:
                if self._is_closed or not self._has_reserve:
                    raise
                _log.warning("spool_reserve_in_use", folder=str(self.folder), error=str(error))
                self._start_segment(from_reserve=True)
            else:
                return
        if self._written_bytes + len(line) > self._reserve_bytes * share_of_reserve:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._append(line)

    def _append(self, line: bytes) -> None:
        """One line by one write. A part of a line that got through is taken back."""
        if self._is_closed:
            raise OSError(errno.EBADF, "the spool is closed")
        if len(line) > MAX_RECORD_BYTES:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        if self._written_bytes >= self._segment_bytes and not self._in_reserve:
            self._start_segment()
        data = b"\n" + line if self._needs_newline else line
        written = os.write(self._fd, data)
        self._needs_newline = False
        if written != len(data):
            self._take_back()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._written_bytes += len(data)

    def _take_back(self) -> None:
        try:
            os.ftruncate(self._fd, self._written_bytes)
            os.lseek(self._fd, self._written_bytes, os.SEEK_SET)
        except OSError:  # then the torn line stays, and is told from the next one by a newline
            self._needs_newline = True

    def _start_segment(self, *, from_reserve: bool = False) -> None:
        """Opens the next segment, a new file or the reserve, and hands the present one to the syncing thread."""
        path = self.folder / segment_name(self._sequence + 1)
        if from_reserve:
            (self.folder / RESERVE_NAME).rename(path)
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            self._has_reserve = False
        else:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._sequence += 1
        self._retire()
        self._fd, self._written_bytes, self._in_reserve, self._needs_newline = fd, 0, from_reserve, False

    def _retire(self) -> None:
        if self._fd < 0:
            return
        if self._in_reserve:  # gives the unused part of the reserve back
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._written_bytes)
        self._retired.append(self._fd)
        self._fd = -1

    def _make_reserve(self) -> None:
        path = self.folder / RESERVE_NAME
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _allocate(fd, self._reserve_bytes)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)
        self._has_reserve = True

    def _sync_in_groups(self) -> None:
        """The syncing thread: waits for something written, gathers for an interval, syncs, and again."""
        synced_sequence = 0
        while True:
            self._dirty.wait()
            self._stop.wait(self._sync_interval_seconds)
            self._dirty.clear()
            is_last = self._stop.is_set()  # after the clear, so that closing is never overlooked
            with self._lock:
                retired, self._retired = self._retired, []
                current, sequence = self._fd, self._sequence
            try:
                for fd in retired:
                    _sync(fd)
                if current >= 0:
                    _sync(current)
                if sequence != synced_sequence:
                    _sync_folder(self.folder)
                    synced_sequence = sequence
                self._sync_failed = False
            except OSError as error:
                _log.error("spool_sync_failed", folder=str(self.folder), error=str(error))
                self._sync_failed = True
                self._dirty.set()
                self._stop.wait(_RETRY_SECONDS)
            finally:
                for fd in retired:
                    os.close(fd)
            if is_last:
                return


def _claim(folder: Path, name: str) -> tuple[Path, int]:
    """Makes a worker's folder with its lock held, so that nobody ever sees it without."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    building = folder / f"{NEW_FOLDER_PREFIX}{name}"
    building.mkdir(mode=0o700)
    lock_fd = os.open(building / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    final = folder / name
    building.rename(final)
    _sync_folder(folder)
    return final, lock_fd


def _allocate(fd: int, size_bytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size_bytes)
        return
    zeros = bytes(min(size_bytes, MIB))
    for start in range(0, size_bytes, MIB):
        os.write(fd, zeros[: size_bytes - start])


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
