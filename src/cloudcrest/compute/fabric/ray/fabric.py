"""The Ray fabric: every node of a Ray cluster that has an agent, behind one `Fabric`."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog

from cloudcrest.compute.api import NodeFacts, ProcessSpec, ProcessStatus
from cloudcrest.compute.fabric.client import AgentClient, Exchange
from cloudcrest.compute.fabric.ray.members import Chosen, Member, choose
from cloudcrest.compute.fabric.ray.node import RayNode
from cloudcrest.infra.files import write_atomic
from cloudcrest.kernel.clock import Clock
from cloudcrest.kernel.errors import InvalidInput, Unavailable

MEMBERS_SECONDS = 0.5
COME_BACK_SECONDS = 30.0
"""After a start of this fabric: for how long nodes that were there before may be on their way back."""
_log = structlog.get_logger(__name__)


class Cluster(Protocol):
    """A Ray cluster."""

    async def members(self) -> list[Member]:
        """Its nodes with agents, dead ones among them for as long as Ray remembers. Raises `OSError` without Ray."""
        ...

    def exchange(self, member: Member) -> Exchange:
        """What carries lines to a member's agent."""
        ...


class RayFabric:
    """Implements `compute.api.Fabric`. `run` follows the cluster's members until it is cancelled.

    `known_path`: the names of the nodes there were, kept for the next start. Until they are back, or for
    `come_back_seconds`, the fabric is `Unavailable` rather than without them: whoever asks keeps what it knows.
    """

    def __init__(
        self, cluster: Cluster, known_path: Path, *, clock: Clock, come_back_seconds: float = COME_BACK_SECONDS
    ) -> None:
        self._cluster = cluster
        self._known_path = known_path
        self._clock = clock
        self._awaited = _read_known(known_path)
        self._awaited_until = clock.monotonic() + come_back_seconds
        self._nodes: dict[str, RayNode] = {}
        self._chosen: Chosen | None = None
        self._gone: dict[str, NodeFacts] = {}

    async def run(self) -> None:
        """Follows the cluster. Where Ray does not answer, what was known of it stands: agents still may."""
        try:
            while True:
                try:
                    await self._follow(await self._cluster.members())
                except OSError as error:
                    _log.warning("ray_unavailable", error=str(error))
                await asyncio.sleep(MEMBERS_SECONDS)
        finally:
            await asyncio.gather(*(node.close() for node in self._nodes.values()))

    async def nodes(self) -> list[NodeFacts]:
        await self._each(RayNode.look_at_machine)
        assert self._chosen is not None  # noqa: S101 - `_each` refuses before
        taken = [_taken(member) for member in self._chosen.others]
        return [*(node.facts() for node in self._nodes.values()), *self._gone.values(), *taken]

    async def start(self, spec: ProcessSpec) -> None:
        node = self._nodes.get(spec.node_id)
        if node is None:
            raise _no_node(spec.node_id, is_known=spec.node_id in self._gone or spec.node_id in self._awaited)
        await node.start(spec)

    async def list(self) -> list[ProcessStatus]:
        """Those of nodes that are gone are not listed: they ended there, or are found when it comes back."""
        await self._each(RayNode.look)
        return [process for node in self._nodes.values() for process in node.processes()]

    async def stop(self, process_id: str) -> None:
        await self._each(RayNode.look)
        holders = [node for node in self._nodes.values() if node.has(process_id)]
        await asyncio.gather(*(node.stop(process_id) for node in holders))

    async def _each(self, look: Callable[[RayNode], Coroutine[Any, Any, None]]) -> None:
        """Has every node looked at, once it is known which there are."""
        if self._chosen is None:
            raise Unavailable("the nodes of the Ray cluster are not known yet")
        missing = sorted(name for name in self._awaited if name not in self._nodes or self._nodes[name].is_silent)
        if missing and self._clock.monotonic() < self._awaited_until:
            raise Unavailable(f"nodes are on their way back: {', '.join(missing[:5])}")
        self._awaited = frozenset()
        await asyncio.gather(*(look(node) for node in [*self._nodes.values()]))

    async def _follow(self, members: Sequence[Member]) -> None:
        before = self._chosen
        self._chosen = chosen = choose(
            members,
            used={node.member.ray_id for node in self._nodes.values()},
            silent={node.member.ray_id for node in self._nodes.values() if node.is_silent},
        )
        for name, node in [*self._nodes.items()]:
            if chosen.by_name.get(name) != node.member:
                del self._nodes[name]
                await node.close()
                _log.info("node_left", node=name)
                self._gone[name] = msgspec.structs.replace(
                    node.facts(), is_ready=False, reason="it has left the cluster"
                )
        for name, member in chosen.dead.items():
            self._gone.setdefault(
                name, NodeFacts(name, member.address, 0, 0, is_ready=False, reason="it has left the cluster")
            )
        for name, member in chosen.by_name.items():
            self._gone.pop(name, None)
            if name not in self._nodes:
                client = AgentClient(self._cluster.exchange(member), name=f"the agent of node '{name}'")
                self._nodes[name] = RayNode(member, client)
                _log.info("node_joined", node=name, address=member.address)
        if before is None or before.by_name.keys() != chosen.by_name.keys():
            # Those still awaited stay known: a second start in a row must not forget them.
            write_atomic(self._known_path, msgspec.json.encode(sorted({*chosen.by_name, *self._awaited})))


def _taken(member: Member) -> NodeFacts:
    """A node that is not used, and why."""
    return NodeFacts(
        f"{member.name}-{member.ray_id[:8]}",
        member.address,
        0,
        0,
        is_ready=False,
        reason=f"another node is called '{member.name}': join it under another name (--name)",
    )


def _no_node(node_id: str, *, is_known: bool) -> InvalidInput | Unavailable:
    if is_known:
        return Unavailable(f"node '{node_id}' has left the cluster")
    return InvalidInput(f"there is no node '{node_id}'", param="node_id")


def _read_known(path: Path) -> frozenset[str]:
    """The names in a file that this fabric wrote; none where there is none that can be read."""
    try:
        return frozenset(msgspec.json.decode(path.read_bytes(), type=list[str]))
    except (OSError, ValueError):
        return frozenset()
