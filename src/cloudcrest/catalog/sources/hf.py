"""`hf:owner/repo@revision!folder/`: Hugging Face and whatever speaks its API (set HF_ENDPOINT to a mirror).

API: https://huggingface.co/docs/hub/api; files stored in LFS are listed with their SHA-256, small ones with their git
blob id, which is checked when they are read to pin them.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from cloudcrest.catalog.api import Artifact, ArtifactFile
from cloudcrest.catalog.progress import Meter
from cloudcrest.catalog.sources.base import FetchContext, Fetched, Listing, Source, SourceFailed, wanted_names
from cloudcrest.catalog.sources.download import download, get_json
from cloudcrest.catalog.sources.hubs import HubLocation, parse_hub_location

DEFAULT_ENDPOINT = "https://huggingface.co"


class _Lfs(msgspec.Struct):
    sha256: str
    size: int


class _Sibling(msgspec.Struct, rename={"name": "rfilename", "blob_id": "blobId"}):
    name: str
    size: int | None = None
    blob_id: str | None = None
    lfs: _Lfs | None = None


class _Repository(msgspec.Struct):
    sha: str
    siblings: list[_Sibling]


class HuggingFace:
    """The `hf:` source."""

    def __init__(self, context: FetchContext) -> None:
        self._context = context
        endpoint = context.settings.hf_endpoint or context.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT
        self._endpoint = endpoint.rstrip("/")
        token = context.environ.get("HF_TOKEN")
        self._headers = {"authorization": f"Bearer {token}"} if token else {}

    async def resolve(self, location: str, artifact: Artifact) -> Listing:
        place = parse_hub_location("hf", location)
        url = f"{self._endpoint}/api/models/{place.repository}/revision/{place.revision or 'main'}?blobs=true"
        answer = await get_json(self._context, url, self._headers)
        try:
            repository = msgspec.json.decode(answer.content, type=_Repository)
        except ValueError as error:
            raise SourceFailed(f"the hub's listing of {place.repository} is not understood ({error})") from error
        siblings = {
            entry.name.removeprefix(place.prefix): entry
            for entry in repository.siblings
            if entry.name.startswith(place.prefix)
        }
        names = wanted_names(artifact, sorted(siblings))
        if not names:
            raise SourceFailed(f"{place.repository} has no {artifact.format} files such as '{artifact.entry}'")
        pinned = HubLocation(place.repository, repository.sha, place.prefix)
        return Listing(
            location=place.at(repository.sha),
            files=tuple([await self._pin(pinned, name, siblings[name]) for name in names]),
        )

    async def fetch(self, location: str, files: Sequence[ArtifactFile], folder: Path, meter: Meter) -> Fetched:
        place = parse_hub_location("hf", location)
        for file in files:
            digest = await download(
                self._context,
                self._url(place, file.path),
                folder / file.path,
                meter=meter,
                size_bytes=file.size_bytes,
                sha256=file.sha256,
                headers=self._headers,
            )
            yield file.path, digest

    def _url(self, place: HubLocation, path: str) -> str:
        return f"{self._endpoint}/{place.repository}/resolve/{place.revision or 'main'}/{place.path_of(path)}"

    async def _pin(self, place: HubLocation, name: str, entry: _Sibling) -> ArtifactFile:
        if entry.lfs is not None:
            return ArtifactFile(path=name, sha256=entry.lfs.sha256, size_bytes=entry.lfs.size)
        content = (await get_json(self._context, self._url(place, name), self._headers)).content
        return await asyncio.to_thread(_pin_small, place.repository, name, content, entry.blob_id)


def _pin_small(repository: str, name: str, content: bytes, blob_id: str | None) -> ArtifactFile:
    """A small file's SHA-256, once its content is seen to be what git calls `blob_id`."""
    git_id = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    if blob_id is not None and git_id != blob_id:
        raise SourceFailed(f"'{name}' of {repository} is not the file that the hub lists")
    return ArtifactFile(path=name, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


def create(context: FetchContext) -> Source:
    """The `hf:` source."""
    return HuggingFace(context)
