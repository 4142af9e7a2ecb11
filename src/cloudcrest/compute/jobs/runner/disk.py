"""What members on one node were promised of its disk, so that together they are not promised more than is free.

    <members>/.disk         locked by who asks
    <members>/<id>/disk     what that member was promised; locked for as long as its runner lives

A runner that is gone has let go of its lock, however it went: its promise is none any more.
"""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from cloudcrest.infra.safe_paths import folder_bytes
from cloudcrest.kernel.errors import TooLarge
from cloudcrest.kernel.units import format_bytes

_NAME = "disk"


class DiskPromise:
    """One member's, in its `folder`. `free`: what a folder's disk has left for this user, in bytes. Blocks."""

    def __init__(self, folder: Path, free: Callable[[Path], int] | None = None) -> None:
        self._folder = folder
        self._free = free or _free
        self._held: int | None = None

    def take(self, size_bytes: int) -> str:
        """Promises it so much; why that cannot be, empty where it can. Raises `OSError`."""
        lock = os.open(self._folder.parent / f".{_NAME}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            promised = sum(_left(folder) for folder in self._folder.parent.glob("[!.]*") if folder != self._folder)
            free = self._free(self._folder)
            if size_bytes > free - promised:
                problem = f"it asks for {format_bytes(size_bytes)} of disk, and its node has {format_bytes(free)} free"
                return problem + (f", {format_bytes(promised)} of that promised to other jobs" if promised else "")
            self._held = os.open(self._folder / _NAME, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._held, fcntl.LOCK_EX)
            os.write(self._held, str(size_bytes).encode())
            return ""
        finally:
            os.close(lock)

    def release(self) -> None:
        """It will write no more; again changes nothing."""
        if self._held is not None:
            os.close(self._held)
            self._held = None


def _left(folder: Path) -> int:
    """What a member may still write of what it was promised."""
    try:
        held = os.open(folder / _NAME, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        promised = int(os.read(held, 32) or b"0")
    else:
        return 0
    finally:
        os.close(held)
    try:
        return max(promised - folder_bytes(folder / "work"), 0)
    except (OSError, TooLarge):
        return promised


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free
