"""Who may use how much of what: a tree of guaranteed and borrowed shares. Pure.

A quota says of an organization, or of one of its projects, how much of a resource it is guaranteed, and the most it may
have. What nobody uses of what he is guaranteed may be borrowed by anyone, up to his own ceiling, and is given back by
preemption: between organizations, and between the projects of one. A project without a quota shares its organization's
and is guaranteed nothing of its own; an organization without one is guaranteed nothing, and borrows. Work without an
owner is the cloud's own and outside the tree.

Resources are accelerator types, in thousandths of accelerators, and, for work without accelerators, `cpu`.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Literal

import msgspec

from cloudcrest.compute.scheduler.model import Node, Running, Workload

CPU = "cpu"
Owner = tuple[str, ...]
Claim = Literal["guaranteed", "borrowed"]


class Quota(msgspec.Struct, frozen=True):
    """Of an owner (organization, or organization and project). `ceiling_milli` None: whatever is free."""

    owner: Owner
    resource: str
    guaranteed_milli: int
    ceiling_milli: int | None = None


class Refusal(msgspec.Struct, frozen=True):
    """What would go past a ceiling."""

    quota: Quota
    used_milli: int
    asked_milli: int

    def __str__(self) -> str:
        whose = "organization" if len(self.quota.owner) == 1 else "project"
        resource = self.quota.resource
        return (
            f"the quota of this {whose} allows {amount(self.quota.ceiling_milli or 0, resource)}; "
            f"{amount(self.used_milli, resource)} in use, {amount(self.asked_milli, resource)} asked for"
        )


class Borrowed(msgspec.Struct, frozen=True):
    """Of which resources what a workload runs on is not its organization's, and of which it is not its project's."""

    organization: frozenset[str] = frozenset()
    project: frozenset[str] = frozenset()


class QuotaTree:
    """Quotas and what is used of them."""

    def __init__(self, quotas: Iterable[Quota] = ()) -> None:
        self._quotas = {(quota.owner, quota.resource): quota for quota in quotas}
        self._used: Counter[tuple[Owner, str]] = Counter()
        self._resources: defaultdict[Owner, set[str]] = defaultdict(set)
        """By organization, the resources it uses or has used."""
        self._changes: Counter[Owner] = Counter()

    def use(self, owner: Owner, usage: Mapping[str, int]) -> None:
        """Counts thousandths by resource, at every level; negative to give back."""
        self._changes[owner[:1]] += 1
        for resource, milli in usage.items():
            self._resources[owner[:1]].add(resource)
            for level in _levels(owner):
                self._used[level, resource] += milli

    def changes(self, owner: Owner) -> int:
        """How often anything was counted for its organization: while this stays, its claims and share stay."""
        return self._changes[owner[:1]]

    def used(self, owner: Owner, resource: str) -> int:
        """What an owner and what is below it use."""
        return self._used[owner, resource]

    def refusal(self, owner: Owner, resource: str, milli: int) -> Refusal | None:
        """The first ceiling that so much more would pass; None: it may have it."""
        for level in _levels(owner):
            quota = self._quotas.get((level, resource))
            if quota is not None and quota.ceiling_milli is not None:
                used = self._used[level, resource]
                if used + milli > quota.ceiling_milli:
                    return Refusal(quota, used, milli)
        return None

    def claim(self, owner: Owner, resource: str, milli: int) -> Claim:
        """Whether so much more would be what it is guaranteed, or borrowed."""
        if not owner:
            return "guaranteed"
        if (owner[:1], resource) not in self._quotas:
            return "borrowed"
        for level in _levels(owner):
            quota = self._quotas.get((level, resource))
            if quota is not None and self._used[level, resource] + milli > quota.guaranteed_milli:
                return "borrowed"
        return "guaranteed"

    def project_claim(self, owner: Owner, resource: str, milli: int) -> Claim:
        """Whether so much more would be what its project is guaranteed within the organization."""
        quota = self._quotas.get((owner, resource)) if len(owner) > 1 else None
        if quota is None or self._used[owner, resource] + milli > quota.guaranteed_milli:
            return "borrowed"
        return "guaranteed"

    def share(self, owner: Owner) -> float:
        """How much of its guarantees an organization uses, of the resource it uses most of; what it uses without a
        guarantee counts a thousand times. The less, the sooner it is served.
        """
        organization = owner[:1]
        shares = [
            used / self._weight(organization, resource)
            for resource in self._resources.get(organization, ())
            if (used := self._used[organization, resource])
        ]
        return max(shares, default=0.0)

    def _weight(self, owner: Owner, resource: str) -> float:
        quota = self._quotas.get((owner, resource))
        return float(quota.guaranteed_milli) if quota is not None and quota.guaranteed_milli else 1.0

    def borrowed(self, running: Sequence[Running], nodes: Mapping[str, Node]) -> dict[str, Borrowed]:
        """By id, what of it is borrowed: the least important and latest are beyond. What a project is guaranteed is its
        organization's first, whatever else that runs.
        """
        usage = {each.workload.id: usage_of(each, nodes) for each in running}
        in_order = sorted(running, key=_importance)
        tree = QuotaTree(self._quotas.values())
        project = tree._count_up(in_order, usage, tree.project_claim)
        in_order.sort(key=lambda each: bool(project[each.workload.id]))
        tree = QuotaTree(self._quotas.values())
        organization = tree._count_up(in_order, usage, tree.claim)
        return {name: Borrowed(organization[name], project[name]) for name in usage}

    def _count_up(
        self,
        running: Iterable[Running],
        usage: Mapping[str, Mapping[str, int]],
        claim: Callable[[Owner, str, int], Claim],
    ) -> dict[str, frozenset[str]]:
        """Counts one after the other; by id, the resources of which it would borrow."""
        beyond = {}
        for each in running:
            owner, mine = each.workload.owner, usage[each.workload.id]
            beyond[each.workload.id] = frozenset(
                resource for resource, milli in mine.items() if claim(owner, resource, milli) == "borrowed"
            )
            self.use(owner, mine)
        return beyond


def _importance(running: Running) -> tuple[bool, int, float, str]:
    workload = running.workload
    return workload.is_spot, -workload.priority, running.since, workload.id


def usage_of(running: Running, nodes: Mapping[str, Node]) -> dict[str, int]:
    """What a running workload uses, by resource."""
    usage: defaultdict[str, int] = defaultdict(int)
    demand = running.workload.demand
    for spot in running.spots:
        if demand.accelerators == 0:
            usage[CPU] += demand.cpu_milli
        elif (node := nodes.get(spot.node_id)) is not None and node.accelerator_type is not None:
            usage[node.accelerator_type] += demand.accelerators * demand.milli
    return dict(usage)


def asked_milli(workload: Workload) -> int:
    """What all members of a workload would use of their resource."""
    demand = workload.demand
    return workload.members * (demand.accelerators * demand.milli if demand.accelerators else demand.cpu_milli)


def amount(milli: int, resource: str) -> str:
    """An amount for people: `2.5 × nvidia-h100-80gb`, `4 CPUs`."""
    if resource == CPU:
        return "1 CPU" if milli == 1000 else f"{milli / 1000:g} CPUs"
    return f"{milli / 1000:g} × {resource}"


@lru_cache(maxsize=10_000)
def _levels(owner: Owner) -> tuple[Owner, ...]:
    return tuple(owner[:depth] for depth in range(1, len(owner) + 1))
