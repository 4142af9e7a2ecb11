"""Accounts, for operators."""

from typing import Annotated

from fastapi import APIRouter, Query

from cloudcrest.identity.http import CallerDep
from cloudcrest.identity.schemas import EMAIL_PATTERN, UserChange, UserOut, UserPath
from cloudcrest.identity.service.users import UserService
from cloudcrest.infra.http.paging import Page, PageDep
from cloudcrest.infra.http.problems import responses
from cloudcrest.infra.http.session import SessionDep

EmailFilter = Annotated[
    str | None, Query(max_length=254, pattern=EMAIL_PATTERN, description="The account of this e-mail address")
]


def router(service: UserService) -> APIRouter:
    """/users."""
    routes = APIRouter(prefix="/users", tags=["operators"])

    @routes.get("", operation_id="listUsers", summary="Accounts (operators)", responses=responses(401, 403, 422))
    async def list_users(
        caller: CallerDep, session: SessionDep, page: PageDep, email: EmailFilter = None
    ) -> Page[UserOut]:
        found = await service.list_users(session, caller, page, None if email is None else email.lower())
        return page.page([UserOut.model_validate(item) for item in found], [item.id for item in found])

    @routes.patch(
        "/{user_id}",
        operation_id="updateUser",
        summary="Make someone an operator, or no longer one (operators)",
        responses=responses(401, 403, 404, 409, 422),
    )
    async def update_user(user_id: UserPath, body: UserChange, caller: CallerDep, session: SessionDep) -> UserOut:
        changed = await service.set_operator(session, caller, user_id, is_operator=body.is_operator)
        return UserOut.model_validate(changed)

    return routes
