"""What running jobs use."""

import time
from typing import Annotated, Any

from cyclopts import Parameter

from cloudcrest.cli.client import Client, Json
from cloudcrest.cli.connection import of_jobs
from cloudcrest.cli.errors import Refused
from cloudcrest.cli.job_output import at
from cloudcrest.cli.options import DEFAULTS, Options
from cloudcrest.cli.output import Column, Row, note, print_json, show_rows
from cloudcrest.kernel.units import format_bytes

_LOOK_SECONDS = 2.0
_UNKNOWN = "not known"
_ENDED = 409


def _size(value: Any) -> str:
    return _UNKNOWN if value is None else format_bytes(value)


def _chip(use: Row) -> str:
    busy = _UNKNOWN if use["utilization"] is None else f"{use['utilization']:.0%}"
    told = [busy, *([] if use["memory_used_bytes"] is None else [_size(use["memory_used_bytes"])])]
    return " ".join([*told, *([] if use["power_watts"] is None else [f"{use['power_watts']:.0f} W"])])


def _used(chips_of: Any) -> list[Column]:
    return [
        ("cpu seconds", lambda row: round(row["cpu_seconds"], 1)),
        ("memory", lambda row: _size(row["memory_bytes"])),
        ("disk", lambda row: _size(row["disk_bytes"])),
        ("sent", lambda row: _size(row["sent_bytes"])),
        ("received", lambda row: _size(row["received_bytes"])),
        ("accelerators", chips_of),
    ]


def _chips(row: Row) -> list[str]:
    return [f"{use['index']}: {_chip(use)}" for use in row["accelerators"]]


_NOW: list[Column] = [
    ("member", "member"),
    ("cores", "cpu_cores"),
    *_used(_chips)[:2],
    ("at most", lambda row: _size(row["memory_peak_bytes"])),
    *_used(_chips)[2:],
    ("processes", "processes"),
]
_HISTORY: list[Column] = [("after s", lambda row: round(row["seconds"])), *_used(_chips)]


def metrics(
    job: str,
    /,
    *,
    member: Annotated[int | None, Parameter(help="Of a job with several members, which; from 0.")] = None,
    history: Annotated[bool, Parameter(negative=(), help="Of one member, since its start.")] = False,
    watch: Annotated[
        bool, Parameter(name=["--watch", "-w"], negative=(), help="Every two seconds, to its end.")
    ] = False,
    options: Options = DEFAULTS,
) -> None:
    """Shows what a running job uses, by member: processors, memory, disk, what passed its proxy, its accelerators."""
    with Client(of_jobs(options)) as cloud:
        while True:
            try:
                used = cloud.get(at(job, "metrics"), member=member, history="true" if history else None)
            except Refused as refused:
                if watch and refused.status_code == _ENDED:
                    note(refused.message)
                    return
                raise
            _show(used, options, has_history=history)
            if not watch:
                return
            time.sleep(_LOOK_SECONDS)


def _show(used: Json, options: Options, *, has_history: bool) -> None:
    if options.format == "json":
        print_json(used)
    elif has_history:
        show_rows(used["members"][0]["history"], _HISTORY, options.format, empty="nothing is measured yet")
    else:
        show_rows(used["members"], _NOW, options.format, empty="it does not run")
