"""`orgs`, `projects`, `members`: who belongs where."""

from typing import Annotated, Literal

from cyclopts import App, Parameter

from cloudcrest.cli import choose
from cloudcrest.cli.client import Client, Json, at
from cloudcrest.cli.connection import management
from cloudcrest.cli.errors import WrongUsage
from cloudcrest.cli.guardrails import GuardrailOption, guardrails_shown, with_guardrails
from cloudcrest.cli.login import invitation_parts
from cloudcrest.cli.options import DEFAULTS, Options
from cloudcrest.cli.output import Column, moment, note, print_json, show_done, show_one, show_rows

Role = Literal["owner", "admin", "developer", "billing", "viewer"]
OrganizationOption = Annotated[str | None, Parameter(name="--org", help="Id or name; else the only one there is.")]
Limit = Annotated[int, Parameter(help="How many at most.")]

orgs = App(name="orgs", help="Organizations: who pays, and who belongs together.")
projects = App(name="projects", help="Projects: what keys belong to, inside an organization.")
members = App(name="members", help="Members of an organization and their roles, and invitations.")

_ORGANIZATION: list[Column] = [
    ("id", "id"),
    ("name", "name"),
    ("limits", "limits"),
    ("guardrails", guardrails_shown),
    ("suspended", "suspended_reason"),
    ("created", moment("created_at")),
]
_PROJECT: list[Column] = [
    ("id", "id"),
    ("name", "name"),
    ("organization", "organization_id"),
    ("limits", "limits"),
    ("fallbacks", "fallbacks"),
    ("strict", "strict"),
    ("guardrails", guardrails_shown),
    ("created", moment("created_at")),
    ("archived", moment("archived_at")),
]
_MEMBER: list[Column] = [
    ("id", "id"),
    ("email", "email"),
    ("name", "name"),
    ("role", "role"),
    ("project", "project_id"),
    ("since", moment("created_at")),
]


@orgs.command(name="list")
def list_organizations(*, limit: Limit = 100, options: Options = DEFAULTS) -> None:
    """Lists the organizations you belong to; an operator sees all."""
    with Client(management(options)) as cloud:
        found = cloud.items(at("organizations"), limit=limit)
        show_rows(found, _ORGANIZATION, options.format, empty="no organizations yet: `cloudcrest orgs create NAME`")


@orgs.command(name="create")
def create_organization(name: str, /, *, options: Options = DEFAULTS) -> None:
    """Makes an organization that you own."""
    with Client(management(options)) as cloud:
        show_one(cloud.post(at("organizations"), {"name": name}), _ORGANIZATION, options.format)


@orgs.command(name="show")
def show_organization(organization: str | None = None, /, *, options: Options = DEFAULTS) -> None:
    """Shows one organization, by id or name."""
    with Client(management(options)) as cloud:
        found = cloud.get(at("organizations", choose.organization_id(cloud, organization)))
        show_one(found, _ORGANIZATION, options.format)


@orgs.command(name="update")
def update_organization(
    organization: str,
    /,
    *,
    name: Annotated[str | None, Parameter(help="A new name.")] = None,
    guardrails: GuardrailOption = None,
    options: Options = DEFAULTS,
) -> None:
    """Changes an organization: what is given, and nothing else. Its guardrails are the least of all its projects."""
    with Client(management(options)) as cloud:
        path = at("organizations", choose.organization_id(cloud, organization))
        body: Json = {} if name is None else {"name": name}
        if guardrails is not None:
            body["guardrails"] = with_guardrails(cloud.get(path)["guardrails"], guardrails)
        if not body:
            raise WrongUsage("there is nothing to change", hint="see `cloudcrest orgs update --help`")
        show_one(cloud.patch(path, body), _ORGANIZATION, options.format)


@projects.command(name="list")
def list_projects(*, org: OrganizationOption = None, limit: Limit = 100, options: Options = DEFAULTS) -> None:
    """Lists projects."""
    with Client(management(options)) as cloud:
        place = None if org is None else choose.organization_id(cloud, org)
        found = cloud.items(at("projects"), limit=limit, organization_id=place)
        show_rows(found, _PROJECT, options.format, empty="no projects yet: `cloudcrest projects create NAME`")


@projects.command(name="create")
def create_project(name: str, /, *, org: OrganizationOption = None, options: Options = DEFAULTS) -> None:
    """Makes a project in an organization."""
    with Client(management(options)) as cloud:
        body: Json = {"name": name, "organization_id": choose.organization_id(cloud, org)}
        show_one(cloud.post(at("projects"), body), _PROJECT, options.format)


