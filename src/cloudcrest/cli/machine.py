"""What can be seen of a cloud on this machine from its data folder: whether it runs, and what it wrote."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from cloudcrest.cli import folders
from cloudcrest.kernel.errors import SetupError

TAIL_BLOCK_BYTES = 64 * 1024


def running(data: Path) -> dict[str, object] | None:
    """What `up` wrote about itself, while it runs: {pid, base_url, started_at}; None where it does not."""
    if not is_locked(data):
        return None
    return folders.read_json(data / "run" / "up.json") or {}


def is_locked(data: Path) -> bool:
    """Whether an `up` holds the data folder."""
    path = data / "run" / "lock"
    try:
        # Some file systems lock only what is open for writing; a read-only folder can still be looked at.
        is_writable = os.access(path, os.W_OK)
        descriptor = os.open(path, os.O_RDWR if is_writable else os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise SetupError(
            f"{path} cannot be opened: {error.strerror}", hint="run this as the user who started the cloud"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def log_names(data: Path) -> list[str]:
    """The processes that have written logs."""
    return sorted(path.stem for path in (data / "logs").glob("*.log"))


def tail(path: Path, lines: int) -> tuple[list[str], int]:
    """The last `lines` lines of a file and the byte offset they end at; reads no more of it than that takes."""
    with path.open("rb") as file:
        end = position = file.seek(0, os.SEEK_END)
        content = b""
        while position > 0 and content.count(b"\n") <= lines:
            step = min(TAIL_BLOCK_BYTES, position)
            position -= step
            file.seek(position)
            content = file.read(step) + content
    return content.decode(errors="replace").splitlines()[-lines:] if lines else [], end


def grown(path: Path, offset: int) -> Iterator[tuple[str, int]]:
    """What was written after `offset`, line by line with the new offset; from the start where the file was replaced."""
    try:
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < offset:
                offset = 0
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                offset += len(line)
                yield line.decode(errors="replace").rstrip("\n"), offset
    except FileNotFoundError:
        return
