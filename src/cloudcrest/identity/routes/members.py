"""Members and invitations."""

from fastapi import APIRouter, Request, status

from cloudcrest.identity.http import CallerDep, OptionalCallerDep
from cloudcrest.identity.routes.accounts import OPEN_TO_ALL, address_of
from cloudcrest.identity.schemas import (
    AcceptIn,
    InvitationIn,
    InvitationOut,
    InvitationPath,
    MemberChange,
    MemberIn,
    MemberOut,
    MemberPath,
    NewInvitationOut,
    OrganizationPath,
    ProjectFilter,
)
from cloudcrest.identity.service.accounts import AccountService, check_password
from cloudcrest.identity.service.members import MemberService, NewAccount
from cloudcrest.infra.http.paging import Page, PageDep
from cloudcrest.infra.http.problems import responses
from cloudcrest.infra.http.session import SessionDep


def router(service: MemberService, accounts: AccountService) -> APIRouter:
    """/organizations/{id}/members, /organizations/{id}/invitations, /invitations/accept."""
    routes = APIRouter()
    _add_members(routes, service)
    _add_invitations(routes, service)
    _add_acceptance(routes, service, accounts)
    return routes


def _add_members(routes: APIRouter, service: MemberService) -> None:
    @routes.get(
        "/organizations/{organization_id}/members",
        operation_id="listMembers",
        tags=["members"],
        summary="Who has which role",
        responses=responses(401, 403, 404, 422),
    )
    async def list_members(
        organization_id: OrganizationPath,
        caller: CallerDep,
        session: SessionDep,
        page: PageDep,
        project_id: ProjectFilter = None,
    ) -> Page[MemberOut]:
        found = await service.list_members(session, caller, page, organization_id, project_id)
        return page.page([MemberOut.model_validate(item) for item in found], [item.id for item in found])

    @routes.post(
        "/organizations/{organization_id}/members",
        operation_id="addMember",
        tags=["members"],
        summary="Give a member a role in one more project",
        status_code=status.HTTP_201_CREATED,
        responses=responses(400, 401, 403, 404, 409, 422),
    )
    async def add_member(
        organization_id: OrganizationPath, body: MemberIn, caller: CallerDep, session: SessionDep
    ) -> MemberOut:
        member = await service.add(
            session, caller, organization_id, user_id=body.user_id, role=body.role, project_id=body.project_id
        )
        return MemberOut.model_validate(member)

    @routes.patch(
        "/organizations/{organization_id}/members/{member_id}",
        operation_id="updateMember",
        tags=["members"],
        summary="Change a role",
        responses=responses(400, 401, 403, 404, 409, 422),
    )
    async def update_member(
        organization_id: OrganizationPath,
        member_id: MemberPath,
        body: MemberChange,
        caller: CallerDep,
        session: SessionDep,
    ) -> MemberOut:
        return MemberOut.model_validate(await service.set_role(session, caller, organization_id, member_id, body.role))

    @routes.delete(
        "/organizations/{organization_id}/members/{member_id}",
        operation_id="removeMember",
        tags=["members"],
        summary="Take a role away, or leave",
        status_code=status.HTTP_204_NO_CONTENT,
        responses=responses(401, 403, 404, 409, 422),
    )
    async def remove_member(
        organization_id: OrganizationPath, member_id: MemberPath, caller: CallerDep, session: SessionDep
    ) -> None:
        await service.remove(session, caller, organization_id, member_id)


def _add_invitations(routes: APIRouter, service: MemberService) -> None:
    @routes.get(
        "/organizations/{organization_id}/invitations",
        operation_id="listInvitations",
        tags=["members"],
        summary="Who is invited",
        responses=responses(401, 403, 404, 422),
    )
    async def list_invitations(
        organization_id: OrganizationPath, caller: CallerDep, session: SessionDep, page: PageDep
    ) -> Page[InvitationOut]:
        found = await service.list_invitations(session, caller, page, organization_id)
        return page.page([InvitationOut.model_validate(item) for item in found], [item.id for item in found])

    @routes.post(
        "/organizations/{organization_id}/invitations",
        operation_id="createInvitation",
        tags=["members"],
        summary="Invite someone; the link works once",
        status_code=status.HTTP_201_CREATED,
        responses=responses(400, 401, 403, 404, 409, 422, 429),
    )
    async def create_invitation(
        organization_id: OrganizationPath, body: InvitationIn, caller: CallerDep, session: SessionDep
    ) -> NewInvitationOut:
        invitation, link = await service.invite(
            session, caller, organization_id, role=body.role, project_id=body.project_id, email=body.email
        )
        return NewInvitationOut(**InvitationOut.model_validate(invitation).model_dump(), link=link)

    @routes.delete(
        "/organizations/{organization_id}/invitations/{invitation_id}",
        operation_id="withdrawInvitation",
        tags=["members"],
        summary="Withdraw an invitation",
        status_code=status.HTTP_204_NO_CONTENT,
        responses=responses(401, 403, 404, 422),
    )
    async def withdraw_invitation(
        organization_id: OrganizationPath, invitation_id: InvitationPath, caller: CallerDep, session: SessionDep
    ) -> None:
        await service.withdraw_invitation(session, caller, organization_id, invitation_id)


def _add_acceptance(routes: APIRouter, service: MemberService, accounts: AccountService) -> None:
    @routes.post(
        "/invitations/accept",
        operation_id="acceptInvitation",
        openapi_extra=OPEN_TO_ALL,
        tags=["members"],
        summary="Take an invitation, as the signed-in person or with a new account",
        status_code=status.HTTP_201_CREATED,
        responses=responses(400, 401, 403, 404, 409, 422, 429),
    )
    async def accept_invitation(
        body: AcceptIn, caller: OptionalCallerDep, request: Request, session: SessionDep
    ) -> MemberOut:
        accounts.count_address(address_of(request))
        account = None
        if body.account is not None:
            password = body.account.password.get_secret_value()
            check_password(password, body.account.email, field="body.account.password")
            account = NewAccount(email=body.account.email, name=body.account.name, password=password)
        member = await service.accept(session, caller, body.token.get_secret_value(), account)
        return MemberOut.model_validate(member)
