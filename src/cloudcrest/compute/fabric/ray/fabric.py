"""The Ray fabric: every node of a Ray cluster that has an agent, behind one `Fabric`."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
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
from cloudcrest.kernel.errors import InvalidInput, SetupError, Unavailable

MEMBERS_SECONDS = 0.5
COME_BACK_SECONDS = 60.0
"""For how long a node that was there may be on its way back: after a start of this fabric, and after it left."""
TOLD_OF_SECONDS = 600.0
"""For how long a node that has left is told of. It is `gone` then, and may be forgotten."""
_TAKEN_SECONDS = 10.0
"""For how long a second node of one name is not told of: a node that starts again is two until Ray notices."""
_LEFT = "it has left the cluster"
_log = structlog.get_logger(__name__)


class Cluster(Protocol):
    """A Ray cluster."""

    async def members(self) -> list[Member]:
        """Its nodes with agents, dead ones among them for as long as Ray remembers. Raises `OSError` without Ray."""
        ...

    def exchange(self, member: Member) -> Exchange:
        """What carries lines to a member's agent."""
        ...


@dataclass(frozen=True)
class _Left:
    """A node that has left, when, and what was known of it. None: it had left when this fabric started."""

    facts: NodeFacts
    at: float
    node: RayNode | None = None


class RayFabric:
    """Implements `compute.api.Fabric`. `run` follows the cluster's members until it is cancelled.

    `known_path`: the names of the nodes there were, and which of Ray's each meant, kept for the next start. Until they
    are back, or for `come_back_seconds`, the fabric is `Unavailable` rather than without them: whoever asks keeps what
    it knows.
    """

    def __init__(
        self, cluster: Cluster, known_path: Path, *, clock: Clock, come_back_seconds: float = COME_BACK_SECONDS
    ) -> None:
        self._cluster = cluster
        self._known_path = known_path
        self._clock = clock
        self._known = _read_known(known_path)
        self._awaited = frozenset(self._known)
        self._awaited_until = clock.monotonic() + come_back_seconds
        self._nodes: dict[str, RayNode] = {}
        self._chosen: Chosen | None = None
        self._left: dict[str, _Left] = {}
        self._taken_since: dict[str, float] = {}

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
        now = self._clock.monotonic()
        left = [each.facts for each in self._left.values() if now - each.at < TOLD_OF_SECONDS]
        taken = [
            _taken(member)
            for member in self._chosen.others
            if now - self._taken_since.get(member.ray_id, now) >= _TAKEN_SECONDS
        ]
        return [*(node.facts() for node in self._nodes.values()), *left, *taken]

    async def start(self, spec: ProcessSpec) -> None:
        if self._chosen is None:
            raise _not_known_yet()
        node = self._nodes.get(spec.node_id)
        if node is None:
            raise _no_node(spec.node_id, is_known=spec.node_id in self._left or spec.node_id in self._awaited)
        await node.start(spec)

    async def list(self) -> list[ProcessStatus]:
        """Those of a node that has left are listed while it may be on its way back: they may well run."""
        await self._each(RayNode.look)
        return [process for node in self._holding() for process in node.processes()]

    async def stop(self, process_id: str) -> None:
        await self._each(RayNode.look)
        holders = [node for node in self._holding() if node.has(process_id)]
        await asyncio.gather(*(node.stop(process_id) for node in holders))

    def _holding(self) -> Sequence[RayNode]:
        """The nodes on which something may run."""
        since = self._clock.monotonic() - COME_BACK_SECONDS
        left = [each.node for each in self._left.values() if each.node is not None and each.at > since]
        return [*self._nodes.values(), *left]

    async def _each(self, look: Callable[[RayNode], Coroutine[Any, Any, None]]) -> None:
        """Has every node looked at, once it is known which there are."""
        if self._chosen is None:
            raise _not_known_yet()
        missing = sorted(name for name in self._awaited if name not in self._nodes or self._nodes[name].is_silent)
        if missing and self._clock.monotonic() < self._awaited_until:
            raise Unavailable(f"nodes are on their way back: {', '.join(missing[:5])}")
        self._awaited = frozenset()
        await asyncio.gather(*(look(node) for node in [*self._nodes.values()]))

    async def _follow(self, members: Sequence[Member]) -> None:
        is_first = self._chosen is None
        used = {*self._known.values()} if is_first else {node.member.ray_id for node in self._nodes.values()}
        self._chosen = chosen = choose(
            members,
            used=used,
            silent={node.member.ray_id for node in self._nodes.values() if node.has_failed},
        )
        before = self._nodes
        # All at once: nobody is to see a node missing that is about to be there again.
        self._nodes = {name: self._node(name, member) for name, member in chosen.by_name.items()}
        self._note_left(before, chosen)
        await asyncio.gather(*(node.close(_LEFT) for name, node in before.items() if self._nodes.get(name) is not node))
        # Those still awaited stay known: a second start in a row must not forget them.
        known = {name: self._known.get(name, "") for name in self._awaited}
        known |= {name: member.ray_id for name, member in chosen.by_name.items()}
        if known != self._known or is_first:
            self._save(known)

    def _save(self, known: dict[str, str]) -> None:
        """Keeps them for the next start. A full disk costs that start its patience, and this fabric nothing."""
        self._known = known
        try:
            write_atomic(self._known_path, msgspec.json.encode(known, order="sorted"))
        except (OSError, SetupError) as error:
            _log.warning("nodes_not_saved", error=str(error))

    def _node(self, name: str, member: Member) -> RayNode:
        """The node that a name means; what ran on the one that it meant before may run on it."""
        before = self._nodes.get(name)
        if before is not None and before.member == member:
            return before
        if before is None and name in self._left:
            before = self._left[name].node
        _log.info("node_joined", node=name, address=member.address)
        client = AgentClient(self._cluster.exchange(member), name=f"the agent of node '{name}'")
        return RayNode(member, client, before)

    def _note_left(self, before: Mapping[str, RayNode], chosen: Chosen) -> None:
        """Which have left, and since when names are taken twice. Those that Ray has forgotten are so here in time."""
        now = self._clock.monotonic()
        dead = {name: _Left(_left(NodeFacts(name, each.address, 0, 0)), now) for name, each in chosen.dead.items()}
        known = {name: each for name, each in self._left.items() if name in dead or now - each.at < TOLD_OF_SECONDS}
        left = {name: _Left(_left(node.facts()), now, node) for name, node in before.items()}
        self._left = {name: each for name, each in {**dead, **left, **known}.items() if name not in self._nodes}
        for name in left.keys() & self._left.keys() - known.keys():
            _log.info("node_left", node=name)
        self._taken_since = {each.ray_id: self._taken_since.get(each.ray_id, now) for each in chosen.others}


def _left(facts: NodeFacts) -> NodeFacts:
    return msgspec.structs.replace(facts, is_ready=False, reason=_LEFT)


def _not_known_yet() -> Unavailable:
    return Unavailable("the nodes of the Ray cluster are not known yet")


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


def _read_known(path: Path) -> dict[str, str]:
    """Ray's ids by names, of a file that this fabric wrote; none where there is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except (OSError, ValueError):
        return {}