@projects.command(name="update")
def update_project(
    project: str,
    /,
    *,
    name: Annotated[str | None, Parameter(help="A new name.")] = None,
    fallbacks: Annotated[
        list[str] | None,
        Parameter(
            name="--fallback",
            negative=(),
            help="MODEL=OTHER,…: who answers in its place, in order; MODEL= for nobody. May be repeated.",
        ),
    ] = None,
    guardrails: GuardrailOption = None,
    request_timeout_seconds: Annotated[int | None, Parameter(help="How long each request may take.")] = None,
    strict: Annotated[
        bool | None, Parameter(help="Refuse parameters that no engine honours; else they are dropped.")
    ] = None,
    options: Options = DEFAULTS,
) -> None:
    """Changes a project: what is given, and nothing else."""
    with Client(management(options)) as cloud:
        chosen = choose.project_id(cloud, project)
        before = cloud.get(at("projects", chosen))
        body: Json = {} if name is None else {"name": name}
        if fallbacks is not None:
            body["fallbacks"] = _with_fallbacks(before["fallbacks"], fallbacks)
        if strict is not None:
            body["strict"] = strict
        if guardrails is not None:
            body["guardrails"] = with_guardrails(before["guardrails"], guardrails)
        if request_timeout_seconds is not None:
            body["limits"] = before["limits"] | {"request_timeout_seconds": request_timeout_seconds}
        if not body:
            raise WrongUsage("there is nothing to change", hint="see `cloudcrest projects update --help`")
        show_one(cloud.patch(at("projects", chosen), body), _PROJECT, options.format)


def _with_fallbacks(before: dict[str, list[str]], given: list[str]) -> dict[str, list[str]]:
    """What there is, with what is given in place of what it names."""
    after = dict(before)
    for text in given:
        model, separator, others = text.partition("=")
        if not separator or not model:
            raise WrongUsage(f"'{text}' names no fallback", hint="write --fallback MODEL=OTHER, or MODEL=OTHER,ANOTHER")
        after.pop(model, None)
        named = [other.strip() for other in others.split(",") if other.strip()]
        if named:
            after[model] = named
    return after


@projects.command(name="archive")
def archive_project(project: str, /, *, options: Options = DEFAULTS) -> None:
    """Archives a project: its keys stop working, its usage stays."""
    with Client(management(options)) as cloud:
        chosen = choose.project_id(cloud, project)
        cloud.delete(at("projects", chosen))
        show_done({"archived": chosen}, f"archived {chosen}", options.format)


@members.command(name="list")
def list_members(*, org: OrganizationOption = None, limit: Limit = 200, options: Options = DEFAULTS) -> None:
    """Lists the members of an organization."""
    with Client(management(options)) as cloud:
        path = at("organizations", choose.organization_id(cloud, org), "members")
        show_rows(cloud.items(path, limit=limit), _MEMBER, options.format, empty="no members")


@members.command
def invite(
    email: Annotated[str | None, Parameter(help="Who alone may take it; else whoever has the link.")] = None,
    /,
    *,
    role: Annotated[Role, Parameter(help="What they will be.")] = "developer",
    project: Annotated[str | None, Parameter(help="Only in this project.")] = None,
    org: OrganizationOption = None,
    options: Options = DEFAULTS,
) -> None:
    """Makes an invitation and prints its link, which is shown this once."""
    with Client(management(options)) as cloud:
        organization = choose.organization_id(cloud, org)
        body: Json = {"role": role}
        if email is not None:
            body["email"] = email
        if project is not None:
            body["project_id"] = choose.project_id(cloud, project, organization)
        answer = cloud.post(at("organizations", organization, "invitations"), body)
        if options.format == "json":
            print_json(answer)
        else:
            print(answer["link"])
            note("send this link to them; it works once")


@members.command
def accept(link: str, /, *, options: Options = DEFAULTS) -> None:
    """Takes an invitation as who you are logged in as. Without an account: `cloudcrest register --invitation LINK`."""
    token, _ = invitation_parts(link)
    with Client(management(options)) as cloud:
        show_one(cloud.post(at("invitations", "accept"), {"token": token}), _MEMBER, options.format)


@members.command(name="set-role")
def set_role(member: str, role: Role, /, *, org: OrganizationOption = None, options: Options = DEFAULTS) -> None:
    """Changes the role of a member, by membership id or e-mail address."""
    with Client(management(options)) as cloud:
        organization = choose.organization_id(cloud, org)
        path = at("organizations", organization, "members", _member_id(cloud, organization, member))
        show_one(cloud.patch(path, {"role": role}), _MEMBER, options.format)


@members.command
def remove(member: str, /, *, org: OrganizationOption = None, options: Options = DEFAULTS) -> None:
    """Takes a member out of an organization, by membership id or e-mail address."""
    with Client(management(options)) as cloud:
        organization = choose.organization_id(cloud, org)
        chosen = _member_id(cloud, organization, member)
        cloud.delete(at("organizations", organization, "members", chosen))
        show_done({"removed": chosen}, f"removed {member}", options.format)


def _member_id(cloud: Client, organization: str, member: str) -> str:
    if "@" not in member:
        return member
    for item in cloud.items(at("organizations", organization, "members"), limit=choose.MAX_LOOKED_AT):
        if str(item.get("email", "")).lower() == member.lower():
            return str(item["id"])
    return member
