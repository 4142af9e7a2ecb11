"""`jobs run`, `list`, `show`, `cancel`, `delete`: commands on the cloud's machines, asked for and looked at."""

import re
import time
from functools import partial
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from cloudcrest.cli import choose
from cloudcrest.cli.client import Client, Json, at
from cloudcrest.cli.connection import management
from cloudcrest.cli.errors import WrongUsage
from cloudcrest.cli.options import DEFAULTS, Options
from cloudcrest.cli.output import Column, Row, moment, note, show_done, show_one, show_rows
from cloudcrest.kernel.errors import Conflict
from cloudcrest.kernel.units import format_bytes

FINAL = frozenset(("succeeded", "failed", "cancelled", "timed_out"))
_LOOK_SECONDS = 1.0
_SIZES = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

ProjectOption = Annotated[str | None, Parameter(name="--project", help="Id or name; else the only one there is.")]


def _wants(row: Row) -> str:
    share = "" if row["milli"] == 1000 else f" of {row['milli'] / 1000:g}"
    types = f" {' or '.join(row['types'])}" if row["types"] else ""
    accelerators = f"{row['accelerators']}{share}{types}, " if row["accelerators"] else ""
    members = f" × {row['members']}" if row["members"] > 1 else ""
    return f"{accelerators}{row['cpu_milli'] / 1000:g} CPU{members}"


def _where(row: Row) -> list[str]:
    members = row["attempts"][-1]["members"] if row["attempts"] else []
    return sorted({member["node_id"] for member in members if member["node_id"]})


def _sum(field: str, row: Row) -> Any:
    members = row["attempts"][-1]["members"] if row["attempts"] else []
    return sum(member[field] for member in members) if members else None


def _bytes_of(field: str, row: Row) -> str:
    return "" if (found := _sum(field, row)) is None else format_bytes(found)


_LISTED: list[Column] = [
    ("id", "id"),
    ("name", "name"),
    ("state", "state"),
    ("wants", _wants),
    ("on", _where),
    ("created (UTC)", moment("created_at")),
    ("why", "reason"),
]
_SHOWN: list[Column] = [
    *_LISTED[:4],
    ("on", _where),
    ("command", lambda row: " ".join(row["command"])),
    ("image", "image"),
    ("inputs", lambda row: [f"{each['path']}={each['url'] or each['file_id']}" for each in row["inputs"]]),
    ("outputs", "outputs"),
    ("volumes", lambda row: [f"{each['name']}:{each['target']}" for each in row["volumes"]]),
    ("secrets", "secrets"),
    ("may connect to", "allowed_hosts"),
    ("node labels", lambda row: [f"{name}={value}" for name, value in row["labels"].items()]),
    ("tolerates", "tolerations"),
    ("priority", lambda row: "spot" if row["is_spot"] else row["priority"]),
    ("attempts", "attempt"),
    ("preempted", "preemptions"),
    ("created (UTC)", moment("created_at")),
    ("started (UTC)", moment("started_at")),
    ("ended (UTC)", moment("ended_at")),
    ("cpu seconds", partial(_sum, "cpu_seconds")),
    ("memory at most", partial(_bytes_of, "memory_peak_bytes")),
    ("sent", partial(_bytes_of, "sent_bytes")),
    ("received", partial(_bytes_of, "received_bytes")),
    ("why", "reason"),
]


