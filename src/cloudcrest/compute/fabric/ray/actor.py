"""What runs in Ray on each node: it passes lines on to the node's agent, which is no child of Ray's."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from cloudcrest import __version__
from cloudcrest.compute.fabric.agent import AgentAnswer
from cloudcrest.compute.fabric.local import exchange
from cloudcrest.kernel.errors import Unavailable

SOCKET_VARIABLE = "CLOUDCREST_NODE_SOCKET"
DATA_VARIABLE = "CLOUDCREST_NODE_DATA"
"""Set for Ray's processes on a node: where its agent listens, and its data folder."""


class Installation(msgspec.Struct, frozen=True):
    """What is installed where. Processes are started by these paths, so they are the same on every node."""

    version: str
    python: str
    data_folder: str


def installed_here(environment: Mapping[str, str] = os.environ) -> Installation:
    """This node's, in a process of Ray's."""
    return Installation(__version__, sys.executable, environment.get(DATA_VARIABLE, ""))


def difference(wanted: Installation, found: Installation) -> str | None:
    """Why nothing can be run on a node, in a sentence with what to do."""
    if wanted.version != found.version:
        return f"it has Cloudcrest {found.version}, its cloud {wanted.version}: install that version"
    if wanted.python != found.python:
        return f"its Python is {found.python}, its cloud's {wanted.python}: install Cloudcrest at the same path"
    if wanted.data_folder != found.data_folder:
        return f"its data folder is {found.data_folder}, its cloud's {wanted.data_folder}: join it with that --data"
    return None


class NodeActor:
    """An actor of Ray's, on one node. `home`: what the cloud's own machine has."""

    def __init__(self, home: Installation) -> None:
        self._refusal = difference(home, installed_here())
        self._socket = Path(os.environ.get(SOCKET_VARIABLE, ""))

    async def call(self, line: bytes) -> bytes:
        """One line of the agents' protocol, and its answer."""
        if self._refusal is not None:
            return _cannot(self._refusal)
        try:
            return await exchange(self._socket, line)
        except OSError as error:
            return _cannot(f"its agent does not answer at {self._socket}: {error.strerror or error}")


def _cannot(why: str) -> bytes:
    return msgspec.json.encode(AgentAnswer(ok=False, code=Unavailable.default_code, message=why))
