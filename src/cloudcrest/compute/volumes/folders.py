"""Volumes: folders of a project in the part of the disk that a region's nodes share. Jobs see them as folders, the API
as objects by name.

    <shared>/volumes/<project>/<volume>/volume.json   when it was made, what it may hold
    <shared>/volumes/<project>/<volume>/data/         what jobs see
    <shared>/volumes/<project>/<volume>/incoming/     objects on their way in

Jobs may put anything into their volumes, links too: nothing here follows one. All of it blocks.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

import msgspec

from cloudcrest.compute.volumes.room import Room, Rooms
from cloudcrest.infra.files import sync_folder, write_atomic
from cloudcrest.infra.safe_paths import folder_bytes, open_folder, open_inside, split_name, walk
from cloudcrest.kernel.errors import Conflict, InvalidInput, LimitExceeded, NotFound
from cloudcrest.kernel.units import format_bytes

VOLUME_NAME = r"[a-z0-9][a-z0-9._-]{0,62}"
_NAME = re.compile(VOLUME_NAME)
_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_FILE = "volume.json"
_LEFT_AFTER_SECONDS = 86_400.0


class Volume(msgspec.Struct, frozen=True):
    """A volume. `created_at`: Unix seconds. `quota_bytes`: what it may hold."""

    name: str
    created_at: float
    quota_bytes: int


class VolumeObject(msgspec.Struct, frozen=True):
    """A file in a volume. `modified_at`: Unix seconds."""

    name: str
    size_bytes: int
    modified_at: float


def data_folder(shared_folder: Path, project_id: str, name: str) -> Path:
    """What jobs see of a volume. Raises `InvalidInput` for a name that is none."""
    return _volume_folder(shared_folder, project_id, name) / "data"


def quota_bytes(shared_folder: Path, project_id: str, name: str) -> int:
    """What a volume may hold; 0 where there is none of this name. Raises `InvalidInput` for a name that is none."""
    volume = _read(_volume_folder(shared_folder, project_id, name) / _FILE)
    return 0 if volume is None else volume.quota_bytes


class VolumeFolders:
    """The volumes under `shared_folder`. `most`: how many a project may have; `most_bytes`: what one may hold."""

    def __init__(self, shared_folder: Path, *, most: int, most_bytes: int, now: Callable[[], float]) -> None:
        self._shared = shared_folder
        self._most = most
        self._most_bytes = most_bytes
        self._now = now
        self._rooms = Rooms()

    def create(self, project_id: str, name: str, quota_bytes: int | None = None) -> Volume:
        """Makes one. Raises `Conflict` where there is one of this name, `LimitExceeded`, `InvalidInput`."""
        folder = _volume_folder(self._shared, project_id, name)
        if quota_bytes is not None and not 0 < quota_bytes <= self._most_bytes:
            raise InvalidInput(f"a volume holds up to {format_bytes(self._most_bytes)}", param="quota_bytes")
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not folder.exists() and len(self.volumes(project_id)) >= self._most:
            raise LimitExceeded(f"the project has {self._most} volumes already", hint="delete one first")
        made = folder.parent / f".new-{secrets.token_hex(8)}"
        volume = Volume(name, self._now(), quota_bytes or self._most_bytes)
        try:
            for inner in ("", "data", "incoming"):
                (made / inner).mkdir(mode=0o700)
            write_atomic(made / _FILE, msgspec.json.encode(volume))
            made.rename(folder)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise Conflict(f"there is a volume '{name}' already") from None
            raise
        finally:
            shutil.rmtree(made, ignore_errors=True)
        sync_folder(folder.parent)
        return volume

    def volumes(self, project_id: str) -> list[Volume]:
        """A project's volumes, by name."""
        parent = _project_folder(self._shared, project_id)
        found = [_read(path) for path in sorted(parent.glob(f"[!.]*/{_FILE}"))]
        return [volume for volume in found if volume is not None]

    def find(self, project_id: str, name: str) -> Volume:
        """One. Raises `NotFound`."""
        volume = _read(_volume_folder(self._shared, project_id, name) / _FILE)
        if volume is None:
            raise NotFound(f"there is no volume '{name}'")
        return volume

    def used_bytes(self, project_id: str, name: str) -> int:
        """What it holds now, on disk."""
        return folder_bytes(self._data(project_id, name))

    def delete(self, project_id: str, name: str) -> None:
        """Removes one with all it holds. Raises `NotFound`."""
        self.find(project_id, name)
        folder = _volume_folder(self._shared, project_id, name)
        gone = folder.parent / f".gone-{secrets.token_hex(8)}"
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def objects(self, project_id: str, name: str, *, prefix: str, after: str, limit: int) -> list[VolumeObject]:
        """Its files in the order of their names: those that begin with `prefix`, after the name `after`."""
        found = sorted(
            (path, facts)
            for path, facts in walk(self._data(project_id, name), "")
            if path.startswith(prefix) and path > after
        )
        return [VolumeObject(path, facts.st_size, facts.st_mtime) for path, facts in found[:limit]]

    def open(self, project_id: str, name: str, path: str) -> BinaryIO:
        """A file to read. Raises `NotFound`, `InvalidInput`."""
        split_name(path)
        return os.fdopen(open_inside(self._data(project_id, name), path, os.O_RDONLY), "rb")

    def remove(self, project_id: str, name: str, path: str) -> None:
        """Removes a file (or a link). Raises `NotFound`, `InvalidInput`."""
        parts = split_name(path)
        folder = open_folder(self._data(project_id, name), "/".join(parts[:-1]))
        try:
            os.unlink(parts[-1], dir_fd=folder)
        except FileNotFoundError:
            raise NotFound(f"there is no object '{path}'") from None
        except (IsADirectoryError, PermissionError):
            raise InvalidInput(f"'{path}' is a folder", param="name") from None
        finally:
            os.close(folder)

    def receive(self, project_id: str, name: str, path: str) -> "Incoming":
        """Begins to take a file in. Raises `NotFound`, `InvalidInput`."""
        split_name(path)
        volume = self.find(project_id, name)
        measure = partial(self.used_bytes, project_id, name)
        room = self._rooms.enter((project_id, name), volume.quota_bytes, measure)
        try:
            return Incoming(_volume_folder(self._shared, project_id, name), path, room)
        except BaseException:
            room.leave()
            raise

    def sweep(self) -> int:
        """Removes what processes that were killed have left half-way: how many folders and files that were.

        Deleted volumes go at once; what may still be made or taken in by another process, when it is a day old.
        """
        before = self._now() - _LEFT_AFTER_SECONDS
        volumes = self._shared / "volumes"
        left = [*volumes.glob("*/.gone-*")]
        for pattern in ("*/.new-*", "*/[!.]*/incoming/*"):
            left += [path for path in volumes.glob(pattern) if _changed_at(path, before) < before]
        for path in left:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink()
        return sum(not os.path.lexists(path) for path in left)

    def _data(self, project_id: str, name: str) -> Path:
        self.find(project_id, name)
        return data_folder(self._shared, project_id, name)


