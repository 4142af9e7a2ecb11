"""What a cloud over Ray runs beside the others: this machine's Ray, and the process that speaks for all nodes."""

import shutil
from functools import partial
from pathlib import Path

import msgspec

from cloudcrest.bootstrap.data_folder import private_folder, short_folder
from cloudcrest.bootstrap.ports import free_port
from cloudcrest.bootstrap.services import REGION, Plan, own_service
from cloudcrest.bootstrap.settings import FabricProcessSettings, UpSettings, derived_secret
from cloudcrest.bootstrap.supervise import Service
from cloudcrest.bootstrap.ui import command, data_flag
from cloudcrest.compute.fabric.machine import NODE_ID
from cloudcrest.compute.fabric.ray.command import RayStart, label_of, ray_environment
from cloudcrest.infra.files import write_atomic
from cloudcrest.kernel.errors import SetupError

RAY = "ray"
FABRIC = "fabric"
_FABRIC_ENDS_WITHIN_SECONDS = 5.0
_SESSIONS_KEPT = 2


def with_port(settings: UpSettings) -> UpSettings:
    """With the port at which nodes join, a free one where any will do. Raises `SetupError` where it cannot be had."""
    if settings.fabric != "ray" or settings.ray_address is not None:
        return settings
    try:
        return msgspec.structs.replace(settings, ray_port=free_port(settings.node_address, settings.ray_port))
    except SetupError as error:
        raise SetupError(
            error.message, hint="choose others with --node-address and --ray-port (0 takes a free one)"
        ) from error


def invitation(start: RayStart) -> str:
    """What is said of how other machines become nodes."""
    joining = f"{command()} node join {start.head}{data_flag(str(start.data_folder))} --token-file {start.token_path}"
    if _is_loopback(start.address):
        return f"\nNo other machine can join, for want of --node-address; more nodes on this one do with: {joining}"
    return f"\nOther machines join with: {joining}"


def _is_loopback(address: str) -> bool:
    """Whether only this machine has it."""
    return address.startswith("127.") or address in ("::1", "localhost")


def ray_start(plan: Plan) -> RayStart:
    """How this machine's Ray is started: as the head of a cluster, or in one that runs already."""
    settings = plan.settings
    return RayStart(
        name=NODE_ID,
        head=settings.ray_address or f"{settings.node_address}:{settings.ray_port}",
        address=settings.node_address,
        folder=ray_folder(plan.folder.root),
        token_path=node_token(plan),
        socket_path=plan.agent_socket,
        data_folder=plan.folder.root,
        labels=dict(label_of(label) for label in settings.node_labels),
        is_head=settings.ray_address is None,
    )


def node_token(plan: Plan) -> Path:
    """The file with what nodes show each other: the operator's, else one of our own, the same in every life."""
    given = plan.settings.node_token_file
    if given is not None:
        return given.expanduser().absolute()
    path = plan.folder.root / "node-token"
    write_atomic(path, derived_secret("nodes", plan.secrets.gateway_token).encode())
    return path


def ray_service(start: RayStart) -> Service:
    """A machine's Ray."""
    return Service(start.process(), prepare=partial(forget_sessions, start.folder))


def fabric_service(plan: Plan, start: RayStart) -> Service:
    """What the region service asks in place of this machine's agent."""
    settings = FabricProcessSettings(
        ray_address=start.head,
        node_address=start.address,
        node_socket=plan.node_socket,
        data_folder=plan.folder.root,
        known_path=plan.folder.root / "regions" / REGION / "nodes.json",
        log=plan.log,
    )
    return own_service(
        plan,
        FABRIC,
        settings,
        environment=ray_environment(start.token_path),
        stop_grace_seconds=_FABRIC_ENDS_WITHIN_SECONDS,
    )


def ray_folder(root: Path) -> Path:
    """Where the Ray of a node that keeps its own in `root` has its sockets and logs."""
    return short_folder(root, "ray-") / "r"


def forget_sessions(folder: Path) -> None:
    """Removes what Ray left of its starts before: but for the last few, whose logs may be wanted.

    Ray lets everybody write to its folder, so it is in one that lets nobody in.
    """
    private_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    for session in sorted(folder.glob("session_2*"))[:-_SESSIONS_KEPT]:
        shutil.rmtree(session, ignore_errors=True)
