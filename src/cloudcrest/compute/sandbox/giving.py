"""Folders that a command may write to, where it is another user than the cloud's."""

import contextlib
import os
from pathlib import Path

from cloudcrest.compute.sandbox.view import NOBODY
from cloudcrest.infra.safe_paths import everything


def give(folder: Path) -> None:
    """Makes what is in it nobody's. Another command may write to it now: each name is taken in a folder that is open,
    so that no link that is put there a moment later leads out. Raises `OSError`.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchown(descriptor, NOBODY, NOBODY)
    finally:
        os.close(descriptor)
    for inside, name, found in everything(folder):
        if found.st_uid != NOBODY:
            with contextlib.suppress(FileNotFoundError):
                os.chown(name, NOBODY, NOBODY, dir_fd=inside, follow_symlinks=False)


def in_memory(content: bytes) -> int:
    """A file that is on no disk, so that a process that is killed leaves none there."""
    fd = os.memfd_create("cloudcrest", 0)
    with open(fd, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