class Incoming:
    """A file on its way into a volume: there when it is committed, else nothing is."""

    def __init__(self, folder: Path, path: str, room: Room) -> None:
        self._data = folder / "data"
        self._path = path
        self._room = room
        self._temporary = folder / "incoming" / secrets.token_hex(16)
        self._file = os.fdopen(os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        self.size_bytes = 0

    def write(self, data: bytes) -> None:
        """Adds to its end. Raises `TooLarge`, `OSError`."""
        self._room.take(len(data))
        self.size_bytes += len(data)
        self._file.write(data)

    def commit(self) -> None:
        """Puts it in its place, over what was there. Raises `InvalidInput` where a folder is."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        parts = split_name(self._path)
        folder = open_folder(self._data, "/".join(parts[:-1]), make=True)
        try:
            os.rename(self._temporary, parts[-1], dst_dir_fd=folder)
            self._room.keep()
            os.fsync(folder)
        except (IsADirectoryError, NotADirectoryError):
            raise InvalidInput(f"'{self._path}' is a folder", param="name") from None
        finally:
            os.close(folder)

    def discard(self) -> None:
        """Forgets it; after a commit nothing."""
        self._room.leave()
        self._file.close()
        self._temporary.unlink(missing_ok=True)


def _project_folder(shared_folder: Path, project_id: str) -> Path:
    if not _PROJECT.fullmatch(project_id):
        raise InvalidInput("a project's id is letters, digits, '_' and '-'")
    return shared_folder / "volumes" / project_id


def _read(path: Path) -> Volume | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Volume)
    except (OSError, ValueError):
        return None


def _changed_at(path: Path, default: float) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return default


def _volume_folder(shared_folder: Path, project_id: str, name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            "a volume's name is up to 63 lower-case letters, digits, '.', '_', '-', and begins with a letter or digit",
            param="name",
        )
    return _project_folder(shared_folder, project_id) / name
