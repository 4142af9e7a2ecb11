"""`python -m cloudcrest.bootstrap up …`, and the processes that it starts: control, region, content,
gateway, fabric. `join …`: a machine that is a node of another's cloud.

Each role imports its own parts alone: a gateway never loads an ORM.
"""

import os
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, cast

from cloudcrest.kernel.errors import SetupError

_USAGE = (
    "usage: python -m cloudcrest.bootstrap {up,join} […] | {control,region,content,gateway,fabric} --settings FILE\n"
)


def main(arguments: Sequence[str]) -> int:
    """Runs a role; the exit code."""
    role = arguments[0] if arguments else ""
    if role in ("up", "join"):
        return _supervise(role, arguments[1:])
    if (
        role in ("control", "region", "content", "gateway", "fabric")
        and len(arguments) == 3
        and arguments[1] == "--settings"
    ):
        _load_structlog()
        from cloudcrest.bootstrap.process import run_process

        return run_process(_process(role, Path(arguments[2])))
    sys.stderr.write(_USAGE)
    return 2


def _load_structlog() -> None:
    """Without what it loads wherever that is, 5 MiB of each process: rich, for terminals that these never see, and
    greenlet, for a way to keep context that nobody here uses.
    """
    needless = ("rich", "greenlet")
    sys.modules |= dict.fromkeys(needless, cast(Any, None))
    import structlog  # noqa: F401 - loaded here for all

    for name in needless:
        del sys.modules[name]


def _supervise(role: str, arguments: Sequence[str]) -> int:
    if role == "up":
        from cloudcrest.bootstrap.up import main as supervise
    else:
        from cloudcrest.bootstrap.join import main as supervise

    # Everything that this process and its children write is their owner's alone.
    os.umask(0o077)
    try:
        return supervise(arguments)
    except SetupError as error:
        sys.stderr.write(f"cloudcrest: {error}\n")
        return 1
    except OSError as error:
        # Of this machine: no room, no rights, a file that is gone.
        sys.stderr.write(f"cloudcrest: {error.filename or 'this machine'}: {error.strerror or error}\n")
        return 1


async def _process(role: str, settings: Path) -> None:
    """Imported and begun inside `run_process`, which says what is wrong with the settings."""
    process: Coroutine[Any, Any, None]
    if role == "control":
        from cloudcrest.bootstrap import control

        process = control.process(settings)
    elif role == "region":
        from cloudcrest.bootstrap import region

        process = region.process(settings)
    elif role == "content":
        from cloudcrest.bootstrap import content

        process = content.process(settings)
    elif role == "fabric":
        from cloudcrest.bootstrap import fabric

        process = fabric.process(settings)
    else:
        from cloudcrest.bootstrap import gateway

        process = gateway.process(settings)
    await process


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
