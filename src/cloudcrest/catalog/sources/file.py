"""`file:/folder` or `file:/path/to/the-file`: weights that are already on this machine or a mounted disk."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from cloudcrest.catalog.api import Artifact, ArtifactFile
from cloudcrest.catalog.progress import Meter
from cloudcrest.catalog.safety import UnsafeFile
from cloudcrest.catalog.sources.base import FetchContext, Fetched, Listing, Source, SourceFailed, wanted_names
from cloudcrest.catalog.sources.files import PartFile, copy_stream, sha256_of
from cloudcrest.kernel.errors import InvalidInput


class LocalFiles:
    """The `file:` source."""

    def __init__(self, context: FetchContext) -> None:
        self._context = context

    async def resolve(self, location: str, artifact: Artifact) -> Listing:
        root = _root(location)
        files = await asyncio.to_thread(_describe, root, artifact)
        if not files:
            raise SourceFailed(f"{root} holds no {artifact.format} files such as '{artifact.entry}'")
        return Listing(location=location, files=files)

    async def fetch(self, location: str, files: Sequence[ArtifactFile], folder: Path, meter: Meter) -> Fetched:
        root = _root(location)
        limit_bytes = self._context.settings.max_file_bytes
        for file in files:
            path = await asyncio.to_thread(_inside, root, file.path)
            self._context.require_space(folder, (await asyncio.to_thread(path.stat)).st_size)
            part = PartFile(folder / file.path)
            yield file.path, await _copy(path, part, meter, limit_bytes)


def _root(location: str) -> Path:
    path = Path(unquote("/" + location.lstrip("/")) if location.startswith("/") else unquote(location))
    if not path.is_absolute():
        raise InvalidInput(f"'file:{location}' is not an absolute path", hint="write file:/folder", param="sources")
    return path


def _inside(root: Path, name: str) -> Path:
    """The file `name` of `root`, which may itself be that file."""
    try:
        if root.is_file():
            return root
        path = (root / name).resolve(strict=True)
        if not path.is_relative_to(root.resolve()):
            raise UnsafeFile(f"'{name}' in {root} points outside that folder")
        if not path.is_file():
            raise SourceFailed(f"{root / name} is not a file")
        return path
    except FileNotFoundError:
        raise SourceFailed(f"there is no file {root / name}") from None
    except PermissionError:
        raise SourceFailed(f"{root / name} may not be read by this user") from None


def _describe(root: Path, artifact: Artifact) -> tuple[ArtifactFile, ...]:
    if root.is_dir():
        names = wanted_names(artifact, sorted(path.name for path in root.iterdir() if path.is_file()))
    else:
        names = [artifact.entry] if root.is_file() else []
    paths = [(name, _inside(root, name)) for name in names]
    return tuple(
        ArtifactFile(path=name, sha256=sha256_of(path), size_bytes=path.stat().st_size) for name, path in paths
    )


async def _copy(path: Path, part: PartFile, meter: Meter, limit_bytes: int) -> str:
    try:
        stream = await asyncio.to_thread(path.open, "rb")
    except PermissionError:
        raise SourceFailed(f"{path} may not be read by this user") from None
    try:
        await asyncio.to_thread(part.open)
        await asyncio.to_thread(part.restart)
        return await copy_stream(stream, part, meter, limit_bytes=limit_bytes)
    finally:
        await asyncio.to_thread(stream.close)
        await asyncio.to_thread(part.close)


def create(context: FetchContext) -> Source:
    """The `file:` source."""
    return LocalFiles(context)
