"""The routes of accelerator types: everyone reads, operators add and change."""

from typing import Annotated

from fastapi import APIRouter, Path
from sqlalchemy.ext.asyncio import AsyncSession

from cloudcrest.compute.accelerator_types.repository import StoredType
from cloudcrest.compute.accelerator_types.schemas import (
    AcceleratorCount,
    AcceleratorView,
    ChangeAccelerator,
    CreateAccelerator,
    view,
)
from cloudcrest.compute.accelerator_types.service import AcceleratorTypes
from cloudcrest.compute.api import AcceleratorPrices
from cloudcrest.compute.nodes.repository import count_accelerators
from cloudcrest.identity.api import Caller
from cloudcrest.identity.http import CallerDep
from cloudcrest.infra.http.paging import Page, PageDep
from cloudcrest.infra.http.problems import responses
from cloudcrest.infra.http.session import SessionDep

AcceleratorPath = Annotated[str, Path(max_length=64, examples=["nvidia-h100-80gb"])]


def router(service: AcceleratorTypes, prices: AcceleratorPrices) -> APIRouter:
    """The management routes."""
    routes = APIRouter(prefix="/api/v1/accelerators", tags=["accelerators"], responses=responses(401))

    async def views(session: AsyncSession, caller: Caller, stored: list[StoredType]) -> list[AcceleratorView]:
        ids = [each.type.id for each in stored]
        costs = await prices.per_accelerator_second(session, ids)
        counts: dict[str, list[AcceleratorCount]] = {}
        for type_id, region, total, taken in await count_accelerators(session, ids):
            count = AcceleratorCount(region=region, total=total, allocated_milli=taken)
            counts.setdefault(type_id, []).append(count)
        return [
            view(
                each,
                counts.get(each.type.id, []),
                costs.get(each.type.id, {}),
                for_operator=caller.is_operator,
            )
            for each in stored
        ]

    @routes.get("", operation_id="list_accelerators", summary="List accelerator types")
    async def list_accelerators(session: SessionDep, caller: CallerDep, request: PageDep) -> Page[AcceleratorView]:
        """The types that this cloud knows, by id, and the regions that have any. Operators see how many."""
        found = await service.page(session, request)
        return request.page(await views(session, caller, found), [each.type.id for each in found])

    @routes.get(
        "/{accelerator_id}",
        operation_id="get_accelerator",
        summary="Show an accelerator type",
        responses=responses(404),
    )
    async def get_accelerator(
        session: SessionDep, caller: CallerDep, accelerator_id: AcceleratorPath
    ) -> AcceleratorView:
        """One type."""
        return (await views(session, caller, [await service.get(session, accelerator_id)]))[0]

    @routes.post(
        "",
        operation_id="create_accelerator",
        summary="Add an accelerator type",
        status_code=201,
        responses=responses(403, 409, 429),
    )
    async def create_accelerator(session: SessionDep, caller: CallerDep, body: CreateAccelerator) -> AcceleratorView:
        """Adds a type, for operators."""
        caller.require_operator()
        return (await views(session, caller, [await service.create(session, body.type())]))[0]

    @routes.patch(
        "/{accelerator_id}",
        operation_id="change_accelerator",
        summary="Change an accelerator type",
        responses=responses(403, 404),
    )
    async def change_accelerator(
        session: SessionDep, caller: CallerDep, accelerator_id: AcceleratorPath, body: ChangeAccelerator
    ) -> AcceleratorView:
        """Completes or corrects a type, for operators; later versions of Cloudcrest leave it alone."""
        caller.require_operator()
        return (await views(session, caller, [await service.change(session, accelerator_id, body.changes())]))[0]

    return routes
