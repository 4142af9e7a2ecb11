"""Why there is no room now, in a sentence that says what would be needed and what there is."""

from collections.abc import Sequence

from cloudcrest.compute.scheduler.cluster import Cluster, domain_of
from cloudcrest.compute.scheduler.feasible import Feasible
from cloudcrest.compute.scheduler.fit import members_that_fit
from cloudcrest.compute.scheduler.model import WHOLE, Demand, Workload
from cloudcrest.compute.scheduler.packing.api import Free
from cloudcrest.compute.scheduler.quotas import CPU, amount
from cloudcrest.kernel.units import GIB, format_bytes


def no_room(cluster: Cluster, workload: Workload, room: Feasible) -> str:
    """Of a workload that fits nowhere now."""
    if not room.nodes:
        return "every node that would do is cordoned, not ready, or held for work before it"
    if workload.members > 1:
        placed = members_that_fit(cluster, workload, room)
        if placed:
            where = "" if workload.together is None else f" in one {workload.together}"
            if placed >= workload.members:
                return f"there is room for all {workload.members} members, but not{where}"
            return f"needs room for {workload.members} members at once{where}; there is room for {placed}"
    frees = [cluster.packing.free(node_id) for node_id in room.nodes]
    demand = workload.demand
    if workload.disk_bytes and (fitting := _but_for_disk(cluster, workload, room, frees)):
        wanted, there = format_bytes(workload.disk_bytes), format_bytes(max(0, *fitting))
        return f"needs {wanted} of disk free on one node; the best that would do has {there}"
    if demand.accelerators:
        most = max(_usable(free, demand) for free in frees)
        if most < demand.accelerators:
            return f"needs {what(demand)} free on one node; best node has {_has(frees, demand, most)}"
        frees = [free for free in frees if _usable(free, demand) >= demand.accelerators]
    best = max(frees, key=lambda free: (min(free.cpu_milli, demand.cpu_milli), free.memory_bytes))
    beside = f" beside {what(demand)}" if demand.accelerators else ""
    return (
        f"needs {amount(demand.cpu_milli, CPU)} and {demand.memory_bytes / GIB:.3g} GiB free on one node{beside}; "
        f"best node has {amount(best.cpu_milli, CPU)} and {best.memory_bytes / GIB:.3g} GiB"
    )


def no_power(cluster: Cluster, workload: Workload, room: Feasible) -> str:
    """Of a workload that would fit, if its rack could draw the power."""
    demand = workload.demand
    racks: dict[str, int] = {}
    watts = 0
    for node_id in room.nodes:
        node = cluster.nodes[node_id]
        left = cluster.watts_left(node)
        watts = max(watts, demand.accelerators * node.accelerator_watts)
        if left is not None:
            racks[domain_of(node, "rack")] = left
    best = max(racks, key=lambda rack: racks[rack])
    return f"needs {watts} W more in a rack; rack {best} may draw {max(0, racks[best])} W more, the others less"


def _but_for_disk(cluster: Cluster, workload: Workload, room: Feasible, frees: Sequence[Free]) -> list[int]:
    """What is left of the disks of those nodes that have room for all else."""
    demand = workload.demand
    able = [
        node_id
        for node_id, free in zip(room.nodes, frees, strict=True)
        if free.cpu_milli >= demand.cpu_milli
        and free.memory_bytes >= demand.memory_bytes
        and _usable(free, demand) >= demand.accelerators
    ]
    return [left for node_id in able if (left := cluster.disk_left(cluster.nodes[node_id])) is not None]


def what(demand: Demand) -> str:
    """A demand's accelerators: `2 × nvidia-h100-80gb`, `0.25 of an accelerator`."""
    kind = " or ".join(sorted(demand.types))
    if demand.accelerator_memory_bytes:
        size = f"{demand.accelerator_memory_bytes / GIB:g} GiB"
        kind = f"{kind} with {size}" if kind else size
    if demand.milli < WHOLE:
        return f"{demand.milli / WHOLE:g} of one {kind or 'accelerator'}"
    if kind:
        return f"{demand.accelerators} × {kind}"
    return "1 accelerator" if demand.accelerators == 1 else f"{demand.accelerators} accelerators"


def _usable(free: Free, demand: Demand) -> int:
    return sum(1 for left in free.accelerators if left >= demand.milli)


def _has(frees: list[Free], demand: Demand, most: int) -> str:
    if demand.milli == WHOLE:
        return str(most)
    return f"{max((left for free in frees for left in free.accelerators), default=0) / WHOLE:g}"
