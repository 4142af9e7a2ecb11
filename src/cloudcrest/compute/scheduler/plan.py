"""The decision: what is placed, who is stopped for whom, and why the rest waits. Pure: the cluster is left as found.

    line       who is next
    feasible   nodes that could hold it
    quota      what its owner may still have
    fit        places for all its members
    preempt    whom to stop, where nothing is free

Who waits does not stop those behind it, with one exception: what has waited longer than `patience_seconds` for room has
nodes held for it, which then empty, so that many small ones cannot keep a large one waiting for ever.
"""

from collections import defaultdict
from collections.abc import Sequence

import msgspec

from cloudcrest.compute.scheduler.cluster import Cluster, domain_of
from cloudcrest.compute.scheduler.explain import no_power, no_room
from cloudcrest.compute.scheduler.feasible import Feasible, feasible
from cloudcrest.compute.scheduler.fit import Trial, fit
from cloudcrest.compute.scheduler.line import in_line
from cloudcrest.compute.scheduler.model import Placed, Plan, Preempted, RefusalCode, Refused, Running, Spot, Workload
from cloudcrest.compute.scheduler.preempt import Right, Victims, cost, may_preempt, victims, without
from cloudcrest.compute.scheduler.quotas import CPU, Claim, Quota, QuotaTree, asked_milli, usage_of

MAX_LOOKED_AT = 2_000
"""Of those that wait, how many a decision looks at; the others are told that they are behind these."""


class Settings(msgspec.Struct, frozen=True):
    """`patience_seconds`: after which nodes are held for what waits for room. `holds`: for how many at once.
    `preempts`: whether anything is stopped for anything.
    """

    patience_seconds: float = 600.0
    holds: int = 1
    preempts: bool = True


DEFAULTS = Settings()


def decide(
    cluster: Cluster,
    waiting: Sequence[Workload],
    quotas: Sequence[Quota] = (),
    *,
    now: float,
    settings: Settings = DEFAULTS,
) -> Plan:
    """What to do now. `now` is a time of the clock of `since`."""
    decision = _Decision(cluster, quotas, now, settings)
    looked_at = 0
    try:
        for workload in in_line(waiting, decision.tree, cluster.types):
            looked_at += 1
            if looked_at > MAX_LOOKED_AT:
                decision.refuse(workload, "capacity", f"{MAX_LOOKED_AT} others are before it")
            else:
                decision.look_at(workload)
    finally:
        decision.undo()
    return Plan(tuple(decision.placed), tuple(decision.preempted), tuple(decision.refused))


