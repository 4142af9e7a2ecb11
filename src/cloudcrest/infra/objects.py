"""The object store: named blobs in a folder or, with the `s3` extra, in a bucket. Large ones pass through in pieces."""

import asyncio
import contextlib
import errno
import importlib.util
import os
import re
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

import structlog

from cloudcrest.infra.files import sync_folder, write_atomic
from cloudcrest.kernel.errors import InvalidInput, NotFound, SetupError, TooLarge
from cloudcrest.kernel.units import MIB, format_bytes

MAX_OBJECT_BYTES = 512 * MIB
PIECE_BYTES = 1 * MIB
_MAX_KEY_CHARACTERS = 512
_SEGMENT = re.compile(r"[A-Za-z0-9_\-][A-Za-z0-9_.\-]*")
_UNFINISHED = ".unfinished"
_TRIED = ".tried"
_TRIED_SECONDS = 20.0
_BUSY = (errno.EBUSY, errno.EREMOTEIO)
"""What s3fs makes of a bucket's answers 503 and 500."""
_log = structlog.get_logger(__name__)
_Given = ParamSpec("_Given")
_Answer = TypeVar("_Answer")


class ObjectWriter:
    """A blob on its way in. `size_bytes`: what was written so far."""

    def __init__(self, target: "_Target", max_bytes: int) -> None:
        self._target = target
        self._max_bytes = max_bytes
        self._pending = bytearray()
        self.size_bytes = 0

    async def write(self, data: bytes) -> None:
        """Adds to its end. Raises `TooLarge`, and `OSError` where the disk is full."""
        self.size_bytes += len(data)
        if self.size_bytes > self._max_bytes:
            raise TooLarge(f"it is larger than {format_bytes(self._max_bytes)}")
        self._pending += data
        if len(self._pending) >= PIECE_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Hands on what is gathered."""
        if self._pending:
            piece, self._pending = bytes(self._pending), bytearray()
            await _in_thread(self._target.write, piece)


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

    @property
    def folder(self) -> Path | None:
        """The folder it is in; None: it is not on this machine."""
        return Path(self._root) if self._is_local else None

    async def check(self) -> None:
        """Tries a bucket, once, at a process's start. Raises `SetupError` that says what is wrong with it.

        One that does not answer is written into the log: it comes back, and what needs no objects is served meanwhile.
        """
        if "s3" not in self._files.protocol:
            return
        key = f"{self._root}/{_TRIED}"
        try:
            async with asyncio.timeout(_TRIED_SECONDS):
                await _in_thread(self._files.pipe_file, key, b"")
                await _in_thread(self._files.rm_file, key)
        except FileNotFoundError as error:
            raise _unusable(self._root, "there is no such bucket", "create it, or mend the address") from error
        except PermissionError as error:
            hint = "mend AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the key's rights: it reads, writes and deletes"
            raise _unusable(self._root, f"it refuses our key ({error})", hint) from error
        except OSError as error:
            if isinstance(error, TimeoutError | ConnectionError) or error.errno in _BUSY:
                _log.error("object_store_away", url=f"s3://{self._root}", error=str(error), hint="see AWS_ENDPOINT_URL")
                return
            hint = "is AWS_ENDPOINT_URL right, and is its authority's certificate in the file that AWS_CA_BUNDLE names?"
            raise _unusable(self._root, str(error), hint) from error

    async def put(self, key: str, content: bytes) -> None:
        """Stores or replaces a blob. Raises `TooLarge`."""
        if len(content) > MAX_OBJECT_BYTES:
            raise TooLarge(f"an object may have {format_bytes(MAX_OBJECT_BYTES)}")
        await _in_thread(self._put, self._path(key), content)

    @asynccontextmanager
    async def writer(self, key: str, max_bytes: int = MAX_OBJECT_BYTES) -> AsyncIterator[ObjectWriter]:
        """Stores or replaces a blob that comes in pieces: it is there when the block ends well, else nothing is."""
        target = await _in_thread(self._target, self._path(key))
        writer = ObjectWriter(target, max_bytes)
        try:
            yield writer
            await writer.flush()
            await _in_thread(target.commit)
        except BaseException:
            # Not awaited: this may be a cancellation, and a local file is gone in no time.
            target.discard()
            raise

    async def get(self, key: str) -> bytes:
        """The blob. Raises `NotFound`."""
        try:
            content: bytes = await _in_thread(self._files.cat_file, self._path(key))
        except FileNotFoundError:
            raise NotFound(f"there is no object '{key}'") from None
        return content

    async def part(self, key: str, start: int, end: int) -> bytes:
        """The bytes from `start` up to `end`. Raises `NotFound`."""
        try:
            # By name: buckets have versions, whose id comes before them.
            content: bytes = await _in_thread(self._files.cat_file, self._path(key), start=start, end=end)
        except FileNotFoundError:
            raise NotFound(f"there is no object '{key}'") from None
        return content

    async def pieces(self, key: str) -> AsyncIterator[bytes]:
        """The blob in pieces of up to a mebibyte. Raises `NotFound`."""
        try:
            file = await _in_thread(self._files.open, self._path(key), "rb")
        except FileNotFoundError:
            raise NotFound(f"there is no object '{key}'") from None
        try:
            while piece := await _in_thread(file.read, PIECE_BYTES):
                yield piece
        finally:
            file.close()

    async def delete(self, key: str) -> None:
        """Removes the blob; one that is not there is no error."""
        try:
            await _in_thread(self._files.rm_file, self._path(key))
        except FileNotFoundError:
            return

    async def keys(self, prefix: str) -> list[str]:
        """The keys under a prefix of whole segments, sorted."""
        found: list[str] = await _in_thread(self._files.find, self._path(prefix))
        return sorted(path.removeprefix(f"{self._root}/") for path in found)

    async def size_bytes(self, prefix: str, *, among: Callable[[str], bool]) -> int:
        """What the blobs under a prefix take whose keys are `among` those asked for; none of them is read."""
        found: dict[str, Any] = await _in_thread(self._files.find, self._path(prefix), detail=True)
        return sum(int(facts["size"]) for path, facts in found.items() if among(path.removeprefix(f"{self._root}/")))

    def forget_unfinished(self) -> None:
        """Removes what a killed process was writing. Only its one writer may call it, before it writes."""
        if self._is_local:
            shutil.rmtree(Path(self._root) / _UNFINISHED, ignore_errors=True)

    def _target(self, path: str) -> "_Target":
        if self._is_local:
            return _LocalTarget(Path(path), Path(self._root) / _UNFINISHED)
        return _RemoteTarget(self._files.open(path, "wb", autocommit=False))

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


class _Target(Protocol):
    """Where a writer's bytes go. All of them block."""

    def write(self, data: bytes) -> object: ...

    def commit(self) -> None: ...

    def discard(self) -> None: ...