def run(
    command: Annotated[list[str], Parameter(help="What to run, after --.")],
    /,
    *,
    name: Annotated[str, Parameter(name=["--name", "-n"])] = "job",
    project: ProjectOption = None,
    region: str = "local",
    image: Annotated[str, Parameter(help="A container image; else the node's own programs.")] = "",
    cpu: Annotated[float, Parameter(help="Processors of each member.")] = 1.0,
    memory: Annotated[str, Parameter(help="Memory of each member, as 512M or 16G.")] = "1G",
    disk: Annotated[str, Parameter(help="Of the work folder; else the node's own limit.")] = "0",
    accelerators: Annotated[int, Parameter(help="Accelerators of each member.")] = 0,
    share: Annotated[float, Parameter(help="Of a single accelerator, as 0.25.")] = 1.0,
    type: Annotated[list[str] | None, Parameter(name="--type", help="Any of these types; may come again.")] = None,
    prefer: Annotated[Literal["packing", "cheapest", "order"], Parameter(help="Between several types.")] = "packing",
    members: Annotated[int, Parameter(help="Run at once, all or none.")] = 1,
    together: Annotated[Literal["node", "rack", "zone"] | None, Parameter(help="All members in one.")] = None,
    spread: Annotated[Literal["node", "rack", "zone"] | None, Parameter(help="Members evenly over these.")] = None,
    node_label: Annotated[list[str] | None, Parameter(help="NAME=VALUE of its nodes; may come again.")] = None,
    tolerate: Annotated[list[str] | None, Parameter(help="A taint of nodes that it may go to.")] = None,
    env: Annotated[list[str] | None, Parameter(name=["--env", "-e"], help="NAME=VALUE; may come again.")] = None,
    secret: Annotated[list[str] | None, Parameter(help="A secret of the project, by name; may come again.")] = None,
    input: Annotated[list[str] | None, Parameter(help="PATH=ADDRESS or PATH=file_…; may come again.")] = None,
    output: Annotated[list[str] | None, Parameter(help="A folder that is kept; may come again.")] = None,
    volume: Annotated[list[str] | None, Parameter(help="NAME:/TARGET or NAME:/TARGET:ro; may come again.")] = None,
    allow: Annotated[list[str] | None, Parameter(help="A host it may connect to; may come again.")] = None,
    checkpoints: Annotated[bool, Parameter(negative=(), help="It goes on from $CLOUDCREST_CHECKPOINTS.")] = False,
    retries: Annotated[int, Parameter(help="After failures.")] = 0,
    time_limit: Annotated[str | None, Parameter(help="Of all its running time, as 90s, 30m or 2h.")] = None,
    priority: Literal["low", "normal", "high"] = "normal",
    spot: Annotated[bool, Parameter(negative=(), help="May be stopped for others, and goes on later.")] = False,
    wait: Annotated[bool, Parameter(negative=(), help="Until it has ended; the exit code says how.")] = False,
    options: Options = DEFAULTS,
) -> None:
    """Runs a command on the cloud's machines, charged by the second.

    cloudcrest jobs run --wait -- echo hello

    cloudcrest jobs run --accelerators 1 --type nvidia-h100-80gb --memory 64G --volume data:/data -- python train.py

    cloudcrest jobs run --spot --checkpoints --retries 3 --time-limit 12h -- python train.py
    """
    body: Json = {
        "name": name, "region": region, "command": command, "image": image, "cpu_milli": round(cpu * 1000),
        "memory_bytes": _bytes(memory, "--memory"), "disk_bytes": _bytes(disk, "--disk"), "members": members,
        "together": together, "spread": spread, "environment": dict(_pairs(env, "--env")), "secrets": secret or [],
        "inputs": [_input(path, where) for path, where in _pairs(input, "--input")],
        "volumes": [_volume(each) for each in volume or ()], "allowed_hosts": allow or [],
        "has_checkpoints": checkpoints, "retries": retries, "priority": priority, "is_spot": spot,
        "labels": dict(_pairs(node_label, "--node-label")), "tolerations": tolerate or [],
        "time_limit_seconds": None if time_limit is None else _seconds(time_limit),
    }  # fmt: skip
    if output:
        body["outputs"] = output
    if accelerators or share != 1.0 or type:
        body["accelerators"] = {
            "count": accelerators or 1, "milli": round(share * 1000), "types": type or [], "prefers": prefer
        }  # fmt: skip
    with Client(management(options)) as cloud:
        body["project_id"] = choose.project_id(cloud, project)
        job = cloud.post(at("jobs"), body)
        if wait:
            job = _wait(cloud, job)
        show_one(job, _SHOWN, options.format)
    if not wait:
        note(f"follow it with `cloudcrest jobs logs {job['id']} --follow`")
    elif job["state"] != "succeeded":
        raise Conflict(f"job {job['id']} {job['state']}: {job['reason']}")


