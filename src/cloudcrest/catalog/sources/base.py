"""What a source of weights is: a scheme that can list and bring files. One short file per scheme stands beside this.

A source only brings bytes and says what their SHA-256 came to; the store alone decides whether they are accepted.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx2

from cloudcrest.catalog.api import Artifact, ArtifactFile
from cloudcrest.catalog.progress import Meter
from cloudcrest.catalog.settings import CatalogSettings
from cloudcrest.kernel.errors import SetupError, Unavailable
from cloudcrest.kernel.units import format_bytes

FreeBytes = Callable[[Path], int]
"""How many bytes may still be written under a folder."""


class SourceFailed(Unavailable):
    """This source cannot give the files; the message says why in a clause, and the next source is tried."""

    default_code = "source_failed"


class DiskFull(SetupError):
    """No room for what is to be fetched. No other source would change that."""

    default_code = "disk_full"


@dataclass(frozen=True)
class Listing:
    """What a source has of an artifact that is known by name alone: its files with hashes, and a location that
    cannot move (a commit rather than a branch).
    """

    location: str
    files: tuple[ArtifactFile, ...]


@dataclass(frozen=True)
class FetchContext:
    """What sources work with. `environ` holds the tools' own variables (HF_TOKEN, PIP_INDEX_URL, …)."""

    client: httpx2.AsyncClient
    settings: CatalogSettings
    environ: Mapping[str, str]
    free_bytes: FreeBytes
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    def require_space(self, folder: Path, needed_bytes: int) -> None:
        """Raises `DiskFull` unless `needed_bytes` and the reserve fit on the folder's disk."""
        free = self.free_bytes(folder)
        if free < needed_bytes + self.settings.disk_reserve_bytes:
            raise DiskFull(
                f"the disk of {folder} has {format_bytes(free)} free and {format_bytes(needed_bytes)} are to be fetched"
                f" ({format_bytes(self.settings.disk_reserve_bytes)} are kept free)",
                hint="free some space, or move the data folder with --data",
            )


Fetched = AsyncGenerator[tuple[str, str], None]
"""(path, SHA-256 in hex) of each file as it is whole."""


class Source(Protocol):
    """One scheme. `location` is what follows the scheme's colon in an artifact's source."""

    async def resolve(self, location: str, artifact: Artifact, /) -> Listing:
        """Finds the files and hashes of an artifact that lists none. Raises `SourceFailed`."""
        ...

    def fetch(self, location: str, files: Sequence[ArtifactFile], folder: Path, meter: Meter, /) -> Fetched:
        """Brings each file to `folder/<file.path>` and says so with the SHA-256 of what it wrote, unjudged.

        `folder` belongs to this source and location and survives a broken fetch: the next call goes on from what is
        in it. Raises `SourceFailed`, `DiskFull`, `UnsafeFile`.
        """
        ...


SourceCreator = Callable[[FetchContext], Source]


def wanted_names(artifact: Artifact, names: Sequence[str]) -> list[str]:
    """Which of a repository's files an artifact without a list means.

    A GGUF or ONNX artifact is its entry file (and the further parts of a split GGUF); a safetensors artifact is every
    safetensors file at the top with the small files that describe it.
    """
    if artifact.format != "safetensors":
        stem, marker, _ = artifact.entry.partition("-00001-of-")
        return [name for name in names if name == artifact.entry or (marker and name.startswith(f"{stem}-0"))]
    described_by = (".safetensors", ".json", ".txt", ".jinja", ".model", ".tiktoken")
    top = [name for name in names if "/" not in name and name.endswith(described_by)]
    # Some repositories hold the same weights a second time, in their makers' own layout.
    own = [name for name in top if name.endswith(".safetensors") and not name.startswith("consolidated")]
    return [name for name in top if not (own and name.startswith("consolidated"))]
