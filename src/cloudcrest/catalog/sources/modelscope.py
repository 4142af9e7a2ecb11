"""`modelscope:owner/repo@revision!folder/`: ModelScope, which lists every file with its SHA-256.

API: the endpoints that modelscope's own client uses (`modelscope.hub.api`: `repo/files` lists, `repo` brings a file).
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from cloudcrest.catalog.api import Artifact, ArtifactFile
from cloudcrest.catalog.progress import Meter
from cloudcrest.catalog.sources.base import FetchContext, Fetched, Listing, Source, SourceFailed, wanted_names
from cloudcrest.catalog.sources.download import download, get_json
from cloudcrest.catalog.sources.hubs import HubLocation, parse_hub_location

DEFAULT_ENDPOINT = "https://modelscope.cn"
_DEFAULT_REVISION = "master"


class _File(msgspec.Struct, rename="pascal"):
    path: str
    size: int | None = None
    sha256: str | None = None
    revision: str | None = None
    type: str = "blob"


class _Data(msgspec.Struct, rename="pascal"):
    files: list[_File] = []


class _Answer(msgspec.Struct, rename="pascal"):
    data: _Data | None = None


class ModelScope:
    """The `modelscope:` source."""

    def __init__(self, context: FetchContext) -> None:
        self._context = context
        endpoint = context.settings.modelscope_endpoint or context.environ.get("MODELSCOPE_ENDPOINT")
        self._endpoint = (endpoint or DEFAULT_ENDPOINT).rstrip("/")

    async def resolve(self, location: str, artifact: Artifact) -> Listing:
        place = parse_hub_location("modelscope", location)
        revision = place.revision or _DEFAULT_REVISION
        url = f"{self._models(place)}/files?Revision={revision}&Recursive=true"
        answer = await get_json(self._context, url)
        try:
            data = msgspec.json.decode(answer.content, type=_Answer).data
        except ValueError as error:
            raise SourceFailed(f"the hub's listing of {place.repository} is not understood ({error})") from error
        listed = {
            entry.path.removeprefix(place.prefix): entry
            for entry in (data.files if data else [])
            if entry.type == "blob" and entry.path.startswith(place.prefix)
        }
        names = wanted_names(artifact, sorted(listed))
        if not names:
            raise SourceFailed(f"{place.repository} has no {artifact.format} files such as '{artifact.entry}'")
        return Listing(location=place.at(revision), files=tuple(_pinned(name, listed[name]) for name in names))

    async def fetch(self, location: str, files: Sequence[ArtifactFile], folder: Path, meter: Meter) -> Fetched:
        place = parse_hub_location("modelscope", location)
        revision = place.revision or _DEFAULT_REVISION
        for file in files:
            digest = await download(
                self._context,
                f"{self._models(place)}?Revision={revision}&FilePath={place.path_of(file.path)}",
                folder / file.path,
                meter=meter,
                size_bytes=file.size_bytes,
                sha256=file.sha256,
            )
            yield file.path, digest

    def _models(self, place: HubLocation) -> str:
        return f"{self._endpoint}/api/v1/models/{place.repository}/repo"


def _pinned(name: str, entry: _File) -> ArtifactFile:
    if not entry.sha256:
        raise SourceFailed(f"the hub gives no SHA-256 for '{name}'")
    return ArtifactFile(path=name, sha256=entry.sha256.lower(), size_bytes=entry.size)


def create(context: FetchContext) -> Source:
    """The `modelscope:` source."""
    return ModelScope(context)
