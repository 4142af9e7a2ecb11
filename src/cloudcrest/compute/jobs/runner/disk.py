"""What members on one node were promised of its disk, so that together they are not promised more than is free.

    <members>/.disk         locked by who asks
    <members>/<id>/disk     what that member was promised, and has written of it as last measured; locked for as long as
                            its runner lives

A runner that is gone has let go of its lock, however it went: its promise is none any more.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from cloudcrest.infra.safe_paths import folder_bytes
from cloudcrest.kernel.errors import TooLarge
from cloudcrest.kernel.units import format_bytes

_NAME = "disk"
_LINE_BYTES = 64
_STEPS = 256
"""What a disk has room for is told in so many steps of its size: it changes with every file that is written."""


class DiskPromise:
    """One member's, in its `folder`. `free`: what a folder's disk has left for this user, in bytes. Blocks."""

    def __init__(self, folder: Path, free: Callable[[Path], int] | None = None) -> None:
        self._folder = folder
        self._free = free or _free
        self._held: int | None = None
        self._size_bytes = 0

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
            self._size_bytes = size_bytes
            os.write(self._held, f"{size_bytes} 0\n".ljust(_LINE_BYTES).encode())
            return ""
        finally:
            os.close(lock)

    def wrote(self, size_bytes: int) -> None:
        """Its work folder holds so much."""
        if self._held is not None:
            with contextlib.suppress(OSError):  # a full disk: it is told so elsewhere
                os.pwrite(self._held, f"{self._size_bytes} {size_bytes}\n".ljust(_LINE_BYTES).encode(), 0)

    def release(self) -> None:
        """It will write no more; again changes nothing."""
        if self._held is not None:
            os.close(self._held)
            self._held = None


class DiskRoom(msgspec.Struct, frozen=True):
    """A disk's size, and what of it members may be promised in all: what is free, and what they have written."""

    size_bytes: int
    room_bytes: int


def disk_room(members: Path) -> DiskRoom:
    """Of the disk that this folder of members' folders is on, or will be. Blocks. Raises `OSError`."""
    there = next(folder for folder in (members, *members.parents) if folder.is_dir())
    usage = shutil.disk_usage(there)
    written = sum(min(promise) for folder in members.glob("[!.]*") if (promise := _promise(folder)) is not None)
    step = max(usage.total // _STEPS, 1)
    return DiskRoom(usage.total, (usage.free + written) // step * step)


def _left(folder: Path) -> int:
    """What a member may still write of what it was promised."""
    promise = _promise(folder)
    if promise is None:
        return 0
    try:
        return max(promise[0] - folder_bytes(folder / "work"), 0)
    except (OSError, TooLarge):
        return promise[0]


def _promise(folder: Path) -> tuple[int, int] | None:
    """What a member was promised and has written, as last measured. None: nothing, or its runner is gone."""
    try:
        held = os.open(folder / _NAME, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # Shared: who looks at one that nobody holds must not be taken for its holder by who looks at the same time.
        fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        found = [int(word) for word in os.read(held, _LINE_BYTES).split() if word.isdigit()]
        return (found[0], found[1] if len(found) > 1 else 0) if found else (0, 0)
    else:
        return None
    finally:
        os.close(held)


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free
