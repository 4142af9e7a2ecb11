"""`quotas`: how much of a region's accelerators organizations and projects are guaranteed."""

from typing import Annotated

from cyclopts import App, Parameter

from cloudcrest.cli import choose
from cloudcrest.cli.client import Client, Json, at
from cloudcrest.cli.connection import management
from cloudcrest.cli.options import DEFAULTS, Options
from cloudcrest.cli.output import Column, Row, show_done, show_one, show_rows

app = App(
    name="quotas", help="Quotas: what of a region's accelerators is guaranteed to whom, and the most he may have."
)


def _amount(field: str) -> Column:
    def read(row: Row) -> str:
        return "" if row[field] is None else f"{row[field] / 1000:g}"

    return (field.removesuffix("_milli"), read)


_QUOTA: list[Column] = [
    ("id", "id"),
    ("of", lambda row: row["project_id"] or row["organization_id"]),
    ("region", "region"),
    ("resource", "resource"),
    _amount("guaranteed_milli"),
    _amount("ceiling_milli"),
    _amount("used_milli"),
    _amount("borrowed_milli"),
]


@app.command(name="list")
def list_quotas(
    *,
    org: Annotated[str | None, Parameter(name="--org", help="Only of this organization: id or name.")] = None,
    region: Annotated[str | None, Parameter(help="Only in this region.")] = None,
    limit: Annotated[int, Parameter(name=["--limit", "-n"], help="How many at most, newest first.")] = 100,
    options: Options = DEFAULTS,
) -> None:
    """Lists quotas with what is used and borrowed now."""
    with Client(management(options)) as cloud:
        place = None if org is None else choose.organization_id(cloud, org)
        found = cloud.items(at("quotas"), limit=limit, organization_id=place, region=region)
        show_rows(found, _QUOTA, options.format, empty="no quotas yet: everyone borrows what is free")


@app.command(name="set")
def set_quota(
    resource: str,
    guaranteed: float,
    /,
    *,
    ceiling: Annotated[float | None, Parameter(help="The most; else whatever is free may be borrowed.")] = None,
    org: Annotated[str | None, Parameter(name="--org", help="Of this organization: id or name.")] = None,
    project: Annotated[str | None, Parameter(name="--project", help="Of this project alone: id or name.")] = None,
    region: str = "local",
    options: Options = DEFAULTS,
) -> None:
    """Guarantees so many accelerators of a type (or cpu), to an organization or one of its projects.

    cloudcrest quotas set nvidia-h100-80gb 8 --ceiling 16 --org acme
    """
    body: Json = {
        "guaranteed_milli": round(guaranteed * 1000),
        "ceiling_milli": None if ceiling is None else round(ceiling * 1000),
    }
    with Client(management(options)) as cloud:
        owner: Json = {"project_id": choose.project_id(cloud, project, org)} if project else {}
        if not project:
            owner["organization_id"] = choose.organization_id(cloud, org)
        there = [
            each
            for each in cloud.items(at("quotas"), region=region)
            if each["resource"] == resource
            and bool(each["project_id"]) == bool(project)
            and all(each[name] == value for name, value in owner.items())
        ]
        if there:
            made = cloud.put(at("quotas", there[0]["id"]), body)
        else:
            made = cloud.post(at("quotas"), {**body, **owner, "region": region, "resource": resource})
        show_one(made, _QUOTA, options.format)


@app.command
def delete(quota_id: str, /, *, options: Options = DEFAULTS) -> None:
    """Takes a quota away: who had it borrows from now on."""
    with Client(management(options)) as cloud:
        cloud.delete(at("quotas", quota_id))
        show_done({"deleted": quota_id}, f"deleted {quota_id}", options.format)
