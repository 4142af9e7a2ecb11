"""`s3://bucket/folder`: an object store, through fsspec; credentials and endpoint are AWS's usual variables.

Needs the extra `s3`. Hashes must be listed in the artifact: an object's ETag is not its SHA-256.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cloudcrest.catalog.api import Artifact, ArtifactFile
from cloudcrest.catalog.progress import Meter
from cloudcrest.catalog.sources.base import FetchContext, Fetched, Listing, Source, SourceFailed
from cloudcrest.catalog.sources.files import PartFile, copy_stream
from cloudcrest.kernel.errors import SetupError


class ObjectStoreFiles:
    """The `s3:` source, over any fsspec filesystem."""

    def __init__(self, context: FetchContext, filesystem: Any) -> None:
        self._context = context
        self._filesystem = filesystem

    async def resolve(self, _location: str, artifact: Artifact) -> Listing:
        raise SourceFailed(f"an object store lists no SHA-256 of '{artifact.entry}'; the artifact must name it")

    async def fetch(self, location: str, files: Sequence[ArtifactFile], folder: Path, meter: Meter) -> Fetched:
        root = location.lstrip("/").rstrip("/")
        for file in files:
            self._context.require_space(folder, file.size_bytes or 0)
            part = PartFile(folder / file.path)
            try:
                digest = await self._copy(f"{root}/{file.path}", part, meter)
            except FileNotFoundError:
                raise SourceFailed(f"there is no object {root}/{file.path}") from None
            except (OSError, ValueError) as error:
                raise SourceFailed(f"reading {root}/{file.path} failed ({error})") from error
            yield file.path, digest

    async def _copy(self, key: str, part: PartFile, meter: Meter) -> str:
        stream = await asyncio.to_thread(self._filesystem.open, key, "rb")
        try:
            await asyncio.to_thread(part.open)
            meter.add(part.size_bytes)
            await asyncio.to_thread(stream.seek, part.size_bytes)
            return await copy_stream(stream, part, meter, limit_bytes=self._context.settings.max_file_bytes)
        finally:
            await asyncio.to_thread(stream.close)
            await asyncio.to_thread(part.close)


def create(context: FetchContext) -> Source:
    """The `s3:` source. Raises `SetupError` where the extra is not installed."""
    try:
        import s3fs  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError as error:
        raise SetupError(
            "fetching from S3 needs the package s3fs", hint="install the extra: pip install 'cloudcrest[s3]'"
        ) from error
    endpoint = context.environ.get("AWS_ENDPOINT_URL_S3") or context.environ.get("AWS_ENDPOINT_URL")
    return ObjectStoreFiles(context, s3fs.S3FileSystem(endpoint_url=endpoint))
