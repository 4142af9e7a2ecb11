"""Regions' face for routes: the region that makes an internal call.

Bootstrap puts the `RegionService` into `app.state.regions` and the `Database` into `app.state.database`.
"""

from typing import Annotated

from fastapi import Depends, Header, Request

from cloudcrest.infra.database import Database
from cloudcrest.kernel.errors import Unauthenticated
from cloudcrest.regions.service import RegionService

_MAX_TOKEN_CHARACTERS = 200


async def calling_region(
    request: Request, authorization: Annotated[str, Header(max_length=_MAX_TOKEN_CHARACTERS)] = ""
) -> str:
    """The id of the region whose link token came as a bearer token. Raises `Unauthenticated`.

    A transaction of its own, closed before the handler runs: the feed's handler then waits for seconds.
    """
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("this needs a region's link token", code="invalid_region_token")
    database: Database = request.app.state.database
    regions: RegionService = request.app.state.regions
    async with database.transaction() as session:
        region = await regions.recognise(session, token)
    return region.id


RegionDep = Annotated[str, Depends(calling_region)]
