"""`node`: this machine as a node of a cloud that runs elsewhere."""

import os
import sys
from typing import Annotated

from cyclopts import App, Parameter

app = App(name="node", help="This machine as a node of a cloud that runs elsewhere.")


def join(*flags: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> None:
    """Makes this machine a node of a cloud that runs over Ray, until Ctrl-C.

    `cloudcrest node join --help` lists its flags: they are those of the process that this one becomes.
    """
    sys.stdout.flush()
    os.execv(  # noqa: S606 - the same interpreter, so that Ctrl-C and signals reach the agent itself
        sys.executable, [sys.executable, "-m", "cloudcrest.bootstrap", "join", *flags]
    )


app.command(join, help_flags=[], version_flags=[])
