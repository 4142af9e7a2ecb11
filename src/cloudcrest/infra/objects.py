"""The object store: named blobs in a folder or, with the `s3` extra, in a bucket."""

import asyncio
import importlib.util
import re
from pathlib import Path
from typing import Any

from cloudcrest.infra.files import write_atomic
from cloudcrest.kernel.errors import InvalidInput, NotFound, SetupError, TooLarge
from cloudcrest.kernel.units import MIB, format_bytes

MAX_OBJECT_BYTES = 512 * MIB
_MAX_KEY_CHARACTERS = 512
_SEGMENT = re.compile(r"[A-Za-z0-9_\-][A-Za-z0-9_.\-]*")


class ObjectStore:
    """Blobs by key (`files/file_01…/content`), each whole or not there. `url`: a folder, or an fsspec URL."""

    def __init__(self, url: str) -> None:
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        if url.startswith("s3:"):
            _require_s3()
        self._files: Any
        self._files, root = fsspec.core.url_to_fs(url)
        self._root = str(root).rstrip("/")
        self._is_local = isinstance(self._files, LocalFileSystem)

    async def put(self, key: str, content: bytes) -> None:
        """Stores or replaces a blob. Raises `TooLarge`."""
        if len(content) > MAX_OBJECT_BYTES:
            raise TooLarge(f"an object may have {format_bytes(MAX_OBJECT_BYTES)}")
        await asyncio.to_thread(self._put, self._path(key), content)

    async def get(self, key: str) -> bytes:
        """The blob. Raises `NotFound`."""
        try:
            content: bytes = await asyncio.to_thread(self._files.cat_file, self._path(key))
        except FileNotFoundError:
            raise NotFound(f"there is no object '{key}'") from None
        return content

    async def delete(self, key: str) -> None:
        """Removes the blob; one that is not there is no error."""
        try:
            await asyncio.to_thread(self._files.rm_file, self._path(key))
        except FileNotFoundError:
            return

    async def keys(self, prefix: str) -> list[str]:
        """The keys under a prefix of whole segments, sorted."""
        found: list[str] = await asyncio.to_thread(self._files.find, self._path(prefix))
        return sorted(path.removeprefix(f"{self._root}/") for path in found)

    def _put(self, path: str, content: bytes) -> None:
        if self._is_local:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(Path(path), content)
        else:
            self._files.pipe_file(path, content)

    def _path(self, key: str) -> str:
        segments = key.split("/")
        if len(key) > _MAX_KEY_CHARACTERS or not all(_SEGMENT.fullmatch(segment) for segment in segments):
            raise InvalidInput("an object's key is segments of letters, digits, '_', '-' and '.', with '/' between")
        return f"{self._root}/{key}"


def _require_s3() -> None:
    if importlib.util.find_spec("s3fs") is None:
        raise SetupError("the S3 object store needs the s3 extra", hint="install cloudcrest[s3], or give a folder")
