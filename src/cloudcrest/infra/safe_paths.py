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
from typing import Any

from cloudcrest.kernel.errors import CloudcrestError, InvalidInput, NotFound, TooLarge

MAX_NAME_BYTES = 1024
MAX_PART_BYTES = 255
MAX_DEPTH = 32
MAX_ENTRIES = 2_000_000
MAX_LEVELS = 100
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
    """How much a folder holds on disk, whatever its files are called. Raises `TooLarge` as `everything`."""
    return sum(found.st_blocks * 512 for _, _, found in everything(folder))


def everything(root: Path) -> Iterator[tuple[int, str, os.stat_result]]:
    """All that is below a folder, links and what has no proper name too: the descriptor of the folder it is in, its
    name there, what it is. The descriptor is open until the next one is asked for. What goes away is left out.

    Raises `TooLarge` where there is more than `MAX_ENTRIES`, deeper than `MAX_LEVELS`, or hidden from this process:
    to pass over something would be to let it grow unseen.
    """
    seen = 0
    levels: list[tuple[int, Any]] = []
    try:
        levels.append(_opened(os.open(root, _FOLDER)))
        while levels:
            descriptor, entries = levels[-1]
            entry = next(entries, None)
            if entry is None:
                _close(*levels.pop())
                continue
            seen += 1
            if seen > MAX_ENTRIES or len(levels) > MAX_LEVELS:
                raise TooLarge(
                    f"a folder has more than {MAX_ENTRIES} files or {MAX_LEVELS} folders inside each other, "
                    "and cannot be measured"
                )
            try:
                found = os.stat(entry.name, dir_fd=descriptor, follow_symlinks=False)
                yield descriptor, entry.name, found
                if stat.S_ISDIR(found.st_mode):
                    levels.append(_opened(os.open(entry.name, _FOLDER, dir_fd=descriptor)))
            except PermissionError:
                raise TooLarge("a folder has one inside that cannot be read, and cannot be measured") from None
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    raise
    finally:
        for level in levels:
            _close(*level)


def _opened(descriptor: int) -> tuple[int, Any]:
    try:
        return descriptor, os.scandir(descriptor)
    except OSError:
        os.close(descriptor)
        raise


def _close(descriptor: int, entries: Any) -> None:
    entries.close()
    os.close(descriptor)


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
