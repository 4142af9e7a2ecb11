"""How Ray is started on a node. Pure."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cloudcrest.compute.api import ProcessSpec
from cloudcrest.compute.fabric.ray.actor import DATA_VARIABLE, SOCKET_VARIABLE
from cloudcrest.compute.fabric.ray.members import NODE_LABEL
from cloudcrest.kernel.errors import SetupError

LOOPBACK = "127.0.0.1"
_OBJECT_STORE_BYTES = 80_000_000
"""The least that Ray takes: nothing of ours goes through it."""
_WORKER_PORTS = (9_000, 9_999)
_STOP_GRACE_SECONDS = 8.0
_MOST_PORT = 65_535
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_NAME = re.compile(_PART)
_KEY = re.compile(rf"(?:{_PART}/)?{_PART}")


@dataclass(frozen=True)
class RayStart:
    """One node's Ray. `head`: HOST:PORT of the cluster's head. `is_head`: this node is it.

    `folder`: for Ray's sockets and logs; its path has few characters, as those of sockets are short.
    """

    name: str
    head: str
    address: str
    folder: Path
    token_path: Path
    socket_path: Path
    data_folder: Path
    labels: Mapping[str, str]
    is_head: bool = False

    def process(self) -> ProcessSpec:
        """Its process, under a supervisor."""
        port = self.head.rpartition(":")[2]
        as_head = ("--head", f"--port={port}", "--include-dashboard=false", "--no-monitor")
        labels = {**self.labels, NODE_LABEL: self.name}
        argv = (
            *(sys.executable, "-P", "-m", "cloudcrest.compute.fabric.ray.start"),
            *(as_head if self.is_head else (f"--address={self.head}",)),
            *(f"--node-ip-address={self.address}", f"--temp-dir={self.folder}"),
            f"--labels={','.join(f'{key}={value}' for key, value in sorted(labels.items()))}",
            # Ray gives nothing out: our scheduler does, and there is one set of books.
            *("--num-cpus=0", "--num-gpus=0", f"--object-store-memory={_OBJECT_STORE_BYTES}"),
            *("--include-log-monitor=false", "--disable-usage-stats", *_worker_ports(self.address)),
        )
        environment = {**ray_environment(self.token_path), SOCKET_VARIABLE: str(self.socket_path)}
        environment[DATA_VARIABLE] = str(self.data_folder)
        return ProcessSpec(id="ray", argv=argv, environment=environment, stop_grace_seconds=_STOP_GRACE_SECONDS)


def _worker_ports(address: str) -> tuple[str, ...]:
    """Those of its actors: few, and below our own, for who has to let them through. On loopback any will do, as several
    nodes may be on one machine, and each believes that all of its ports are free.
    """
    first, last = (0, 0) if address == LOOPBACK else _WORKER_PORTS
    return f"--min-worker-port={first}", f"--max-worker-port={last}"


def ray_environment(token_path: Path) -> dict[str, str]:
    """What every process that speaks to Ray needs: nobody is let in without the token."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        "RAY_AUTH_TOKEN": "",  # one of the caller's own would win over the file
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        # Our processes are no children of Ray's: it has nothing to wait for, and is soon back after its head was away.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
        # A node that is gone is so for Ray after some five seconds in place of fifteen.
        "RAY_health_check_period_ms": "1000",
        "PYTHONSAFEPATH": "1",
    }


def checked_name(name: str) -> str:
    """A node's name. Raises `SetupError` where Ray could not carry it."""
    if not _NAME.fullmatch(name):
        raise SetupError(
            f"'{name}' is no name for a node", hint="use 1 to 63 letters, digits, dots, dashes and underscores"
        )
    return name


def host_and_port(head: str) -> tuple[str, int]:
    """Those of a cluster's head. Raises `SetupError` where there is something else."""
    host, _, port = head.rpartition(":")
    if not host or not port.isdecimal() or int(port) > _MOST_PORT:
        raise SetupError(f"'{head}' is no HOST:PORT", hint="write the head's address and its port, as 10.0.0.5:6379")
    return host.strip("[]"), int(port)


def check_token(path: Path) -> None:
    """Raises `SetupError` where the file has no token in it, of which Ray would not say so."""
    try:
        has_token = bool(path.read_text("ascii").strip())
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"the token in {path} cannot be read: {error}", hint="copy the cloud's node-token") from error
    if not has_token:
        raise SetupError(f"there is no token in {path}", hint="copy the cloud's node-token")


def label_of(text: str) -> tuple[str, str]:
    """A label "key=value". Raises `SetupError` where it is none, or one that is not for people to set."""
    key, separator, value = text.partition("=")
    if not separator or not _KEY.fullmatch(key) or (value and not _NAME.fullmatch(value)):
        raise SetupError(
            f"'{text}' is no label", hint="write KEY=VALUE, of letters, digits, dots, dashes and underscores"
        )
    if key == NODE_LABEL:
        raise SetupError(f"{NODE_LABEL} is the node's name", hint="set it with --name")
    return key, value
