"""The control plane's feed, as a follower heard it that was there from the start."""

from cloudcrest.infra.database import Database
from cloudcrest.infra.feed import FeedPage
from cloudcrest.infra.publication import read_page


async def published(database: Database, region: str = "local") -> FeedPage:
    """Every document's latest revision, deletions too: who starts now is told of no deletion from before."""
    async with database.transaction() as session:
        epoch, _, _ = (await read_page(session, "", region=region)).cursor.partition(".")
        return await read_page(session, f"{epoch}.0", region=region)
