"""Which sandbox a command is held in.

an image is asked for    the node's container runtime, where one answers
else                     bubblewrap, where it may make namespaces
else                     limits alone, for organizations that the operator trusts
else                     none: the command is refused, and why is said
"""

from collections.abc import Callable
from typing import Literal

import msgspec

from cloudcrest.compute.sandbox.api import Reach, Sandbox, SandboxProcess, SandboxSpec
from cloudcrest.infra.outbound import OutboundPolicy
from cloudcrest.kernel.errors import SetupError

Kind = Literal["container", "bubblewrap", "rlimits", "none"]


class Node(msgspec.Struct, frozen=True):
    """What a node has: the name of its container runtime (empty: none), and why bubblewrap cannot be used (empty: it
    can).
    """

    runtime: str
    bubblewrap_problem: str


def decide(node: Node, *, wants_image: bool, is_trusted: bool) -> tuple[Kind, str]:
    """The kind of sandbox, and why there is none. Pure."""
    if wants_image:
        if node.runtime:
            return "container", ""
        return "none", "a container image is asked for, and no Podman, Docker or nerdctl answers on this node"
    if not node.bubblewrap_problem:
        return "bubblewrap", ""
    if is_trusted:
        return "rlimits", ""
    return "none", node.bubblewrap_problem


def choose_sandbox(isolation: str, *, is_trusted: bool, policy: OutboundPolicy) -> Sandbox:
    """The sandbox of this name; "auto": the best that the node has. `policy`: which addresses a command may reach."""
    if isolation == "plain":
        from cloudcrest.compute.sandbox.plain import PlainSandbox

        return PlainSandbox()
    if isolation != "auto":
        return RefusingSandbox(f"there is no isolation '{isolation}'")
    return BestSandbox(is_trusted=is_trusted, policy=policy)


class BestSandbox:
    """Implements `sandbox.api.Sandbox` by the best that there is for a command."""

    has_own_view = True

    def __init__(self, *, is_trusted: bool, policy: OutboundPolicy) -> None:
        from cloudcrest.compute.sandbox.probe import probe
        from cloudcrest.compute.sandbox.runtime import find_runtime

        self._is_trusted = is_trusted
        self._policy = policy
        self._find_runtime: Callable[[], str] = find_runtime
        self._problem = probe()
        kind, _ = decide(Node("", self._problem), wants_image=False, is_trusted=is_trusted)
        self.isolation: str = kind
        self.has_own_view = kind != "rlimits"

    async def reach(self, *, in_image: bool) -> tuple[Reach, str]:
        """As what would be chosen says."""
        return await self._choose(in_image=in_image).reach(in_image=in_image)

    async def fetch(self, image: str) -> None:
        """By what would be chosen."""
        await self._choose(in_image=True).fetch(image)

    async def start(self, spec: SandboxSpec, output_fd: int) -> SandboxProcess:
        """Starts it. Raises `SetupError` where this node can hold it by nothing."""
        chosen = self._choose(in_image=bool(spec.image))
        self.isolation = chosen.isolation
        return await chosen.start(spec, output_fd)

    def _choose(self, *, in_image: bool) -> Sandbox:
        from cloudcrest.compute.sandbox.bubblewrap import Bubblewrap
        from cloudcrest.compute.sandbox.container import ContainerSandbox
        from cloudcrest.compute.sandbox.rlimits import LimitedSandbox

        node = Node(self._find_runtime() if in_image else "", self._problem)
        kind, why = decide(node, wants_image=in_image, is_trusted=self._is_trusted)
        makers: dict[Kind, Callable[[], Sandbox]] = {
            "container": lambda: ContainerSandbox(node.runtime, self._policy),
            "bubblewrap": lambda: Bubblewrap(self._policy),
            "rlimits": LimitedSandbox,
            "none": lambda: RefusingSandbox(why),
        }
        return makers[kind]()


class RefusingSandbox:
    """Implements `sandbox.api.Sandbox` where there is none: starts nothing, and says why."""

    isolation = "none"
    has_own_view = False

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def reach(self, *, in_image: bool) -> tuple[Reach, str]:  # noqa: ARG002
        return "none", self._reason

    async def fetch(self, image: str) -> None:
        """Nothing: a start says why."""

    async def start(self, spec: SandboxSpec, output_fd: int) -> SandboxProcess:  # noqa: ARG002
        """Raises `SetupError`."""
        raise SetupError(self._reason, hint="see docs/how/isolation.md")
