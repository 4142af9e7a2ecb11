"""A sandbox: starts one command of a tenant, held to what its specification names, and says how it ended."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from cloudcrest.compute.api import AcceleratorFacts


class Bind(msgspec.Struct, frozen=True):
    """A folder of the node (`source`) that the command sees at `target`, an absolute path in its own view."""

    source: Path
    target: str
    is_writable: bool = False


Reach = Literal["private", "node", "none"]
"""How commands held by one kind of sandbox reach each other: by a network of their own, by their nodes', not at all."""


class Network(Protocol):
    """A network beside loopback, of IPv4 packets that pass through a device called `name`. `peers`: the addresses of
    all that are in it, this command's own `address` too.
    """

    name: str
    address: str
    peers: tuple[str, ...]
    prefix_bits: int
    mtu_bytes: int

    def attach(self, device_fd: int) -> None:
        """Takes the device, whose descriptor gives and takes whole packets, before the command starts. It is the
        network's to close, and stays until then: what a command has sent arrives, though it has ended.
        """
        ...


class SandboxSpec(msgspec.Struct, frozen=True):
    """A command and what it may have.

    `work_folder`: of the node, the command's own, writable; it starts there. `binds`: all else of this node's files
    that it sees beside the system's programs. `image`: a container image to run in; empty: this node's own programs.
    `cpu_milli`, `memory_bytes`, `processes`: limits, 0 for none. `allowed_hosts`: names it may connect to, through the
    proxy; nothing else is reachable.
    `accelerators`: what it was given. `devices`: paths of the device files that it may open beside those everyone has.
    `shown`: folders of this node that it may read, where they are; in a container it has its own.
    `network`: beside loopback; where the sandbox can give none (`reach`) it is left out.
    """

    id: str
    argv: tuple[str, ...]
    work_folder: Path
    environment: Mapping[str, str] = {}
    binds: tuple[Bind, ...] = ()
    image: str = ""
    cpu_milli: int = 0
    memory_bytes: int = 0
    processes: int = 0
    allowed_hosts: tuple[str, ...] = ()
    accelerators: tuple[AcceleratorFacts, ...] = ()
    devices: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    network: Network | None = None


class SandboxEnd(msgspec.Struct, frozen=True):
    """How a command ended: with a code, or by a signal. `is_out_of_memory`: the kernel killed some of it for memory."""

    exit_code: int | None = None
    signal: int | None = None
    is_out_of_memory: bool = False


class SandboxUsage(msgspec.Struct, frozen=True):
    """What it has used until now: seconds of processor time, memory now and at most, and what went out through its
    proxy and came in.
    """

    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    memory_peak_bytes: int = 0
    processes: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0


class SandboxProcess(Protocol):
    """A started command, with everything it starts."""

    async def wait(self) -> SandboxEnd:
        """Waits for the end of the command; what it left behind is killed then."""
        ...

    def signal(self, number: int) -> None:
        """Sends a signal to the command, as far as it still runs."""
        ...

    def kill(self) -> None:
        """SIGKILL to all of it."""
        ...

    def usage(self) -> SandboxUsage:
        """What it has used; cheap enough for once a second."""
        ...

    async def enter(self, argv: tuple[str, ...], terminal_fd: int, environment: Mapping[str, str]) -> "SandboxProcess":
        """Starts another command inside the same sandbox, on a terminal. Raises `Conflict` where it has ended."""
        ...


class Sandbox(Protocol):
    """One way to hold a command. `isolation` names it ("bubblewrap", "docker", "rlimits", "plain"). `has_own_view`:
    binds are at their targets; without, a command finds folders where the node has them.
    """

    isolation: str
    has_own_view: bool

    async def reach(self, *, in_image: bool) -> tuple[Reach, str]:
        """How a command could reach others like it, and why not. `in_image`: it runs in a container image."""
        ...

    async def fetch(self, image: str) -> None:
        """Has a container image here, for commands that are to start; may take long. Raises `InvalidInput` where there
        is none of this name.
        """
        ...

    async def start(self, spec: SandboxSpec, output_fd: int) -> SandboxProcess:
        """Starts it, its output to `output_fd`. Raises `InvalidInput` where the program is not there, `Unavailable`."""
        ...
