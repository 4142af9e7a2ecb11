"""What runs where, as the scheduler is to count it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from cloudcrest.compute.placement.labels import without_accelerators
from cloudcrest.compute.scheduler.cluster import Cluster
from cloudcrest.compute.scheduler.model import Node, Running, Spot
from cloudcrest.compute.scheduler.packing.api import Packing


class Books:
    """All that has places, whether or not its nodes are there now; in `cluster`, as much of it as fits its nodes.

    What was found running takes its places whatever the books say: of what does not fit (an operator has kept more of a
    node for its system, a chip has failed), what there is left is counted, so that nothing more is given out there.
    """

    def __init__(self, packing: Packing) -> None:
        self.cluster = Cluster(packing)
        self.running: dict[str, Running] = {}
        self._saved: dict[str, float] = {}

    def update(self, nodes: Iterable[Node], rack_watts: Mapping[str, int], disk_room: Mapping[str, int]) -> None:
        """Takes over the nodes there are, what their racks may draw, and what may be promised of their disks."""
        self.cluster.rack_watts = rack_watts
        self.cluster.disk_room = disk_room
        self.cluster.update(nodes)
        for workload_id, running in self.running.items():
            counted = self.cluster.running.get(workload_id)
            if counted is None or (counted.workload, counted.spots) != (running.workload, self._there(running)):
                self.cluster.stop(workload_id)
                self._count(running)

    def start(self, running: Running) -> None:
        """This has its places from now on, in place of one of its id."""
        self.stop(running.workload.id)
        self.running[running.workload.id] = running
        self._count(running)

    def stop(self, workload_id: str) -> None:
        """This needs them no more. Unknown ids are no error."""
        self.running.pop(workload_id, None)
        self._saved.pop(workload_id, None)
        self.cluster.stop(workload_id)

    def saved(self, workload_id: str, at: float) -> None:
        """Its work up to then is kept. Unknown ids are no error."""
        if workload_id in self.running:
            self._saved[workload_id] = at

    def leaves(self, workload_id: str) -> None:
        """This was told to leave, and has its places until it is gone."""
        for known in (self.running, self.cluster.running):
            if workload_id in known:
                known[workload_id] = msgspec.structs.replace(known[workload_id], is_leaving=True)

    def reckon_losses(self, now: float) -> None:
        """What is lost of tenants' work where it is stopped now: all since it got its places, or was last saved. A
        replica loses nothing: its streams go on elsewhere.
        """
        for workload_id, running in self.cluster.running.items():
            if running.workload.owner:
                kept_until = max(running.since, self._saved.get(workload_id, running.since))
                lost = max(0.0, now - kept_until) * len(running.spots)
                self.cluster.running[workload_id] = msgspec.structs.replace(running, preemption_cost_seconds=lost)

    def _count(self, running: Running) -> None:
        there = self._there(running)
        if not there:
            return
        running = msgspec.structs.replace(running, spots=there)
        for attempt in (running, self._clipped(running), self._clipped(without_accelerators(running))):
            try:
                self.cluster.start(attempt)
            except (ValueError, IndexError):
                continue
            return

    def _there(self, running: Running) -> tuple[Spot, ...]:
        """Those of its places whose nodes are there."""
        return tuple(spot for spot in running.spots if spot.node_id in self.cluster.nodes)

    def _clipped(self, running: Running) -> Running:
        """Asking for no more CPU and memory than each of its nodes has left."""
        members: defaultdict[str, int] = defaultdict(int)
        for spot in running.spots:
            members[spot.node_id] += 1
        frees = [(self.cluster.packing.free(node_id), count) for node_id, count in members.items()]
        demand = running.workload.demand
        demand = msgspec.structs.replace(
            demand,
            cpu_milli=min(demand.cpu_milli, *(free.cpu_milli // count for free, count in frees)),
            memory_bytes=min(demand.memory_bytes, *(free.memory_bytes // count for free, count in frees)),
        )
        return msgspec.structs.replace(running, workload=msgspec.structs.replace(running.workload, demand=demand))
