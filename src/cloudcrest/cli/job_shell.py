"""A terminal in a running job: what is typed goes there, what it shows comes here."""

import base64
import contextlib
import os
import shutil
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from typing import Annotated

from cyclopts import Parameter

from cloudcrest.cli.client import Client, Json
from cloudcrest.cli.connection import Connection, of_jobs
from cloudcrest.cli.job_output import Member, at
from cloudcrest.cli.options import DEFAULTS, Options
from cloudcrest.cli.output import note
from cloudcrest.kernel.errors import CloudcrestError

_WAIT_SECONDS = 20
_TYPED_BYTES = 4096
_END_OF_INPUT = b"\x04"


def shell(
    job: str,
    /,
    *command: Annotated[str, Parameter(help="What to run there, after --; else a shell.")],
    member: Member = 0,
    options: Options = DEFAULTS,
) -> None:
    """Opens a terminal inside a running job, beside its command. It ends with `exit`, or with the job.

    What comes through a pipe is typed there. The exit code is that of what ran.
    """
    connection = of_jobs(options)
    columns, rows = shutil.get_terminal_size()
    with Client(connection) as cloud:
        wish: Json = {"member": member, "command": list(command), "columns": columns, "rows": rows}
        path = at(job, "shells", str(cloud.post(at(job, "shells"), wish)["id"]))
        try:
            with _raw_terminal(), _typing(connection, path):
                exit_code = _show(cloud, path)
        finally:
            with contextlib.suppress(CloudcrestError):
                cloud.delete(path)
    raise SystemExit(exit_code)


def _show(cloud: Client, path: str) -> int:
    """Shows what comes until the end; returns its exit code."""
    offset = 0
    while True:
        answer = cloud.get(path, offset=offset, wait=_WAIT_SECONDS)
        offset = answer["next_offset"]
        data = base64.b64decode(answer["data"])
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        if not answer["is_open"] and not data:
            return int(answer["exit_code"] or 0)


@contextlib.contextmanager
def _typing(connection: Connection, path: str) -> Iterator[None]:
    """Sends what is typed, and the window's size when it changes, beside the block."""

    def type_on() -> None:
        # A connection of its own: what is typed does not wait for what is shown.
        with Client(connection) as cloud, contextlib.suppress(CloudcrestError):
            while typed := os.read(sys.stdin.fileno(), _TYPED_BYTES):
                cloud.send_bytes("POST", f"{path}/input", typed)
            cloud.send_bytes("POST", f"{path}/input", _END_OF_INPUT)

    def resize(*_: object) -> None:
        columns, rows = shutil.get_terminal_size()

        def tell() -> None:
            with Client(connection) as cloud, contextlib.suppress(CloudcrestError):
                cloud.post(f"{path}/size", {"columns": columns, "rows": rows})

        threading.Thread(target=tell, daemon=True).start()

    before = signal.signal(signal.SIGWINCH, resize)
    threading.Thread(target=type_on, daemon=True).start()
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Every key goes to the other side, Ctrl-C too; without a terminal nothing is changed."""
    if not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    note("a terminal in the job; `exit` or Ctrl-D ends it")
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
