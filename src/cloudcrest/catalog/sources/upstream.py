"""`upstream:name`: the model runs at a provider, so there is nothing to fetch."""

from collections.abc import Sequence
from pathlib import Path

from cloudcrest.catalog.api import Artifact, ArtifactFile
from cloudcrest.catalog.progress import Meter
from cloudcrest.catalog.sources.base import FetchContext, Fetched, Listing, Source, SourceFailed

_REASON = "the model lives at a provider and has no weights to fetch; deploy it with the engine 'upstream'"


class Upstream:
    """The `upstream:` source: says so."""

    async def resolve(self, _location: str, _artifact: Artifact) -> Listing:
        raise SourceFailed(_REASON)

    def fetch(self, _location: str, _files: Sequence[ArtifactFile], _folder: Path, _meter: Meter) -> Fetched:
        raise SourceFailed(_REASON)


def create(_context: FetchContext) -> Source:
    """The `upstream:` source."""
    return Upstream()
