"""The routes of the catalog: `/api/v1/models` and `/api/v1/model-pulls`."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from cloudcrest.catalog.api import Task
from cloudcrest.catalog.repository import ModelFilter
from cloudcrest.catalog.schemas import (
    ChangeModel,
    CreateModel,
    CreatePull,
    ModelView,
    PullView,
    view_model,
    view_pull,
)
from cloudcrest.catalog.service import CatalogService
from cloudcrest.identity.http import CallerDep
from cloudcrest.infra.http.paging import Page, PageDep
from cloudcrest.infra.http.problems import responses
from cloudcrest.infra.http.session import SessionDep

ModelPath = Annotated[str, Path(max_length=64, examples=["smollm2-135m-instruct"])]
PullPath = Annotated[str, Path(max_length=64, examples=["pull_01k9zq3v5e8m2n4p6r8t0w2y4z"])]


def router(service: CatalogService) -> APIRouter:
    """Models and pulls."""
    routes = APIRouter(prefix="/api/v1", responses=responses(401))
    _add_models(routes, service)
    _add_model_changes(routes, service)
    _add_pulls(routes, service)
    return routes


def _add_models(routes: APIRouter, service: CatalogService) -> None:
    @routes.get("/models", operation_id="list_models", tags=["models"], summary="List the catalog's models")
    async def list_models(
        *,
        session: SessionDep,
        _caller: CallerDep,
        request: PageDep,
        family: Annotated[str | None, Query(max_length=100, examples=["Qwen3"])] = None,
        task: Annotated[Task | None, Query(examples=["chat"])] = None,
        q: Annotated[str | None, Query(max_length=100, description="Looked for in id, name and family")] = None,
    ) -> Page[ModelView]:
        """Every model that the catalog knows, in the order of their ids, whether or not it is deployed."""
        wanted = ModelFilter(family=family, task=task, text=q)
        found = await service.page(session, request, wanted)
        return request.page([view_model(stored) for stored in found], [stored.model.id for stored in found])

    @routes.get(
        "/models/{model_id}",
        operation_id="get_model",
        tags=["models"],
        summary="Show a model",
        responses=responses(404),
    )
    async def get_model(session: SessionDep, _caller: CallerDep, model_id: ModelPath) -> ModelView:
        """One model, with its lineage, artifacts and sources."""
        return view_model(await service.get(session, model_id))


def _add_model_changes(routes: APIRouter, service: CatalogService) -> None:
    @routes.post(
        "/models",
        operation_id="create_model",
        tags=["models"],
        summary="Add a model",
        status_code=201,
        responses=responses(400, 403, 409),
    )
    async def create_model(session: SessionDep, caller: CallerDep, body: CreateModel) -> ModelView:
        """Adds a model of the operator's own: files with hashes, or a hub's repository whose hashes are pinned."""
        caller.require_operator()
        return view_model(await service.create(session, body.record(body.id)))

    @routes.patch(
        "/models/{model_id}",
        operation_id="change_model",
        tags=["models"],
        summary="Change a model",
        responses=responses(400, 403, 404),
    )
    async def change_model(session: SessionDep, caller: CallerDep, model_id: ModelPath, body: ChangeModel) -> ModelView:
        """Changes a model, for operators. A seeded one is the operator's own from then on: upgrades leave it alone."""
        caller.require_operator()
        stored = await service.get(session, model_id)
        return view_model(await service.change(session, body.over(stored.model)))

    @routes.delete(
        "/models/{model_id}",
        operation_id="delete_model",
        tags=["models"],
        summary="Delete a model",
        status_code=204,
        responses=responses(403, 404, 409),
    )
    async def delete_model(session: SessionDep, caller: CallerDep, model_id: ModelPath) -> None:
        """Takes a model out of the catalog, for operators. What is deployed already keeps running."""
        caller.require_operator()
        await service.delete(session, model_id)


def _add_pulls(routes: APIRouter, service: CatalogService) -> None:
    @routes.post(
        "/model-pulls",
        operation_id="create_model_pull",
        tags=["model pulls"],
        summary="Pull a model to a region",
        status_code=201,
        responses={200: {"description": "It is being pulled already"}, **responses(400, 403, 404, 409)},
    )
    async def create_model_pull(
        session: SessionDep, caller: CallerDep, body: CreatePull, response: Response
    ) -> PullView:
        """Has a region fetch and keep a model's weights, for operators. Follow it at `GET /api/v1/model-pulls/{id}`."""
        caller.require_operator()
        pull, is_new = await service.pull(session, body.model, body.region)
        response.status_code = 201 if is_new else 200
        return view_pull(pull)

    @routes.get(
        "/model-pulls",
        operation_id="list_model_pulls",
        tags=["model pulls"],
        summary="List pulls",
        responses=responses(403),
    )
    async def list_model_pulls(
        session: SessionDep,
        caller: CallerDep,
        request: PageDep,
        model: Annotated[str | None, Query(max_length=64)] = None,
        region: Annotated[str | None, Query(max_length=64)] = None,
    ) -> Page[PullView]:
        """The pulls of every region, newest first, with how far each is; for operators."""
        caller.require_operator()
        pulls = await service.page_pulls(session, request, model_id=model, region=region)
        return request.page([view_pull(pull) for pull in pulls], [pull.id for pull in pulls])

    @routes.get(
        "/model-pulls/{pull_id}",
        operation_id="get_model_pull",
        tags=["model pulls"],
        summary="Show a pull",
        responses=responses(403, 404),
    )
    async def get_model_pull(session: SessionDep, caller: CallerDep, pull_id: PullPath) -> PullView:
        """One pull, with how far it is and, where it failed, why; for operators."""
        caller.require_operator()
        return view_pull(await service.get_pull(session, pull_id))

    @routes.delete(
        "/model-pulls/{pull_id}",
        operation_id="delete_model_pull",
        tags=["model pulls"],
        summary="Withdraw a pull",
        status_code=204,
        responses=responses(403, 404),
    )
    async def delete_model_pull(session: SessionDep, caller: CallerDep, pull_id: PullPath) -> None:
        """Withdraws a pull, for operators. What the region has fetched already stays there."""
        caller.require_operator()
        await service.cancel_pull(session, pull_id)
