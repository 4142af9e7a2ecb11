"""`secrets`: what jobs are given by name, and nobody is shown."""

import sys
from getpass import getpass
from typing import Annotated

from cyclopts import App, Parameter

from cloudcrest.cli import choose
from cloudcrest.cli.client import Client, at
from cloudcrest.cli.connection import management
from cloudcrest.cli.options import DEFAULTS, Options
from cloudcrest.cli.output import Column, moment, show_done, show_one, show_rows

app = App(name="secrets", help="Secrets of a project: jobs are given them by name, nobody is shown them again.")

ProjectOption = Annotated[str | None, Parameter(name="--project", help="Id or name; else the only one there is.")]
_SECRET: list[Column] = [
    ("name", "name"),
    ("project", "project_id"),
    ("set (UTC)", moment("updated_at")),
    ("by", "created_by"),
]


@app.command(name="set")
def set_secret(name: str, /, *, project: ProjectOption = None, options: Options = DEFAULTS) -> None:
    """Sets a secret. Its value is asked for, or read from standard input: it is in no list of processes.

    cloudcrest secrets set HF_TOKEN < token.txt
    """
    value = getpass(f"{name}: ") if sys.stdin.isatty() else sys.stdin.read().rstrip("\n")
    with Client(management(options)) as cloud:
        place = choose.project_id(cloud, project)
        show_one(cloud.put(at("projects", place, "secrets", name), {"value": value}), _SECRET, options.format)


@app.command(name="list")
def list_secrets(*, project: ProjectOption = None, options: Options = DEFAULTS) -> None:
    """Lists the names of secrets."""
    with Client(management(options)) as cloud:
        place = choose.project_id(cloud, project)
        show_rows(cloud.get(at("projects", place, "secrets"))["data"], _SECRET, options.format, empty="no secrets yet")


@app.command
def delete(name: str, /, *, project: ProjectOption = None, options: Options = DEFAULTS) -> None:
    """Deletes a secret. Jobs that were made with it keep it."""
    with Client(management(options)) as cloud:
        place = choose.project_id(cloud, project)
        cloud.delete(at("projects", place, "secrets", name))
        show_done({"deleted": name}, f"deleted {name}", options.format)
