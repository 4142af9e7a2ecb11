"""`POST /internal/v1/usage`: where regions send usage. The body is a `metering.api.UsageBatch`."""

import msgspec
from fastapi import APIRouter, Request, Response

from cloudcrest.billing.service.ingest import UsageIngest
from cloudcrest.infra.http.session import SessionDep
from cloudcrest.kernel.errors import InvalidInput
from cloudcrest.metering.api import UsageBatch
from cloudcrest.regions.http import RegionDep

_decoder = msgspec.json.Decoder(UsageBatch)


def internal_router(ingest: UsageIngest) -> APIRouter:
    """The link's route."""
    routes = APIRouter(prefix="/internal/v1", include_in_schema=False)

    @routes.post("/usage")
    async def ingest_usage(session: SessionDep, region: RegionDep, request: Request) -> Response:
        try:
            batch = _decoder.decode(await request.body())
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise InvalidInput(f"this is no usage batch: {error}") from error
        receipt = await ingest.ingest(session, region, batch)
        return Response(msgspec.json.encode(receipt), media_type="application/json")

    return routes