class _LocalTarget:
    """A file beside the blobs, renamed into its place."""

    def __init__(self, path: Path, unfinished: Path) -> None:
        unfinished.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=unfinished)
        self._path = path
        self._temporary = Path(name)
        self._file = os.fdopen(descriptor, "wb")

    def write(self, data: bytes) -> object:
        return self._file.write(data)

    def commit(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary.replace(self._path)
        sync_folder(self._path.parent)

    def discard(self) -> None:
        with contextlib.suppress(OSError):  # a full disk refuses what is still buffered
            self._file.close()
        self._temporary.unlink(missing_ok=True)


class _RemoteTarget:
    """An upload in parts, which the store keeps from view until it is completed."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: bytes) -> object:
        return self._file.write(data)

    def commit(self) -> None:
        self._file.close()
        self._file.commit()

    def discard(self) -> None:
        # Over the network, and called where nobody may wait.
        threading.Thread(target=self._discard, name="discard-upload", daemon=True).start()

    def _discard(self) -> None:
        try:
            self._file.discard()
        except Exception as error:  # noqa: BLE001 - why it was given up is told already; the store forgets the rest
            _log.warning("upload_not_discarded", error=str(error))


async def _in_thread(call: Callable[_Given, _Answer], *given: _Given.args, **named: _Given.kwargs) -> _Answer:
    """Calls what blocks. A bucket's client has errors of its own: they are raised as the `OSError` that they are."""
    try:
        return await asyncio.to_thread(call, *given, **named)
    except Exception as error:
        if not type(error).__module__.startswith(("botocore.", "aiohttp.")):
            raise
        raise _as_os_error(error) from error


def _as_os_error(error: Exception) -> OSError:
    from botocore import exceptions

    is_away = not isinstance(error, exceptions.BotoCoreError)  # aiohttp's: the connection broke
    is_away |= isinstance(error, exceptions.ConnectionError | exceptions.HTTPClientError)
    return (ConnectionError if is_away and not isinstance(error, exceptions.SSLError) else OSError)(str(error))


def _unusable(root: str, why: str, hint: str) -> SetupError:
    return SetupError(f"the object store s3://{root} cannot be used: {why}", hint=hint)


def _require_s3() -> None:
    if importlib.util.find_spec("s3fs") is None:
        raise SetupError("the S3 object store needs the s3 extra", hint="install cloudcrest[s3], or give a folder")
