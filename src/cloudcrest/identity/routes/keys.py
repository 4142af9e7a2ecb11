"""API keys."""

from fastapi import APIRouter, Response, status

from cloudcrest.identity.http import CallerDep
from cloudcrest.identity.routes.organizations import sent_fields
from cloudcrest.identity.schemas import (
    KeyChange,
    KeyIn,
    KeyOut,
    KeyPath,
    NewKeyOut,
    OrganizationFilter,
    ProjectFilter,
)
from cloudcrest.identity.service.keys import KeyDraft, KeyService
from cloudcrest.infra.http.paging import Page, PageDep
from cloudcrest.infra.http.problems import responses
from cloudcrest.infra.http.session import SessionDep


def router(service: KeyService) -> APIRouter:
    """/keys."""
    routes = APIRouter(prefix="/keys", tags=["keys"])
    _add_reading(routes, service)
    _add_writing(routes, service)
    return routes


def _add_reading(routes: APIRouter, service: KeyService) -> None:
    @routes.get("", operation_id="listKeys", summary="API keys", responses=responses(401, 403, 404, 422))
    async def list_keys(
        caller: CallerDep,
        session: SessionDep,
        page: PageDep,
        project_id: ProjectFilter = None,
        organization_id: OrganizationFilter = None,
    ) -> Page[KeyOut]:
        found = await service.list_keys(session, caller, page, organization_id=organization_id, project_id=project_id)
        return page.page([KeyOut.model_validate(item) for item in found], [item.id for item in found])

    @routes.get("/{key_id}", operation_id="getKey", summary="One API key", responses=responses(401, 403, 404, 422))
    async def get_key(key_id: KeyPath, caller: CallerDep, session: SessionDep) -> KeyOut:
        return KeyOut.model_validate(await service.get(session, caller, key_id))


def _add_writing(routes: APIRouter, service: KeyService) -> None:
    @routes.post(
        "",
        operation_id="createKey",
        summary="Make an API key; its secret is shown this once",
        status_code=status.HTTP_201_CREATED,
        responses=responses(400, 401, 403, 404, 409, 422),
    )
    async def create_key(body: KeyIn, caller: CallerDep, response: Response, session: SessionDep) -> NewKeyOut:
        draft = KeyDraft(
            project_id=body.project_id,
            name=body.name,
            scopes=tuple(sorted(set(body.scopes))),
            models=None if body.models is None else tuple(body.models),
            labels=body.labels,
            limits=body.limits.to_api(),
            expires_at=body.expires_at,
            organization_wide=body.organization_wide,
            is_operator=body.is_operator,
        )
        key, secret = await service.create(session, caller, draft)
        response.headers["cache-control"] = "no-store"
        return NewKeyOut(**KeyOut.model_validate(key).model_dump(), key=secret)

    @routes.patch(
        "/{key_id}",
        operation_id="updateKey",
        summary="Change name, labels, limits, models or expiry",
        responses=responses(400, 401, 403, 404, 409, 422),
    )
    async def update_key(key_id: KeyPath, body: KeyChange, caller: CallerDep, session: SessionDep) -> KeyOut:
        changes = sent_fields(body)
        if changes.get("models") is not None:
            changes["models"] = tuple(changes["models"])
        return KeyOut.model_validate(await service.update(session, caller, key_id, changes))

    @routes.delete(
        "/{key_id}",
        operation_id="revokeKey",
        summary="Revoke a key, everywhere within a second",
        status_code=status.HTTP_204_NO_CONTENT,
        responses=responses(401, 403, 404, 422),
    )
    async def revoke_key(key_id: KeyPath, caller: CallerDep, session: SessionDep) -> None:
        await service.revoke(session, caller, key_id)
