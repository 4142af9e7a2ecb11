"""What a spool has of the disk: mapped segments that are allocated whole, and a worker's folder with its lock."""

import contextlib
import fcntl
import mmap
import os
from collections.abc import Callable
from pathlib import Path

from cloudcrest.kernel.units import KIB, MIB
from cloudcrest.metering.segments import LOCK_NAME

NEW_FOLDER_PREFIX = ".new-"
_RESIDENT_BYTES = 256 * KIB


def free_bytes(folder: Path) -> int:
    """What an ordinary process may still write on the file system of `folder`."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def allocate(fd: int, size_bytes: int) -> None:
    """Gives a file blocks that no other program can take. Raises `OSError` where there are not enough."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size_bytes)
        return
    zeros = bytes(min(size_bytes, MIB))
    for start in range(0, size_bytes, MIB):
        os.write(fd, zeros[: size_bytes - start])


class Segment:
    """A mapped file of zeros. `used_bytes` is how much of it was written, once nothing more is."""

    def __init__(self, path: Path, size_bytes: int, allocate_file: Callable[[int, int], None]) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            allocate_file(self.fd, size_bytes)
            self.bytes = mmap.mmap(self.fd, size_bytes)
        except OSError:
            os.close(self.fd)
            path.unlink(missing_ok=True)
            raise
        self.used_bytes = 0
        self._let_go_bytes = 0

    def let_go(self, upto_bytes: int) -> None:
        """Takes what is written out of this process's memory; it stays in the kernel's."""
        start, end = self._let_go_bytes, upto_bytes // mmap.PAGESIZE * mmap.PAGESIZE
        if end - start >= _RESIDENT_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            self.bytes.madvise(mmap.MADV_DONTNEED, start, end - start)
            self._let_go_bytes = end

    def close(self) -> None:
        """Gives the unused part back."""
        self.bytes.close()
        with contextlib.suppress(OSError):
            os.ftruncate(self.fd, self.used_bytes)
        os.close(self.fd)


def claim_folder(folder: Path, name: str) -> tuple[Path, int]:
    """Makes a worker's folder with its lock held, so that nobody ever sees it without."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    building = folder / f"{NEW_FOLDER_PREFIX}{name}"
    building.mkdir(mode=0o700)
    lock_fd = os.open(building / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    final = folder / name
    building.rename(final)
    sync_folder(folder)
    return final, lock_fd


def sync_folder(folder: Path) -> None:
    """Has the disk remember what files are in it."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
