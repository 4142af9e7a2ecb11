"""The public face of regions: what a region is, and what other slices may ask about it."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

LINK_STALE_AFTER = timedelta(seconds=45)
"""A region reports at least every 5 s and its long poll lasts at most 20 s: silence this long means it is cut off."""


class Region(msgspec.Struct, frozen=True):
    """A region. `id` is its short name ("local"), which deployments and usage refer to.

    `jurisdiction` is where its data and inference are, as an ISO 3166 country code, or "local" for a machine of one's
    own. `endpoint_url` is where its gateways are reached, None where that is the cloud's own address.
    """

    id: str
    name: str
    jurisdiction: str
    created_at: datetime
    endpoint_url: str | None = None
    last_seen_at: datetime | None = None

    def is_connected(self, now: datetime) -> bool:
        """Whether its region service was heard of lately."""
        return self.last_seen_at is not None and now - self.last_seen_at < LINK_STALE_AFTER


class Regions(Protocol):
    """What other slices may ask of regions, inside their own transaction."""

    async def exists(self, session: "AsyncSession", region_id: str) -> bool:
        """Whether there is a region of this id."""
        ...

    async def list_ids(self, session: "AsyncSession") -> list[str]:
        """Every region's id, sorted."""
        ...

    async def connected_ids(self, session: "AsyncSession") -> frozenset[str]:
        """The regions whose services were heard of lately."""
        ...


class Zones(Protocol):
    """What regions are divided into, which their nodes say."""

    async def zones_by_region(self, session: "AsyncSession") -> dict[str, list[str]]:
        """The zones of each region, sorted; a region without any is left out."""
        ...
