"""`cloudcrest node join`: makes this machine a node of a cloud that runs elsewhere over Ray, until Ctrl-C.

This process is the node's agent, as `up` is its own machine's. Ray runs beside it and is started again whenever it
ends, as it does when the cloud's head is away: what runs here runs on, and is found again.
"""

import argparse
import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cloudcrest.bootstrap.agents import log_to, machine_host
from cloudcrest.bootstrap.arguments import default_data_folder, require_ray
from cloudcrest.bootstrap.data_folder import socket_folder, take_lock
from cloudcrest.bootstrap.ports import free_port
from cloudcrest.bootstrap.ray_services import ray_folder, ray_service
from cloudcrest.bootstrap.services import service_environment
from cloudcrest.bootstrap.stopping import Stopping
from cloudcrest.bootstrap.supervise import Supervisor
from cloudcrest.bootstrap.ui import Ui, make_ui
from cloudcrest.compute.fabric.agent import NodeAgent
from cloudcrest.compute.fabric.machine import NODE_ID
from cloudcrest.compute.fabric.process_host import ProcessHost
from cloudcrest.compute.fabric.ray.command import RayStart, check_token, checked_name, host_and_port, label_of
from cloudcrest.infra.lifeline import Lifeline
from cloudcrest.infra.settings import load_settings
from cloudcrest.kernel.clock import SystemClock
from cloudcrest.kernel.errors import SetupError

_HEAD_SECONDS = 10.0
_GREETING_SECONDS = 5.0
_QUIET_SECONDS = 20.0
"""A cloud that asks for a node at all has done so by then."""


class JoinSettings(msgspec.Struct, frozen=True):
    """What a person tells `node join`: by flags, which win, or by CLOUDCREST_NODE_NAME and so on, and CLOUDCREST_DATA.

    `address`: this machine's, by which the cloud and the other nodes reach it.
    """

    head: str
    data: Path
    token_file: Path
    name: str
    address: str | None = None
    labels: tuple[str, ...] = ()
    log_level: str = "info"
    log_json: bool = True


@dataclass(frozen=True)
class NodeFolder:
    """Where a node keeps its own, inside the data folder: its processes' logs, its lock, its agent's socket."""

    root: Path

    def open(self) -> int:
        """Makes it and locks it; the lock's descriptor. Raises `SetupError` where this node runs already."""
        for folder in (self.logs, self.run, self.sockets):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = take_lock(self.run / "lock")
        if lock is None:
            pid = (self.run / "lock").read_text() or "unknown"
            raise SetupError(f"this node runs already (process {pid})", hint="end that, or choose another --name")
        return lock

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def sockets(self) -> Path:
        return socket_folder(self.root)


class Join:
    """One run of a node."""

    def __init__(self, start: RayStart, folder: NodeFolder, ui: Ui, environment: Mapping[str, str]) -> None:
        self._start = start
        self._ui = ui
        self._logs = folder.logs
        self._lifeline = Lifeline()
        self._processes = machine_host(folder.logs, folder.run, self._lifeline, environment, start.data_folder)
        self._agent = NodeAgent(self._processes, start.socket_path)
        services = ProcessHost(
            log_folder=folder.logs,
            working_folder=folder.run,
            lifeline=self._lifeline,
            environment=service_environment(environment),
        )
        self._supervisor = Supervisor(services, SystemClock(), on_change=lambda: None)

    async def run(self) -> None:
        """Runs until it is told to stop. Raises `SetupError` where this machine cannot join."""
        stopping = Stopping()
        try:
            await stopping.unless(self._join(), self._supervisor)
            await stopping.wait()
        finally:
            self._ui.step("Leaving (Ctrl-C again ends everything at once)")
            # Ray first: the cloud then knows that the node is gone, and gives what ran here other places.
            ray = self._start.process().id
            await self._supervisor.stop(ray)
            await self._agent.close()
            await self._processes.close()
            self._lifeline.close()

    async def _join(self) -> None:
        await self._agent.start()
        self._ui.step(f"Joining the cloud at {self._start.head}")
        self._supervisor.start(ray_service(self._start))
        try:
            await asyncio.wait_for(self._agent.was_asked.wait(), _QUIET_SECONDS)
        except TimeoutError:
            self._ui.step(
                f"The cloud at {self._start.head} has not asked for this node yet; `cloudcrest nodes show "
                f"{self._start.name}` there may say why, and so may {self._logs / 'ray.log'} here"
            )
            await self._agent.was_asked.wait()
        self._ui.done(
            f"Node '{self._start.name}' is part of the cloud at {self._start.head}, reached at {self._start.address}.\n"
            "Ctrl-C leaves it; `cloudcrest nodes drain` before that moves away what runs here."
        )


