"""What jobs write: logs as they come, and files."""

import codecs
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated
from urllib.parse import quote

from cyclopts import Parameter

from cloudcrest.cli.client import Client, Json
from cloudcrest.cli.connection import of_jobs
from cloudcrest.cli.errors import Refused, Unreachable, WrongUsage
from cloudcrest.cli.options import DEFAULTS, Options
from cloudcrest.cli.output import Column, note, show_rows, show_text

_FINAL_FAILURES = ("failed", "cancelled", "timed_out")
_MOST_BREAKS = 20
_PAUSE_SECONDS = 0.5
_FILE: list[Column] = [("name", "name"), ("bytes", "size_bytes")]

Member = Annotated[int, Parameter(help="Of a job with several members, which; from 0.")]


def logs(
    job: str,
    /,
    *,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative=(), help="On to the job's end.")] = False,
    attempt: Annotated[int | None, Parameter(help="Which attempt, from 1; else the latest.")] = None,
    member: Member = 0,
    options: Options = DEFAULTS,
) -> None:
    """Prints what a job has written.

    With --follow it goes on as the job writes, over its attempts, and ends as the job does: with 1 where it failed.
    """
    with Client(of_jobs(options)) as cloud:
        if follow:
            _follow(cloud, job, attempt, member)
            return
        offset, decoder = 0, codecs.getincrementaldecoder("utf-8")("replace")
        while True:
            with cloud.reading(at(job, "logs"), offset=offset, member=member, attempt=attempt) as answer:
                for piece in answer.iter_bytes():
                    show_text(decoder.decode(piece))
                after = int(answer.headers["x-cloudcrest-next-offset"])
            if after <= offset:
                return
            offset = after


def outputs(
    job: str,
    name: Annotated[str | None, Parameter(help="One of them, to fetch.")] = None,
    /,
    *,
    into: Annotated[Path | None, Parameter(help="Fetch into this folder: all of them, or the one.")] = None,
    options: Options = DEFAULTS,
) -> None:
    """Lists the files that a job has written into its output folders, or fetches them."""
    with Client(of_jobs(options)) as cloud:
        listed = cloud.get(at(job, "outputs"))
        files: list[Json] = listed["data"]
        if problem := listed.get("problem"):
            note(f"not all was kept: {problem}")
        if name is None and into is None:
            show_rows(files, _FILE, options.format, empty="none: a job's outputs are what it writes into outputs/")
            return
        wanted = [str(each["name"]) for each in files if name in (None, each["name"])]
        if not wanted:
            raise WrongUsage(f"the job has no output '{name}'", hint=f"see `cloudcrest jobs outputs {job}`")
        for each in wanted:
            target = local_path(into or Path(), each)
            target.parent.mkdir(parents=True, exist_ok=True)
            with cloud.reading(at(job, "outputs", each)) as answer, target.open("wb") as file:
                for piece in answer.iter_bytes():
                    file.write(piece)
            note(f"{target}")


def at(job: str, *parts: str) -> str:
    """A path of a job's in its region; slashes in a file's name stay."""
    return "/".join(("/v1/jobs", quote(job, safe=""), *(quote(part) for part in parts)))


def local_path(folder: Path, name: str) -> Path:
    """Where a file of this name goes below a folder. Raises `Refused` where the name leads elsewhere."""
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or any(part in ("..", ".") for part in path.parts):
        raise Refused(f"the name '{name}' leads out of the folder", status_code=200)
    return folder / Path(*path.parts)


def _follow(cloud: Client, job: str, attempt: int | None, member: int) -> None:
    """Prints as it comes. A connection that breaks is made again from where it was."""
    shown_attempt, last_id, breaks = attempt, "", 0
    while True:
        query = {"attempt": attempt, "member": member}
        try:
            with cloud.reading(at(job, "logs"), last_event_id=last_id, follow="true", **query) as answer:
                for event in events(answer.iter_lines()):
                    breaks, last_id = 0, event.id or last_id
                    if event.name == "end":
                        _say_end(event.body)
                        return
                    if shown_attempt not in (None, event.body["attempt"]):
                        note(f"attempt {event.body['attempt']}")
                    shown_attempt = event.body["attempt"]
                    show_text(event.body["text"])
        except (Unreachable, Refused) as error:
            breaks += 1
            is_away = isinstance(error, Unreachable) or error.status_code == 503  # a region that starts, for one
            if breaks > _MOST_BREAKS or not is_away:
                raise
            time.sleep(_PAUSE_SECONDS)


def _say_end(body: Json) -> None:
    state = str(body.get("state", ""))
    note(f"{state}: {body.get('reason', '')}".rstrip(": "))
    if state in _FINAL_FAILURES:
        raise SystemExit(1)


@dataclass(frozen=True)
class Event:
    """One server-sent event."""

    name: str
    id: str
    body: Json


def events(lines: Iterator[str]) -> Iterator[Event]:
    """The server-sent events among lines."""
    name = event_id = ""
    for line in lines:
        if line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("id:"):
            event_id = line[3:].strip()
        elif line.startswith("data:"):
            yield Event(name, event_id, json.loads(line[5:]))
