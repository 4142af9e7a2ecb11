"""Names that tenants give to files, below a folder that they may write to: nothing outside it is ever opened.

Each part of a name is opened within the folder before it, without following links, so a link that a tenant puts there
(or puts there a moment later) leads nowhere.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from cloudcrest.kernel.errors import CloudcrestError, InvalidInput, NotFound

MAX_NAME_BYTES = 1024
MAX_PART_BYTES = 255
MAX_DEPTH = 32
MAX_WALKED = 100_000
"""Files of a folder that are looked at, at most."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def split_name(name: str) -> list[str]:
    """The parts of a file's name, as `a/b.txt`. Raises `InvalidInput` for one that is none, or leads elsewhere."""
    parts = name.split("/")
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        raise InvalidInput("a name is UTF-8 text", param="name") from None
    if sum(sizes) > MAX_NAME_BYTES or len(parts) > MAX_DEPTH or max(sizes) > MAX_PART_BYTES:
        raise InvalidInput(
            f"a name has up to {MAX_NAME_BYTES} bytes and {MAX_DEPTH} folders, each of up to {MAX_PART_BYTES} bytes",
            param="name",
        )
    has_controls = any(ord(character) < 32 or character == "\x7f" for character in name)
    if has_controls or any(part in ("", ".", "..") for part in parts):
        raise InvalidInput("a name is folders and a file with '/' between, as in results/model.bin", param="name")
    return parts


def open_inside(root: Path, name: str, flags: int, *, make_folders: bool = False, mode: int = 0o600) -> int:
    """A descriptor of what `name` is below `root`, opened with these flags; of `root` itself for an empty name.

    Raises `NotFound` where there is nothing, or a link; `InvalidInput` for a bad name; `OSError` from the disk.
    """
    parts = split_name(name) if name else []
    folder = os.open(root, _FOLDER)
    if not parts:
        return folder
    try:
        for part in parts[:-1]:
            folder = _enter(folder, part, make=make_folders)
        found = os.open(parts[-1], flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, mode, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            raise NotFound(f"there is no file '{name}'") from None
        if error.errno == errno.EISDIR:
            raise InvalidInput(f"'{name}' is a folder", param="name") from None
        raise
    finally:
        os.close(folder)
    if not flags & os.O_DIRECTORY and not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)  # a pipe or a device that a tenant made
        raise NotFound(f"there is no file '{name}'")
    return found


def open_folder(root: Path, name: str, *, make: bool = False) -> int:
    """A descriptor of the folder `name` below `root`. Raises as `open_inside`."""
    parts = split_name(name) if name else []
    folder = os.open(root, _FOLDER)
    try:
        for part in parts:
            folder = _enter(folder, part, make=make)
    except OSError as error:
        os.close(folder)
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
            raise NotFound(f"there is no folder '{name}'") from None
        raise
    return folder


def folder_bytes(folder: Path) -> int:
    """How much a folder holds on disk: as far as it is walked."""
    return sum(found.st_blocks * 512 for _, found in walk(folder, ""))


def walk(root: Path, below: str) -> Iterator[tuple[str, os.stat_result]]:
    """The plain files below a folder, by name relative to `root`; `MAX_WALKED` at most. What goes away is left out."""
    waiting, seen = [below], 0
    while waiting:
        inside = waiting.pop()
        try:
            descriptor = open_inside(root, inside, os.O_RDONLY | os.O_DIRECTORY)
        except (OSError, CloudcrestError):
            continue
        try:
            for name in os.listdir(descriptor):
                seen += 1
                if seen > MAX_WALKED:
                    return
                path = f"{inside}/{name}" if inside else name
                try:
                    found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                except OSError:
                    continue
                if stat.S_ISDIR(found.st_mode):
                    waiting.append(path)
                elif stat.S_ISREG(found.st_mode):
                    yield path, found
        finally:
            os.close(descriptor)


def _enter(folder: int, part: str, *, make: bool) -> int:
    """The folder within a folder, which is closed."""
    if make:
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, 0o700, dir_fd=folder)
    inner = os.open(part, _FOLDER, dir_fd=folder)
    os.close(folder)
    return inner
