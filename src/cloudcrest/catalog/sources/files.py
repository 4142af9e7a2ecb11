"""Writing a file that may be broken off: beside its final name, hashed on the way, given that name when whole."""

import asyncio
import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cloudcrest.catalog.progress import Meter
from cloudcrest.catalog.safety import UnsafeFile
from cloudcrest.catalog.sources.base import DiskFull
from cloudcrest.kernel.errors import SetupError
from cloudcrest.kernel.units import format_bytes

CHUNK_BYTES = 1 << 20


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns a full disk or a folder that may not be written, wherever it is noticed, into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"the disk of {folder} is full", hint="free some space, or move the data folder with --data"
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise SetupError(
                f"{error.filename or folder} is no folder", hint="move what is there out of the way"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise SetupError(
                f"{error.filename or folder} may not be read or written by this user",
                hint="give this user the folder, or move the data folder with --data",
            ) from error
        raise


class PartFile:
    """`<target>.part`, continued where an earlier run left it. All calls block; none is made on the event loop."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._path = target.with_name(f"{target.name}.part")
        self._digest = hashlib.sha256()
        self._file: BinaryIO | None = None
        self.size_bytes = 0

    def open(self) -> None:
        """Opens it and hashes what is already there."""
        with disk_errors(self._target.parent):
            self._target.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a+b")
            self._file.seek(0)
            while chunk := self._file.read(CHUNK_BYTES):
                self._digest.update(chunk)
                self.size_bytes += len(chunk)

    def write(self, chunk: bytes) -> None:
        """Appends."""
        assert self._file is not None  # noqa: S101 - opened by its maker
        with disk_errors(self._target.parent):
            self._file.write(chunk)
        self._digest.update(chunk)
        self.size_bytes += len(chunk)

    def restart(self) -> None:
        """Forgets what was there."""
        self.truncate(0)

    def truncate(self, size_bytes: int) -> None:
        """Keeps the first `size_bytes` alone."""
        assert self._file is not None  # noqa: S101 - opened by its maker
        self._file.truncate(size_bytes)
        self._file.seek(0)
        self._digest = hashlib.sha256()
        self.size_bytes = 0
        while chunk := self._file.read(CHUNK_BYTES):
            self._digest.update(chunk)
            self.size_bytes += len(chunk)

    def sync(self) -> None:
        """Returns when what was written is on the disk."""
        assert self._file is not None  # noqa: S101 - opened by its maker
        with disk_errors(self._target.parent):
            self._file.flush()
            os.fsync(self._file.fileno())

    def digest(self) -> str:
        """SHA-256 (hex) of what is there."""
        return self._digest.hexdigest()

    def finish(self) -> str:
        """Gives the file its name; answers its SHA-256 (hex)."""
        self.sync()
        self.close()
        self._path.replace(self._target)
        return self.digest()

    def close(self) -> None:
        """Closes it, leaving the part for the next run."""
        if self._file is not None:
            with disk_errors(self._target.parent):
                self._file.close()
            self._file = None


async def copy_stream(stream: BinaryIO, part: PartFile, meter: Meter, *, limit_bytes: int) -> str:
    """Adds what `stream` gives to an open part and finishes it; answers its SHA-256. Raises `UnsafeFile`."""
    while chunk := await asyncio.to_thread(stream.read, CHUNK_BYTES):
        if part.size_bytes + len(chunk) > limit_bytes:
            raise UnsafeFile(f"the file is over the limit of {format_bytes(limit_bytes)}")
        await asyncio.to_thread(part.write, chunk)
        meter.add(len(chunk))
    return await asyncio.to_thread(part.finish)


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