def list_jobs(
    *,
    org: Annotated[str | None, Parameter(name="--org", help="Only of this organization.")] = None,
    project: Annotated[str | None, Parameter(name="--project", help="Only of this project: id or name.")] = None,
    state: Annotated[str | None, Parameter(help="Only in this state, as running or failed.")] = None,
    limit: Annotated[int, Parameter(name=["--limit", "-n"], help="How many at most, newest first.")] = 50,
    options: Options = DEFAULTS,
) -> None:
    """Lists jobs, newest first."""
    with Client(management(options)) as cloud:
        place = None if org is None else choose.organization_id(cloud, org)
        within = None if project is None else choose.project_id(cloud, project, org)
        found = cloud.items(at("jobs"), limit=limit, organization_id=place, project_id=within, state=state)
        show_rows(found, _LISTED, options.format, empty="no jobs yet: run one with `cloudcrest jobs run -- COMMAND`")


def show(job_id: str, /, *, options: Options = DEFAULTS) -> None:
    """Shows a job; every attempt with --format json."""
    with Client(management(options)) as cloud:
        show_one(cloud.get(at("jobs", job_id)), _SHOWN, options.format)


def cancel(
    job_id: str,
    /,
    *,
    wait: Annotated[bool, Parameter(negative=(), help="Until it has ended.")] = False,
    options: Options = DEFAULTS,
) -> None:
    """Has a job end: SIGTERM, and SIGKILL after its grace."""
    with Client(management(options)) as cloud:
        job = cloud.post(at("jobs", job_id, "cancel"), {})
        show_one(_wait(cloud, job) if wait else job, _SHOWN, options.format)


def delete(job_id: str, /, *, options: Options = DEFAULTS) -> None:
    """Forgets a job that has ended."""
    with Client(management(options)) as cloud:
        cloud.delete(at("jobs", job_id))
        show_done({"deleted": job_id}, f"deleted {job_id}", options.format)


def _wait(cloud: Client, job: Json) -> Json:
    """Looks until it has ended, and says what changes."""
    said = ""
    while job["state"] not in FINAL:
        saying = f"{job['state']}: {job['reason']}" if job["reason"] else job["state"]
        if saying != said:
            note(saying)
            said = saying
        time.sleep(_LOOK_SECONDS)
        job = cloud.get(at("jobs", job["id"]))
    return job


def _pairs(given: list[str] | None, flag: str) -> list[tuple[str, str]]:
    pairs = []
    for each in given or ():
        name, equals, value = each.partition("=")
        if not name or not equals:
            raise WrongUsage(f"{flag} takes NAME=VALUE, not '{each}'")
        pairs.append((name, value))
    return pairs


def _input(path: str, where: str) -> Json:
    return {"path": path, "file_id" if where.startswith("file_") else "url": where}


def _volume(text: str) -> dict[str, Any]:
    name, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not name or not target or mode not in ("", "ro", "rw"):
        raise WrongUsage(f"--volume takes NAME:/TARGET or NAME:/TARGET:ro, not '{text}'")
    return {"name": name, "target": target, "is_writable": mode != "ro"}


def _bytes(text: str, flag: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgt]?)i?b?", text.lower())
    if found is None:
        raise WrongUsage(f"{flag} takes a size as 512M or 16G, not '{text}'")
    return round(float(found[1]) * _SIZES[found[2]])


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.lower())
    if found is None:
        raise WrongUsage(f"--time-limit takes a time as 90s, 30m or 2h, not '{text}'")
    return float(found[1]) * _SPANS[found[2] or "s"]
