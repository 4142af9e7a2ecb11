"""`regions`: where models run and what tenants store is kept."""

from typing import Annotated

from cyclopts import App, Parameter

from cloudcrest.cli.client import Client, at
from cloudcrest.cli.connection import management
from cloudcrest.cli.options import DEFAULTS, Options
from cloudcrest.cli.output import Column, moment, note, print_json, show_one, show_rows

app = App(name="regions", help="Regions: where models run.")

_REGION: list[Column] = [
    ("id", "id"),
    ("name", "name"),
    ("jurisdiction", "jurisdiction"),
    ("zones", "zones"),
    ("link", "link"),
    ("last seen", moment("last_seen_at")),
]


@app.command(name="list")
def list_regions(*, options: Options = DEFAULTS) -> None:
    """Lists the regions of this cloud; operators also see whether each is connected."""
    with Client(management(options)) as cloud:
        show_rows(cloud.items(at("regions")), _REGION, options.format, empty="no regions")


@app.command
def show(region: str, /, *, options: Options = DEFAULTS) -> None:
    """Shows one region."""
    with Client(management(options)) as cloud:
        show_one(cloud.get(at("regions", region)), _REGION, options.format)


@app.command
def create(
    region: str,
    /,
    *,
    name: Annotated[str, Parameter(help="What people call it.")],
    jurisdiction: Annotated[str, Parameter(help="ISO 3166 country code, or `local`.")],
    options: Options = DEFAULTS,
) -> None:
    """Adds a region, for operators, and prints the token of its link, this once."""
    with Client(management(options)) as cloud:
        answer = cloud.post(at("regions"), {"id": region, "name": name, "jurisdiction": jurisdiction})
    if options.format != "table":
        print_json(answer)
        return
    note("its region service shows this token; it is shown this once")
    print(answer["token"])