def main(arguments: Sequence[str]) -> int:
    """Runs a node; the exit code."""
    settings = join_settings(arguments, os.environ)
    require_ray()
    start, folder = ray_start(settings)
    lock = folder.open()
    log_to(folder.logs, "join", json=settings.log_json, level=settings.log_level)
    ui = make_ui()

    async def run() -> None:
        await Join(start, folder, ui, dict(os.environ)).run()

    try:
        asyncio.run(run())
    finally:
        ui.close()
        os.close(lock)
    return 0


def ray_start(settings: JoinSettings) -> tuple[RayStart, NodeFolder]:
    """How this node's Ray is started, and where the node keeps its own. Raises `SetupError` where it cannot be."""
    name = checked_name(settings.name)
    if name == NODE_ID:
        raise SetupError(f"'{NODE_ID}' is the cloud's own machine", hint="choose another --name")
    token_path = settings.token_file.expanduser().absolute()
    if not token_path.is_file():
        raise SetupError(f"there is no file {token_path}", hint="check --token-file: it is the cloud's node-token")
    check_token(token_path)
    labels = dict(label_of(label) for label in settings.labels)
    data = settings.data.expanduser().absolute()
    folder = NodeFolder(data / "nodes" / name)
    start = RayStart(
        name=name,
        head=settings.head,
        address=checked_address(settings),
        folder=ray_folder(folder.root),
        token_path=token_path,
        socket_path=folder.sockets / "agent.sock",
        data_folder=data,
        labels=labels,
    )
    return start, folder


def checked_address(settings: JoinSettings) -> str:
    """This machine's address. Raises `SetupError` where it cannot be had or is another's."""
    towards_head = own_address(settings.head)
    if settings.address is None:
        return towards_head
    try:
        free_port(settings.address)
    except SetupError as error:
        raise SetupError(error.message, hint=f"leave --address out for {towards_head}, or give another") from error
    return settings.address


def own_address(head: str) -> str:
    """This machine's address towards the head. Raises `SetupError` where nothing listens there, or something else."""
    try:
        with socket.create_connection(host_and_port(head), timeout=_HEAD_SECONDS) as connection:
            connection.settimeout(_GREETING_SECONDS)
            if not _speaks_http2(connection):
                raise SetupError(
                    f"what listens at {head} is no Ray head",
                    hint="`cloudcrest up --fabric ray` prints the address to join: port 6379, or its --ray-port",
                )
            return str(connection.getsockname()[0])
    except OSError as error:
        raise SetupError(
            f"no cloud answers at {head}: {error}",
            hint="start it with `cloudcrest up --fabric ray --node-address IP`, and let this machine reach that port",
        ) from error


def _speaks_http2(connection: socket.socket) -> bool:
    """Whether it greets as Ray's head: HTTP/2 settings (RFC 9113, 3.4). A silent one may. Raises `OSError`."""
    try:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
        with connection.makefile("rb") as answer:
            return answer.read(4)[3:] == b"\x04"
    except TimeoutError:
        return True  # a head that is busy: Ray has more patience
    except ConnectionError:
        return False


def join_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> JoinSettings:
    """What `node join` was told. Raises `SetupError` naming what is wrong."""
    given = {name: value for name, value in vars(_parser().parse_args(arguments)).items() if value is not None}
    given.setdefault("data", default_data_folder(environment))
    for name in ("log_level", "log_json"):
        value = environment.get(f"CLOUDCREST_{name.upper()}")
        if value:
            given.setdefault(name, value)
    given.setdefault("name", environment.get("CLOUDCREST_NODE_NAME") or socket.gethostname())
    if "token_file" not in given and not environment.get("CLOUDCREST_NODE_TOKEN_FILE"):
        given["token_file"] = str(Path(given["data"]).expanduser() / "node-token")
    return load_settings(JoinSettings, environment, "CLOUDCREST_NODE_", overrides=given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cloudcrest node join",
        description="Makes this machine a node of a cloud that runs over Ray, until Ctrl-C.",
        epilog="Cloudcrest and the data folder are at the same paths on every node. Docs: docs/how/ray.md.",
    )
    parser.add_argument("head", help="the cloud's --node-address and --ray-port, as 10.0.0.5:6379", metavar="HOST:PORT")
    parser.add_argument(
        "--token-file", help="the cloud's node-token (default: that in the data folder)", metavar="FILE"
    )
    parser.add_argument("--data", help="data folder (default ~/.local/share/cloudcrest)", metavar="DIR")
    parser.add_argument("--name", help="what the node is called (default: the host's name)")
    parser.add_argument("--address", help="this machine's, for the others (default: towards HOST)", metavar="IP")
    parser.add_argument(
        "--label",
        help="as cloudcrest.io/zone=a (may be given again)",
        action="append",
        dest="labels",
        metavar="KEY=VALUE",
    )
    return parser
