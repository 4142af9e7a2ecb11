"""`up`, `down`, `status` and `logs`: a cloud on this machine."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from cloudcrest.cli import folders, machine
from cloudcrest.cli.errors import Unreachable
from cloudcrest.cli.options import DEFAULTS, Format, Options
from cloudcrest.cli.output import csv_line, note, print_json, show_done, show_one
from cloudcrest.kernel.errors import CloudcrestError, NotFound, SetupError

POLL_SECONDS = 0.1
STATUS_SECONDS = 5.0
"""How long `status` waits: a control plane that waits for its database is not well either."""


def up(*flags: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> None:
    """Runs the cloud on this machine until Ctrl-C.

    `cloudcrest up --help` lists its flags: they are those of the process that this one becomes.
    """
    sys.stdout.flush()
    os.execv(  # noqa: S606 - the same interpreter, so that Ctrl-C and signals reach the supervisor itself
        sys.executable, [sys.executable, "-m", "cloudcrest.bootstrap", "up", *flags]
    )


def down(
    *,
    wait_seconds: Annotated[float, Parameter(help="How long to wait for it to end.")] = 60.0,
    options: Options = DEFAULTS,
) -> None:
    """Stops the cloud that runs in the data folder.

    Its processes end in order; this returns when they are gone.
    """
    data = folders.data_folder(options.data)
    state = machine.running(data)
    if state is None:
        show_done({"stopped": None}, f"no cloud runs in {data}", options.format)
        return
    pid = state.get("pid")
    if not isinstance(pid, int):
        raise SetupError(f"{data}/run/up.json does not say which process runs", hint="end `cloudcrest up` with Ctrl-C")
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        note("it is ending already")
    except PermissionError:
        raise SetupError(f"process {pid} belongs to someone else", hint="run this as the user who started it") from None
    deadline = time.monotonic() + wait_seconds
    while machine.is_locked(data):
        if time.monotonic() > deadline:
            raise SetupError(
                f"process {pid} still runs after {wait_seconds:.0f} s",
                hint=f"end it with `kill -9 {pid}`: nothing is lost",
            )
        time.sleep(POLL_SECONDS)
    show_done({"stopped": pid}, "stopped", options.format)


def status(*, options: Options = DEFAULTS) -> None:
    """Shows whether the cloud answers, and how its deployments are.

    Exit code 3: nothing answers.
    """
    from cloudcrest.cli.client import Client, at
    from cloudcrest.cli.connection import management

    data = folders.data_folder(options.data)
    local = machine.running(data)
    connection = management(options)
    report: dict[str, Any] = {
        "base_url": connection.base_url,
        "found_in": connection.source,
        "data_folder": str(data),
        "runs_here": local is not None,
        "pid": (local or {}).get("pid"),
        "started_at": (local or {}).get("started_at"),
        "ready": local is not None and bool(local.get("is_ready")),
        "processes": (local or {}).get("processes"),
        "answers": False,
        "deployments": [],
    }
    failure: CloudcrestError | None = None
    with Client(connection, timeout_seconds=STATUS_SECONDS) as cloud:
        try:
            report["deployments"] = list(cloud.items(at("deployments")))
            report["answers"] = True
        except CloudcrestError as error:
            failure = error
            report["answers"] = not isinstance(error, Unreachable)
            report["error"] = error.message
    if options.format == "json":
        print_json(report)
    else:
        columns = [
            ("address", "base_url"),
            ("found in", "found_in"),
            ("data folder", "data_folder"),
            ("runs here", "runs_here"),
            ("process", "pid"),
            ("started", "started_at"),
            ("ready", "ready"),
            ("processes", "processes"),
            ("answers", "answers"),
        ]
        show_one(report, columns, options.format)
        if options.format == "table":
            for deployment in report["deployments"]:
                print(deployment_line(deployment))
    if failure is not None:
        raise failure


def deployment_line(deployment: dict[str, Any]) -> str:
    """A deployment in one line: what it serves, its state and, where it is not ready, why."""
    line = f"  {deployment['name']}: {deployment['state']}"
    return f"{line}, {deployment['reason']}" if deployment.get("reason") else line


def logs(
    process: Annotated[
        str | None, Parameter(help="control, region, content, gateway, postgres, a replica's id; else all.")
    ] = None,
    /,
    *,
    follow: Annotated[
        bool, Parameter(name=["--follow", "-f"], negative=(), help="Go on as lines are written.")
    ] = False,
    lines: Annotated[int, Parameter(name=["--lines", "-n"], help="How many lines to begin with.")] = 50,
    options: Options = DEFAULTS,
) -> None:
    """Shows what the processes of the cloud in the data folder have logged.

    With `--format json`, each line is an object that says its `process`.
    """
    data = folders.data_folder(options.data)
    names = machine.log_names(data)
    chosen = names if process is None else [name for name in names if name == process]
    if not chosen:
        known = ", ".join(names) or f"no logs in {data}/logs yet"
        raise NotFound(
            f"there is no log of '{process}'" if process else "nothing was logged yet", hint=f"known: {known}"
        )
    offsets = {}
    for name in chosen:
        last, offsets[name] = machine.tail(_log(data, name), max(0, lines))
        for line in last:
            _show_line(name, line, options.format, alone=process is not None)
    while follow:
        time.sleep(POLL_SECONDS)
        for name in [name for name in machine.log_names(data) if process in (None, name)]:
            for line, offset in machine.grown(_log(data, name), offsets.get(name, 0)):
                offsets[name] = offset
                _show_line(name, line, options.format, alone=process is not None)


def _log(data: Path, name: str) -> Path:
    return data / "logs" / f"{name}.log"


def _show_line(name: str, line: str, format: Format, *, alone: bool) -> None:
    """One line of a log; for programs, with its process: a JSON object on a line of its own, or a row."""
    if format == "json":
        line = json.dumps({"process": name, **_fields(line)}, ensure_ascii=False)
    elif format == "csv":
        line = csv_line([name, line])
    elif not alone:
        line = f"{name} | {line}"
    print(line, flush=True)


def _fields(line: str) -> dict[str, Any]:
    """What our own processes log is JSON; what others do is text."""
    try:
        fields = json.loads(line)
    except ValueError:
        fields = None
    return fields if isinstance(fields, dict) else {"event": line}
