"""The object store over a store that is not on this machine, with the signatures that a bucket's files have."""

import asyncio
import errno
import sys
import threading
from types import ModuleType
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from cloudcrest.infra.objects import ObjectStore
from cloudcrest.kernel.errors import SetupError, TooLarge

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """In memory. Its `cat_file` takes a version before the range, as that of s3fs does."""
    plain = MemoryFileSystem.cat_file

    def cat_file(
        self: MemoryFileSystem, path: str, version_id: str | None = None, start: int | None = None, end: Any = None
    ) -> Any:
        assert version_id is None
        return plain(self, path, start=start, end=end)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    return ObjectStore("memory://bucket/prefix")


async def test_a_range_is_read_of_a_bucket_with_versions(store: ObjectStore) -> None:
    await store.check()
    await store.put("files/one", b"abcdef")
    assert await store.part("files/one", 1, 4) == b"bcd"
    assert await store.get("files/one") == b"abcdef"


class BotoCoreError(Exception):
    """Of botocore: not an `OSError`, as none of these."""


class HTTPClientError(BotoCoreError):
    """Of botocore."""


class PayloadError(Exception):
    """Of aiohttp."""


class EndpointError(BotoCoreError):
    """Of botocore, where it is called ConnectionError."""


class SSLError(EndpointError):
    """Of botocore."""


@pytest.fixture
def bucket(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """A bucket, as far as the store can tell, with the errors of its client, which need not be installed."""
    module = ModuleType("botocore.exceptions")
    monkeypatch.setattr(PayloadError, "__module__", "aiohttp.client_exceptions")
    kinds = {each.__name__: each for each in (BotoCoreError, HTTPClientError, SSLError)}
    for name, kind in (kinds | {"ConnectionError": EndpointError}).items():
        monkeypatch.setattr(kind, "__module__", "botocore.exceptions")
        setattr(module, name, kind)
    package = ModuleType("botocore")
    package.exceptions = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "botocore", package)
    monkeypatch.setitem(sys.modules, "botocore.exceptions", module)
    monkeypatch.setattr(MemoryFileSystem, "protocol", ("s3",))
    return store


def fails(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def pipe_file(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", pipe_file)


@pytest.mark.parametrize(
    "error",
    [
        EndpointError("none"),
        HTTPClientError("closed"),
        PayloadError("broke off"),
        TimeoutError(),
        OSError(errno.EBUSY, "slow down"),
    ],
)
async def test_a_bucket_that_is_away_keeps_nobody_from_starting(
    bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    fails(monkeypatch, error)
    await bucket.check()
    with pytest.raises(OSError) as raised:  # noqa: PT011 - it is told apart from other errors by its kind alone
        await bucket.put("files/one", b"")
    assert raised.value.__cause__ is (None if isinstance(error, OSError) else error)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (SSLError("unknown authority"), "unknown authority"),
        (FileNotFoundError(), "there is no such bucket"),
        (PermissionError("no"), r"it refuses our key \(no\)"),
    ],
)
async def test_a_bucket_that_cannot_be_used_is_told_at_once(
    bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch, error: Exception, why: str
) -> None:
    fails(monkeypatch, error)
    with pytest.raises(SetupError, match=why):
        await bucket.check()


async def test_nobody_waits_for_an_upload_to_be_discarded(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    may_go, asked = threading.Event(), threading.Event()

    def discard(_: object) -> None:
        asked.set()
        may_go.wait(30)
        raise OSError("the store is away")

    monkeypatch.setattr(MemoryFile, "discard", discard)
    with pytest.raises(TooLarge):
        async with store.writer("files/one", 2) as writer:
            await writer.write(b"abc")
    assert not may_go.is_set()
    may_go.set()
    assert await asyncio.to_thread(asked.wait, 30)
