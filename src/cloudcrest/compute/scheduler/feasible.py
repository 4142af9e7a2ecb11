"""Which nodes could take a member of a workload at all, whatever runs there now; and what keeps the others out."""

import sys
from collections import Counter
from collections.abc import Collection

import msgspec

from cloudcrest.compute.scheduler.cluster import Cluster, domain_of
from cloudcrest.compute.scheduler.model import WHOLE, Node, Workload
from cloudcrest.compute.scheduler.packing.books import fits_type
from cloudcrest.compute.scheduler.packing.classes import holds
from cloudcrest.compute.scheduler.quotas import CPU, amount
from cloudcrest.kernel.units import GIB, format_bytes

MAX_MEMO = 10_000


class Feasible(msgspec.Struct, frozen=True):
    """`nodes`: the ids of those that could, in the cluster's order. `is_all`: every schedulable node that the packing
    would consider is among them, so it need not be told. `why_not`: a sentence, where there are none.
    """

    nodes: tuple[str, ...]
    is_all: bool
    why_not: str = ""


def feasible(cluster: Cluster, workload: Workload, closed: Collection[str] = ()) -> Feasible:
    """Looks at what does not change with what runs. `closed`: nodes that are held for somebody else."""
    labels = tuple(sorted(workload.labels.items()))
    gang = (workload.members, workload.together)
    key = ("feasible", workload.demand, workload.disk_bytes, gang, labels, workload.tolerations, workload.zones)
    found = cluster.memo.get(key)
    if not isinstance(found, Feasible):
        if len(cluster.memo) >= MAX_MEMO:
            cluster.memo.clear()
        found = cluster.memo[key] = _look(cluster, workload)
    if not closed or found.why_not:
        return found
    return Feasible(tuple(node_id for node_id in found.nodes if node_id not in closed), False)


def _look(cluster: Cluster, workload: Workload) -> Feasible:
    may_go = [node for node in cluster.nodes.values() if _lets_in(node, workload)]
    if not may_go:
        return Feasible((), False, _closed_sentence(cluster, workload))
    able = [node for node in may_go if holds(node, workload.demand)]
    if not able:
        return Feasible((), False, _too_large_sentence(may_go, workload))
    if workload.disk_bytes:
        most = max(node.disk_bytes or sys.maxsize for node in able)
        able = [node for node in able if not node.disk_bytes or node.disk_bytes >= workload.disk_bytes]
        if not able:
            wanted, largest = format_bytes(workload.disk_bytes), format_bytes(most)
            return Feasible((), False, f"needs {wanted} of disk on one node; the largest has {largest}")
    if workload.members > 1 and (why_not := _too_many_sentence(able, workload)):
        return Feasible((), False, why_not)
    schedulable = tuple(node.id for node in able if node.is_schedulable)
    return Feasible(schedulable, len(may_go) == len(cluster.nodes) and not workload.disk_bytes)


def _lets_in(node: Node, workload: Workload) -> bool:
    return (
        node.taints <= workload.tolerations
        and (not workload.zones or node.zone in workload.zones)
        and all(node.labels.get(name) == value for name, value in workload.labels.items())
    )


def _closed_sentence(cluster: Cluster, workload: Workload) -> str:
    """Why no node lets it in."""
    if not cluster.nodes:
        return "the region has no nodes"
    nodes = list(cluster.nodes.values())
    if workload.zones and not any(node.zone in workload.zones for node in nodes):
        zones = sorted({node.zone for node in nodes if node.zone})
        return f"no node is in {_any_of(workload.zones)}; there are nodes in {_all_of(zones) or 'no zone'}"
    labelled = [
        node for node in nodes if all(node.labels.get(name) == value for name, value in workload.labels.items())
    ]
    if not labelled:
        wanted = ", ".join(f"{name}={value}" for name, value in sorted(workload.labels.items()))
        return f"no node has the labels {wanted}"
    taints = sorted(set().union(*(node.taints for node in labelled)) - workload.tolerations)
    if taints:
        return f"the nodes that would do are kept free by the taints {_all_of(taints)}; tolerate them to go there"
    return "no node has both the labels and the zone that are asked for"


def _too_large_sentence(nodes: list[Node], workload: Workload) -> str:
    """Why none could hold it, were it empty."""
    demand = workload.demand
    if demand.types and not any(node.accelerator_type in demand.types for node in nodes):
        there = sorted({node.accelerator_type for node in nodes if node.accelerator_type})
        return f"no node has accelerators of {_any_of(demand.types)}; there are {_all_of(there) or 'none at all'}"
    if demand.accelerators:
        fitting = [node for node in nodes if not demand.types or node.accelerator_type in demand.types]
        most = max((node.accelerators for node in fitting), default=0)
        if most < demand.accelerators:
            many = "1 accelerator" if demand.accelerators == 1 else f"{demand.accelerators} accelerators"
            return f"needs {many} on one node; the largest has {most}"
        if not any(fits_type(node, demand) for node in fitting):
            gib = max(node.accelerator_memory_bytes for node in fitting) / GIB
            return f"needs {demand.accelerator_memory_bytes / GIB:g} GiB an accelerator; the largest has {gib:g} GiB"
    largest = max(nodes, key=lambda node: (node.cpu_milli, node.memory_bytes))
    return (
        f"needs {amount(demand.cpu_milli, CPU)} and {demand.memory_bytes / GIB:.3g} GiB on one node; "
        f"the largest has {amount(largest.cpu_milli, CPU)} and {largest.memory_bytes / GIB:.3g} GiB"
    )


def _too_many_sentence(able: list[Node], workload: Workload) -> str:
    """Why not all members could be held at once, were every node empty. Empty: they could."""
    domain = workload.together
    held: Counter[str] = Counter()
    for node in able:
        held["" if domain is None else domain_of(node, domain)] += _members_held(node, workload)
    most = max(held.values())
    if most >= workload.members:
        return ""
    if domain is None:
        return (
            f"needs room for {workload.members} members at once; all nodes together would hold {most}, were they empty"
        )
    return f"needs room for {workload.members} members in one {domain}; the largest would hold {most}, were it empty"


def _members_held(node: Node, workload: Workload) -> int:
    """How many members an empty node holds."""
    demand = workload.demand
    bounds = [sys.maxsize]
    if demand.cpu_milli:
        bounds.append(node.cpu_milli // demand.cpu_milli)
    if demand.memory_bytes:
        bounds.append(node.memory_bytes // demand.memory_bytes)
    if workload.disk_bytes and node.disk_bytes:
        bounds.append(node.disk_bytes // workload.disk_bytes)
    if demand.accelerators and demand.milli < WHOLE:
        bounds.append(node.accelerators * (WHOLE // demand.milli))
    elif demand.accelerators:
        bounds.append(node.accelerators // demand.accelerators)
    return min(bounds)


def _any_of(names: Collection[str]) -> str:
    return " or ".join(sorted(names))


def _all_of(names: Collection[str]) -> str:
    return ", ".join(sorted(names))