class _Decision:
    """One decision on its way. What it takes of the cluster is given back by `undo`."""

    def __init__(self, cluster: Cluster, quotas: Sequence[Quota], now: float, settings: Settings) -> None:
        self.placed: list[Placed] = []
        self.preempted: list[Preempted] = []
        self.refused: list[Refused] = []
        self.tree = QuotaTree(quotas)
        self._cluster = cluster
        self._now = now
        self._settings = settings
        running = list(cluster.running.values())
        for each in running:
            self.tree.use(each.workload.owner, usage_of(each, cluster.nodes))
        self._borrowed = self.tree.borrowed(running, cluster.nodes)
        self._leaving = {each.workload.id for each in running if each.is_leaving}
        self._trials: list[Trial] = []
        self._closed: set[str] = set()
        self._holds = 0
        self._in_vain: dict[object, str] = {}
        cluster.packing.look_again()

    def undo(self) -> None:
        for trial in reversed(self._trials):
            trial.undo()

    def refuse(self, workload: Workload, code: RefusalCode, reason: str) -> None:
        self.refused.append(Refused(workload.id, code, reason))

    def look_at(self, workload: Workload) -> None:
        """Places it, stops others for it, or says why not."""
        whole = feasible(self._cluster, workload)
        if whole.why_not:
            self.refuse(workload, "impossible", whole.why_not)
            return
        alike = _alike(workload)
        if alike in self._in_vain and not self._may_hold(workload):
            self.refuse(workload, "capacity", self._in_vain[alike])
            return
        room = self._within_quota(workload, feasible(self._cluster, workload, self._closed))
        if isinstance(room, str):
            self.refuse(workload, "quota", room)
            return
        spots = self._fit(workload, room)
        if spots is not None:
            self._place(workload, spots)
        elif not self._make_room(workload, room):
            self._refuse_for_room(workload, room, alike)

    def _fit(self, workload: Workload, room: Feasible) -> tuple[Spot, ...] | None:
        """Others were stopped by the right to some types: there it goes, where it will not be stopped in turn."""
        if workload.is_promised:
            for right, nodes in self._rights(workload, room):
                if right.claim == "guaranteed" or right.project_claim == "guaranteed":
                    spots = fit(self._cluster, workload, nodes)
                    if spots is not None:
                        return spots
        return fit(self._cluster, workload, room)

    def _place(self, workload: Workload, spots: tuple[Spot, ...]) -> None:
        trial = Trial(self._cluster, workload)
        for spot in spots:
            trial.take(spot)
        self._trials.append(trial)
        self.tree.use(workload.owner, usage_of(Running(workload, spots, self._now), self._cluster.nodes))
        self.placed.append(Placed(workload.id, spots))

    def _within_quota(self, workload: Workload, room: Feasible) -> Feasible | str:
        """The nodes of types that its owner may have more of; a sentence, where there are none."""
        if not workload.owner:
            return room
        asked, nodes = asked_milli(workload), self._cluster.nodes
        if not workload.demand.accelerators:
            refusal = self.tree.refusal(workload.owner, CPU, asked)
            return room if refusal is None else str(refusal)
        types = {kind for node_id in room.nodes if (kind := nodes[node_id].accelerator_type) is not None}
        refusals = {kind: self.tree.refusal(workload.owner, kind, asked) for kind in sorted(types)}
        allowed = {kind for kind, refusal in refusals.items() if refusal is None}
        if allowed == types:
            return room
        if not allowed:
            return "; ".join(str(refusal) for refusal in refusals.values())
        return Feasible(tuple(each for each in room.nodes if nodes[each].accelerator_type in allowed), False)

    def _rights(self, workload: Workload, room: Feasible) -> list[tuple[Right, Feasible]]:
        """Its rights, each with the nodes that it is a right to; where they differ, also the least of them to all."""
        nodes, asked = self._cluster.nodes, asked_milli(workload)
        of_node = dict.fromkeys(room.nodes, CPU)
        if workload.demand.accelerators:
            of_node = {node_id: nodes[node_id].accelerator_type or "" for node_id in room.nodes}
        alike: defaultdict[tuple[Claim, Claim], set[str]] = defaultdict(set)
        for resource in sorted(set(of_node.values())):
            claim = self.tree.claim(workload.owner, resource, asked)
            alike[claim, self.tree.project_claim(workload.owner, resource, asked)].add(resource)
        if len(alike) <= 1:
            return [(Right(*claims, frozenset(resources)), room) for claims, resources in alike.items()]
        rights = [
            (
                Right(*claims, frozenset(resources)),
                Feasible(tuple(node_id for node_id in room.nodes if of_node[node_id] in resources), False),
            )
            for claims, resources in alike.items()
        ]
        return [*rights, (Right("borrowed", "borrowed", frozenset(of_node.values())), room)]

    def _make_room(self, workload: Workload, room: Feasible) -> bool:
        """Whether room is being made for it, by those who leave already or by those who are to leave now."""
        running = self._cluster.running
        leaving = [running[each] for each in sorted(self._leaving)]
        if leaving:
            with without(self._cluster, leaving):
                spots = fit(self._cluster, workload, room)
            if spots is not None:
                self._wait_for(workload, spots)
                return True
        if not self._settings.preempts:
            return False
        found = self._cheapest_victims(workload, room, leaving)
        if found is None:
            return False
        why = "other work, which goes before it, needs its place"
        for victim in found.workload_ids:
            self.preempted.append(Preempted(victim, workload.id, why))
            self._leaving.add(victim)
        self._wait_for(workload, found.spots)
        return True

    def _cheapest_victims(self, workload: Workload, room: Feasible, leaving: Sequence[Running]) -> Victims | None:
        running = self._cluster.running
        names = sorted(running.keys() - self._leaving)
        ways = []
        for right, nodes in self._rights(workload, room):
            candidates = [
                running[name] for name in names if may_preempt(workload, right, running[name], self._borrowed[name])
            ]
            with without(self._cluster, leaving):
                found = victims(self._cluster, workload, nodes, candidates)
            if found is not None:
                ways.append(found)
        return min(ways, key=lambda way: cost(running[name] for name in way.workload_ids), default=None)

    def _wait_for(self, workload: Workload, spots: tuple[Spot, ...]) -> None:
        """Its nodes are kept from those behind it."""
        self._closed |= {spot.node_id for spot in spots}
        self.refuse(workload, "waits_for_preemption", "its place is being made free")

    def _may_hold(self, workload: Workload) -> bool:
        waited = self._now - workload.since
        return self._holds < self._settings.holds and waited >= self._settings.patience_seconds

    def _refuse_for_room(self, workload: Workload, room: Feasible, alike: object) -> None:
        if self._cluster.rack_watts and self._fits_without_limits(workload, room):
            self.refuse(workload, "power", no_power(self._cluster, workload, room))
            return
        reason = no_room(self._cluster, workload, room)
        if room.nodes and self._may_hold(workload):
            self._holds += 1
            self._closed |= self._to_hold(workload, room)
            reason += "; nodes are held for it as they empty"
        self._in_vain[alike] = reason
        self.refuse(workload, "capacity", reason)

    def _fits_without_limits(self, workload: Workload, room: Feasible) -> bool:
        limits, self._cluster.rack_watts = self._cluster.rack_watts, {}
        try:
            return fit(self._cluster, workload, room) is not None
        finally:
            self._cluster.rack_watts = limits

    def _to_hold(self, workload: Workload, room: Feasible) -> set[str]:
        """As many nodes as it has members, those with most free first, of one domain where it is to be together."""
        cluster, demand = self._cluster, workload.demand

        def free(node_id: str) -> int:
            there = cluster.packing.free(node_id)
            return sum(there.accelerators) if demand.accelerators else there.cpu_milli

        domains: defaultdict[str, list[str]] = defaultdict(list)
        for node_id in room.nodes:
            name = "" if workload.together is None else domain_of(cluster.nodes[node_id], workload.together)
            domains[name].append(node_id)
        best = max(domains.values(), key=lambda nodes: sum(sorted(map(free, nodes), reverse=True)[: workload.members]))
        return set(sorted(best, key=lambda node_id: (-free(node_id), node_id))[: workload.members])


def _alike(workload: Workload) -> object:
    """What makes two workloads the same to a decision: what was in vain for one is in vain for the other."""
    return (
        workload.demand, workload.members, workload.owner, workload.priority, workload.is_spot, workload.together,
        workload.spread, workload.group, tuple(sorted(workload.labels.items())), workload.tolerations, workload.zones,
        workload.prefers, workload.type_order, workload.disk_bytes,
    )  # fmt: skip
