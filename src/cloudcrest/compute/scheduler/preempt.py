"""Whom to stop so that a workload finds room: the least work lost, then the fewest.

May be stopped for a workload: spot work, by what is not spot; what another organization, or another project of the
same, runs on a borrowed share, by who claims what he is guaranteed; and lower priority, by who claims what he is
guaranteed, or where it is borrowed. A claim counts for the types that it is a claim to, and for no others. Never what
is as important, nor what its project is guaranteed by a project that borrows, nor what is leaving already.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from operator import itemgetter

import msgspec

from cloudcrest.compute.scheduler.cluster import Cluster
from cloudcrest.compute.scheduler.feasible import Feasible
from cloudcrest.compute.scheduler.fit import fit
from cloudcrest.compute.scheduler.model import Demand, Running, Spot, Workload
from cloudcrest.compute.scheduler.quotas import CPU, Borrowed, Claim

MAX_EXACT = 8
"""With so few candidates on a node every set of them is looked at."""
MAX_NODES = 200
"""Nodes looked at for one member, those with least to lose first."""


class Victims(msgspec.Struct, frozen=True):
    """Whom to stop, and the places that are free then."""

    workload_ids: tuple[str, ...]
    spots: tuple[Spot, ...]


class Right(msgspec.Struct, frozen=True):
    """By what a workload asks for `resources`: what its organization is guaranteed, and its project within that."""

    claim: Claim
    project_claim: Claim
    resources: frozenset[str]


def may_preempt(workload: Workload, right: Right, running: Running, borrowed: Borrowed) -> bool:
    """Whether what runs may be stopped for this workload, to run on the resources of this right. `borrowed`: by what
    the other runs. What borrows CPUs stands in the way of every resource, so it is given back for each.
    """
    other = running.workload  # who may be stopped has no right to stop in turn, or the two would go on for ever
    if running.is_leaving:
        return False
    if other.is_spot and not workload.is_spot:
        return True
    if workload.is_spot and (not other.is_spot or other.priority >= workload.priority):
        return False
    wanted = right.resources | {CPU}
    if workload.owner and workload.owner[:1] != other.owner[:1]:
        if right.claim == "guaranteed" and borrowed.organization & wanted:
            return True
    elif workload.owner != other.owner:
        if right.project_claim == "guaranteed" and borrowed.project & wanted:
            return True
        if right.project_claim == "borrowed" and not borrowed.project:
            return False
    return other.priority < workload.priority and (bool(borrowed.organization) or right.claim == "guaranteed")


def victims(cluster: Cluster, workload: Workload, room: Feasible, candidates: Sequence[Running]) -> Victims | None:
    """Who is stopped. None: not even all of them together would make room."""
    if not candidates or not room.nodes:
        return None
    chosen: Sequence[Running] | None = None
    if workload.members == 1:
        chosen = _for_one(cluster, workload, room, candidates)
    if chosen is None and (workload.members > 1 or cluster.rack_watts):
        chosen = _on_many(cluster, workload, room, candidates)
    if chosen is None:
        return None
    chosen = _spare(cluster, workload, room, chosen)
    with without(cluster, chosen):
        spots = fit(cluster, workload, room)
    if spots is None:
        return None
    return Victims(tuple(each.workload.id for each in chosen), spots)


@contextmanager
def without(cluster: Cluster, running: Iterable[Running]) -> Iterator[None]:
    """The cluster as it would be if these ran no longer, while the block runs."""
    running = list(running)
    for each in running:
        cluster.stop(each.workload.id)
    try:
        yield
    finally:
        for each in reversed(running):
            cluster.start(each)


def cost(running: Iterable[Running]) -> tuple[int, float, int]:
    """How dear it is to stop these: what is not spot, then the work lost, then how many."""
    running = list(running)
    lost = sum(each.preemption_cost_seconds for each in running)
    return sum(1 for each in running if not each.workload.is_spot), lost, len(running)


def _for_one(
    cluster: Cluster, workload: Workload, room: Feasible, candidates: Sequence[Running]
) -> Sequence[Running] | None:
    """The cheapest set on any one node."""
    by_node: dict[str, list[Running]] = {}
    for each in candidates:
        for node_id in {spot.node_id for spot in each.spots}:
            by_node.setdefault(node_id, []).append(each)
    usable = [
        node_id
        for node_id in room.nodes
        if node_id in by_node and _is_enough(cluster, workload.demand, node_id, by_node[node_id])
    ]
    usable.sort(key=lambda node_id: (cost(by_node[node_id]), node_id))
    best: Sequence[Running] | None = None
    for node_id in usable[:MAX_NODES]:
        only = Feasible((node_id,), False)
        found = _cheapest_on(cluster, workload, only, by_node[node_id], None if best is None else cost(best))
        if found is not None:
            best = found
    return best


def _is_enough(cluster: Cluster, demand: Demand, node_id: str, gone: Iterable[Running]) -> bool:
    """Whether a node without these has enough for one member, but for power: reckoned, for that is much sooner done
    than to try it.
    """
    free = cluster.packing.free(node_id)
    cpu_milli, memory_bytes, left = free.cpu_milli, free.memory_bytes, list(free.accelerators)
    for each in gone:
        theirs = each.workload.demand
        for spot in each.spots:
            if spot.node_id == node_id:
                cpu_milli += theirs.cpu_milli
                memory_bytes += theirs.memory_bytes
                for index in spot.accelerators:
                    left[index] += theirs.milli
    if cpu_milli < demand.cpu_milli or memory_bytes < demand.memory_bytes:
        return False
    return not demand.accelerators or sum(1 for milli in left if milli >= demand.milli) >= demand.accelerators


def _cheapest_on(
    cluster: Cluster,
    workload: Workload,
    node: Feasible,
    candidates: Sequence[Running],
    below: tuple[int, float, int] | None,
) -> Sequence[Running] | None:
    """The cheapest set on this node that is cheaper than `below`; None: there is none."""
    if len(candidates) > MAX_EXACT:
        chosen = _spare(cluster, workload, node, candidates)
        is_cheaper = below is None or cost(chosen) < below
        return chosen if is_cheaper and _makes_room(cluster, workload, node, chosen) else None
    sets = [chosen for size in range(1, len(candidates) + 1) for chosen in combinations(candidates, size)]
    for price, chosen in sorted(((cost(chosen), chosen) for chosen in sets), key=itemgetter(0)):
        if below is not None and price >= below:
            return None
        is_enough = _is_enough(cluster, workload.demand, node.nodes[0], chosen)
        if is_enough and _makes_room(cluster, workload, node, chosen):
            return chosen
    return None


def _on_many(
    cluster: Cluster, workload: Workload, room: Feasible, candidates: Sequence[Running]
) -> Sequence[Running] | None:
    """As few of the cheapest as make room for all members; of these, who is on their nodes, where that is enough."""
    in_order = sorted(candidates, key=lambda each: (cost([each]), each.workload.id))
    if not _makes_room(cluster, workload, room, in_order):
        return None
    count = bisect_left(
        range(1, len(in_order)), True, key=lambda size: _makes_room(cluster, workload, room, in_order[:size])
    )
    chosen = in_order[: count + 1]
    with without(cluster, chosen):
        spots = fit(cluster, workload, room) or ()
    nodes = {spot.node_id for spot in spots}
    there = [each for each in chosen if any(spot.node_id in nodes for spot in each.spots)]
    return there if there and _makes_room(cluster, workload, room, there) else chosen


def _spare(cluster: Cluster, workload: Workload, room: Feasible, chosen: Sequence[Running]) -> Sequence[Running]:
    """Without those that need not go, the dearest spared first."""
    gone = {each.workload.id: each for each in chosen}
    for name in gone:
        cluster.stop(name)
    try:
        for each in sorted(chosen, key=lambda each: (cost([each]), each.workload.id), reverse=True):
            if len(gone) == 1:
                break
            cluster.start(gone.pop(each.workload.id))
            if fit(cluster, workload, room) is None:
                cluster.stop(each.workload.id)
                gone[each.workload.id] = each
    finally:
        for each in gone.values():
            cluster.start(each)
    return [each for each in chosen if each.workload.id in gone]


def _makes_room(cluster: Cluster, workload: Workload, room: Feasible, gone: Iterable[Running]) -> bool:
    with without(cluster, gone):
        return fit(cluster, workload, room) is not None
