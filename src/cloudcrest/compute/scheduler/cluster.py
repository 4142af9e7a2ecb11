"""The cluster as the scheduler keeps it: nodes, what runs on them, and what that leaves of power and of evenness.

It belongs to its caller, who tells it of nodes, starts and ends; a decision tries things in it and leaves it as it was.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from cloudcrest.compute.scheduler.model import WHOLE, Demand, Domain, Node, Running, Spot, Workload
from cloudcrest.compute.scheduler.packing.api import Packing

DOMAINS: tuple[Domain, ...] = ("node", "rack", "zone")


def domain_of(node: Node, domain: Domain) -> str:
    """The name of the node, rack or zone that a node is in. Racks are told apart by their zones too."""
    if domain == "node":
        return node.id
    return node.zone if domain == "zone" else f"{node.zone}/{node.rack}"


class Cluster:
    """`rack_watts`: the most that a rack (`zone/rack`) may draw; others have no limit. `disk_room`: what may be
    promised of nodes' disks in all, where that is less than their size: they hold other things too.
    """

    def __init__(
        self,
        packing: Packing,
        rack_watts: Mapping[str, int] = MappingProxyType({}),
        disk_room: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.packing = packing
        self.nodes: dict[str, Node] = {}
        self.running: dict[str, Running] = {}
        self.rack_watts = rack_watts
        self.disk_room = disk_room
        self.types: frozenset[str] = frozenset()
        self.memo: dict[object, object] = {}
        """What was found out of these nodes, whatever runs on them; empty after each change of them."""
        self._watts: Counter[str] = Counter()
        self._disk: Counter[str] = Counter()
        self._groups: defaultdict[tuple[str, Domain], Counter[str]] = defaultdict(Counter)

    def update(self, nodes: Iterable[Node]) -> tuple[str, ...]:
        """Takes over the nodes there are. Returns what runs no longer because it has lost a place, and forgets it."""
        wanted = {node.id: node for node in nodes}
        if wanted == self.nodes:
            return ()
        self.memo.clear()
        self.types = frozenset(node.accelerator_type for node in wanted.values() if node.accelerator_type)
        lost: set[str] = set()
        for node_id in [*self.nodes]:
            if wanted.get(node_id) != self.nodes[node_id]:
                lost |= self._replace(node_id, wanted.get(node_id))
        for node in wanted.values():
            if node.id not in self.nodes:
                self._add(node)
        return tuple(sorted(lost))

    def start(self, running: Running) -> None:
        """Something runs. Raises `ValueError` where its places are not free, `KeyError` where they are not there."""
        done: list[Spot] = []
        try:
            for spot in running.spots:
                self.take(running.workload, spot)
                done.append(spot)
        except (ValueError, KeyError):
            for spot in done:
                self.give_back(running.workload, spot)
            raise
        self.running[running.workload.id] = running

    def stop(self, workload_id: str) -> None:
        """It runs no longer. One that is not known is no error."""
        running = self.running.pop(workload_id, None)
        if running is not None:
            for spot in running.spots:
                self.give_back(running.workload, spot)

    # for decisions, which give back what they take

    def take(self, workload: Workload, spot: Spot) -> None:
        """One member gets a place. Raises `ValueError` and `KeyError`."""
        node = self.nodes[spot.node_id]
        watts = self.watts_of(node, workload.demand, spot)
        self.packing.take(spot, workload.demand)
        self._watts[domain_of(node, "rack")] += watts
        if workload.disk_bytes:
            self._disk[node.id] += workload.disk_bytes
        if workload.group:
            for domain in DOMAINS:
                self._groups[workload.group, domain][domain_of(node, domain)] += 1

    def give_back(self, workload: Workload, spot: Spot) -> None:
        """It loses it."""
        node = self.nodes[spot.node_id]
        self.packing.give_back(spot, workload.demand)
        self._watts[domain_of(node, "rack")] -= self.watts_of(node, workload.demand, spot)
        if workload.disk_bytes:
            self._disk[node.id] -= workload.disk_bytes
        if workload.group:
            for domain in DOMAINS:
                self._groups[workload.group, domain][domain_of(node, domain)] -= 1

    def watts_of(self, node: Node, demand: Demand, spot: Spot) -> int:
        """What more a node draws with a demand there: of accelerators that nobody uses yet."""
        if not demand.accelerators or not node.accelerator_watts:
            return 0
        left = self.packing.free(node.id).accelerators
        return node.accelerator_watts * sum(1 for index in spot.accelerators if left[index] == WHOLE)

    def watts_left(self, node: Node) -> int | None:
        """What the node's rack may still draw; None: it has no limit."""
        rack = domain_of(node, "rack")
        most = self.rack_watts.get(rack)
        return None if most is None else most - self._watts[rack]

    def disk_left(self, node: Node) -> int | None:
        """What may still be promised of the node's disk; None: it has no limit."""
        if not node.disk_bytes:
            return None
        return min(self.disk_room.get(node.id, node.disk_bytes), node.disk_bytes) - self._disk[node.id]

    def group_count(self, group: str, domain: Domain, name: str) -> int:
        """How many members of a group are in a domain."""
        counts = self._groups.get((group, domain))
        return counts[name] if counts is not None else 0

    # inside

    def _add(self, node: Node) -> None:
        self.packing.add(node)
        self.nodes[node.id] = node
        self._watts[domain_of(node, "rack")] += node.power_watts

    def _replace(self, node_id: str, node: Node | None) -> set[str]:
        """What ran there runs there still where it fits the node as it is now."""
        there = [each for each in self.running.values() if any(spot.node_id == node_id for spot in each.spots)]
        for each in there:
            self.stop(each.workload.id)
        before = self.nodes.pop(node_id)
        self.packing.remove(node_id)
        self._watts[domain_of(before, "rack")] -= before.power_watts
        if node is not None:
            self._add(node)
        lost = set()
        for each in there:
            try:
                self.start(each)
            except (ValueError, KeyError):
                lost.add(each.workload.id)
        return lost
