"""`budgets`: hard limits of what may be spent."""

from typing import Annotated, Literal

from cyclopts import App, Parameter

from cloudcrest.cli import choose
from cloudcrest.cli.client import Client, Json, at
from cloudcrest.cli.connection import management
from cloudcrest.cli.options import DEFAULTS, Options
from cloudcrest.cli.output import Column, moment, show_done, show_one, show_rows

app = App(name="budgets", help="Budgets: hard limits of what an organization, a project or a key may spend.")

OrganizationOption = Annotated[str | None, Parameter(name="--org", help="Id or name; else the only one there is.")]
ProjectOption = Annotated[str | None, Parameter(name="--project", help="Of this project alone: its id.")]
KeyOption = Annotated[str | None, Parameter(name="--api-key", help="Of this API key alone: its id.")]

_BUDGET: list[Column] = [
    ("id", "id"),
    ("of", lambda budget: budget["key_id"] or budget["project_id"] or budget["organization_id"]),
    ("period", "period"),
    ("amount", "amount"),
    ("spent", "spent"),
    ("reserved", "reserved"),
    ("remaining", "remaining"),
    ("currency", "currency"),
    ("until (UTC)", moment("period_end")),
]


@app.command(name="list")
def list_budgets(
    *,
    org: OrganizationOption = None,
    project: ProjectOption = None,
    api_key: KeyOption = None,
    limit: Annotated[int, Parameter(name=["--limit", "-n"], help="How many at most, newest first.")] = 100,
    options: Options = DEFAULTS,
) -> None:
    """Lists budgets with what is spent, reserved and left in the present period."""
    with Client(management(options)) as cloud:
        place = choose.organization_id(cloud, org)
        found = cloud.items(at("budgets"), limit=limit, organization_id=place, project_id=project, key_id=api_key)
        show_rows(found, _BUDGET, options.format, empty="no budgets yet: the balance alone is the limit")


@app.command
def show(budget_id: str, /, *, options: Options = DEFAULTS) -> None:
    """Shows a budget as it stands."""
    with Client(management(options)) as cloud:
        show_one(cloud.get(at("budgets", budget_id)), _BUDGET, options.format)


@app.command
def create(
    amount: str,
    /,
    *,
    period: Annotated[Literal["day", "month", "total"], Parameter(help="Days and months are in UTC.")] = "month",
    org: OrganizationOption = None,
    project: ProjectOption = None,
    api_key: KeyOption = None,
    options: Options = DEFAULTS,
) -> None:
    """Limits what may be spent: of the organization, or of one project or key. Not a unit more is charged."""
    body: Json = {"amount": amount, "period": period}
    with Client(management(options)) as cloud:
        if api_key is not None:
            body["key_id"] = api_key
        if project is not None:
            body["project_id"] = project
        if api_key is None and project is None:
            body["organization_id"] = choose.organization_id(cloud, org)
        show_one(cloud.post(at("budgets"), body), _BUDGET, options.format)


@app.command
def update(budget_id: str, amount: str, /, *, options: Options = DEFAULTS) -> None:
    """Raises or lowers the limit."""
    with Client(management(options)) as cloud:
        show_one(cloud.patch(at("budgets", budget_id), {"amount": amount}), _BUDGET, options.format)


@app.command
def delete(budget_id: str, /, *, options: Options = DEFAULTS) -> None:
    """Lifts the limit."""
    with Client(management(options)) as cloud:
        cloud.delete(at("budgets", budget_id))
        show_done({"deleted": budget_id}, f"deleted {budget_id}", options.format)
