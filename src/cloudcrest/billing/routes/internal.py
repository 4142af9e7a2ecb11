"""Where regions send usage, ask for grants of budgets, and say whose spool has arrived whole."""

import msgspec
from fastapi import APIRouter, Request, Response

from cloudcrest.billing.grants import DrainReport, GrantsRequest
from cloudcrest.billing.service.granting import Granting
from cloudcrest.billing.service.ingest import UsageIngest
from cloudcrest.infra.http.session import SessionDep
from cloudcrest.kernel.errors import InvalidInput
from cloudcrest.metering.api import UsageBatch
from cloudcrest.regions.http import RegionDep

_decoder = msgspec.json.Decoder(UsageBatch)
_grants: msgspec.json.Decoder[GrantsRequest] = msgspec.json.Decoder(GrantsRequest)
_drained: msgspec.json.Decoder[DrainReport] = msgspec.json.Decoder(DrainReport)


def internal_router(ingest: UsageIngest, granting: Granting) -> APIRouter:
    """The link's routes."""
    routes = APIRouter(prefix="/internal/v1", include_in_schema=False)

    @routes.post("/usage")
    async def ingest_usage(session: SessionDep, region: RegionDep, request: Request) -> Response:
        try:
            batch = _decoder.decode(await request.body())
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise InvalidInput(f"this is no usage batch: {error}") from error
        receipt = await ingest.ingest(session, region, batch)
        return Response(msgspec.json.encode(receipt), media_type="application/json")

    @routes.post("/grants")
    async def exchange_grants(session: SessionDep, region: RegionDep, request: Request) -> Response:
        try:
            asked = _grants.decode(await request.body())
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise InvalidInput(f"this is no request for grants: {error}") from error
        answer = await granting.exchange(session, region, asked)
        return Response(msgspec.json.encode(answer), media_type="application/json")

    @routes.post("/grants/drained")
    async def report_drained(session: SessionDep, region: RegionDep, request: Request) -> Response:
        try:
            report = _drained.decode(await request.body())
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise InvalidInput(f"this is no report of drained holders: {error}") from error
        holders = await granting.drained(session, region, report)
        return Response(msgspec.json.encode(holders), media_type="application/json")

    return routes
