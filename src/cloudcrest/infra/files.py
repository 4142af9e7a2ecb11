"""Files that are whole or not there."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

from cloudcrest.kernel.errors import SetupError


def write_atomic(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replaces `path` with `content`, on disk when it returns: readers see the old file or the new one.

    Raises `SetupError` when the disk is full.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SetupError(f"the disk of {path.parent} is full", hint="free some space and try again") from error
        raise
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def free_bytes(path: Path) -> int:
    """Free bytes for this user on the disk of `path`, which need not exist yet."""
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def sync_folder(folder: Path) -> None:
    """Makes a rename in the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
