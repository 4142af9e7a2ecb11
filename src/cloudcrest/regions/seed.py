"""Start data: the region that runs on this machine."""

from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.kernel.clock import Clock
from cloudcrest.regions import repository
from cloudcrest.regions.api import Region

LOCAL_REGION = "local"


async def seed(session: AsyncSession, *, clock: Clock, token_sha256: str) -> None:
    """The region `local` with the link token of this data folder's secrets; run at each start."""
    region = Region(id=LOCAL_REGION, name="This machine", jurisdiction="local", created_at=clock.now())
    if not await repository.add(session, region, token_sha256):
        await repository.set_token(session, LOCAL_REGION, token_sha256)
