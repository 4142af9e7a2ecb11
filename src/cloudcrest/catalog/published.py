"""A published artifact: a folder that is whole or is not there, with a manifest to check it by."""

import os
import shutil
from pathlib import Path

import msgspec

from cloudcrest.catalog.sources.files import sha256_of
from cloudcrest.infra.files import write_atomic

_MANIFEST = ".cloudcrest.json"


class _Entry(msgspec.Struct, frozen=True):
    path: str
    sha256: str
    size_bytes: int
    modified_ns: int


class _Manifest(msgspec.Struct, frozen=True):
    files: tuple[_Entry, ...]


class Published:
    """The folder of one artifact. All calls block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def exists(self) -> bool:
        """Whether something is published here, whole or not."""
        return self._read() is not None

    def entry(self, name: str) -> Path:
        """The file (or, for ".", the folder) that an engine is given."""
        return self._folder / name if name != "." else self._folder

    def is_complete(self) -> bool:
        """Whether every file is there with its size. Costs a stat for each."""
        manifest = self._read()
        return manifest is not None and all(self._has_size(entry) for entry in manifest.files)

    def remove_corrupt(self, *, only_touched: bool = False) -> list[str]:
        """Hashes the files (`only_touched`: those whose time stamp changed) and removes those that are not what was
        published; answers their paths. A removed file makes the artifact incomplete, so the next fetch brings it.
        """
        manifest = self._read()
        if manifest is None:
            return []
        corrupt = []
        for entry in manifest.files:
            path = self._folder / entry.path
            if only_touched and path.stat().st_mtime_ns == entry.modified_ns:
                continue
            if not self._has_size(entry) or sha256_of(path) != entry.sha256:
                path.unlink(missing_ok=True)
                corrupt.append(entry.path)
            else:
                os.utime(path, ns=(entry.modified_ns, entry.modified_ns))
        return corrupt

    def publish(self, ready: Path, known: dict[str, str]) -> None:
        """Makes the folder `ready` the artifact, in one rename. `known`: SHA-256 by path where it was just computed."""
        paths = sorted(path for path in ready.rglob("*") if path.is_file() and path.name != _MANIFEST)
        entries = [self._describe(ready, path, known) for path in paths]
        write_atomic(ready / _MANIFEST, msgspec.json.encode(_Manifest(tuple(entries))), mode=0o644)
        # What is here is incomplete, or there would have been nothing to fetch.
        shutil.rmtree(self._folder, ignore_errors=True)
        ready.rename(self._folder)

    def _describe(self, ready: Path, path: Path, known: dict[str, str]) -> _Entry:
        name = path.relative_to(ready).as_posix()
        status = path.stat()
        digest = (known.get(name) or sha256_of(path)).lower()
        return _Entry(name, digest, status.st_size, status.st_mtime_ns)

    def _has_size(self, entry: _Entry) -> bool:
        try:
            return (self._folder / entry.path).stat().st_size == entry.size_bytes
        except FileNotFoundError:
            return False

    def _read(self) -> _Manifest | None:
        try:
            return msgspec.json.decode((self._folder / _MANIFEST).read_bytes(), type=_Manifest)
        except (FileNotFoundError, ValueError):
            return None
