"""The object store over a store that is not on this machine, with the signatures that a bucket's files have."""

from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from cloudcrest.infra.objects import ObjectStore

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
