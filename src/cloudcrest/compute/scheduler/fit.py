"""Places for all members of a workload, or for none: tried in the cluster, and taken out again."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from cloudcrest.compute.scheduler.cluster import Cluster, domain_of
from cloudcrest.compute.scheduler.feasible import Feasible
from cloudcrest.compute.scheduler.model import WHOLE, Demand, Spot, Workload
from cloudcrest.compute.scheduler.score import type_choices


class Trial:
    """What was taken for a workload, member by member; `undo` gives it all back."""

    def __init__(self, cluster: Cluster, workload: Workload) -> None:
        self._cluster = cluster
        self._workload = workload
        self.spots: list[Spot] = []

    def take(self, spot: Spot) -> None:
        self._cluster.take(self._workload, spot)
        self.spots.append(spot)

    def undo(self) -> None:
        while self.spots:
            self._cluster.give_back(self._workload, self.spots.pop())


def fit(cluster: Cluster, workload: Workload, room: Feasible) -> tuple[Spot, ...] | None:
    """A place for each member, in a cluster that is left as it was found. None: not all of them find one."""
    for demand in type_choices(cluster, workload):
        wanted = msgspec.structs.replace(workload, demand=demand) if demand is not workload.demand else workload
        for nodes in _neighbourhoods(cluster, wanted, room):
            trial = Trial(cluster, wanted)
            try:
                if all(_fit_one(cluster, wanted, nodes, trial) for _ in range(wanted.members)):
                    return tuple(trial.spots)
            finally:
                trial.undo()
    return None


def members_that_fit(cluster: Cluster, workload: Workload, room: Feasible) -> int:
    """For how many members there is room, together or not."""
    trial = Trial(cluster, workload)
    nodes = None if room.is_all else room.nodes
    try:
        while len(trial.spots) < workload.members and _fit_one(cluster, workload, nodes, trial):
            continue
        return len(trial.spots)
    finally:
        trial.undo()


@contextmanager
def held(cluster: Cluster, workload: Workload, spots: Iterable[Spot]) -> Iterator[None]:
    """These places are taken while the block runs."""
    trial = Trial(cluster, workload)
    for spot in spots:
        trial.take(spot)
    try:
        yield
    finally:
        trial.undo()


def _neighbourhoods(cluster: Cluster, workload: Workload, room: Feasible) -> Iterator[Sequence[str] | None]:
    """Where all members may go together: everywhere, or one domain after the other, the fullest first."""
    if workload.together is None or (workload.members == 1 and workload.together != "node"):
        yield None if room.is_all else room.nodes
        return
    domains: dict[str, list[str]] = {}
    for node_id in room.nodes:
        domains.setdefault(domain_of(cluster.nodes[node_id], workload.together), []).append(node_id)
    demand, members = workload.demand, workload.members
    need = members * (demand.accelerators * demand.milli if demand.accelerators else demand.cpu_milli)
    sized = []
    for name, nodes in domains.items():
        frees = [cluster.packing.free(node_id) for node_id in nodes]
        free = sum(sum(each.accelerators) if demand.accelerators else each.cpu_milli for each in frees)
        if free >= need:
            sized.append((free, name, nodes))
    for _, _, nodes in sorted(sized):
        yield nodes


def _fit_one(cluster: Cluster, workload: Workload, nodes: Sequence[str] | None, trial: Trial) -> bool:
    """One more member: in the domain that has least of its group where it is to be spread, else anywhere."""
    if workload.spread is None or (workload.members == 1 and not workload.group):
        return _fit_among(cluster, workload, nodes, trial)
    domains: dict[str, list[str]] = {}
    for node_id in cluster.nodes if nodes is None else nodes:
        domains.setdefault(domain_of(cluster.nodes[node_id], workload.spread), []).append(node_id)
    mine = [domain_of(cluster.nodes[spot.node_id], workload.spread) for spot in trial.spots]

    def count(name: str) -> int:
        if workload.group:
            assert workload.spread is not None  # noqa: S101 - asked above
            return cluster.group_count(workload.group, workload.spread, name)
        return mine.count(name)

    return any(
        _fit_among(cluster, workload, domains[name], trial)
        for name in sorted(domains, key=lambda name: (count(name), name))
    )


def _fit_among(cluster: Cluster, workload: Workload, nodes: Sequence[str] | None, trial: Trial) -> bool:
    spot = _choose(cluster, workload, nodes)
    if spot is None:
        return False
    trial.take(spot)
    return True


def _choose(cluster: Cluster, workload: Workload, nodes: Sequence[str] | None) -> Spot | None:
    """The packing's choice, within what racks may draw and disks may hold."""
    demand = workload.demand
    if workload.disk_bytes:
        asked = cluster.nodes if nodes is None else nodes
        having = [name for name in asked if _has_disk(cluster, workload, name)]
        nodes = nodes if len(having) == len(asked) else having
    if not cluster.rack_watts or not demand.accelerators:
        return cluster.packing.choose(demand, nodes)
    names = list(cluster.nodes) if nodes is None else list(nodes)
    strong = []
    for name in names:
        node = cluster.nodes[name]
        watts = cluster.watts_left(node)
        if watts is None or watts >= demand.accelerators * node.accelerator_watts:
            strong.append(name)
    spot = cluster.packing.choose(demand, strong)
    if spot is not None or demand.milli == WHOLE:
        return spot
    return _on_busy(cluster, demand, [name for name in names if name not in set(strong)])


def _has_disk(cluster: Cluster, workload: Workload, name: str) -> bool:
    left = cluster.disk_left(cluster.nodes[name])
    return left is None or left >= workload.disk_bytes


def _on_busy(cluster: Cluster, demand: Demand, names: Sequence[str]) -> Spot | None:
    """A share of an accelerator that draws its power already: the one of which least is left."""
    found = []
    for name in names:
        node = cluster.nodes[name]
        if cluster.packing.choose(demand, [name]) is None:
            continue
        for index, left in enumerate(cluster.packing.free(node.id).accelerators):
            if demand.milli <= left < WHOLE:
                found.append((left, name, index))
    if not found:
        return None
    _, name, index = min(found)
    return Spot(name, (index,))
