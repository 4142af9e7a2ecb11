"""The rules of regions: who they are, and the tokens that link them to the control plane."""

import hashlib
import secrets
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.infra.http.paging import PageRequest
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import Conflict, NotFound, Unauthenticated
from cloudcrest.regions import repository
from cloudcrest.regions.api import Region

TOKEN_PREFIX = "rt-cc-"  # noqa: S105 - what a token starts with, not one
_SEEN_RESOLUTION = timedelta(seconds=5)


def make_token() -> str:
    """A fresh link token of 256 random bits."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """What the database keeps of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


class RegionService:
    """Regions and their link tokens. Implements `regions.api.Regions`."""

    def __init__(self, *, clock: Clock, new_token: Callable[[], str] = make_token) -> None:
        self._clock = clock
        self._new_token = new_token

    async def exists(self, session: AsyncSession, region_id: str) -> bool:
        """Whether there is a region of this id."""
        return await repository.find(session, region_id) is not None

    async def list_ids(self, session: AsyncSession) -> list[str]:
        """Every region's id, sorted."""
        return await repository.ids(session)

    async def connected_ids(self, session: AsyncSession) -> frozenset[str]:
        """The regions whose services were heard of lately."""
        now = self._clock.now()
        return frozenset(region.id for region in await repository.all_regions(session) if region.is_connected(now))

    async def get(self, session: AsyncSession, region_id: str) -> Region:
        """One region. Raises `NotFound`."""
        region = await repository.find(session, region_id)
        if region is None:
            raise NotFound(f"there is no region '{region_id}'")
        return region

    async def page(self, session: AsyncSession, request: PageRequest) -> list[Region]:
        """The regions of a page, with one more than the page when there are more."""
        return await repository.page(session, request)

    async def create(
        self, session: AsyncSession, *, region_id: str, name: str, jurisdiction: str, endpoint_url: str | None
    ) -> tuple[Region, str]:
        """A new region and its link token, which is shown this once. Raises `Conflict` where the id is taken."""
        token = self._new_token()
        region = Region(
            id=region_id,
            name=name,
            jurisdiction=jurisdiction,
            endpoint_url=endpoint_url,
            created_at=self._clock.now(),
        )
        if not await repository.add(session, region, token_hash(token)):
            raise Conflict(f"there is a region '{region_id}' already", hint="choose another id")
        return region, token

    async def replace_token(self, session: AsyncSession, region_id: str) -> str:
        """A new link token; the old one stops working at once. Raises `NotFound`."""
        token = self._new_token()
        if not await repository.set_token(session, region_id, token_hash(token)):
            raise NotFound(f"there is no region '{region_id}'")
        return token

    async def recognise(self, session: AsyncSession, token: str) -> Region:
        """The region that holds this token, noted as seen now. Raises `Unauthenticated`."""
        region = await repository.find_by_token(session, token_hash(token))
        if region is None:
            raise Unauthenticated(
                "this is no region's link token",
                code="invalid_region_token",
                hint="an operator makes a new one at POST /api/v1/regions/{id}/token",
            )
        now = self._clock.now()
        if region.last_seen_at is None or now - region.last_seen_at >= _SEEN_RESOLUTION:
            await repository.set_last_seen(session, region.id, now)
        return region
