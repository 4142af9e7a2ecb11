"""`volumes`: folders of a project in its region, which jobs see and the API fills."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from cyclopts import App, Parameter

from cloudcrest.cli.client import Client, Json
from cloudcrest.cli.connection import of_jobs
from cloudcrest.cli.job_output import local_path
from cloudcrest.cli.options import DEFAULTS, Options
from cloudcrest.cli.output import Column, note, show_done, show_one, show_rows
from cloudcrest.kernel.units import format_bytes, parse_bytes

_PIECE_BYTES = 1024 * 1024
_VOLUME: list[Column] = [("name", "name"), ("holds up to", lambda each: format_bytes(each["quota_bytes"]))]
_SHOWN: list[Column] = [*_VOLUME, ("holds", lambda each: format_bytes(each["used_bytes"]))]
_OBJECT: list[Column] = [("name", "name"), ("bytes", "size_bytes")]

app = App(name="volumes", help="Volumes: folders that jobs share, and you fill.")


@app.command(name="list")
def list_volumes(*, options: Options = DEFAULTS) -> None:
    """Lists the project's volumes."""
    with Client(of_jobs(options)) as cloud:
        found = cloud.get("/v1/volumes")["data"]
        show_rows(found, _VOLUME, options.format, empty="none yet: `cloudcrest volumes create NAME`")


@app.command
def create(
    name: str,
    /,
    *,
    quota: Annotated[str | None, Parameter(help="What it may hold, as in 10GiB.")] = None,
    options: Options = DEFAULTS,
) -> None:
    """Makes a volume."""
    body: Json = {"name": name} if quota is None else {"name": name, "quota_bytes": parse_bytes(quota)}
    with Client(of_jobs(options)) as cloud:
        show_one(cloud.post("/v1/volumes", body), _VOLUME, options.format)


@app.command
def show(name: str, /, *, options: Options = DEFAULTS) -> None:
    """Shows a volume and how much it holds."""
    with Client(of_jobs(options)) as cloud:
        show_one(cloud.get(_at(name)), _SHOWN, options.format)


@app.command
def delete(name: str, /, *, options: Options = DEFAULTS) -> None:
    """Removes a volume and all it holds."""
    with Client(of_jobs(options)) as cloud:
        show_done(cloud.delete(_at(name)), f"the volume '{name}' is gone", options.format)


@app.command
def files(
    name: str,
    /,
    *,
    prefix: Annotated[str, Parameter(help="Those whose names begin so.")] = "",
    options: Options = DEFAULTS,
) -> None:
    """Lists what a volume holds."""
    with Client(of_jobs(options)) as cloud:
        found = _objects(cloud, name, prefix)
        show_rows(found, _OBJECT, options.format, empty="nothing: `cloudcrest volumes put NAME FILE`")


@app.command
def put(
    name: str,
    file: Path,
    /,
    *,
    to: Annotated[str | None, Parameter(name="--as", help="What it is called there; else as it is here.")] = None,
    options: Options = DEFAULTS,
) -> None:
    """Puts a file into a volume, over one of the same name."""
    with Client(of_jobs(options)) as cloud:
        done = cloud.send_bytes("PUT", _at(name, to or file.name), _pieces(file))
        show_done(done, f"{done['name']}: {format_bytes(done['size_bytes'])}", options.format)


@app.command
def get(
    name: str,
    file: str,
    /,
    *,
    into: Annotated[Path, Parameter(help="The folder to put it in.")] = Path(),
    options: Options = DEFAULTS,
) -> None:
    """Fetches a file out of a volume."""
    target = local_path(into, file)
    with Client(of_jobs(options)) as cloud, cloud.reading(_at(name, file)) as answer:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as opened:
            for piece in answer.iter_bytes():
                opened.write(piece)
    note(f"{target}")


@app.command
def remove(name: str, file: str, /, *, options: Options = DEFAULTS) -> None:
    """Removes a file from a volume."""
    with Client(of_jobs(options)) as cloud:
        show_done(cloud.delete(_at(name, file)), f"'{file}' is gone", options.format)


def _objects(cloud: Client, name: str, prefix: str) -> Iterator[Json]:
    after = ""
    while True:
        page = cloud.get(f"{_at(name)}/objects", prefix=prefix, after=after)
        yield from page["data"]
        if not page["has_more"]:
            return
        after = page["data"][-1]["name"]


def _pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while piece := opened.read(_PIECE_BYTES):
            yield piece


def _at(name: str, *file: str) -> str:
    path = f"/v1/volumes/{quote(name, safe='')}"
    return f"{path}/objects/{quote(file[0])}" if file else path
